"""TCP connections as this project wants them: how they are tuned, and how one is really reset."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

KEEPALIVE_IDLE: Final = 60
"""Seconds of silence before the kernel asks whether the other end is still there; nothing else ends an idle
connection, because an idle one is none of a tunnel's business."""
KEEPALIVE_INTERVAL: Final = 15
KEEPALIVE_PROBES: Final = 4

_LINGER_RESET: Final = struct.pack("ii", 1, 0)


def tune(transport: asyncio.BaseTransport) -> None:
    """Send small writes at once, and notice an end that vanished."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    # A connection that died meanwhile says so by itself on the next read.
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", KEEPALIVE_IDLE),
            ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
            ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ):
            if hasattr(socket, name):  # spelled differently or missing outside Linux
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def reset(transport: asyncio.Transport) -> None:
    """Close so that the other end sees a reset. A plain abort() sends RST only when unread bytes happen to
    be waiting, and FIN otherwise; lingering for zero seconds always resets (socket(7), SO_LINGER)."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is not None:
        # A socket that is closed already has nothing left to reset.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
    transport.abort()


def is_gone(transport: asyncio.BaseTransport) -> bool:
    """Whether the kernel knows already that the connection was reset or timed out. Event loops notice only
    while they read or write; this asks. Always False where the system cannot say.

    It asks for the error and not for the state: a connection that both ends have closed in good order is closed
    for the kernel (TCP_CLOSE), and what came before the end may still be there to be read."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is None or sys.platform != "linux" or sock.fileno() < 0:
        return False
    pending = select.poll()
    pending.register(sock.fileno(), 0)
    return any(events & select.POLLERR for _, events in pending.poll(0))
