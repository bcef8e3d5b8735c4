"""Certificate management: orders certificates, renews them in time, and retries after failures.

The manager joins a scheduler (when), a quota (how many) and a worker (how). It decides on the event loop's thread;
orders run in threads of the worker. An existing certificate stays in use until its replacement is ready, whatever
happens meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import random
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal

from edge_server.certificates.acme.errors import AcmeError, OrderStoppedError
from edge_server.certificates.acme.quota import MAX_CERTIFICATES, Quota
from edge_server.certificates.acme.scheduler import POLL_INTERVAL, RenewalScheduler
from quictunnel.shared.supervision import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_server.certificates.acme.quota_file import QuotaFile
    from edge_server.certificates.acme.scheduler import Action, CertificateStatus, ScheduledCertificate
    from edge_server.certificates.acme.settings import AcmeTimings
    from edge_server.certificates.acme.store import CertificateFiles, IssuedCertificate
    from edge_server.certificates.acme.worker import OrderWorker
    from edge_server.certificates.context_store import ContextStore

logger = logging.getLogger(__name__)

MIN_INTERVAL: Final = 0.1
"""Seconds between two checks in any case: one check of a thousand certificates takes milliseconds."""

OrderOutcome = Literal["obtained", "failed"]
"""Result of an order. An order that the end of the edge aborts has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalPolicy:
    """The names that need a certificate."""

    own: tuple[str, ...]
    """The edge's own names, in one certificate; empty if it has another one for them."""
    is_needed: Callable[[str], bool]
    """Returns True if a name still belongs to an owner."""

    @property
    def own_identifier(self) -> str:
        """Identifier of the certificate for the edge's own names; empty if there is none."""
        return self.own[0] if self.own else ""


class CertificateManager:
    """Orders and renews the certificates of one edge. Create it, call :meth:`load`, then :meth:`start` once the
    listeners are open, and :meth:`close` at the end."""

    def __init__(
        self,
        policy: RenewalPolicy,
        timings: AcmeTimings,
        contexts: ContextStore,
        worker: OrderWorker,
        *,
        certificate_files: CertificateFiles,
        quota_file: QuotaFile,
        now: Callable[[], float],
        is_settled: Callable[[], bool],
    ) -> None:
        """Start nothing yet.

        Args:
            policy: the names that need a certificate.
            timings: waits after failures.
            contexts: takes the certificates that were issued.
            worker: runs the orders.
            certificate_files: the stored certificates.
            quota_file: counts of past orders.
            now: seconds since the epoch.
            is_settled: returns True if that clock is reliable enough to delete expired certificates
                (:mod:`edge_server.storage.steady_clock`).
        """
        self._policy = policy
        self._contexts = contexts
        self._worker = worker
        self._certificate_files = certificate_files
        self._quota_file = quota_file
        self._now = now
        self._is_settled = is_settled
        self._scheduler = RenewalScheduler(timings, self._is_needed, random.SystemRandom())
        self._quota = Quota()
        self.outcomes: Counter[OrderOutcome] = Counter()
        """Results of all orders so far."""
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """Use the stored certificates. Raises AcmeError when the directory cannot be used."""
        # Expired ones as well: the clock may be wrong, and an old certificate is better than none.
        for issued in await asyncio.to_thread(lambda: list(self._certificate_files.load())):
            is_own = issued.names[0] == self._policy.own_identifier
            if is_own and not set(self._policy.own) <= set(issued.names):
                continue
            self._scheduler.on_loaded(self._scheduler.add(issued.names, ""), issued, self._now())
            self._use(issued)

    async def start(self, supervisor: Supervisor | None = None) -> None:
        """Start to order and to renew; faults are reported to ``supervisor``."""
        # Read now and not earlier: a predecessor may have placed orders until a moment ago.
        before = await asyncio.to_thread(self._quota_file.read)
        if self._worker.is_stopping:  # the edge handed over or stopped meanwhile
            return
        self._quota.restore(before, self._now())
        own = self._policy.own_identifier
        if own and own not in self._scheduler.certificates:
            self._scheduler.add(self._policy.own, "")
        supervisor = supervisor or Supervisor()
        self._task = supervisor.keep_running(self._run, "certificate renewal")

    def stop_orders(self) -> None:
        """Start no more orders, and abort those in progress."""
        self._worker.stop()
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """Stop; orders in progress have a moment to clean up."""
        self.stop_orders()
        if self._task is not None:
            await asyncio.wait([self._task])
        await self._worker.join()

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
        now, certificate = self._now(), self._scheduler.certificates.get(name)
        if certificate is not None:
            if self._scheduler.request_again(certificate, owner, now):
                self._changed.set()
            return True
        total = len(self._scheduler.certificates)
        # An unused certificate may be needed again later, but names in use have priority.
        removable = self._scheduler.unused() if total >= MAX_CERTIFICATES else []
        owned = self._scheduler.count_needed(owner)
        if why := self._quota.refusal(name, owner, owned=owned, total=total - len(removable), now=now):
            logger.warning("no certificate is ordered for %s of client %s: %s", name, owner, why)
            return False
        if removable:
            self._remove(removable[0])
        self._quota.request(name, owner, now)
        self._scheduler.add((name,), owner)
        self._changed.set()
        return True

    def is_requested(self, name: str) -> bool:
        """Return True if a certificate for this name exists or is being ordered."""
        return name in self._scheduler.certificates

    def adjust_clock(self, forward: float) -> None:
        """Adjust to a clock that moved ``forward`` seconds (negative: back): no wait changes its length."""
        self._quota.adjust_clock(forward)
        self._scheduler.adjust_clock(forward)
        self._changed.set()

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
        certificates = self._scheduler.certificates
        return [self._scheduler.status(certificates[name]) for name in sorted(certificates)]

    def status(self, name: str) -> CertificateStatus | None:
        """Return the status of the certificate for a name, or None."""
        certificate = self._scheduler.certificates.get(name)
        return None if certificate is None else self._scheduler.status(certificate)

    def _is_own(self, name: str) -> bool:
        return bool(name) and name == self._policy.own_identifier

    def _is_needed(self, name: str) -> bool:
        return self._is_own(name) or self._policy.is_needed(name)

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
        """Start the orders that are due. Return the seconds until the next check."""
        now = self._now()
        self._remove_expired(now)
        due, next_check = self._scheduler.plan(now)
        free = self._scheduler.free_slots
        for certificate, action in due:
            if action == "order":
                wait = self._quota.wait(certificate.owner, is_new=self._is_new(certificate), now=now)
                if wait:
                    next_check = min(next_check, wait)
                    continue
            if free <= 0:
                break  # the end of an order triggers the next check
            free -= 1
            self._start_action(certificate, action, now)
        return max(0.0, next_check)

    def _start_action(self, certificate: ScheduledCertificate, action: Action, now: float) -> None:
        certificate.running = action
        if action == "renewal_info":
            assert certificate.issued is not None
            self._worker.start_renewal_info(
                certificate.issued, functools.partial(self._on_renewal_info, certificate)
            )
            return
        name = certificate.identifier
        self._quota.begin(name, certificate.owner, is_new=self._is_new(certificate), now=now)
        self._quota_file.update(self._quota.state)
        on_done = functools.partial(self._on_ordered, certificate)
        self._worker.start_order(certificate.names, on_done, is_own=self._is_own(name))

    def _is_new(self, certificate: ScheduledCertificate) -> bool:
        """Return True if an order counts as one for a new name."""
        return certificate.issued is None and not self._is_own(certificate.identifier)

    def _remove_expired(self, now: float) -> None:
        """Remove certificates that are not needed. A valid one stays in use, in case its owner comes back."""
        for certificate in self._scheduler.unused():
            issued = certificate.issued
            if issued is None or (now >= issued.not_after and self._is_settled()):
                self._remove(certificate)

    def _remove(self, certificate: ScheduledCertificate) -> None:
        name = certificate.identifier
        self._scheduler.remove(name)
        self._quota.cancel_request(name)
        self._contexts.remove_issued(name)
        if certificate.issued is not None:
            with contextlib.suppress(OSError):  # a file that is left over is not used again
                self._certificate_files.remove(name)

    def _use(self, issued: IssuedCertificate) -> None:
        self._contexts.set_issued(issued.names[0], issued.key + issued.chain, issued.names)

    def _on_ordered(self, certificate: ScheduledCertificate, outcome: IssuedCertificate | AcmeError) -> None:
        self._changed.set()
        if isinstance(outcome, OrderStoppedError):
            self._scheduler.on_stopped(certificate)
        elif isinstance(outcome, AcmeError):
            self.outcomes["failed"] += 1
            self._scheduler.on_failure(certificate, outcome, self._now())
            _log_failure(certificate, self._now())
        else:
            self.outcomes["obtained"] += 1
            self._scheduler.on_issued(certificate, outcome, self._now())
            self._use(outcome)
            logger.info(
                "a new certificate for %s is in use, valid until %s",
                certificate.identifier,
                _format_time(outcome.not_after),
            )

    def _on_renewal_info(self, certificate: ScheduledCertificate, when: float | None) -> None:
        self._changed.set()
        self._scheduler.on_renewal_info(certificate, when, self._now())


def _log_failure(certificate: ScheduledCertificate, now: float) -> None:
    """Log a failed order with the time of the next try and the state of the present certificate."""
    is_final = math.isinf(certificate.retry_at)
    if is_final:
        rest = "There are no more tries until the name is requested again."
    elif certificate.issued is None:
        rest = "The name has no certificate yet."
    elif certificate.issued.not_after > now:
        rest = f"The old one stays in use; it is valid until {_format_time(certificate.issued.not_after)}."
    else:
        rest = f"The old one has expired ({_format_time(certificate.issued.not_after)})."
    when = "" if is_final else f" The next try is in {certificate.retry_at - now:.0f} s."
    logger.warning(
        "no new certificate for %s (try %d): %s%s %s",
        certificate.identifier,
        certificate.failures,
        certificate.last_error,
        when,
        rest,
    )


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
