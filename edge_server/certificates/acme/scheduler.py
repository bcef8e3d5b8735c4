"""Schedule of certificates: which order is due, and when the next one is.

Pure decisions: the caller passes the time, starts what is due, and reports the results. Nothing here reads a
clock, a file or the network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from quictunnel.shared.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from random import Random

    from edge_server.certificates.acme.errors import AcmeError
    from edge_server.certificates.acme.settings import AcmeTimings
    from edge_server.certificates.acme.store import IssuedCertificate

MAX_CONCURRENT_ORDERS: Final = 2
"""Orders and requests of renewal information at once: enough for progress while one of them waits, and considerate
to the CA."""
MAX_TRIES: Final = 20
"""Failed tries for a name that never had a certificate: three days with waits that grow to hours. Then the name
has to be requested again. A name that had a certificate is tried for as long as it is needed."""
RENEWAL_POINT: Final = 2 / 3
"""Fraction of a certificate's lifetime after which it is renewed."""
RENEWAL_JITTER: Final = 0.05
"""Fraction of its lifetime by which the renewal is moved forward at random, so that certificates of the same age
are not renewed together."""
FORCED_RENEWAL: Final = 0.1
"""Fraction of its lifetime before the end at which it is renewed, whatever the server suggests."""
MIN_AGE: Final = 1 / 3
"""Fraction of its lifetime for which the schedule does not renew a certificate that was just issued: with a clock
that is months ahead, each new one would appear expired and be ordered again at once. The server's renewal
information (RFC 9773) still counts, because it is early for a certificate that will be revoked."""
POLL_INTERVAL: Final = 60.0
"""Seconds between checks when nothing is due: clocks are set, and machines sleep."""
RENEWAL_INFO_RETRY: Final = 4.0
"""Multiple of the usual interval before the next request, if the server suggested no renewal time."""

Action = Literal["order", "renewal_info"]
"""Work for a certificate: an order, or a request of renewal information (ARI, RFC 9773), which has the renewal
time that the server suggests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateStatus:
    """Status of one certificate, for people. Times are seconds since the epoch."""

    names: tuple[str, ...]
    is_needed: bool
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
    """None if no try is scheduled: the certificate is not needed, or was tried too often (see MAX_TRIES)."""


@dataclass(slots=True, eq=False)
class ScheduledCertificate:
    """State of one certificate in the schedule."""

    names: tuple[str, ...]
    """Names in the order of the request; the first one is the identifier."""
    owner: str
    """Token key; empty for the edge's own and for stored ones that no client has requested yet."""
    backoff: Backoff
    issued: IssuedCertificate | None = None
    renew_at: float = 0.0
    retry_at: float = 0.0
    """Earliest time of the next try after a failure."""
    renewal_info_at: float = math.inf
    """Time of the next request for the server's suggested renewal time."""
    failures: int = 0
    last_error: str = ""
    running: Action | None = None
    """Work in progress."""

    @property
    def identifier(self) -> str:
        """First of the names."""
        return self.names[0]

    @property
    def due(self) -> float:
        """Time of the next order."""
        return max(self.renew_at, self.retry_at)


class DueAction(NamedTuple):
    """Work that may start now."""

    certificate: ScheduledCertificate
    action: Action


class Plan(NamedTuple):
    """Result of a check."""

    due: list[DueAction]
    """Work that may start now, the longest overdue first."""
    next_check: float
    """Seconds until more work is due, at most :data:`POLL_INTERVAL`."""


class RenewalScheduler:
    """The certificates of one edge with the times of their renewals."""

    def __init__(self, timings: AcmeTimings, is_needed: Callable[[str], bool], random: Random) -> None:
        """Start without certificates.

        Args:
            timings: waits after failures, and the interval between requests of renewal information.
            is_needed: returns True if the certificate with this identifier is needed; others are not ordered.
            random: source of the jitter.
        """
        self._timings = timings
        self._is_needed = is_needed
        self._random = random
        self._certificates: dict[str, ScheduledCertificate] = {}

    @property
    def certificates(self) -> Mapping[str, ScheduledCertificate]:
        """All certificates by identifier."""
        return self._certificates

    @property
    def free_slots(self) -> int:
        """Number of actions that may start beside those in progress."""
        return MAX_CONCURRENT_ORDERS - sum(each.running is not None for each in self._certificates.values())

    def add(self, names: Sequence[str], owner: str) -> ScheduledCertificate:
        """Add a certificate, whose order is due at once."""
        backoff = Backoff(self._timings.first_retry, self._timings.max_retry)
        certificate = self._certificates[names[0]] = ScheduledCertificate(tuple(names), owner, backoff)
        return certificate

    def remove(self, identifier: str) -> None:
        """Remove a certificate."""
        del self._certificates[identifier]

    def request_again(self, certificate: ScheduledCertificate, owner: str, now: float) -> bool:
        """Note a further request for a certificate, which ends the pause after :data:`MAX_TRIES`. Return True if
        its order is due."""
        certificate.owner = owner
        if certificate.failures >= MAX_TRIES and certificate.issued is None:
            certificate.failures, certificate.retry_at = 0, 0.0
            certificate.backoff.reset()
        return certificate.due <= now

    def plan(self, now: float) -> Plan:
        """Return what is due, without regard to free slots and quotas."""
        due, next_check = [], POLL_INTERVAL
        for each in sorted(self._certificates.values(), key=lambda each: each.due):
            if each.running is not None or not self._is_needed(each.identifier):
                continue
            if each.due <= now:
                due.append(DueAction(each, "order"))
            elif each.renewal_info_at <= now:
                due.append(DueAction(each, "renewal_info"))
            else:
                next_check = min(next_check, each.due - now, each.renewal_info_at - now)
        return Plan(due, next_check)

    def on_loaded(self, certificate: ScheduledCertificate, issued: IssuedCertificate, now: float) -> None:
        """Schedule the renewal of a certificate that is in use from now on."""
        certificate.issued = issued
        certificate.failures, certificate.last_error, certificate.retry_at = 0, "", 0.0
        certificate.backoff.reset()
        age = RENEWAL_POINT - self._random.uniform(0.0, RENEWAL_JITTER)
        certificate.renew_at = issued.not_before + issued.lifetime * age
        certificate.renewal_info_at = now + self._random.uniform(0.0, self._timings.renewal_info)

    def on_issued(self, certificate: ScheduledCertificate, issued: IssuedCertificate, now: float) -> None:
        """Schedule the renewal of a certificate that was issued just now."""
        certificate.running = None
        self.on_loaded(certificate, issued, now)
        certificate.renew_at = max(certificate.renew_at, now + issued.lifetime * MIN_AGE)

    def on_stopped(self, certificate: ScheduledCertificate) -> None:
        """Note the end of an order that was aborted, which counts neither as a success nor as a failure."""
        certificate.running = None

    def on_failure(self, certificate: ScheduledCertificate, error: AcmeError, now: float) -> None:
        """Schedule the next try after a failed order."""
        certificate.running = None
        certificate.failures += 1
        certificate.last_error = error.reason
        wait = max(self._timings.min_retry, certificate.backoff.next(self._random), error.retry_after)
        has_no_more_tries = certificate.issued is None and certificate.failures >= MAX_TRIES
        certificate.retry_at = math.inf if has_no_more_tries else now + wait

    def on_renewal_info(self, certificate: ScheduledCertificate, when: float | None, now: float) -> None:
        """Use the renewal time that the server suggests (RFC 9773); None: it suggests none."""
        certificate.running = None
        certificate.renewal_info_at = now + self._timings.renewal_info * (
            1.0 if when is not None else RENEWAL_INFO_RETRY
        )
        if when is not None and certificate.issued is not None:
            latest = certificate.issued.not_after - certificate.issued.lifetime * FORCED_RENEWAL
            certificate.renew_at = min(when, latest)

    def adjust_clock(self, forward: float) -> None:
        """Adjust to a clock that moved ``forward`` seconds (negative: back): no wait changes its length. The ends
        of certificates are times of the CA's clock and stay."""
        for certificate in self._certificates.values():
            certificate.renewal_info_at += forward
            certificate.retry_at += forward

    def unused(self) -> list[ScheduledCertificate]:
        """Return the certificates that are not needed and have no order in progress, those due first at the
        beginning."""
        found = [
            each
            for each in self._certificates.values()
            if each.running is None and not self._is_needed(each.identifier)
        ]
        return sorted(found, key=lambda each: each.renew_at)

    def count_needed(self, owner: str) -> int:
        """Return the number of needed certificates of an owner."""
        owned = (each.identifier for each in self._certificates.values() if each.owner == owner)
        return sum(map(self._is_needed, owned))

    def status(self, certificate: ScheduledCertificate) -> CertificateStatus:
        """Return the status of a certificate."""
        is_needed = self._is_needed(certificate.identifier)
        issued = certificate.issued
        return CertificateStatus(
            names=certificate.names,
            is_needed=is_needed,
            not_after=issued.not_after if issued is not None else None,
            renew_at=certificate.renew_at if issued is not None else None,
            is_ordering=certificate.running == "order",
            failures=certificate.failures,
            last_error=certificate.last_error,
            next_try=certificate.due if is_needed and math.isfinite(certificate.due) else None,
        )
