"""The protocol of a hot restart: its messages, and the channel that carries them with sockets.

The running edge (the predecessor) hands its sockets and names over to its successor. They communicate through a
Unix socket in the state directory (:data:`SOCKET`), which only the user of the edge may use:

    successor                                   predecessor
      |-- HandoffRequest ------------------------>|
      |<- HandoffOffer, with the HTTPS socket, ----|   nothing has changed so far: if the successor
      |   the UDP socket, one end of a socket      |   fails here, the predecessor serves on
      |   pair, perhaps the http-01 socket, and    |
      |   the lock of the state directory          |
      |-- HandoffReady --------------------------->|   the predecessor stops accepting and reading,
      |                                            |   and closes its copy of the lock
      |<- HandoffNames, with the sockets of -------|   repeated until ``last``; then its visitors finish
      |   TCP ports                                |

Through the socket pair (an AF_UNIX SOCK_SEQPACKET one, called the pipe), the successor forwards the datagrams of
the predecessor's connections. Both send on the UDP socket; only the successor reads it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import struct
import sys
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from edge_server.tunnels.tunnel_record import TunnelRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

SOCKET: Final = "edge.sock"
VERSION: Final = 1
STEP_TIMEOUT: Final = 10.0
"""Seconds for each step; a successor reads its certificates between two of them."""
MAX_NAMES: Final = 64
"""Names in one message. Each may bring a socket, and Linux passes at most 253 at once (SCM_MAX_FD)."""
MAX_NAMES_BYTES: Final = 48 * 1024
"""Bytes of the names in one message. A name with the maximum number of networks takes 6 KiB, and older edges read
at most 64 KiB at once."""
MAX_MESSAGE: Final = 192 * 1024
"""Bytes of a received message: nearly as many as Linux allows (net.core.wmem_default), because older edges do not
limit the size of their messages."""
IS_SUPPORTED: Final = sys.platform == "linux"
"""True on platforms with SOCK_SEQPACKET and SO_PEERCRED."""


class HasDescriptor(Protocol):
    """A socket or a file that is sent with a message."""

    def fileno(self) -> int: ...


class HandoffRequest(msgspec.Struct, tag=1, array_like=True, frozen=True):
    """Request of the successor for the handoff."""

    version: int
    takes_lock: bool = False
    """True if it takes the lock of the state directory; older edges have none."""


class HandoffOffer(msgspec.Struct, tag=2, array_like=True, frozen=True):
    """Response of the predecessor, with its sockets: HTTPS, UDP, the pipe for its datagrams, and perhaps
    http-01."""

    domain: str
    cid_prefix: int
    """First byte of the predecessor's connection IDs."""
    has_acme_http: bool = False
    """True if the socket for http-01 validators is included."""
    has_lock: bool = False
    """True if the lock of the state directory is included, as the last descriptor; only for a successor that takes
    it."""


class HandoffReady(msgspec.Struct, tag=3, array_like=True, frozen=True):
    """Confirmation of the successor that it is ready to serve."""


class HandoffNames(msgspec.Struct, tag=4, array_like=True, frozen=True):
    """Tunnels of the predecessor; sent in several messages if they do not fit into one."""

    entries: list[TunnelRecord]
    last: bool

    @property
    def port_count(self) -> int:
        """Return the number of tunnels with a TCP port, whose sockets are sent with the message."""
        return sum(entry.port > 0 for entry in self.entries)


class HandoffRefusal(msgspec.Struct, tag=5, array_like=True, frozen=True):
    """Refusal of the predecessor, with its reason."""

    reason: str


PEERCRED: Final = struct.Struct("3i")
"""Process, user and group of the other end of a Unix socket (unix(7), SO_PEERCRED)."""

Message = HandoffRequest | HandoffOffer | HandoffReady | HandoffNames | HandoffRefusal
_encode = msgspec.msgpack.Encoder().encode
RecordWithSocket = tuple[TunnelRecord, "socket.socket | None"]
"""A tunnel, and the listening socket of its TCP port; None without a port."""
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def in_parts(tunnels: Iterable[RecordWithSocket]) -> list[list[RecordWithSocket]]:
    """Split the tunnels into parts that fit into one message each; at least one part."""
    parts: list[list[RecordWithSocket]] = [[]]
    size = 0
    for record, sock in tunnels:
        length = len(_encode(record))
        if len(parts[-1]) >= MAX_NAMES or (parts[-1] and size + length > MAX_NAMES_BYTES):
            parts.append([])
            size = 0
        parts[-1].append((record, sock))
        size += length
    return parts


class HandoffError(Exception):
    """A failure or violation of the protocol by the other edge."""


class HandoffChannel:
    """A connection between two edges for messages and sockets. Each operation ends within :data:`STEP_TIMEOUT`."""

    def __init__(self, sock: socket.socket) -> None:
        """Use a connected socket, which :meth:`close` closes."""
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._lock = -1
        self.peer_takes_lock = False
        """True if the other edge is a successor that takes the lock of the state directory."""

    @property
    def peer_pid(self) -> int:
        """Process ID of the other edge, as the kernel knows it."""
        found = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEERCRED.size)
        return int(PEERCRED.unpack(found)[0])

    async def send(self, message: Message, sockets: Sequence[HasDescriptor] = ()) -> None:
        """Send a message, with sockets. Raises HandoffError."""
        payload = _encode(message)
        descriptors = [sock.fileno() for sock in sockets]
        await self._repeat(self._loop.add_writer, self._loop.remove_writer,
                           lambda: socket.send_fds(self._sock, [payload], descriptors))  # fmt: skip

    async def receive(self) -> tuple[Message, list[socket.socket]]:
        """Receive a message and its sockets. Raises HandoffError, also for a malformed message.

        The lock of the state directory, which is a file, is kept for :meth:`take_lock`.
        """
        found: list[tuple[bytes, list[int], int]] = []

        def read() -> None:
            payload, descriptors, flags, _ = socket.recv_fds(self._sock, MAX_MESSAGE, MAX_NAMES)
            found.append((payload, descriptors, flags))

        await self._repeat(self._loop.add_reader, self._loop.remove_reader, read)
        payload, descriptors, flags = found[0]
        sockets = []
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)  # otherwise a child process would inherit it and keep it open
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                sockets.append(socket.socket(fileno=descriptor))
            else:
                self._close_lock()
                self._lock = descriptor
        try:
            if not payload:
                raise HandoffError("it closed the connection")
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise HandoffError("a message, or the sockets with it, did not fit (RLIMIT_NOFILE?)")
            return _decoder.decode(payload), sockets
        except msgspec.MsgspecError as error:
            close_all(sockets)
            raise HandoffError(f"it sent a malformed message: {error}") from None
        except HandoffError:
            close_all(sockets)
            raise

    def take_lock(self) -> int | None:
        """Return the descriptor of the lock that was received, which the caller closes; None if there is none."""
        taken, self._lock = self._lock, -1
        return taken if taken >= 0 else None

    def close(self) -> None:
        """Close the channel, and the lock that was not taken."""
        self._sock.close()
        self._close_lock()

    def _close_lock(self) -> None:
        if (descriptor := self.take_lock()) is not None:
            os.close(descriptor)

    async def _repeat(
        self,
        watch: Callable[[socket.socket, Callable[[], None]], object],
        unwatch: Callable[[socket.socket], object],
        action: Callable[[], object],
    ) -> None:
        """Repeat an action until it does not block any more."""
        try:
            async with asyncio.timeout(STEP_TIMEOUT):
                while True:
                    try:
                        action()
                    except BlockingIOError:
                        ready = asyncio.Event()
                        watch(self._sock, ready.set)
                        try:
                            await ready.wait()
                        finally:
                            unwatch(self._sock)
                    else:
                        return
        except TimeoutError:
            raise HandoffError(f"it did not respond within {STEP_TIMEOUT:.0f} s") from None
        except OSError as error:
            raise HandoffError(error.strerror or str(error)) from None


def close_all(sockets: Iterable[socket.socket]) -> None:
    """Close sockets."""
    for sock in sockets:
        sock.close()


@contextlib.contextmanager
def socket_path(directory: Path, name: str = SOCKET) -> Iterator[str]:
    """Yield a path to the socket that fits into a Unix address (108 bytes), also for a long directory path."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)
