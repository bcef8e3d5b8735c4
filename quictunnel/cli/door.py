"""Protocols for the part of the Python interface that the command line uses.

The package itself implements :class:`Door`. It loads its names on first use, so ``--help``, ``--version`` and
completion work without loading a QUIC engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

import quictunnel

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from quictunnel.errors import Error
    from quictunnel.events import ClientEvent, Snapshot
    from quictunnel.tunnel import Tunnel


class Observed(Protocol):
    """State and events of a client. Every method may be called on any thread and returns at once."""

    @property
    def failure(self) -> Error | None:
        """The error that ended the client for good, or None."""

    def snapshot(self) -> Snapshot:
        """Return the current state and counters."""

    def subscribe(self, callback: Callable[[ClientEvent], None]) -> Callable[[], None]:
        """Call ``callback`` on the client's thread for each event. Return a function that ends this."""


class TunnelClient(Observed, Protocol):
    """Client with one connection to an edge."""

    def close(self) -> None:
        """Close the connection without a drain. May be called on any thread, and more than once."""


class Door(Protocol):
    """The package ``quictunnel`` as the command line uses it."""

    def Client(self, *, edge: str, token: str, ca: Path | None) -> TunnelClient:  # noqa: N802  # a class there
        """Create a client of an edge."""

    def forward(
        self,
        port: int,
        *,
        client: TunnelClient,
        **options: Any,
    ) -> AbstractContextManager[Tunnel]:
        """Open a tunnel to a local port."""


def load() -> Door:
    """Return the package itself."""
    return cast("Door", quictunnel)
