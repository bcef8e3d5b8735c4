"""Where a TLS visitor goes, by the name that its ClientHello says."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from edge_server.certificates.acme.challenges import PROTOCOL
from edge_server.ingress.client_hello import Alert
from edge_server.ingress.tls_listener import OVERLOADED, Overload, RedirectTarget, Route

if TYPE_CHECKING:
    import ssl

    from edge_server.ingress.client_hello import ClientHello
    from edge_server.services import EdgeServices
    from edge_server.tunnels.lease import Lease

logger = logging.getLogger(__name__)

HTTPS_PORT: Final = 443
"""The port of ``https://``, which such addresses need not say."""


class Router:
    """See the module."""

    def __init__(self, house: EdgeServices) -> None:
        self._house = house

    def route(self, hello: ClientHello, host: str) -> Route | Alert | Overload:
        """Where a visitor from ``host`` goes. Unknown, absent, malformed and forbidden names get one answer, and
        count alike against whoever comes too often."""
        name, house = hello.server_name, self._house
        if name is None:
            return Alert.MISSING_EXTENSION
        if hello.alpn == (PROTOCOL,) and house.acme is not None:
            context = house.acme.answers.tls.get(name)
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
            return Alert.UNRECOGNIZED_NAME if house.acme is None else Alert.CERTIFICATE_UNOBTAINABLE
        return Route(context, lambda: lease.tls_visitor(name), owner=lease.owner, lease=lease.name)

    def origin(self, name: str, host: str) -> RedirectTarget | Overload | None:
        """Where a visitor from ``host`` who came without TLS reaches a name; None for each name that
        :meth:`route` does not know either."""
        lease = self._find(name, host)
        if lease is None or isinstance(lease, Overload):
            return lease
        port = self._house.https_port
        url = f"https://{name}" if port == HTTPS_PORT else f"https://{name}:{port}"
        return RedirectTarget(url, owner=lease.owner, lease=lease.name)

    def _find(self, name: str, host: str) -> Lease | Overload | None:
        """The lease of a host name, if a visitor from ``host`` may come to it; counts who comes."""
        house = self._house
        lease = house.lease_of(name)
        whose = {} if lease is None else {"owner": lease.owner, "lease": lease.name}
        if not house.admission.arrivals.comes(host, **whose):
            return OVERLOADED
        return lease if lease is not None and lease.filter.admits(host) else None

    def _context(self, lease: Lease, name: str) -> ssl.SSLContext | None:
        certificates, h2 = self._house.certificates, lease.terms.h2
        context = certificates.context_for(name, h2=h2)
        return certificates.minted_for(name, h2=h2) if context is None and lease.name == name else context


class _Validator(asyncio.Protocol):
    """Whoever proves a name by tls-alpn-01: it has seen what it wanted in the handshake (RFC 8737 section 3)."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
