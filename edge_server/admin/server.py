"""The operator's HTTP server: uvicorn's HTTP/1.1 on the edge's own loop, opened and closed with the edge.

Of uvicorn only the protocol is used. Its ``Server`` installs signal handlers, writes into the root logger's
stream and ticks ten times a second; an edge has its own of all these.
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
"""In the state directory while the page is there: where it is, without the token."""
TOKEN: Final = "admin.token"  # noqa: S105 - the name of a file
BACKLOG: Final = 64
"""As many as may be open."""
RETRY: Final = 0.1
"""Seconds between tries to have the address, which the edge that leaves still has for a moment."""
PATIENCE: Final = 5.0
"""Seconds after which an address that is still taken is worth a line in the log."""


class Admin:
    """See the module. :meth:`start`, then :meth:`leave` when a successor comes, then :meth:`close`."""

    def __init__(
        self, config: EdgeConfig, state: StateDir, *, listen: Callable[[], socket.socket], inherits: bool
    ) -> None:
        """Listen at the page's address, unless an edge that leaves may still have it.

        Args:
            config: the edge's options, of which ``admin`` is given.
            state: where the page's token is kept.
            listen: opens the page's listening socket; raises ConfigError.
            inherits: the address may be in use by an edge that leaves, so it is waited for.

        Raises ConfigError.
        """
        try:
            import edge_server.admin.app  # noqa: PLC0415 - what it imports is optional: the extra "edge"
            import edge_server.admin.http_server  # noqa: F401, PLC0415 - likewise
        except ImportError as error:
            raise ConfigError(
                f"--admin needs a package that is not here ({error.name}): pip install 'quictunnel[edge]'."
            ) from None
        assert config.admin is not None
        self._state = state
        self._address = config.admin
        self._names = config.admin_names
        self._listening = None if inherits else listen()
        self._listen = listen
        self._window: AdminApp | None = None
        self._server: asyncio.Server | None = None
        self._waiting: asyncio.Task[None] | None = None
        self._told: ClientEnv | None = None
        self._http: HttpServer | None = None
        self.token = state.secret_token(TOKEN, new_operator_token)
        self.url = ""
        """Where the page is; empty before it is."""

    async def start(self, scene: Introspection, drain: Callable[[], None]) -> None:
        """Show this scene; with a predecessor as soon as its address is free. ``drain``: what makes whoever runs
        the edge drain and stop it."""
        from edge_server.admin.app import AdminApp  # noqa: PLC0415 - needs the extra
        from edge_server.admin.http_server import HttpServer  # noqa: PLC0415 - likewise

        self._window = AdminApp(scene, names=(self._address[0], *self._names), token=self.token, drain=drain)
        self._window.open()
        self._http = HttpServer(self._window.app)
        if self._listening is not None:
            await self._serve(self._listening)
        else:
            waits = self._serve_when_free()
            self._waiting = scene.supervisor.start(waits, "waiting for the address of the page")

    def leave(self) -> None:
        """The address is a successor's from now on. Whoever looks is sent away and asks again there."""
        self._told = None
        self._end()

    async def close(self) -> None:
        """End, with every connection."""
        if self._told is not None:
            self._told.withdraw()
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
        if self._window is not None:
            self._window.close()
        if self._http is not None:
            self._http.close()

    async def _serve_when_free(self) -> None:
        loop = asyncio.get_running_loop()
        late = loop.time() + PATIENCE
        while True:
            try:
                self._listening = self._listen()
                break
            except ConfigError as error:
                if loop.time() >= late:
                    late = float("inf")
                    logger.error("%s It is tried again until it is free.", error)
            await asyncio.sleep(RETRY)
        await self._serve(self._listening)

    async def _serve(self, sock: socket.socket) -> None:
        assert self._http is not None
        descriptors.own(sock)
        self._server = await asyncio.get_running_loop().create_server(
            self._http.connection, sock=sock, backlog=BACKLOG
        )
        self.url = f"http://{format_address(on_this_machine(self._address[0]), sock.getsockname()[1])}/"
        try:
            self._told = ClientEnv(self._state.path / URL_FILE, self.url.encode())
        except OSError as error:
            logger.error("%s cannot be written: %s", self._state.path / URL_FILE, error.strerror or error)
        logger.info("the operator's page is at %s; its token is in %s", self.url, self._state.path / TOKEN)
        if not is_loopback(self._address[0]):
            logger.warning(
                "the operator's page can be reached from other machines, and its token travels in the clear; "
                "put TLS in front of it, or use --admin 127.0.0.1:%d and ssh -L",
                sock.getsockname()[1],
            )
