"""Where a TLS visitor goes, by the name that its ClientHello says."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from edge_server.acme.answers import PROTOCOL
from edge_server.visitors.front import CROWD, Route
from edge_server.visitors.sni import Alert

if TYPE_CHECKING:
    import ssl

    from edge_server.house import House
    from edge_server.leases import Lease
    from edge_server.visitors.front import Crowd
    from edge_server.visitors.sni import Hello

logger = logging.getLogger(__name__)


class Router:
    """See the module."""

    def __init__(self, house: House) -> None:
        self._house = house

    def route(self, hello: Hello, host: str) -> Route | Alert | Crowd:
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
        lease = house.registry.find(house.name_of(name))
        whose = {} if lease is None else {"owner": lease.owner, "lease": lease.name}
        if not house.admission.arrivals.comes(host, **whose):
            return CROWD
        if lease is None or not lease.filter.admits(host):
            return Alert.UNRECOGNIZED_NAME
        if lease.terms.passthrough:
            return Route(None, lambda: lease.passing_visitor(name))
        try:
            context = self._context(lease, name)
        except OSError as error:  # OpenSSL reads certificates from files alone, and there was no room for one
            logger.error("no certificate could be made for %s: %s", name, error.strerror or error)
            return Alert.INTERNAL_ERROR
        if context is None:
            return Alert.UNRECOGNIZED_NAME if house.acme is None else Alert.CERTIFICATE_UNOBTAINABLE
        return Route(context, lambda: lease.tls_visitor(name))

    def _context(self, lease: Lease, name: str) -> ssl.SSLContext | None:
        certificates, h2 = self._house.certificates, lease.terms.h2
        context = certificates.context_for(name, h2=h2)
        if context is None and lease.name == name and certificates.mint(name):
            context = certificates.context_for(name, h2=h2)
        return context


class _Validator(asyncio.Protocol):
    """Whoever proves a name by tls-alpn-01: it has seen what it wanted in the handshake (RFC 8737 section 3)."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
