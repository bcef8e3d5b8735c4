"""Options of TCP connections, and ways to reset one."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
import sys
from typing import TYPE_CHECKING, Final

from quictunnel.transport import descriptors

if TYPE_CHECKING:
    from collections.abc import Callable

if sys.platform != "win32":
    import fcntl
    import termios

KEEPALIVE_IDLE: Final = 60
"""Seconds without a packet before the kernel probes whether the other end is still there. Nothing else ends a
connection that is idle or half-closed: that is none of a tunnel's business. Often enough for the routers
between here and a visitor, which forget connections after some minutes (RFC 5382 asks for two
hours, which few of them keep to)."""
KEEPALIVE_INTERVAL: Final = 15
"""Seconds between further probes."""
KEEPALIVE_PROBES: Final = 4
"""Unanswered probes after which the connection is dead: two minutes after the other end vanished."""

LINGER_TIMEOUT: Final = 30.0
"""Seconds without progress after which a connection is reset although bytes are undelivered: the peer does not
read."""
MIN_POLL_INTERVAL: Final = 0.001
MAX_POLL_INTERVAL: Final = 0.5
"""Range of seconds between two polls of undelivered bytes; doubled each time, so that ten thousand peers that do
not read cost little. The kernel has no event for it."""

_SO_NWRITE: Final = 0x1024
"""macOS: bytes in the send buffer (sys/socket.h)."""
_LINGER_RESET: Final = struct.pack("ii", 1, 0)


def tune(transport: asyncio.BaseTransport) -> None:
    """Disable Nagle's algorithm, and enable keep-alive probes."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    # A connection that broke meanwhile reports that on the next read.
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


def end_writing(transport: asyncio.WriteTransport) -> None:
    """Send a FIN after the bytes written.

    asyncio's loop raises if the connection has broken unnoticed. The error is ignored, because the next read
    reports it."""
    with contextlib.suppress(OSError):
        transport.write_eof()


def reset(transport: asyncio.Transport) -> None:
    """Close so that the other end sees a reset. A plain abort() sends RST only when unread bytes happen to
    be waiting, and FIN otherwise; lingering for zero seconds always resets (socket(7), SO_LINGER)."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is not None:
        # A socket that is closed already has nothing left to reset.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
    transport.abort()


def reset_after_delivery(transport: asyncio.Transport) -> None:
    """Reset the connection as soon as the other end's kernel has all bytes written. An earlier reset would destroy
    them. Nothing is read meanwhile unless the caller reads."""
    unsent = undelivered_bytes(transport)
    if unsent:
        now = asyncio.get_running_loop().time()
        _linger(transport, unsent, now + LINGER_TIMEOUT, MIN_POLL_INTERVAL)
    else:
        reset(transport)


def _linger(transport: asyncio.Transport, before: int, deadline: float, interval: float) -> None:
    if transport.is_closing():
        return
    loop = asyncio.get_running_loop()
    unsent = undelivered_bytes(transport)
    if unsent < before:
        deadline = loop.time() + LINGER_TIMEOUT
    if unsent and loop.time() < deadline:
        loop.call_later(interval, _linger, transport, unsent, deadline, min(2 * interval, MAX_POLL_INTERVAL))
    else:
        reset(transport)


def undelivered_bytes(transport: asyncio.Transport) -> int:
    """Return the number of bytes written that the other end's kernel has not acknowledged. Where the system does
    not report it, return the number that is still in this process."""
    left = transport.get_write_buffer_size()
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return left
    with contextlib.suppress(OSError):  # closed for the kernel: nothing will be sent any more
        if sys.platform == "darwin":
            left += sock.getsockopt(socket.SOL_SOCKET, _SO_NWRITE)
        elif sys.platform != "win32":
            left += int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0])
    return left


def is_gone(transport: asyncio.BaseTransport) -> bool:
    """Return True if the kernel knows already that the connection was reset or timed out.

    Event loops notice only while they read or write. Always False where the system does not report it.

    The error decides, not the state: a connection that both ends have closed cleanly is closed for the kernel
    (TCP_CLOSE), while bytes before its end may still be unread."""
    return bool(_state(transport) & select.POLLERR)


def has_reported_error(transport: asyncio.BaseTransport) -> bool:
    """Return True if the connection broke and the kernel has reported that, which it does once.

    On a connection that this side has not ended, an EOF then is ambiguous: after a reset whose error was reported
    to a write, a read returns the same as after a FIN. The failed write tells which it was. Always False where the
    system does not report it."""
    return _state(transport) & (select.POLLERR | select.POLLHUP) == select.POLLHUP


def _state(transport: asyncio.BaseTransport) -> int:
    """Return the events of poll(2) that are reported without being requested."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is None or sys.platform != "linux" or sock.fileno() < 0:
        return 0
    pending = select.poll()
    pending.register(sock.fileno(), 0)
    return sum(events for _, events in pending.poll(0))


async def start_server(
    sock: socket.socket, factory: Callable[[], asyncio.BaseProtocol], *, backlog: int
) -> asyncio.Server:
    """Accept connections on a listening socket. Forked children close their copies of it.

    Args:
        sock: the listening socket. The server closes it with itself; if this fails or is cancelled, it is closed.
        factory: makes the protocol of each connection.
        backlog: length of the kernel's queue.
    """
    descriptors.set_close_on_fork(sock)
    with contextlib.ExitStack() as undo:
        undo.callback(sock.close)
        undo.callback(descriptors.clear_close_on_fork, sock)
        # Created first and started then: asyncio waits for a turn of the loop after the start, and a server whose
        # creation was cancelled meanwhile would go on accepting without an owner.
        server = await asyncio.get_running_loop().create_server(
            factory, sock=sock, backlog=backlog, start_serving=False
        )
        undo.callback(server.close)
        await server.start_serving()
        undo.pop_all()
    return server
