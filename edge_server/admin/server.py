"""The operator's HTTP server (:mod:`quictunnel.shared.http_server`), started and stopped with the edge."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

from edge_server.storage.state_dir import ClientEnv
from quictunnel.errors import ConfigError
from quictunnel.shared.address import format_address, on_this_machine
from quictunnel.shared.web_security import is_loopback
from quictunnel.transport import descriptors
from quictunnel.transport.tcp import start_server

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from edge_server.observability.introspection import Introspection

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


def check_packages() -> None:
    """Raise ConfigError if a package of the extra "edge" is missing, without which there is no page."""
    try:
        import edge_server.admin.app  # noqa: F401, PLC0415 - its imports are optional: the extra "edge"
        import quictunnel.shared.http_server  # noqa: F401, PLC0415 - likewise
    except ImportError as error:
        raise ConfigError(
            f"--admin needs a package that is not installed ({error.name}): pip install 'quictunnel[edge]'."
        ) from None


class Admin:
    """The operator's server of one edge. Call :meth:`serve` or :meth:`serve_when_free`, :meth:`release_address`
    on a hot restart, and :meth:`close`."""

    def __init__(
        self,
        introspection: Introspection,
        directory: Path,
        *,
        address: tuple[str, int],
        token: str,
        drain: Callable[[], None],
    ) -> None:
        """Start to collect errors and history.

        Args:
            introspection: the edge.
            directory: the state directory, for the file with the URL.
            address: host and port of ``--admin``.
            token: of the operator.
            drain: makes the owner of the edge drain and stop it.
        """
        from edge_server.admin.app import AdminApp  # noqa: PLC0415 - its imports are optional: the extra "edge"
        from quictunnel.shared.http_server import HttpServer  # noqa: PLC0415 - likewise

        self._supervisor = introspection.supervisor
        self._directory = directory
        self._address = address
        names = (address[0], *introspection.config.admin_names)
        self._app = AdminApp(introspection, names=names, token=token, drain=drain)
        self._http = HttpServer(self._app.app)
        self._open = contextlib.ExitStack()
        """Closes the server, its connections and what runs for them."""
        self._published = contextlib.ExitStack()
        """Withdraws the file with the URL."""
        self._waiting: set[asyncio.Task[None]] = set()
        """The task that waits for the address, if there is one."""
        self.token = token
        self.url = ""
        """URL of the page; empty before it is available."""
        self._app.open()
        self._open.callback(self._http.close)
        self._open.callback(self._app.close)

    async def serve(self, sock: socket.socket) -> None:
        """Serve on a listening socket, which belongs to this object from now on."""
        server = await start_server(sock, self._http.connection, backlog=BACKLOG)
        self._open.callback(server.close)
        self._open.callback(descriptors.clear_close_on_fork, sock)
        self.url = f"http://{format_address(on_this_machine(self._address[0]), sock.getsockname()[1])}/"
        try:
            self._published.callback(ClientEnv(self._directory / URL_FILE, self.url.encode()).withdraw)
        except OSError as error:
            logger.error("%s cannot be written: %s", self._directory / URL_FILE, error.strerror or error)
        logger.info("the operator's page is at %s; its token is in %s", self.url, self._directory / TOKEN_FILE)
        if not is_loopback(self._address[0]):
            logger.warning(
                "the operator's page can be reached from other machines, and its token travels in the clear; "
                "put TLS in front of it, or use --admin 127.0.0.1:%d and ssh -L",
                sock.getsockname()[1],
            )

    def serve_when_free(self, listen: Callable[[], socket.socket]) -> None:
        """Serve as soon as the predecessor has released the address. ``listen`` binds it, or raises
        ConfigError."""
        waits = self._serve_when_free(listen)
        task = self._supervisor.start(waits, "waiting for the address of --admin")
        self._waiting.add(task)
        self._open.callback(task.cancel)

    def release_address(self) -> None:
        """Release the address to a successor; open pages reconnect there."""
        self._open.close()

    async def close(self) -> None:
        """Stop serving and close all connections."""
        self._published.close()
        self._open.close()
        await self._app.wait_closed()
        await asyncio.gather(*self._waiting, return_exceptions=True)

    async def _serve_when_free(self, listen: Callable[[], socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        warn_at = loop.time() + WARN_AFTER
        while True:
            try:
                sock = listen()
                break
            except ConfigError as error:
                if loop.time() >= warn_at:
                    warn_at = float("inf")
                    logger.error("%s Retrying until it is free.", error)
            await asyncio.sleep(RETRY_INTERVAL)
        await self.serve(sock)
