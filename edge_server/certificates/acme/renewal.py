"""Keeps the certificates that are wanted: orders them, renews them in time, tries again when it failed.

Everything here is on the loop's thread and decides; orders block, and run in threads of their own. A certificate
that there is stays in use until another one is here, whatever happens meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal

from edge_server.certificates.acme.challenges import ChallengeStore
from edge_server.certificates.acme.errors import AcmeError, OrderStoppedError
from edge_server.certificates.acme.quota import Quota
from edge_server.certificates.acme.settings import DNS
from edge_server.certificates.acme.store import CertificateFiles, Issued, place_of
from quictunnel.shared.backoff import Backoff
from quictunnel.shared.supervision import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from edge_server.certificates.acme.order import Orders
    from edge_server.certificates.acme.settings import AcmeSettings
    from edge_server.certificates.context_store import ContextStore

logger = logging.getLogger(__name__)

MAX_ORDERS: Final = 2
"""At once: enough for a queue that moves while one of them waits, polite to an authority."""
MAX_CERTIFICATES: Final = 1000
"""Kept for one edge; each is ordered anew every two months or so, which is what an account may ask for."""
MAX_OF_OWNER: Final = 100
"""Of one identity at once; as many names as it may claim."""
MAX_TRIES: Final = 20
"""For a name that never had a certificate: with waits that grow to hours, three days. Then somebody has to ask for
the name again. One that has had a certificate is tried for as long as it is wanted."""
RENEW: Final = 2 / 3
"""Of a certificate's life, after which it is renewed."""
JITTER: Final = 0.05
"""Of its life, by which that is earlier, at random: certificates that came together do not go on together."""
LAST: Final = 0.1
"""Of its life, before whose end it is renewed whatever the server advises."""
LEAST: Final = 1 / 3
"""Of its life, for which one that was just signed is not renewed, whatever the edge's clock says: with a clock
that is a season ahead each new one would seem to be over, and be ordered again at once."""
LOOK: Final = 60.0
"""Seconds between looks where nothing is due: clocks are set, and machines sleep."""
PAUSE: Final = 0.1
"""Seconds from one look to the next, whatever is asked for: a look at a thousand certificates takes
milliseconds."""
STOP: Final = 3.0
"""Seconds that orders have to tidy up when the edge stops."""


Outcome = Literal["obtained", "failed"]
"""Of an order. One that the end of the edge breaks off has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateStatus:
    """How it stands with one certificate, for people. Times are seconds since the epoch."""

    names: tuple[str, ...]
    is_wanted: bool
    """Whether it is somebody's; else it is not renewed."""
    not_after: float | None
    """None: there is none yet."""
    renew_at: float | None
    is_ordering: bool
    failures: int
    """In a row."""
    last_error: str
    """Of the last try; empty when it was well."""
    next_try: float | None
    """None: nothing is to be tried, because it is nobody's or was tried for too long (see MAX_TRIES)."""


@dataclass(slots=True, eq=False)
class _Entry:
    names: tuple[str, ...]
    challenge: str
    owner: str
    backoff: Backoff
    issued: Issued | None = None
    renew_at: float = 0.0
    not_before_then: float = 0.0
    """When it may be tried again after a failure."""
    ask_at: float = math.inf
    """When the server is asked for its advice."""
    failures: int = 0
    last_error: str = ""
    thread: threading.Thread | None = None
    is_ordering: bool = False

    @property
    def due(self) -> float:
        return max(self.renew_at, self.not_before_then)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalPolicy:
    """Who wants which name."""

    own: tuple[str, ...]
    """The edge's own, in one certificate; none: it has another one for them."""
    is_wanted: Callable[[str], bool]
    """Whether a name is somebody's still."""


class CertificateManager:
    """See the module. Make it, then :meth:`start`, once the edge's doors are open; :meth:`close` in the end."""

    def __init__(
        self,
        settings: AcmeSettings,
        state_dir: Path,
        certificates: ContextStore,
        wants: RenewalPolicy,
        *,
        now: Callable[[], float],
        is_settled: Callable[[], bool],
    ) -> None:
        """``now``: seconds since the epoch. ``is_settled``: whether that clock is good enough to delete what it
        says has expired (:mod:`edge_server.storage.steady_clock`)."""
        self.answers = ChallengeStore()
        """What validators who come to the edge's doors are met with."""
        self._settings = settings
        self._directory = state_dir / "acme" / place_of(settings.directory)
        self._store = CertificateFiles(self._directory / "certificates")
        self._certificates = certificates
        self._wants = wants
        self._now = now
        self._is_settled = is_settled
        self._quota = Quota(self._directory / "quota.json")
        self._random: random.Random = random.SystemRandom()
        self.outcomes: Counter[Outcome] = Counter()
        """Of all orders so far."""
        self._entries: dict[str, _Entry] = {}
        self._stopping = threading.Event()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._orders: Orders | None = None
        self._reaching = threading.Lock()
        """Of two orders that begin together both have the one account, and its one key."""
        self._loop = asyncio.get_running_loop()

    async def load(self) -> None:
        """Use what is stored. Raises Problem when the directory cannot be used."""
        # Those that seem to have expired as well: the clock may be wrong, and an old one is better than none.
        for issued in await asyncio.to_thread(lambda: list(self._store.load())):
            is_own = issued.names[0] in self._wants.own[:1]
            if is_own and not set(self._wants.own) <= set(issued.names):
                continue
            self._use(self._add(issued.names[0], issued.names, ""), issued)

    async def start(self, supervisor: Supervisor | None = None) -> None:
        """Begin to order and to renew; ``supervisor`` is told of a fault."""
        # Now and not before: an edge that this one followed has ordered until a moment ago.
        self._quota.go_on(await asyncio.to_thread(self._quota.read), self._now())
        if self._wants.own and self._wants.own[0] not in self._entries:
            self._add(self._wants.own[0], self._wants.own, "")
        supervisor = supervisor or Supervisor()
        self._task = supervisor.keep_running(self._run, "keeping certificates")

    def leave(self) -> None:
        """Order nothing any more."""
        self._stopping.set()
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """The same; threads that are in the middle of something have a moment to tidy up."""
        self.leave()
        if self._task is not None:
            await asyncio.wait([self._task])
        threads = [entry.thread for entry in self._entries.values() if entry.thread is not None]
        deadline = time.monotonic() + STOP
        for thread in threads:
            # What is still waiting for a network then ends with the process.
            await asyncio.to_thread(thread.join, max(0.0, deadline - time.monotonic()))

    def want(self, name: str, owner: str, *, alone: bool) -> bool:
        """Somebody holds a name that no certificate covers: get one, unless the edge's own will cover it and the
        name need not be ``alone`` in it. Whether one will be tried for."""
        if not alone and "*." + name.partition(".")[2] in self._wants.own:
            return True
        entry = self._entries.get(name)
        if entry is not None:
            entry.owner = owner
            if entry.due <= self._now():
                self._changed.set()
            if entry.failures >= MAX_TRIES and entry.issued is None:
                entry.failures, entry.not_before_then = 0, 0.0
                entry.backoff.reset()
                self._changed.set()
            return True
        if why := self._quota.refusal(name, owner, self._now()) or self._full_for(owner):
            logger.warning("no certificate is ordered for %s: client %s has asked for %s", name, owner, why)
            return False
        self._quota.ask(name, owner, self._now())
        self._add(name, (name,), owner)
        self._changed.set()
        return True

    def is_asked_for(self, name: str) -> bool:
        """Return True if a certificate for a name is kept or ordered."""
        return name in self._entries

    def moved(self, forward: float) -> None:
        """Follow a clock that was set by so many seconds (back below zero): no wait changes its length."""
        self._quota.moved(forward)
        for entry in self._entries.values():
            entry.ask_at += forward
            entry.not_before_then += forward
        self._changed.set()

    def _full_for(self, owner: str) -> str:
        """Make room for one more certificate of an owner; return why there is none, or an empty text."""
        mine = (name for name, entry in self._entries.items() if entry.owner == owner)
        if sum(map(self._is_wanted, mine)) >= MAX_OF_OWNER:
            return f"{MAX_OF_OWNER} of them, which are kept for one"
        if len(self._entries) < MAX_CERTIFICATES:
            return ""
        # Somebody may come back to what nobody wants now, but not at the expense of who is here.
        idle = [
            name for name, entry in self._entries.items() if entry.thread is None and not self._is_wanted(name)
        ]
        if not idle:
            return f"one more than the {MAX_CERTIFICATES} that an edge keeps"
        oldest = min(idle, key=lambda name: self._entries[name].renew_at)
        self._remove(oldest, self._entries[oldest])
        return ""

    def look(self) -> None:
        """See now what is due."""
        self._changed.set()

    @property
    def is_for_all(self) -> bool:
        """Whether the edge's own names are to have one certificate together."""
        return bool(self._wants.own)

    @property
    def standings(self) -> list[CertificateStatus]:
        """How it stands with each certificate, by name."""
        return [self._standing(self._entries[name]) for name in sorted(self._entries)]

    def standing(self, name: str) -> CertificateStatus | None:
        """How it stands with the one for a name."""
        entry = self._entries.get(name)
        return None if entry is None else self._standing(entry)

    def _standing(self, entry: _Entry) -> CertificateStatus:
        is_wanted = self._is_wanted(entry.names[0])
        return CertificateStatus(
            names=entry.names,
            is_wanted=is_wanted,
            not_after=entry.issued.not_after if entry.issued is not None else None,
            renew_at=entry.renew_at if entry.issued is not None else None,
            is_ordering=entry.is_ordering,
            failures=entry.failures,
            last_error=entry.last_error,
            next_try=entry.due if is_wanted and math.isfinite(entry.due) else None,
        )

    # What is due.

    async def _run(self) -> None:
        while True:
            try:
                delay = self._round()
            except Exception:  # a fault of ours in one look must not be the last look
                logger.exception("certificates could not be looked after")
                delay = LOOK
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._changed.wait()
            self._changed.clear()
            await asyncio.sleep(PAUSE)

    def _round(self) -> float:
        """Begin what is due; seconds until something else is."""
        now = self._now()
        for name, entry in tuple(self._entries.items()):
            if entry.thread is None and not self._is_wanted(name):
                self._let_go(name, entry, now)
        free = MAX_ORDERS - sum(entry.thread is not None for entry in self._entries.values())
        idle = sorted((e for e in self._entries.values() if e.thread is None), key=lambda each: each.due)
        wanted = [entry for entry in idle if self._is_wanted(entry.names[0])]
        delay = LOOK
        for entry in wanted:
            is_order = entry.due <= now
            wait = self._quota.wait(entry.owner, is_new=self._is_new(entry), now=now) if is_order else 0.0
            if wait or not (is_order or entry.ask_at <= now):
                delay = min(delay, *((wait,) if wait else (entry.due - now, entry.ask_at - now)))
                continue
            if free <= 0:
                break  # the end of an order is the next look
            free -= 1
            self._begin(entry, is_order=is_order)
        return max(0.0, delay)

    def _is_new(self, entry: _Entry) -> bool:
        """Return True if an order for it counts as one for a new name."""
        return entry.issued is None and entry.names[0] not in self._wants.own[:1]

    def _is_wanted(self, name: str) -> bool:
        return name in self._wants.own[:1] or self._wants.is_wanted(name)

    def _let_go(self, name: str, entry: _Entry, now: float) -> None:
        """Nobody wants it any more. What is still good stays in use, for the case that somebody comes back."""
        if entry.issued is not None and (now < entry.issued.not_after or not self._is_settled()):
            return
        self._remove(name, entry)

    def _remove(self, name: str, entry: _Entry) -> None:
        del self._entries[name]
        self._quota.give_up(name)
        self._certificates.drop(name)
        if entry.issued is not None:
            with contextlib.suppress(OSError):  # it is not used again in any case
                self._store.remove(name)

    def _add(self, name: str, names: Sequence[str], owner: str) -> _Entry:
        pace = self._settings.pace
        is_own = name in self._wants.own[:1]
        challenge = self._settings.challenge if is_own else self._settings.single
        assert not (challenge == DNS and not is_own)
        entry = _Entry(tuple(names), challenge, owner, Backoff(pace.first_retry, pace.most_retry))
        self._entries[name] = entry
        return entry

    # Threads.

    def _begin(self, entry: _Entry, *, is_order: bool) -> None:
        work = self._order if is_order else self._ask
        if is_order:
            self._quota.begin(entry.names[0], entry.owner, is_new=self._is_new(entry), now=self._now())
        # Not of a pool: what hangs in a network must not hold up the end of the process.
        thread = threading.Thread(target=work, args=(entry,), name="acme", daemon=True)
        thread.start()
        entry.thread, entry.is_ordering = thread, is_order

    def _reach(self) -> Orders:
        """Whom the server is asked through; the library is loaded when it is first needed. In a thread."""
        with self._reaching:
            if self._orders is None:
                from edge_server.certificates.acme.order import Orders  # noqa: PLC0415 - an optional package, and half a second

                try:
                    self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                except OSError as error:
                    raise AcmeError(f"{self._directory} cannot be made: {error.strerror or error}.") from None
                self._orders = Orders(self._settings, self._directory, self.answers, self._stopping.wait)
            return self._orders

    def _order(self, entry: _Entry) -> None:
        outcome: Issued | AcmeError
        try:
            self._quota.save()
        except OSError as error:
            logger.error("orders of certificates could not be counted on disk: %s", error.strerror or error)
        try:
            outcome = self._reach().obtain(entry.names, entry.challenge)
            try:
                self._store.keep(outcome)
            except OSError as error:
                logger.error(
                    "the certificate for %s could not be stored: %s", entry.names[0], error.strerror or error
                )
        except AcmeError as problem:
            outcome = problem
        except Exception as error:  # a fault of ours, or of the library: said, and tried again like others
            logger.exception("an order failed")
            outcome = AcmeError(f"A fault of the edge: {type(error).__name__}.")
        self._tell(self._ordered, entry, outcome)

    def _ask(self, entry: _Entry) -> None:
        when: float | None = None
        try:
            assert entry.issued is not None
            when = self._reach().renewal_time(entry.issued)
        except AcmeError as problem:
            logger.debug("no advice when to renew %s: %s", entry.names[0], problem.reason)
        except Exception:  # as above
            logger.exception("asking for advice failed")
        self._tell(self._advised, entry, when)

    def _tell(self, method: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is interested any more
            self._loop.call_soon_threadsafe(method, *arguments)

    # What came of it.

    def _ordered(self, entry: _Entry, outcome: Issued | AcmeError) -> None:
        entry.thread, entry.is_ordering = None, False
        self._changed.set()
        if isinstance(outcome, OrderStoppedError):
            return
        if isinstance(outcome, AcmeError):
            self.outcomes["failed"] += 1
            self._failed(entry, outcome)
        else:
            self.outcomes["obtained"] += 1
            self._use(entry, outcome)
            entry.renew_at = max(entry.renew_at, self._now() + outcome.life * LEAST)
            logger.info(
                "a new certificate for %s is in use, good until %s", entry.names[0], _moment(outcome.not_after)
            )

    def _use(self, entry: _Entry, issued: Issued) -> None:
        now = self._now()
        entry.issued = issued
        entry.failures, entry.last_error, entry.not_before_then = 0, "", 0.0
        entry.backoff.reset()
        entry.renew_at = issued.not_before + issued.life * (RENEW - self._random.uniform(0.0, JITTER))
        entry.ask_at = now + self._random.uniform(0.0, self._settings.pace.advice)
        self._certificates.hold(entry.names[0], issued.key + issued.chain, issued.names)

    def _failed(self, entry: _Entry, problem: AcmeError) -> None:
        pace, now = self._settings.pace, self._now()
        entry.failures += 1
        entry.last_error = problem.reason
        wait = max(pace.least_retry, entry.backoff.next(self._random), problem.retry_after)
        entry.not_before_then = now + wait
        if entry.issued is None:
            rest = "There is none yet."
            if entry.failures >= MAX_TRIES:
                entry.not_before_then, rest = math.inf, "It is not tried again until the name is asked for again."
        elif entry.issued.not_after > now:
            rest = f"The old one stays in use; it is good until {_moment(entry.issued.not_after)}."
        else:
            rest = f"The old one has expired ({_moment(entry.issued.not_after)})."
        when = f" The next try is in {wait:.0f} s." if math.isfinite(entry.not_before_then) else ""
        logger.warning(
            "no new certificate for %s (try %d): %s%s %s",
            entry.names[0],
            entry.failures,
            problem.reason,
            when,
            rest,
        )

    def _advised(self, entry: _Entry, when: float | None) -> None:
        entry.thread = None
        self._changed.set()
        pace = self._settings.pace.advice
        entry.ask_at = self._now() + pace * (1.0 if when is not None else 4.0)
        if when is not None and entry.issued is not None:
            entry.renew_at = min(when, entry.issued.not_after - entry.issued.life * LAST)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
