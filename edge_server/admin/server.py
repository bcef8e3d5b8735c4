"""The operator's HTTP server: uvicorn's HTTP/1.1 on the edge's own loop, started and stopped with the edge.

Only uvicorn's protocol is used. Its ``Server`` installs signal handlers, writes to the root logger's stream and
wakes ten times a second; the edge has its own of all these.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from edge_server.auth.token import new_operator_token
from edge_server.storage.state_dir import ClientEnv
from quictunnel.errors import ConfigError
from quictunnel.shared.address import format_address, on_this_machine
from quictunnel.shared.web_security import is_loopback
from quictunnel.transport import descriptors

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from edge_server.admin.app import AdminApp
    from edge_server.admin.http_server import HttpServer
    from edge_server.config.edge_config import EdgeConfig
    from edge_server.observability.introspection import Introspection
    from edge_server.storage.state_dir import StateDir

logger = logging.getLogger(__name__)

URL_FILE: Final = "admin.url"
"""File in the state directory while the page is available: its URL, without the token."""
TOKEN_FILE: Final = "admin.token"  # noqa: S105 - the name of a file
"""File of the token in the state directory."""
BACKLOG: Final = 64
"""Length of the accept queue; the number of connections that may be open."""
RETRY_INTERVAL: Final = 0.1
"""Seconds between tries to bind the address, which the predecessor holds for a moment."""
WARN_AFTER: Final = 5.0
"""Seconds after which an address that is still in use is logged."""


class Admin:
    """The operator's server of one edge. Call :meth:`start`, :meth:`leave` on a hot restart, and :meth:`close`."""

    def __init__(
        self, config: EdgeConfig, state: StateDir, *, listen: Callable[[], socket.socket], inherits: bool
    ) -> None:
        """Bind the address.

        Args:
            config: of the edge, with ``admin`` set.
            state: the state directory, which has the token.
            inherits: a predecessor may still hold the address; :meth:`start` then waits for it.

        Raises:
            ConfigError: the address cannot be used, or a package is missing.
        """
        try:
            import edge_server.admin.app  # noqa: PLC0415 - its imports are optional: the extra "edge"
            import edge_server.admin.http_server  # noqa: F401, PLC0415 - likewise
        except ImportError as error:
            raise ConfigError(
                f"--admin needs a package that is not installed ({error.name}): pip install 'quictunnel[edge]'."
            ) from None
        assert config.admin is not None
        self._state = state
        self._address = config.admin
        self._names = config.admin_names
        self._listening = None if inherits else listen()
        self._listen = listen
        self._app: AdminApp | None = None
        self._server: asyncio.Server | None = None
        self._waiting: asyncio.Task[None] | None = None
        self._url_file: ClientEnv | None = None
        self._http: HttpServer | None = None
        self.token = state.secret_token(TOKEN_FILE, new_operator_token)
        self.url = ""
        """URL of the page; empty before it is available."""

    async def start(self, introspection: Introspection, drain: Callable[[], None]) -> None:
        """Serve the state of an edge; after a hot restart as soon as the predecessor's address is free. ``drain``
        makes the owner of the edge drain and stop it."""
        from edge_server.admin.app import AdminApp  # noqa: PLC0415 - needs the extra
        from edge_server.admin.http_server import HttpServer  # noqa: PLC0415 - likewise

        self._app = AdminApp(introspection, names=(self._address[0], *self._names), token=self.token, drain=drain)
        self._app.open()
        self._http = HttpServer(self._app.app)
        if self._listening is not None:
            await self._serve(self._listening)
        else:
            waits = self._serve_when_free()
            self._waiting = introspection.supervisor.start(waits, "waiting for the address of --admin")

    def leave(self) -> None:
        """Release the address to a successor; open pages reconnect there."""
        self._url_file = None
        self._end()

    async def close(self) -> None:
        """Stop serving and close all connections."""
        if self._url_file is not None:
            self._url_file.withdraw()
        self._end()
        if self._waiting is not None:
            await asyncio.wait([self._waiting])

    def _end(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        descriptors.disown(self._listening)
        if self._server is not None:
            self._server.close()
        elif self._listening is not None:
            self._listening.close()
        if self._app is not None:
            self._app.close()
        if self._http is not None:
            self._http.close()

    async def _serve_when_free(self) -> None:
        loop = asyncio.get_running_loop()
        warn_at = loop.time() + WARN_AFTER
        while True:
            try:
                self._listening = self._listen()
                break
            except ConfigError as error:
                if loop.time() >= warn_at:
                    warn_at = float("inf")
                    logger.error("%s Retrying until it is free.", error)
            await asyncio.sleep(RETRY_INTERVAL)
        await self._serve(self._listening)

    async def _serve(self, sock: socket.socket) -> None:
        assert self._http is not None
        descriptors.own(sock)
        self._server = await asyncio.get_running_loop().create_server(
            self._http.connection, sock=sock, backlog=BACKLOG
        )
        self.url = f"http://{format_address(on_this_machine(self._address[0]), sock.getsockname()[1])}/"
        try:
            self._url_file = ClientEnv(self._state.path / URL_FILE, self.url.encode())
        except OSError as error:
            logger.error("%s cannot be written: %s", self._state.path / URL_FILE, error.strerror or error)
        logger.info("the operator's page is at %s; its token is in %s", self.url, self._state.path / TOKEN_FILE)
        if not is_loopback(self._address[0]):
            logger.warning(
                "the operator's page can be reached from other machines, and its token travels in the clear; "
                "put TLS in front of it, or use --admin 127.0.0.1:%d and ssh -L",
                sock.getsockname()[1],
            )
