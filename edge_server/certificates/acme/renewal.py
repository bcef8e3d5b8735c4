"""Certificate management: orders certificates, renews them in time, and retries after failures.

Decisions are made on the event loop's thread; orders block, and run in threads of their own. An existing
certificate stays in use until its replacement is ready, whatever happens meanwhile.
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
from edge_server.certificates.acme.store import CertificateFiles, IssuedCertificate, folder_name
from quictunnel.shared.backoff import Backoff
from quictunnel.shared.files import make_directory
from quictunnel.shared.supervision import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from edge_server.certificates.acme.order import Orders
    from edge_server.certificates.acme.settings import AcmeSettings
    from edge_server.certificates.context_store import ContextStore

logger = logging.getLogger(__name__)

MAX_ORDERS: Final = 2
"""Orders at once: enough for progress while one of them waits, and considerate to the authority."""
MAX_CERTIFICATES: Final = 1000
"""Certificates of one edge; each is renewed every two months or so, which is what an account may request."""
MAX_PER_OWNER: Final = 100
"""Certificates of one identity; as many as the names it may claim."""
MAX_TRIES: Final = 20
"""Failed tries for a name that never had a certificate: three days with waits that grow to hours. Then the name
has to be requested again. A name that had a certificate is tried for as long as it is wanted."""
RENEWAL_POINT: Final = 2 / 3
"""Fraction of a certificate's lifetime after which it is renewed."""
RENEWAL_JITTER: Final = 0.05
"""Fraction of its lifetime by which the renewal is moved forward at random, so that certificates of the same age
are not renewed together."""
FORCED_RENEWAL: Final = 0.1
"""Fraction of its lifetime before the end at which it is renewed, whatever the server suggests."""
MIN_AGE: Final = 1 / 3
"""Fraction of its lifetime for which a new certificate is not renewed, whatever the edge's clock says: with a
clock that is months ahead, each new one would appear expired and be ordered again at once."""
POLL_INTERVAL: Final = 60.0
"""Seconds between checks when nothing is due: clocks are set, and machines sleep."""
MIN_INTERVAL: Final = 0.1
"""Seconds between two checks in any case: one check of a thousand certificates takes milliseconds."""
STOP_TIMEOUT: Final = 3.0
"""Seconds for orders to clean up when the edge stops."""


Outcome = Literal["obtained", "failed"]
"""Result of an order. An order that the end of the edge aborts has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateStatus:
    """Status of one certificate, for people. Times are seconds since the epoch."""

    names: tuple[str, ...]
    is_wanted: bool
    """True while a client or the edge needs it; otherwise it is not renewed."""
    not_after: float | None
    """None while there is no certificate."""
    renew_at: float | None
    is_ordering: bool
    failures: int
    """Consecutive failures."""
    last_error: str
    """Error of the last try; empty after a success."""
    next_try: float | None
    """None if no try is scheduled: the certificate is not wanted, or was tried too often (see MAX_TRIES)."""


@dataclass(slots=True, eq=False)
class _Entry:
    """State of one certificate."""

    names: tuple[str, ...]
    challenge: str
    owner: str
    backoff: Backoff
    issued: IssuedCertificate | None = None
    renew_at: float = 0.0
    retry_at: float = 0.0
    """Earliest time of the next try after a failure."""
    advice_at: float = math.inf
    """Time of the next request for the server's suggested renewal time."""
    failures: int = 0
    last_error: str = ""
    thread: threading.Thread | None = None
    is_ordering: bool = False

    @property
    def due(self) -> float:
        """Time of the next order."""
        return max(self.renew_at, self.retry_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalPolicy:
    """The names that need a certificate."""

    own: tuple[str, ...]
    """The edge's own names, in one certificate; empty if it has another one for them."""
    is_wanted: Callable[[str], bool]
    """Returns True if a name still belongs to an owner."""


class CertificateManager:
    """Orders and renews the certificates of one edge. Create it, call :meth:`load`, then :meth:`start` once the
    listeners are open, and :meth:`close` at the end."""

    def __init__(
        self,
        settings: AcmeSettings,
        state_dir: Path,
        certificates: ContextStore,
        policy: RenewalPolicy,
        *,
        now: Callable[[], float],
        is_settled: Callable[[], bool],
    ) -> None:
        """Start nothing yet.

        Args:
            settings: of ACME.
            state_dir: of the edge; the files are below ``acme/``.
            certificates: takes the certificates that were issued.
            policy: the names that need a certificate.
            now: seconds since the epoch.
            is_settled: returns True if that clock is reliable enough to delete expired certificates
                (:mod:`edge_server.storage.steady_clock`).
        """
        self.challenges = ChallengeStore()
        """Challenge responses for the listeners."""
        self._settings = settings
        self._directory = state_dir / "acme" / folder_name(settings.directory)
        self._store = CertificateFiles(self._directory / "certificates")
        self._certificates = certificates
        self._policy = policy
        self._now = now
        self._is_settled = is_settled
        self._quota = Quota(self._directory / "quota.json")
        self._random: random.Random = random.SystemRandom()
        self.outcomes: Counter[Outcome] = Counter()
        """Results of all orders so far."""
        self._entries: dict[str, _Entry] = {}
        self._stopping = threading.Event()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._orders: Orders | None = None
        self._client_lock = threading.Lock()
        """Serialises orders that start together, so that they share the one account and its key."""
        self._loop = asyncio.get_running_loop()

    async def load(self) -> None:
        """Use the stored certificates. Raises AcmeError when the directory cannot be used."""
        # Expired ones as well: the clock may be wrong, and an old certificate is better than none.
        for issued in await asyncio.to_thread(lambda: list(self._store.load())):
            is_own = issued.names[0] in self._policy.own[:1]
            if is_own and not set(self._policy.own) <= set(issued.names):
                continue
            self._use(self._add(issued.names[0], issued.names, ""), issued)

    async def start(self, supervisor: Supervisor | None = None) -> None:
        """Start to order and to renew; faults are reported to ``supervisor``."""
        # Read now and not earlier: a predecessor may have placed orders until a moment ago.
        self._quota.restore(await asyncio.to_thread(self._quota.read), self._now())
        if self._policy.own and self._policy.own[0] not in self._entries:
            self._add(self._policy.own[0], self._policy.own, "")
        supervisor = supervisor or Supervisor()
        self._task = supervisor.keep_running(self._run, "certificate renewal")

    def leave(self) -> None:
        """Start no more orders."""
        self._stopping.set()
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """Stop; orders in progress have :data:`STOP_TIMEOUT` seconds to clean up."""
        self.leave()
        if self._task is not None:
            await asyncio.wait([self._task])
        threads = [entry.thread for entry in self._entries.values() if entry.thread is not None]
        deadline = time.monotonic() + STOP_TIMEOUT
        for thread in threads:
            # A thread that still waits for the network ends with the process.
            await asyncio.to_thread(thread.join, max(0.0, deadline - time.monotonic()))

    def request(self, name: str, owner: str, *, alone: bool) -> bool:
        """Request a certificate for a name that none covers.

        Args:
            name: host name.
            owner: token key.
            alone: the certificate has to be for this name only, as h2 requires; otherwise the edge's own
                may cover it.

        Returns:
            True if there is one or it will be ordered; False if a limit forbids it.
        """
        if not alone and "*." + name.partition(".")[2] in self._policy.own:
            return True
        entry = self._entries.get(name)
        if entry is not None:
            entry.owner = owner
            if entry.due <= self._now():
                self._changed.set()
            if entry.failures >= MAX_TRIES and entry.issued is None:
                entry.failures, entry.retry_at = 0, 0.0
                entry.backoff.reset()
                self._changed.set()
            return True
        if why := self._quota.refusal(name, owner, self._now()) or self._capacity_refusal(owner):
            logger.warning("no certificate is ordered for %s of client %s: %s", name, owner, why)
            return False
        self._quota.request(name, owner, self._now())
        self._add(name, (name,), owner)
        self._changed.set()
        return True

    def is_requested(self, name: str) -> bool:
        """Return True if a certificate for this name exists or is being ordered."""
        return name in self._entries

    def adjust_clock(self, forward: float) -> None:
        """Adjust to a clock that moved ``forward`` seconds (negative: back): no wait changes its length."""
        self._quota.adjust_clock(forward)
        for entry in self._entries.values():
            entry.advice_at += forward
            entry.retry_at += forward
        self._changed.set()

    def _capacity_refusal(self, owner: str) -> str:
        """Make room for one more certificate of an owner. Return why there is none, or an empty text."""
        owned = (name for name, entry in self._entries.items() if entry.owner == owner)
        if sum(map(self._is_wanted, owned)) >= MAX_PER_OWNER:
            return f"its limit of {MAX_PER_OWNER} certificates is reached"
        if len(self._entries) < MAX_CERTIFICATES:
            return ""
        # An unused certificate may be wanted again later, but names in use have priority.
        idle = [
            name for name, entry in self._entries.items() if entry.thread is None and not self._is_wanted(name)
        ]
        if not idle:
            return f"the limit of {MAX_CERTIFICATES} certificates of the edge is reached"
        oldest = min(idle, key=lambda name: self._entries[name].renew_at)
        self._remove(oldest, self._entries[oldest])
        return ""

    def wake(self) -> None:
        """Check now for certificates that are due."""
        self._changed.set()

    @property
    def covers_own_names(self) -> bool:
        """True if the edge's own names share one certificate from ACME."""
        return bool(self._policy.own)

    @property
    def statuses(self) -> list[CertificateStatus]:
        """Status of each certificate, sorted by name."""
        return [self._status(self._entries[name]) for name in sorted(self._entries)]

    def status(self, name: str) -> CertificateStatus | None:
        """Return the status of the certificate for a name, or None."""
        entry = self._entries.get(name)
        return None if entry is None else self._status(entry)

    def _status(self, entry: _Entry) -> CertificateStatus:
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

    # Schedule.

    async def _run(self) -> None:
        while True:
            try:
                delay = self._start_due()
            except Exception:  # a fault in one check must not end all later checks
                logger.exception("the check for due certificates failed")
                delay = POLL_INTERVAL
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._changed.wait()
            self._changed.clear()
            await asyncio.sleep(MIN_INTERVAL)

    def _start_due(self) -> float:
        """Start the orders that are due. Return the seconds until the next one."""
        now = self._now()
        for name, entry in tuple(self._entries.items()):
            if entry.thread is None and not self._is_wanted(name):
                self._expire(name, entry, now)
        free = MAX_ORDERS - sum(entry.thread is not None for entry in self._entries.values())
        idle = sorted((e for e in self._entries.values() if e.thread is None), key=lambda each: each.due)
        wanted = [entry for entry in idle if self._is_wanted(entry.names[0])]
        delay = POLL_INTERVAL
        for entry in wanted:
            is_order = entry.due <= now
            wait = self._quota.wait(entry.owner, is_new=self._is_new(entry), now=now) if is_order else 0.0
            if wait or not (is_order or entry.advice_at <= now):
                delay = min(delay, *((wait,) if wait else (entry.due - now, entry.advice_at - now)))
                continue
            if free <= 0:
                break  # the end of an order triggers the next check
            free -= 1
            self._begin(entry, is_order=is_order)
        return max(0.0, delay)

    def _is_new(self, entry: _Entry) -> bool:
        """Return True if an order for it counts as one for a new name."""
        return entry.issued is None and entry.names[0] not in self._policy.own[:1]

    def _is_wanted(self, name: str) -> bool:
        return name in self._policy.own[:1] or self._policy.is_wanted(name)

    def _expire(self, name: str, entry: _Entry, now: float) -> None:
        """Remove a certificate that is not wanted. A valid one stays in use, in case its owner comes back."""
        if entry.issued is not None and (now < entry.issued.not_after or not self._is_settled()):
            return
        self._remove(name, entry)

    def _remove(self, name: str, entry: _Entry) -> None:
        del self._entries[name]
        self._quota.withdraw(name)
        self._certificates.remove_issued(name)
        if entry.issued is not None:
            with contextlib.suppress(OSError):  # a file that is left over is not used again
                self._store.remove(name)

    def _add(self, name: str, names: Sequence[str], owner: str) -> _Entry:
        pace = self._settings.pace
        is_own = name in self._policy.own[:1]
        challenge = self._settings.challenge if is_own else self._settings.single_challenge
        assert not (challenge == DNS and not is_own)
        entry = _Entry(tuple(names), challenge, owner, Backoff(pace.first_retry, pace.max_retry))
        self._entries[name] = entry
        return entry

    # Threads.

    def _begin(self, entry: _Entry, *, is_order: bool) -> None:
        work = self._order if is_order else self._request_advice
        if is_order:
            self._quota.begin(entry.names[0], entry.owner, is_new=self._is_new(entry), now=self._now())
        # No thread pool: a thread that hangs in the network must not delay the end of the process.
        thread = threading.Thread(target=work, args=(entry,), name="acme", daemon=True)
        thread.start()
        entry.thread, entry.is_ordering = thread, is_order

    def _client(self) -> Orders:
        """Return the ACME client, and load its library on first use. In a thread of an order."""
        with self._client_lock:
            if self._orders is None:
                from edge_server.certificates.acme.order import Orders  # noqa: PLC0415 - an optional package, and half a second

                try:
                    make_directory(self._directory)
                except OSError as error:
                    raise AcmeError(f"{self._directory} cannot be created: {error.strerror or error}.") from None
                self._orders = Orders(self._settings, self._directory, self.challenges, self._stopping.wait)
            return self._orders

    def _order(self, entry: _Entry) -> None:
        outcome: IssuedCertificate | AcmeError
        try:
            self._quota.save()
        except OSError as error:
            logger.error("the quota of orders could not be written: %s", error.strerror or error)
        try:
            outcome = self._client().obtain(entry.names, entry.challenge)
            try:
                self._store.keep(outcome)
            except OSError as error:
                logger.error(
                    "the certificate for %s could not be stored: %s", entry.names[0], error.strerror or error
                )
        except AcmeError as error:
            outcome = error
        except Exception as error:  # a fault of this program or the library: logged, and retried like others
            logger.exception("a certificate order failed")
            outcome = AcmeError(f"Internal error: {type(error).__name__}.")
        self._call_in_loop(self._on_ordered, entry, outcome)

    def _request_advice(self, entry: _Entry) -> None:
        when: float | None = None
        try:
            assert entry.issued is not None
            when = self._client().renewal_time(entry.issued)
        except AcmeError as error:
            logger.debug("no suggested renewal time for %s: %s", entry.names[0], error.reason)
        except Exception:  # as above
            logger.exception("the request for a renewal time failed")
        self._call_in_loop(self._on_advice, entry, when)

    def _call_in_loop(self, method: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the result is not needed
            self._loop.call_soon_threadsafe(method, *arguments)

    # Results.

    def _on_ordered(self, entry: _Entry, outcome: IssuedCertificate | AcmeError) -> None:
        entry.thread, entry.is_ordering = None, False
        self._changed.set()
        if isinstance(outcome, OrderStoppedError):
            return
        if isinstance(outcome, AcmeError):
            self.outcomes["failed"] += 1
            self._on_failure(entry, outcome)
        else:
            self.outcomes["obtained"] += 1
            self._use(entry, outcome)
            entry.renew_at = max(entry.renew_at, self._now() + outcome.life * MIN_AGE)
            logger.info(
                "a new certificate for %s is in use, valid until %s",
                entry.names[0],
                _format_time(outcome.not_after),
            )

    def _use(self, entry: _Entry, issued: IssuedCertificate) -> None:
        now = self._now()
        entry.issued = issued
        entry.failures, entry.last_error, entry.retry_at = 0, "", 0.0
        entry.backoff.reset()
        age = RENEWAL_POINT - self._random.uniform(0.0, RENEWAL_JITTER)
        entry.renew_at = issued.not_before + issued.life * age
        entry.advice_at = now + self._random.uniform(0.0, self._settings.pace.advice)
        self._certificates.set_issued(entry.names[0], issued.key + issued.chain, issued.names)

    def _on_failure(self, entry: _Entry, error: AcmeError) -> None:
        pace, now = self._settings.pace, self._now()
        entry.failures += 1
        entry.last_error = error.reason
        wait = max(pace.min_retry, entry.backoff.next(self._random), error.retry_after)
        entry.retry_at = now + wait
        if entry.issued is None:
            rest = "The name has no certificate yet."
            if entry.failures >= MAX_TRIES:
                entry.retry_at, rest = (
                    math.inf,
                    "There are no more tries until the name is requested again.",
                )
        elif entry.issued.not_after > now:
            rest = f"The old one stays in use; it is valid until {_format_time(entry.issued.not_after)}."
        else:
            rest = f"The old one has expired ({_format_time(entry.issued.not_after)})."
        when = f" The next try is in {wait:.0f} s." if math.isfinite(entry.retry_at) else ""
        logger.warning(
            "no new certificate for %s (try %d): %s%s %s",
            entry.names[0],
            entry.failures,
            error.reason,
            when,
            rest,
        )

    def _on_advice(self, entry: _Entry, when: float | None) -> None:
        entry.thread = None
        self._changed.set()
        pace = self._settings.pace.advice
        entry.advice_at = self._now() + pace * (1.0 if when is not None else 4.0)
        if when is not None and entry.issued is not None:
            entry.renew_at = min(when, entry.issued.not_after - entry.issued.life * FORCED_RENEWAL)


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
