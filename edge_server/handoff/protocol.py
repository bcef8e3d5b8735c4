"""The protocol of a hot restart: messages, and the channel that carries them and sockets.

The edge that runs (the predecessor) hands its sockets and names over to its successor. They talk through a Unix
socket in the state directory (:data:`SOCKET`), which only the owner of the edge may use:

    successor                                   the edge that runs
      |-- Ask ------------------------------------>|
      |<- HandoffOffer, with the HTTPS socket, ----|   nothing has changed so far: a successor that
      |   the UDP socket, a pipe, perhaps one      |   fails here leaves everything as it was
      |   more                                     |
      |-- Ready ---------------------------------->|   it stops accepting and reading
      |<- Names, with the sockets of TCP ports ----|   until ``last``; then its visitors finish
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from typing import TYPE_CHECKING, Final

import msgspec

from edge_server.tunnels.tunnel_record import TunnelRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

SOCKET: Final = "edge.sock"
VERSION: Final = 1
STEP_TIMEOUT: Final = 10.0
"""Seconds for each step; a successor reads its certificates between two of them."""
MAX_NAMES: Final = 64
"""Names in one message. Each may bring a socket, and Linux passes at most 253 at once (SCM_MAX_FD)."""
MAX_NAMES_BYTES: Final = 48 * 1024
"""Bytes of the names in one message. A name with all the networks that it may allow and deny takes 6 KiB. Older
edges read no more than 64 KiB at once."""
MAX_MESSAGE: Final = 192 * 1024
"""Bytes of a message that are read: nearly all that Linux allows (net.core.wmem_default), because older edges do
not limit the size of their names."""
IS_SUPPORTED: Final = sys.platform == "linux"
"""True where the platform has what the hand-over needs (SOCK_SEQPACKET, SO_PEERCRED)."""


class Ask(msgspec.Struct, tag=1, array_like=True, frozen=True):
    """Request of the successor to hand over."""

    version: int


class HandoffOffer(msgspec.Struct, tag=2, array_like=True, frozen=True):
    """Answer of the predecessor, with its sockets: HTTPS, UDP, the pipe for its datagrams, and perhaps http-01."""

    domain: str
    mark: int
    """Mark of the predecessor's connection IDs."""
    has_acme_http: bool = False
    """True if the socket for validators of http-01 is there."""


class Ready(msgspec.Struct, tag=3, array_like=True, frozen=True):
    """Statement of the successor that it can serve."""


class Names(msgspec.Struct, tag=4, array_like=True, frozen=True):
    """Tunnels of the predecessor; several messages where one does not hold all."""

    entries: list[TunnelRecord]
    last: bool


class HandoffRefusal(msgspec.Struct, tag=5, array_like=True, frozen=True):
    """Refusal of the predecessor, with its reason."""

    reason: str


Message = Ask | HandoffOffer | Ready | Names | HandoffRefusal
_encode = msgspec.msgpack.Encoder().encode
Held = tuple[TunnelRecord, "socket.socket | None"]
"""A tunnel, and the listening socket of its TCP port."""
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def in_parts(held: Iterable[Held]) -> list[list[Held]]:
    """Return what is held in parts that each fit into one message; at least one part."""
    parts: list[list[Held]] = [[]]
    size = 0
    for name, sock in held:
        length = len(_encode(name))
        if len(parts[-1]) >= MAX_NAMES or (parts[-1] and size + length > MAX_NAMES_BYTES):
            parts.append([])
            size = 0
        parts[-1].append((name, sock))
        size += length
    return parts


class HandoffError(Exception):
    """The other edge did not do its part, which the message names."""


class HandoffChannel:
    """Messages and sockets between two edges. Every wait ends within :data:`STEP_TIMEOUT`."""

    def __init__(self, sock: socket.socket) -> None:
        """Take the socket over."""
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()

    async def send(self, message: Message, sockets: list[socket.socket] | None = None) -> None:
        """Send a message, with sockets. Raises HandoffError."""
        payload = _encode(message)
        descriptors = [sock.fileno() for sock in sockets or ()]
        await self._repeat(self._loop.add_writer, self._loop.remove_writer,
                           lambda: socket.send_fds(self._sock, [payload], descriptors))  # fmt: skip

    async def receive(self) -> tuple[Message, list[socket.socket]]:
        """Receive a message and the sockets with it. Raises HandoffError, also for a malformed message."""
        found: list[tuple[bytes, list[int], int]] = []

        def read() -> None:
            payload, descriptors, flags, _ = socket.recv_fds(self._sock, MAX_MESSAGE, MAX_NAMES)
            found.append((payload, descriptors, flags))

        await self._repeat(self._loop.add_reader, self._loop.remove_reader, read)
        payload, descriptors, flags = found[0]
        sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        for sock in sockets:
            sock.set_inheritable(False)  # else a successor of this edge would have it as well, and keep it open
        try:
            if not payload:
                raise HandoffError("it went away")
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise HandoffError("a message, or the sockets with it, did not fit (RLIMIT_NOFILE?)")
            return _decoder.decode(payload), sockets
        except msgspec.MsgspecError as error:
            close_all(sockets)
            raise HandoffError(f"it speaks another language: {error}") from None
        except HandoffError:
            close_all(sockets)
            raise

    def close(self) -> None:
        """Close the channel."""
        self._sock.close()

    async def _repeat(
        self,
        watch: Callable[[socket.socket, Callable[[], None]], object],
        unwatch: Callable[[socket.socket], object],
        action: Callable[[], object],
    ) -> None:
        """Do an action as soon as the socket is ready for it."""
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
            raise HandoffError(f"it did nothing for {STEP_TIMEOUT:.0f} s") from None
        except OSError as error:
            raise HandoffError(error.strerror or str(error)) from None


def close_all(sockets: Iterable[socket.socket]) -> None:
    """Close sockets."""
    for sock in sockets:
        sock.close()


@contextlib.contextmanager
def socket_path(directory: Path, name: str = SOCKET) -> Iterator[str]:
    """Yield a path to the socket that fits into an address of 108 bytes, however deep the directory is."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)
