"""The value that a program gets for a forwarded port: where the public reaches it.

Only addresses live here. Nothing in this module knows how a tunnel is opened, kept or closed.
"""

from __future__ import annotations

from dataclasses import dataclass

from quictunnel.errors import InvalidError

HTTPS_PORT = 443
"""The port that an https URL need not name (RFC 9110 section 4.2.2)."""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """The public addresses of one forwarded port."""

    host: str
    """Public host name; TLS visitors are told apart by it (SNI)."""
    port: int
    """Public TLS port."""
    unencrypted_host: str = ""
    """Public host of the plain TCP socket; empty when none was asked for."""
    unencrypted_port: int = 0
    """Public port of the plain TCP socket; 0 when none was asked for."""

    @property
    def url(self) -> str:
        """The public address as a browser takes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}" if self.port == HTTPS_PORT else f"https://{host}:{self.port}"

    @property
    def tls_socket(self) -> tuple[str, int]:
        """Where to connect with TLS; the host name must be sent as SNI."""
        return (self.host, self.port)

    @property
    def tcp_socket(self) -> tuple[str, int]:
        """Where to connect with plain TCP. Raises InvalidError unless ``unencrypted=True`` was asked for."""
        if not self.unencrypted_host:
            raise InvalidError(
                "This tunnel is not configured for unencrypted TCP. "
                "Open it with forward(port, unencrypted=True) to get a TCP address."
            )
        return (self.unencrypted_host, self.unencrypted_port)
