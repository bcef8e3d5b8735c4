"""Routing of TLS visitors by the server name in their ClientHello.

A route is for a host name. The tunnel is looked up again after the handshake, so a visitor reaches the tunnel that
has the name then. The lookup before the handshake finds the certificate, and hides the tunnel from addresses that
its filter denies.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from edge_server.certificates.acme.challenges import ALPN_PROTOCOL
from edge_server.ingress.client_hello import Alert
from edge_server.ingress.tls_listener import OVERLOADED, Overload, RedirectTarget, Route
from edge_server.tunnels.visitor_log import EntryPoint
from quictunnel.transport.refusal import Refusal
from quictunnel.transport.splice import TcpSplice, TlsSplice

if TYPE_CHECKING:
    import ssl

    from edge_server.certificates.policy import CertificatePolicy
    from edge_server.ingress.client_hello import ClientHello
    from edge_server.ingress.error_pages import ErrorPages
    from edge_server.ingress.rate_limit import ConnectionRateLimiter
    from edge_server.tunnels.name_directory import NameDirectory
    from edge_server.tunnels.tunnel import Tunnel
    from quictunnel.transport.splice import Splice

logger = logging.getLogger(__name__)

HTTPS_PORT: Final = 443
"""The default port of ``https://``, which URLs omit."""


class Router:
    """Finds the tunnel and the certificate for each visitor of the TLS port."""

    def __init__(
        self,
        names: NameDirectory,
        certificate_policy: CertificatePolicy,
        rate_limiter: ConnectionRateLimiter,
        https_port: int,
        error_pages: ErrorPages,
    ) -> None:
        """Route to the tunnels of a directory.

        Args:
            names: finds tunnels by host name.
            certificate_policy: finds the certificates for host names.
            rate_limiter: limits the rate of visitors.
            https_port: the port to which visitors without TLS are redirected.
            error_pages: answer visitors who reach no tunnel.
        """
        self._names = names
        self._certificate_policy = certificate_policy
        self._rate_limiter = rate_limiter
        self._https_port = https_port
        self._error_pages = error_pages
        self._answer = error_pages.answer  # one bound method for all visitors

    def route(self, hello: ClientHello, address: str) -> Route | Alert | Overload:
        """Return the route of a visitor from an address, or the alert that refuses it.

        A name that has no tunnel and a tunnel whose filter denies the address get the same answer: an error page
        or an alert. Both count against the rate limit of the address. A ClientHello without a server name is
        refused before that.
        """
        host_name, acme = hello.server_name, self._certificate_policy.acme
        if host_name is None:
            return Alert.MISSING_EXTENSION
        if hello.alpn == (ALPN_PROTOCOL,) and acme is not None:
            context = acme.challenges.tls.get(host_name)
            if context is not None:
                return Route(context, _Validator)
            # Otherwise the challenge may be one of an origin behind a tunnel with TLS passthrough.
        tunnel = self._find(host_name, address)
        if isinstance(tunnel, Overload):
            return OVERLOADED
        if tunnel is None:
            return self._no_tunnel(host_name, address)
        if tunnel.options.passthrough:
            return Route(
                None, lambda: self.passing_visitor(host_name), owner=tunnel.owner, tunnel_name=tunnel.name
            )
        try:
            context = self._context(tunnel, host_name)
        except OSError as error:  # OpenSSL reads certificates from files only, and no file could be written
            logger.error("no certificate could be made for %s: %s", host_name, error.strerror or error)
            return Alert.INTERNAL_ERROR
        if context is None:
            return Alert.UNRECOGNIZED_NAME if acme is None else Alert.CERTIFICATE_UNOBTAINABLE
        return Route(context, lambda: self.tls_visitor(host_name), owner=tunnel.owner, tunnel_name=tunnel.name)

    def tls_visitor(self, host_name: str) -> asyncio.Protocol:
        """Return the protocol for a visitor of a host name whose TLS handshake is complete."""
        splice = TlsSplice(
            lambda splice: self._arrive(splice, EntryPoint(is_tls_terminated=True, host_name=host_name))
        )
        splice.on_visitor_refused = self._answer
        return splice

    def passing_visitor(self, host_name: str) -> TcpSplice:
        """Return the protocol for a visitor of a host name with TLS passthrough."""
        return TcpSplice(
            lambda splice: self._arrive(splice, EntryPoint(is_tls_terminated=False, host_name=host_name))
        )

    def redirect_target(self, host_name: str, address: str) -> RedirectTarget | Overload | None:
        """Return the redirect to HTTPS for a visitor from ``address`` without TLS; None where :meth:`route`
        refuses."""
        tunnel = self._find(host_name, address)
        if tunnel is None or isinstance(tunnel, Overload):
            return tunnel
        port = self._https_port
        url = f"https://{host_name}" if port == HTTPS_PORT else f"https://{host_name}:{port}"
        return RedirectTarget(url, owner=tunnel.owner, tunnel_name=tunnel.name)

    def _arrive(self, splice: Splice, entry_point: EntryPoint) -> None:
        """Hand a visitor to the tunnel that has the name now."""
        tunnel = self._names.find(entry_point.host_name)
        if tunnel is None:
            splice.refuse(Refusal.NO_TUNNEL)
        else:
            tunnel.admit(splice, entry_point)

    def _no_tunnel(self, host_name: str, address: str) -> Route | Alert:
        """Return the route to an error page; an alert if there is no place, or no shared certificate.

        Only the certificate of all names is used. That a name has a certificate of its own tells that it is
        somebody's.
        """
        try:
            context = self._certificate_policy.contexts.shared_context(host_name, self._names.domain)
        except OSError as error:  # as for a tunnel
            logger.error("no certificate could be made for %s: %s", host_name, error.strerror or error)
            return Alert.INTERNAL_ERROR
        page = None if context is None else self._error_pages.for_visitor_without_tunnel(address)
        if page is None:
            return Alert.UNRECOGNIZED_NAME
        return Route(context, lambda: page, leads_to_tunnel=False, on_failed=page.discard)

    def _find(self, host_name: str, address: str) -> Tunnel | Overload | None:
        """Return the tunnel of a host name; None if it has none or the filter denies ``address``.

        Every call counts against the rate limit of the address.
        """
        tunnel = self._names.find(host_name)
        shares = {} if tunnel is None else {"owner": tunnel.owner, "tunnel_name": tunnel.name}
        if not self._rate_limiter.admit(address, **shares):
            return OVERLOADED
        return tunnel if tunnel is not None and tunnel.filter.admits(address) else None

    def _context(self, tunnel: Tunnel, host_name: str) -> ssl.SSLContext | None:
        contexts, h2 = self._certificate_policy.contexts, tunnel.options.h2
        context = contexts.context_for(host_name, h2=h2)
        if context is None and tunnel.name == host_name:
            return contexts.custom_context(host_name, h2=h2)
        return context


class _Validator(asyncio.Protocol):
    """Connection of a tls-alpn-01 validator, which has read the proof in the handshake (RFC 8737 section 3)."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close the connection, which is not needed after the handshake."""
        transport.close()
