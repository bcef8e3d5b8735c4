"""An edge inside another process, for demonstrations and tests, without configuration."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from edge_server.config.edge_config import EdgeConfig
from edge_server.startup import start_edge
from quictunnel.config.client_config import ClientConfig, Secret
from quictunnel.config.variables import CONGESTION, ENGINE
from quictunnel.shared.event_loop import EventLoopThread

if TYPE_CHECKING:
    from types import TracebackType

    from edge_server.server import RunningEdge


class EmbeddedEdge:
    """A development edge on free ports of loopback, in a thread of its own, for the body of a ``with`` statement::

        with EmbeddedEdge() as edge:
            client = Client.from_config(edge.client_config)

    Args:
        engine: its QUIC engine; by default the value of QUICTUNNEL_ENGINE, which its clients use, too.
        admin: True to serve the operator's page, at ``server.admin.url``.
    """

    _background: EventLoopThread
    _server: RunningEdge
    _resources: contextlib.ExitStack
    """Stops the edge and its thread, and removes its state directory."""

    def __init__(self, *, engine: str = "", admin: bool = False) -> None:
        self._engine = engine
        self._admin = admin

    @property
    def server(self) -> RunningEdge:
        """Return the running edge. Only valid within the ``with`` body."""
        return self._server

    @property
    def client_config(self) -> ClientConfig:
        """Return the configuration for a client on this machine."""
        server = self.server
        return ClientConfig(
            edge=server.quic_address,
            token=Secret(server.token),
            ca=server.ca,
            engine=_of_environment(ENGINE),
            congestion=_of_environment(CONGESTION),
        )

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="quictunnel-edge-"))
            config = EdgeConfig(
                state_dir=Path(directory),
                quic=("127.0.0.1", 0),
                https=("127.0.0.1", 0),
                admin=("127.0.0.1", 0) if self._admin else None,
                grace=1.0,
                engine=self._engine or _of_environment(ENGINE),
                congestion=_of_environment(CONGESTION),
            )
            self._background = EventLoopThread("quictunnel-edge")
            stack.callback(self._background.stop)
            self._server = self._background.call(start_edge(config))
            stack.callback(self._stop)
            self._resources = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()

    def _stop(self) -> None:
        self._background.call(self._server.stop())


def _of_environment(name: str) -> str:
    return os.environ.get(name) or "auto"
