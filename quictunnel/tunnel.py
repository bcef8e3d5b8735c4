"""The value that a program gets for a forwarded port: where the public reaches it.

Only addresses live here, and the way to the figures. Nothing in this module knows how a tunnel is opened, kept
or closed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from quictunnel.errors import InvalidError

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.events import TunnelStats

HTTPS_PORT = 443
"""The port that an https URL need not name (RFC 9110 section 4.2.2)."""


class _Metered:
    """Whose figures can be asked for. Not a field: two tunnels with the same addresses are equal, whatever has
    passed through them, and a copy or a pickle is of the addresses."""

    __slots__ = ("_inspector_url", "_read")

    _inspector_url: str
    _read: Callable[[], TunnelStats]

    def metered(self, read: Callable[[], TunnelStats]) -> Self:
        """For whoever opened it: how :attr:`stats` is read from now on."""
        object.__setattr__(self, "_read", read)
        return self

    def inspected(self, url: str) -> None:
        """For whoever opened it: where the inspector's page is."""
        object.__setattr__(self, "_inspector_url", url)

    @property
    def inspector_url(self) -> str:
        """The inspector's page, for a browser on this machine; empty unless ``inspect=True`` was asked for. It
        opens the page, so keep it as you keep a key."""
        return getattr(self, "_inspector_url", "")

    @property
    def stats(self) -> TunnelStats:
        """How this tunnel is doing now, and after it was closed how it did in the end; from any thread.
        Raises InvalidError for a Tunnel that ``forward()`` did not give, such as a copy of one."""
        try:
            read = self._read
        except AttributeError:
            raise InvalidError(
                "This Tunnel has no figures, because it is a copy or was made by hand. Ask the one that "
                "forward() gave."
            ) from None
        return read()


@dataclass(frozen=True, slots=True)
class Tunnel(_Metered):
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
