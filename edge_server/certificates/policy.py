"""Decisions about certificates for host names: which exist, and which are ordered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_server.certificates.acme.service import AcmeService
    from edge_server.certificates.context_store import ContextStore, Validity


@dataclass(frozen=True, slots=True)
class CertificatePolicy:
    """Decides about certificates for visitors, from those that are there and from ACME."""

    contexts: ContextStore
    acme: AcmeService | None = None
    """Orders certificates; None if ACME is off."""

    @property
    def expects_shared_certificate(self) -> bool:
        """Return True if one certificate is to cover all names below the edge's domain; else each has its own."""
        return self.acme is None or self.acme.manager.covers_own_names or self.contexts.has_files

    def can_certify(self, host: str) -> bool:
        """Return True if a certificate that covers this host name exists, or can be obtained."""
        return self.acme is not None or self.contexts.is_development or self.contexts.covers(host, h2=False)

    def allows_h2(self, host: str, *, is_custom_domain: bool) -> bool:
        """Return True if HTTP/2 may be offered for a host name.

        A certificate that also covers other names forbids it, because browsers may then send requests for one
        name on the connection of another.
        """
        will_have_its_own = self.acme is not None or (is_custom_domain and self.contexts.is_development)
        return will_have_its_own or self.contexts.h2_allowed(host)

    def order_missing(self, host: str, owner: str, *, h2: bool) -> None:
        """Request a certificate for a host name from ACME, unless one covers it.

        A name that was requested before is passed on again, so that it stays scheduled for renewal.
        """
        if self.acme is None:
            return
        manager = self.acme.manager
        if manager.is_requested(host) or not self.contexts.covers(host, h2=h2):
            manager.request(host, owner, alone=h2)

    def validities(self) -> list[Validity]:
        """Return the validity of each certificate for visitors.

        Certificates of ACME for names that nobody owns any more are left out: they are not renewed, and their end
        is no cause for an alarm.
        """
        statuses = self.acme.statuses if self.acme is not None else []
        left_over = {frozenset(status.names) for status in statuses if not status.is_needed}
        return [each for each in self.contexts.validities() if each.names not in left_over]
