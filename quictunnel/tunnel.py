"""The value that a program gets for a forwarded port: where the public reaches it.

The value has the addresses and the way to the figures. Nothing in this module knows how a tunnel is opened,
kept or closed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from quictunnel.errors import InvalidError
from quictunnel.shared.address import https_url

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.events import TunnelStats


class _Metered:
    """The figures and the inspector's page of a tunnel. They are not fields: two tunnels with the same addresses
    are equal, whatever has passed through them, and a copy or a pickle is of the addresses."""

    __slots__ = ("_inspector_url", "_read")

    _inspector_url: str
    _read: Callable[[], TunnelStats]

    def metered(self, read: Callable[[], TunnelStats]) -> Self:
        """Set how :attr:`stats` is read from now on; called by the one that opened the tunnel."""
        object.__setattr__(self, "_read", read)
        return self

    def inspected(self, url: str) -> None:
        """Set where the inspector's page is; called by the one that opened the tunnel."""
        object.__setattr__(self, "_inspector_url", url)

    @property
    def inspector_url(self) -> str:
        """The inspector's page, for a browser on this machine; empty unless ``inspect=True`` was asked for. It
        opens the page, so keep it as you keep a key."""
        return getattr(self, "_inspector_url", "")

    @property
    def stats(self) -> TunnelStats:
        """The figures of this tunnel, after it was closed the last ones; from any thread.
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
        return https_url(self.host, self.port)

    @property
    def tls_socket(self) -> tuple[str, int]:
        """The address to connect to with TLS; the host name must be sent as SNI."""
        return (self.host, self.port)

    @property
    def tcp_socket(self) -> tuple[str, int]:
        """The address to connect to with plain TCP. Raises InvalidError unless ``unencrypted=True`` was given."""
        if not self.unencrypted_host:
            raise InvalidError(
                "This tunnel is not configured for unencrypted TCP. "
                "Open it with forward(port, unencrypted=True) to get a TCP address."
            )
        return (self.unencrypted_host, self.unencrypted_port)
