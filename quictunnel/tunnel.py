"""``Tunnel``, the value that a program gets for a forwarded port: its public addresses and its statistics.

This module does not depend on the code that opens and closes tunnels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from quictunnel.errors import InvalidError
from quictunnel.shared.address import https_url

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.events import TunnelStats


class _WithStats:
    """Statistics, inspector page and local service of a tunnel.

    They are not dataclass fields: two tunnels with the same addresses are equal, whatever their statistics, and a
    copy or pickle contains the addresses only."""

    __slots__ = ("_inspector_url", "_read", "_target")

    _inspector_url: str
    _target: str
    _read: Callable[[], TunnelStats]

    def with_stats(self, read: Callable[[], TunnelStats]) -> Self:
        """Set the function that :attr:`stats` calls, and return this object. For the code that opens tunnels."""
        object.__setattr__(self, "_read", read)
        return self

    def set_inspector_url(self, url: str) -> None:
        """Set the address of the inspector's page. For the code that opens tunnels."""
        object.__setattr__(self, "_inspector_url", url)

    def adopt(self, other: _WithStats) -> None:
        """Take over what is not a dataclass field from another object of the same tunnel."""
        for name in ("_inspector_url", "_read", "_target"):
            if hasattr(other, name):
                object.__setattr__(self, name, getattr(other, name))

    def set_target(self, target: str) -> None:
        """Set the address of the local service. For the code that opens tunnels."""
        object.__setattr__(self, "_target", target)

    @property
    def target(self) -> str:
        """Address of the local service, such as ``localhost:8000`` or ``unix:/run/app.sock``; empty for a Tunnel
        that ``forward()`` did not return."""
        return getattr(self, "_target", "")

    @property
    def inspector_url(self) -> str:
        """Address of the inspector's page, for a browser on this machine; empty without ``inspect=True``.

        It contains the page's secret: protect it like a password."""
        return getattr(self, "_inspector_url", "")

    @property
    def stats(self) -> TunnelStats:
        """The current figures of this tunnel; after it was closed, the last ones. Callable from any thread.

        Raises InvalidError for a Tunnel that ``forward()`` did not return, such as a copy of one."""
        try:
            read = self._read
        except AttributeError:
            raise InvalidError(
                "This Tunnel has no figures, because it is a copy or was created by hand. Use the one that "
                "forward() returned."
            ) from None
        return read()


@dataclass(frozen=True, slots=True)
class Tunnel(_WithStats):
    """The public addresses of one forwarded port."""

    host: str
    """Public host name; TLS visitors send it as SNI."""
    port: int
    """Public TLS port."""
    unencrypted_host: str = ""
    """Public host of the plain TCP socket; empty without ``unencrypted=True``."""
    unencrypted_port: int = 0
    """Public port of the plain TCP socket; 0 without ``unencrypted=True``."""

    @property
    def url(self) -> str:
        """The public URL, ``https://host`` with the port unless it is 443."""
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
