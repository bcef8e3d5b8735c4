"""What the command line needs of the Python interface, and nothing more.

The package itself is the door. Its names are loaded when they are first used, so ``--help``, ``--version`` and
completion answer without loading a QUIC engine.
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
    """What can be watched. All of it may be called from any thread and returns at once."""

    @property
    def failure(self) -> Error | None: ...

    def snapshot(self) -> Snapshot: ...

    def subscribe(self, callback: Callable[[ClientEvent], None]) -> Callable[[], None]:
        """Call ``callback`` from the client's thread for each event until the returned function is called."""


class TunnelClient(Observed, Protocol):
    """One connection to an edge."""

    def close(self) -> None:
        """Let go of the connection; from any thread, any number of times. Drains are forward()'s business."""


class Door(Protocol):
    """The package as the command line sees it."""

    def Client(self, *, edge: str, token: str, ca: Path | None) -> TunnelClient: ...  # noqa: N802  # a class there

    def forward(
        self,
        port: int,
        *,
        client: TunnelClient,
        **options: Any,
    ) -> AbstractContextManager[Tunnel]: ...


def load() -> Door:
    return cast("Door", quictunnel)
