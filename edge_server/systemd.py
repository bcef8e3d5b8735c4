"""The interface to systemd: notifications, the watchdog, the journal, and activated sockets.

With activated sockets the edge needs no privilege for ports 443 and 80, and visitors wait in their accept queues
during a restart.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from quictunnel.errors import ConfigError
from quictunnel.shared.address import short_repr

if TYPE_CHECKING:
    from collections.abc import MutableMapping

logger = logging.getLogger(__name__)

FIRST_FD: Final = 3
"""First descriptor that is passed (SD_LISTEN_FDS_START)."""
ACME_HTTP_NAME: Final = "acme-http"
"""Name of the socket for ``--acme-http`` (FileDescriptorName=), a listening TCP socket like that for
``--https``."""
MAX_SOCKETS: Final = 3
"""Activated sockets that an edge uses: one for each of three options."""
_KINDS: Final = {"https": "https", "quic": "quic", ACME_HTTP_NAME: "https"}
"""Kinds of the sockets whose names are those of options."""
_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def notify(*lines: str) -> None:
    """Send assignments such as ``READY=1`` (sd_notify(3)). Does nothing if there is no NOTIFY_SOCKET."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")) or not hasattr(socket, "AF_UNIX"):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto("\n".join(lines).encode(), address.replace("@", "\0", 1))
    except OSError as error:
        logger.warning("the service manager could not be notified: %s", error.strerror or error)


def goes_to_journal(descriptor: int) -> bool:
    """Return True if a descriptor leads to systemd's journal (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


async def keep_alive() -> None:
    """Notify the watchdog (WatchdogSec=) from the event loop until cancelled.

    A loop that hangs sends nothing, and systemd starts the edge again.
    """
    period = os.environ.get("WATCHDOG_USEC", "")
    # Twice in each period (sd_watchdog_enabled(3)); a malformed value is ignored.
    seconds = int(period) / 2_000_000 if period.isascii() and period.isdigit() and int(period) else None
    if seconds is None:
        await asyncio.get_running_loop().create_future()
        return
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(seconds)


@dataclass(slots=True)
class ActivatedSockets:
    """Sockets that the service manager has opened. The code that takes one out sets the field to None, and closes
    it."""

    https: socket.socket | None = None
    quic: socket.socket | None = None
    acme_http: socket.socket | None = None

    def close(self) -> None:
        """Close the sockets that were not taken out."""
        for sock in (self.https, self.quic, self.acme_http):
            if sock is not None:
                sock.close()


def take_activated_sockets(environ: MutableMapping[str, str], *, first: int = FIRST_FD) -> ActivatedSockets:
    """Return the sockets that were passed to this process (sd_listen_fds(3)), if any.

    The variables are removed from ``environ``, so that child processes ignore them.
    Raises ConfigError for sockets that an edge does not use.
    """
    count, names = _announced(environ)
    activated = ActivatedSockets()
    try:
        for number in range(count):
            descriptor = first + number
            _put(activated, descriptor, names[number] if number < len(names) else "")
    except BaseException:
        activated.close()
        raise
    return activated


def _announced(environ: MutableMapping[str, str]) -> tuple[int, list[str]]:
    """Return the number of passed sockets, and their names."""
    process, count, names = (environ.pop(name, "") for name in _VARIABLES)
    if process != str(os.getpid()):
        return 0, []  # for another process, which started this one
    if not re.fullmatch(r"[0-9]{1,3}", count) or int(count) > MAX_SOCKETS:
        raise ConfigError(
            "LISTEN_FDS: the edge takes one TCP and one UDP socket (ListenStream=, ListenDatagram=), and one more "
            f"for TCP that is called {ACME_HTTP_NAME}, not {short_repr(count)}."
        )
    return int(count), names.split(":")


def _put(activated: ActivatedSockets, descriptor: int, name: str) -> None:
    about = f"LISTEN_FDS: file descriptor {descriptor}" + (f" ({name})" if name else "")
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ConfigError(f"{about} is no socket ({error.strerror}).") from None
    try:
        sock.set_inheritable(False)
        kind = _kind(sock)
        if kind is None:
            raise ConfigError(
                f"{about} is neither a listening TCP socket nor a UDP socket: use ListenStream= and "
                "ListenDatagram= with ports, and Accept=no."
            )
        if kind != _KINDS.get(name, kind):
            directive = {"https": "ListenStream= (TCP)", "quic": "ListenDatagram= (UDP)"}[_KINDS[name]]
            raise ConfigError(f"{about} should come from {directive}, by its name.")
        option = name if name in _KINDS else kind
        field = option.replace("-", "_")
        if getattr(activated, field) is not None:
            raise ConfigError(f"{about} is a second socket for --{option}: give one of each.")
    except BaseException:
        sock.close()
        raise
    setattr(activated, field, sock)


def _kind(sock: socket.socket) -> str | None:
    """Return the option that a socket stands for, unless its name says another one."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    if sock.type == socket.SOCK_DGRAM:
        return "quic"
    is_listening = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    return "https" if is_listening else None
