"""An edge inside another process: for demonstrations and tests, with nothing to configure."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from edge_server.config.edge_config import EdgeConfig
from edge_server.server import EdgeServer
from quictunnel.config.client_config import CONGESTION, ENGINE, ClientConfig, Secret
from quictunnel.shared.event_loop import EventLoopThread

if TYPE_CHECKING:
    from types import TracebackType


class EmbeddedEdge:
    """A development edge on free ports of loopback, on a thread of its own, while the ``with`` body runs::

        with EmbeddedEdge() as edge:
            client = Client.from_config(edge.client_config)

    ``engine`` is its QUIC engine; without it QUICTUNNEL_ENGINE says which, as for its clients.
    With ``admin`` its operator's page is at ``server.admin.url``.
    """

    def __init__(self, *, engine: str = "", admin: bool = False) -> None:
        self._engine = engine
        self._admin = admin
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._background: EventLoopThread | None = None
        self._server: EdgeServer | None = None

    @property
    def server(self) -> EdgeServer:
        """Return the edge that runs."""
        assert self._server is not None, "the edge is not running"
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
        self._directory = tempfile.TemporaryDirectory(prefix="quictunnel-edge-")
        config = EdgeConfig(
            state_dir=Path(self._directory.name),
            quic=("127.0.0.1", 0),
            https=("127.0.0.1", 0),
            admin=("127.0.0.1", 0) if self._admin else None,
            grace=1.0,
            engine=self._engine or _of_environment(ENGINE),
            congestion=_of_environment(CONGESTION),
        )
        self._background = EventLoopThread("quictunnel-edge")
        try:
            self._server = self._background.call(self._start(config))
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._background is not None and self._server is not None:
            self._background.call(self._server.stop())
        self._close()

    @staticmethod
    async def _start(config: EdgeConfig) -> EdgeServer:
        server = EdgeServer(config)
        await server.start()
        return server

    def _close(self) -> None:
        if self._background is not None:
            self._background.stop()
        if self._directory is not None:
            self._directory.cleanup()


def _of_environment(name: str) -> str:
    return os.environ.get(name) or "auto"
