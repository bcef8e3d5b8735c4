"""Status server of this process: a socket that only its user can reach.

It is a Unix socket (mode 0600, in a directory of mode 0700) that sends one report to each connection and closes
it. On systems without Unix sockets it is a loopback port, whose number and key are in a file of the user. It
exists while the process has tunnels, and costs nothing without queries. It is on by default, also in a user's own
programs: a port that a notebook opened an hour ago must be easy to find. ``QUICTUNNEL_STATUS=off`` disables it.

Everything runs on the background loop, so no lock is needed. A forked child has no tunnels: its copy of the socket
is disabled, and the file stays with the parent.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import hmac
import logging
import os
import secrets
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from quictunnel.shared import unpatched
from quictunnel.shared.files import new_file, own_directory
from quictunnel.shared.paths import default_runtime_dir
from quictunnel.shared.version import SOFTWARE
from quictunnel.status.model import MAX_LISTED, Report, TunnelStatus

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

SWITCH_VARIABLE: Final = "QUICTUNNEL_STATUS"
OFF_VALUES: Final = ("off", "0", "no", "false")
MAX_CONNECTIONS: Final = 8
"""Queries answered at the same time; further ones are closed without a report."""
ANSWER_TIMEOUT: Final = 1.0
"""Seconds for a connection to send the key and read the report, which fits the socket's buffer."""
MAX_SOCKET_PATH: Final = 103
"""Bytes of a Unix socket's path: the limit of macOS without the final zero (<sys/un.h>); Linux allows four
more."""
KEY_BYTES: Final = 32
"""Hexadecimal digits of the key: 16 random bytes."""
SOCKET: Final = ".sock"
PORT_FILE: Final = ".port"
HAS_UNIX: Final = hasattr(socket, "AF_UNIX") and sys.platform != "win32"


def is_enabled() -> bool:
    """Return True unless the environment disables the status server."""
    return os.environ.get(SWITCH_VARIABLE, "").lower() not in OFF_VALUES


class StatusServer:
    """Server of the status reports of one process."""

    def __init__(self, directory: Path | None = None, *, unix: bool = HAS_UNIX) -> None:
        self._directory = directory
        self._unix = unix
        self._readings: dict[object, Callable[[], TunnelStatus]] = {}
        self._server: asyncio.Server | None = None
        self._sock: socket.socket | None = None
        self._key = b""
        self._connections = 0
        self.path: Path | None = None
        """Path of the Unix socket or of the port file; None while the server is closed."""
        self._process = os.getpid()

    async def add_tunnel(self, owner: object, read: Callable[[], TunnelStatus]) -> None:
        """Add a tunnel, and start the server with the first one. A failure is only logged: the tunnel works
        anyway.

        Args:
            owner: key of the tunnel, for :meth:`remove_tunnel`.
            read: function that returns the tunnel's current status.
        """
        self._readings[owner] = read
        if self._server is None:
            try:
                await self._listen()
            except OSError as error:
                self.close()
                logger.info("`quictunnel status` will not show this process: %s", error)

    def remove_tunnel(self, owner: object) -> None:
        """Remove a tunnel, and close the server with the last one. May be called more than once."""
        self._readings.pop(owner, None)
        if not self._readings:
            self.close()

    def close(self) -> None:
        """Close the socket and remove its file."""
        server, self._server = self._server, None
        sock, self._sock = self._sock, None
        path, self.path = self.path, None
        if server is not None:
            server.close()
        if sock is not None:
            sock.close()
        if path is not None:
            path.unlink(missing_ok=True)

    def disable(self) -> None:
        """Replace the socket by the null device, in a forked child.

        The child's copy would accept connections after the parent's end, and nobody would answer them. Objects of
        the parent's loop are not used, because the child does not run it.
        """
        if self._sock is not None and self._sock.fileno() >= 0:
            nowhere = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nowhere, self._sock.fileno(), inheritable=False)
            os.close(nowhere)

    def remove_file(self) -> None:
        """Remove the file of a process that ends without closing its tunnels."""
        if self.path is not None and self._process == os.getpid():
            self.path.unlink(missing_ok=True)

    def report(self) -> Report:
        """Return the current status of this process."""
        listed = [read() for read in tuple(self._readings.values())[:MAX_LISTED]]
        return Report(
            pid=os.getpid(),
            program=_program(sys.argv[0] if sys.argv else ""),
            software=SOFTWARE,
            tunnels=listed,
            unlisted=max(0, len(self._readings) - MAX_LISTED),
        )

    async def _listen(self) -> None:
        # A few system calls on a file system in memory: faster than another thread.
        directory = own_directory(self._directory or default_runtime_dir())
        base = directory / f"{os.getpid()}-{secrets.token_hex(4)}"
        path = base.with_suffix(SOCKET)
        if self._unix and len(os.fsencode(path)) <= MAX_SOCKET_PATH:
            self._sock = unpatched.new_socket(socket.AF_UNIX)
            self._sock.bind(str(path))
            self.path = path
            path.chmod(0o600)
            self._server = await asyncio.start_unix_server(self._answer, sock=self._sock)
            return
        self._sock = unpatched.new_socket(socket.AF_INET)
        self._sock.bind(("127.0.0.1", 0))
        self._sock.listen(MAX_CONNECTIONS)
        self._key = secrets.token_hex(KEY_BYTES // 2).encode()
        self._server = await asyncio.start_server(self._answer, sock=self._sock)
        self.path = base.with_suffix(PORT_FILE)
        with new_file(self.path) as file:
            file.write(b"%d %s\n" % (self._sock.getsockname()[1], self._key))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections > MAX_CONNECTIONS:
                return
            # A connection that closes, times out or sends a wrong key gets no report.
            with contextlib.suppress(OSError, EOFError):
                async with asyncio.timeout(ANSWER_TIMEOUT):
                    if self._key and not hmac.compare_digest(await reader.readexactly(KEY_BYTES), self._key):
                        return
                    writer.write(msgspec.json.encode(self.report()))
                    writer.close()
                    await writer.wait_closed()
        finally:
            self._connections -= 1
            writer.transport.abort()


def _program(started: str) -> str:
    """Return a readable name for the started file."""
    path = Path(started)
    name = path.parent.name if path.name == "__main__.py" else path.name
    return name if name not in ("", "-c", "-m") else "python"


_server = StatusServer()


async def add_tunnel(owner: object, read: Callable[[], TunnelStatus]) -> None:
    """Add a tunnel to this process's server (:meth:`StatusServer.add_tunnel`), unless it is disabled."""
    if is_enabled():
        await _server.add_tunnel(owner, read)


def remove_tunnel(owner: object) -> None:
    """Remove a tunnel from this process's server."""
    _server.remove_tunnel(owner)


def _replace_after_fork() -> None:
    global _server
    _server.disable()
    # Keep a reference: its finalizer would close descriptors that may belong to other files by then.
    _inherited.append(_server)
    _server = StatusServer()


_inherited: list[StatusServer] = []
"""Servers inherited by fork, one for each generation."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_replace_after_fork)


@atexit.register
def _remove_at_exit() -> None:
    _server.remove_file()
