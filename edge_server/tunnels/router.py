"""Routing of TLS visitors by the server name in their ClientHello."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from edge_server.certificates.acme.challenges import ALPN_PROTOCOL
from edge_server.ingress.client_hello import Alert
from edge_server.ingress.tls_listener import OVERLOADED, Overload, RedirectTarget, Route

if TYPE_CHECKING:
    import ssl

    from edge_server.certificates.policy import CertificatePolicy
    from edge_server.ingress.client_hello import ClientHello
    from edge_server.ingress.rate_limit import ConnectionRateLimiter
    from edge_server.tunnels.lease import Lease
    from edge_server.tunnels.names import NameDirectory

logger = logging.getLogger(__name__)

HTTPS_PORT: Final = 443
"""The port of ``https://``, which such addresses need not say."""


class Router:
    """Finds the tunnel and the certificate for each visitor of the TLS port."""

    def __init__(
        self,
        names: NameDirectory,
        certificates: CertificatePolicy,
        arrivals: ConnectionRateLimiter,
        https_port: int,
    ) -> None:
        """``https_port``: where visitors without TLS are sent to."""
        self._names = names
        self._certificates = certificates
        self._arrivals = arrivals
        self._https_port = https_port

    def route(self, hello: ClientHello, host: str) -> Route | Alert | Overload:
        """Return the route of a visitor from the address ``host``, or the alert that refuses it.

        Unknown, absent, malformed and forbidden names get the same answer, and count alike against the rate limit
        of the address.
        """
        name, acme = hello.server_name, self._certificates.acme
        if name is None:
            return Alert.MISSING_EXTENSION
        if hello.alpn == (ALPN_PROTOCOL,) and acme is not None:
            context = acme.challenges.tls.get(name)
            if context is not None:
                return Route(context, _Validator)
            # Else it may be a local service's own, behind a tunnel that passes TLS through.
        lease = self._find(name, host)
        if isinstance(lease, Overload):
            return OVERLOADED
        if lease is None:
            return Alert.UNRECOGNIZED_NAME
        if lease.terms.passthrough:
            return Route(None, lambda: lease.passing_visitor(name), owner=lease.owner, lease=lease.name)
        try:
            context = self._context(lease, name)
        except OSError as error:  # OpenSSL reads certificates from files alone, and there was no room for one
            logger.error("no certificate could be made for %s: %s", name, error.strerror or error)
            return Alert.INTERNAL_ERROR
        if context is None:
            return Alert.UNRECOGNIZED_NAME if acme is None else Alert.CERTIFICATE_UNOBTAINABLE
        return Route(context, lambda: lease.tls_visitor(name), owner=lease.owner, lease=lease.name)

    def origin(self, name: str, host: str) -> RedirectTarget | Overload | None:
        """Return the address at which a visitor from ``host`` who came without TLS reaches a name.

        None for each name that :meth:`route` does not know either.
        """
        lease = self._find(name, host)
        if lease is None or isinstance(lease, Overload):
            return lease
        port = self._https_port
        url = f"https://{name}" if port == HTTPS_PORT else f"https://{name}:{port}"
        return RedirectTarget(url, owner=lease.owner, lease=lease.name)

    def _find(self, name: str, host: str) -> Lease | Overload | None:
        """Return the lease of a host name if a visitor from ``host`` may come to it; count the visitor."""
        lease = self._names.find(name)
        whose = {} if lease is None else {"owner": lease.owner, "lease": lease.name}
        if not self._arrivals.admit(host, **whose):
            return OVERLOADED
        return lease if lease is not None and lease.filter.admits(host) else None

    def _context(self, lease: Lease, name: str) -> ssl.SSLContext | None:
        certificates, h2 = self._certificates.contexts, lease.terms.h2
        context = certificates.context_for(name, h2=h2)
        return certificates.custom_context(name, h2=h2) if context is None and lease.name == name else context


class _Validator(asyncio.Protocol):
    """Connection of a validator of tls-alpn-01, which has seen the proof in the handshake (RFC 8737 section 3)."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close the connection, whose handshake was all that it is for."""
        transport.close()
