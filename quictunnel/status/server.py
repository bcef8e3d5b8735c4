"""Where this process can be asked what it has open: a socket that only its user can reach.

A Unix socket (0600, in a directory of 0700), which answers whoever connects with one report and hangs up; where
there can be none, a port on loopback whose number and key are in a file of the user's. It exists while
the process has tunnels, and costs nothing until somebody asks. On by default for programs as for the command
line: a public port that a notebook opened an hour ago is what one wants to find. ``QUICTUNNEL_STATUS=off`` leaves
it out.

Everything here runs on the background loop, so nothing needs a lock. A forked child has no tunnels: its copy of
the socket is made deaf, and the file stays its parent's.
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
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from quictunnel.shared.paths import default_runtime_dir
from quictunnel.status.model import MAX_LISTED, Listed, Report
from quictunnel.transport import unpatched
from quictunnel.version import SOFTWARE

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

SWITCH: Final = "QUICTUNNEL_STATUS"
OFF: Final = ("off", "0", "no", "false")
MAX_ASKING: Final = 8
"""Who may be answered at once; a person asks one at a time, and a program that asks more often waits its turn."""
ANSWER_TIMEOUT: Final = 1.0
"""Seconds for one who asks to take the answer, which fits its socket's buffer."""
MAX_SOCKET_PATH: Final = 103
"""Bytes of a Unix socket's path: macOS has room for these and a zero (<sys/un.h>), Linux for four more."""
KEY_BYTES: Final = 32
"""As hexadecimal digits, 16 random bytes: nobody guesses it."""
SOCKET: Final = ".sock"
PORT_FILE: Final = ".port"
HAS_UNIX: Final = hasattr(socket, "AF_UNIX") and sys.platform != "win32"


def is_wanted() -> bool:
    return os.environ.get(SWITCH, "").lower() not in OFF


def own_directory(path: Path) -> Path:
    """Make sure that a directory is there and this user's alone. Raises OSError, which says what to do."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_directory(path)
    return path


def check_directory(path: Path) -> None:
    """Raises OSError when a directory is not there, or others may have put something into it."""
    found = path.lstat()
    if sys.platform == "win32":
        return  # below the user's profile, which has its own access list
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(f"{path} is not a directory of this user alone: remove it, or set XDG_RUNTIME_DIR")


class StatusServer:
    """See the module."""

    def __init__(self, directory: Path | None = None, *, unix: bool = HAS_UNIX) -> None:
        self._directory = directory
        self._unix = unix
        self._readings: dict[object, Callable[[], Listed]] = {}
        self._server: asyncio.Server | None = None
        self._sock: socket.socket | None = None
        self._key = b""
        self._asking = 0
        self.path: Path | None = None
        """The socket, or the file that says where it is; None while there is none."""
        self._process = os.getpid()

    async def announce(self, who: object, read: Callable[[], Listed]) -> None:
        """A tunnel is open. Never raises: what cannot be shown works all the same."""
        self._readings[who] = read
        if self._server is None:
            try:
                await self._listen()
            except OSError as error:
                self.close()
                logger.info("`quictunnel status` will not show this process: %s", error)

    def withdraw(self, who: object) -> None:
        """It is closed; the last one takes the endpoint with it. More than once does no harm."""
        self._readings.pop(who, None)
        if not self._readings:
            self.close()

    def close(self) -> None:
        server, self._server = self._server, None
        sock, self._sock = self._sock, None
        path, self.path = self.path, None
        if server is not None:
            server.close()
        if sock is not None:
            sock.close()
        if path is not None:
            path.unlink(missing_ok=True)

    def deafen(self) -> None:
        """In a forked child, whose copy would take connections that nobody answers when the parent is gone. What
        belongs to a loop that the child does not have is not touched: the number goes nowhere instead."""
        if self._sock is not None and self._sock.fileno() >= 0:
            nowhere = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nowhere, self._sock.fileno(), inheritable=False)
            os.close(nowhere)

    def remove_file(self) -> None:
        """The process ends without having closed its tunnels."""
        if self.path is not None and self._process == os.getpid():
            self.path.unlink(missing_ok=True)

    def report(self) -> Report:
        listed = [read() for read in tuple(self._readings.values())[:MAX_LISTED]]
        return Report(
            pid=os.getpid(),
            program=_program(sys.argv[0] if sys.argv else ""),
            software=SOFTWARE,
            tunnels=listed,
            unlisted=max(0, len(self._readings) - MAX_LISTED),
        )

    async def _listen(self) -> None:
        # A few calls of the system on a file system in memory: quicker than to ask another thread.
        directory = own_directory(self._directory or default_runtime_dir())
        place = directory / f"{os.getpid()}-{secrets.token_hex(4)}"
        path = place.with_suffix(SOCKET)
        if self._unix and len(os.fsencode(path)) <= MAX_SOCKET_PATH:
            self._sock = unpatched.new_socket(socket.AF_UNIX)
            self._sock.bind(str(path))
            self.path = path
            path.chmod(0o600)
            self._server = await asyncio.start_unix_server(self._answer, sock=self._sock)
            return
        self._sock = unpatched.new_socket(socket.AF_INET)
        self._sock.bind(("127.0.0.1", 0))
        self._sock.listen(MAX_ASKING)
        self._key = secrets.token_hex(KEY_BYTES // 2).encode()
        self._server = await asyncio.start_server(self._answer, sock=self._sock)
        self.path = place.with_suffix(PORT_FILE)
        _write_new(self.path, b"%d %s\n" % (self._sock.getsockname()[1], self._key))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._asking += 1
        try:
            if self._asking > MAX_ASKING:
                return
            # Whoever leaves, stays silent or has the wrong key gets nothing, and is nobody's loss.
            with contextlib.suppress(OSError, EOFError):
                async with asyncio.timeout(ANSWER_TIMEOUT):
                    if self._key and not hmac.compare_digest(await reader.readexactly(KEY_BYTES), self._key):
                        return
                    writer.write(msgspec.json.encode(self.report()))
                    writer.close()
                    await writer.wait_closed()
        finally:
            self._asking -= 1
            writer.transport.abort()


def _program(started: str) -> str:
    """What a person would call the file that was started."""
    path = Path(started)
    name = path.parent.name if path.name == "__main__.py" else path.name
    return name if name not in ("", "-c", "-m") else "python"


def _write_new(path: Path, content: bytes) -> None:
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(number, content)
    finally:
        os.close(number)


_endpoint = StatusServer()


async def announce(who: object, read: Callable[[], Listed]) -> None:
    """See :meth:`StatusServer.announce`; nothing when it is not wanted."""
    if is_wanted():
        await _endpoint.announce(who, read)


def withdraw(who: object) -> None:
    _endpoint.withdraw(who)


def _forked() -> None:
    global _endpoint
    _endpoint.deafen()
    # The old one is kept: its end would close numbers that mean something else by then.
    _inherited.append(_endpoint)
    _endpoint = StatusServer()


_inherited: list[StatusServer] = []
"""One a generation of forks."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


@atexit.register
def _remove_at_exit() -> None:
    _endpoint.remove_file()
