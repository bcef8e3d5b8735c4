"""The public TCP port of a tunnel: its listening socket, and the server that accepts from it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from edge_server.ingress.tcp_ports import ACCEPTS_PER_ITERATION, restore_backlog
from quictunnel.transport import descriptors

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

logger = logging.getLogger(__name__)


class PublicPort:
    """A listening socket. After :meth:`stop`, :meth:`listen` only closes the socket, so call it in any case."""

    def __init__(self, sock: socket.socket) -> None:
        descriptors.set_close_on_fork(sock)
        self.number: int = sock.getsockname()[1]
        self._socket = sock
        self._server: asyncio.Server | None = None
        self._is_stopped = False

    async def listen(self, factory: Callable[[], asyncio.BaseProtocol]) -> None:
        """Accept visitors. Do not cancel it."""
        if self._is_stopped:
            self._socket.close()
            return
        # With start_serving=False this does not yield to the loop, so stop() cannot be called in between.
        self._server = await asyncio.get_running_loop().create_server(
            factory, sock=self._socket, backlog=ACCEPTS_PER_ITERATION, start_serving=False
        )
        await self._server.start_serving()
        restore_backlog(self._server, self._socket)

    def stop(self) -> None:
        """Stop accepting visitors."""
        self._is_stopped = True
        descriptors.clear_close_on_fork(self._socket)
        if self._server is not None:
            self._server.close()

    def duplicate(self) -> socket.socket | None:
        """Return a duplicate of the socket, for an edge that takes over; None if that is not possible.

        The port stays bound all the time, and the visitors in its accept queue are kept.
        """
        try:
            return self._socket.dup()
        except OSError as error:
            # The socket was closed with its server already, or no descriptor is free.
            logger.warning("port %d could not be kept: %s", self.number, error.strerror or error)
            return None
