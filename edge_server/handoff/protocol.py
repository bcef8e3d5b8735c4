"""A running edge hands its sockets and names over to the one that takes its place.

They talk through a Unix socket in the state directory (:data:`SOCKET`, for the owner of the edge alone):

    successor                                   the edge that runs
      |-- Ask ------------------------------------>|
      |<- Estate, with the HTTPS socket, ----------|   nothing has changed so far: a successor that
      |   the UDP socket, a pipe, perhaps one      |   fails here leaves everything as it was
      |   more                                     |
      |-- Ready ---------------------------------->|   it stops accepting and reading
      |<- Names, with the sockets of TCP ports ----|   until ``last``; then its visitors finish
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from edge_server.tunnels.tunnel_record import TunnelRecord
from quictunnel.errors import ConfigError
from quictunnel.shared.supervision import Supervisor
from quictunnel.transport import descriptors

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator
    from pathlib import Path

logger = logging.getLogger(__name__)

SOCKET: Final = "edge.sock"
VERSION: Final = 1
STEP_TIMEOUT: Final = 10.0
"""Seconds for each step; a successor reads its certificates between two of them."""
MAX_NAMES: Final = 64
"""Names in one message: each may bring a socket, and Linux passes at most 253 at once (SCM_MAX_FD)."""
MAX_NAMES_BYTES: Final = 48 * 1024
"""Bytes of those names. One with all the networks that it may have to allow and to deny takes 6 KiB. Edges before
this one read no more than 64 KiB at once."""
MAX_MESSAGE: Final = 192 * 1024
"""Bytes of a message that are read: nearly all that Linux lets one have (net.core.wmem_default), because edges
before this one do not look at how large their names are."""
BACKLOG: Final = 4
IS_SUPPORTED: Final = sys.platform == "linux"
"""Whether processes can hand sockets over here the way it is done here (SOCK_SEQPACKET, SO_PEERCRED)."""

_PEERCRED: Final = struct.Struct("3i")


class Ask(msgspec.Struct, tag=1, array_like=True, frozen=True):
    """Successor: hand over to me."""

    version: int


class HandoffOffer(msgspec.Struct, tag=2, array_like=True, frozen=True):
    """What there is to take over; with it come its sockets: HTTPS, UDP, the pipe for the old one's datagrams, and
    the one for validators of ACME."""

    domain: str
    mark: int
    """Of the connection IDs of the one that leaves."""
    has_acme_http: bool = False
    """Whether the last of these is there."""


class Ready(msgspec.Struct, tag=3, array_like=True, frozen=True):
    """Successor: I can serve."""


class Names(msgspec.Struct, tag=4, array_like=True, frozen=True):
    """The leases; several of them, where one does not hold all."""

    entries: list[TunnelRecord]
    last: bool


class HandoffRefusal(msgspec.Struct, tag=5, array_like=True, frozen=True):
    """Not now, and why."""

    reason: str


Message = Ask | HandoffOffer | Ready | Names | HandoffRefusal
_encode = msgspec.msgpack.Encoder().encode
Held = tuple[TunnelRecord, "socket.socket | None"]
"""A name, and the listening socket of its TCP port."""
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


class SuccessionError(Exception):
    """The other edge did not do its part; the message says what."""


class HandoffChannel:
    """Messages and sockets between two edges. Every wait ends within :data:`STEP_TIMEOUT`."""

    def __init__(self, sock: socket.socket) -> None:
        """Takes the socket over."""
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()

    async def send(self, message: Message, sockets: list[socket.socket] | None = None) -> None:
        """Raises SuccessionError."""
        payload = _encode(message)
        descriptors = [sock.fileno() for sock in sockets or ()]
        await self._repeat(self._loop.add_writer, self._loop.remove_writer,
                           lambda: socket.send_fds(self._sock, [payload], descriptors))  # fmt: skip

    async def receive(self) -> tuple[Message, list[socket.socket]]:
        """Raises SuccessionError, also for a message that is none."""
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
                raise SuccessionError("it went away")
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise SuccessionError("a message, or the sockets with it, did not fit (RLIMIT_NOFILE?)")
            return _decoder.decode(payload), sockets
        except msgspec.MsgspecError as error:
            _close(sockets)
            raise SuccessionError(f"it speaks another language: {error}") from None
        except SuccessionError:
            _close(sockets)
            raise

    def close(self) -> None:
        self._sock.close()

    async def _repeat(
        self,
        watch: Callable[[socket.socket, Callable[[], None]], object],
        unwatch: Callable[[socket.socket], object],
        action: Callable[[], object],
    ) -> None:
        """Do it as soon as the socket lets it be done."""
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
            raise SuccessionError(f"it did nothing for {STEP_TIMEOUT:.0f} s") from None
        except OSError as error:
            raise SuccessionError(error.strerror or str(error)) from None


def _close(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


# The successor's side.


@dataclass(slots=True)
class InheritedSockets:
    """What a successor was handed so far."""

    post: HandoffChannel
    domain: str
    mark: int
    https: socket.socket
    udp: socket.socket
    pipe: socket.socket
    acme_http: socket.socket | None = None

    async def accept(self) -> list[Held]:
        """Say that everything is ready; from the return on the sockets are this edge's alone. Raises
        SuccessionError."""
        names: list[Held] = []
        await self.post.send(Ready())
        while True:
            message, sockets = await self.post.receive()
            if not isinstance(message, Names) or len(sockets) != sum(entry.port > 0 for entry in message.entries):
                _close(sockets)
                raise SuccessionError("it did not say what it holds")
            with_sockets = iter(sockets)
            names += [(entry, next(with_sockets) if entry.port else None) for entry in message.entries]
            if message.last:
                self.post.close()
                return names

    def close(self) -> None:
        """It did not come to it."""
        self.post.close()
        _close([sock for sock in (self.https, self.udp, self.pipe, self.acme_http) if sock is not None])


async def ask(directory: Path) -> InheritedSockets | None:
    """Ask the edge of this state directory to hand over; None when none runs. Raises ConfigError when it will
    not."""
    if not IS_SUPPORTED:
        raise ConfigError("--takeover needs Linux.")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with _reachable(directory) as path:
            sock.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    except OSError as error:
        sock.close()
        raise ConfigError(f"--takeover: {directory / SOCKET} cannot be used ({error.strerror}).") from None
    post = HandoffChannel(sock)
    try:
        await post.send(Ask(VERSION))
        message, sockets = await post.receive()
        if isinstance(message, HandoffOffer) and len(sockets) == 3 + message.has_acme_http:
            return InheritedSockets(post, message.domain, message.mark, *sockets)
        _close(sockets)
        if isinstance(message, HandoffRefusal):
            raise SuccessionError(message.reason)
        raise SuccessionError("it did not say what there is")
    except SuccessionError as error:
        post.close()
        raise ConfigError(f"--takeover: the edge that runs does not hand over: {error}.") from None


# The side of the one that leaves.


class HandoffListener:
    """Lets a successor ask, while the edge serves."""

    def __init__(self, directory: Path, hand_over: Callable[[HandoffChannel], Awaitable[None]]) -> None:
        """``hand_over`` is called after an Ask, for one successor at a time; it may raise SuccessionError. Raises
        OSError when there can be no socket."""
        self._directory = directory
        self._hand_over = hand_over
        self._loop = asyncio.get_running_loop()
        self._tasks = Supervisor()
        self._turn = asyncio.Lock()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._inode = 0
        try:
            # Beside, and then into place: an edge that has just been started is the one to be asked.
            aside = f".{SOCKET}-{os.getpid()}"
            path = directory / aside
            path.unlink(missing_ok=True)
            with _reachable(directory, aside) as address:
                self._listener.bind(address)
            path.chmod(0o600)
            self._inode = path.stat().st_ino
            path.replace(directory / SOCKET)
            self._listener.listen(BACKLOG)
            self._listener.setblocking(False)
            descriptors.own(self._listener)
            self._loop.add_reader(self._listener, self._accept)
        except BaseException:
            self._listener.close()
            raise

    def close(self) -> None:
        """Nobody can ask any more."""
        self._tasks.cancel()
        self._loop.remove_reader(self._listener)
        descriptors.disown(self._listener)
        self._listener.close()
        path = self._directory / SOCKET
        with contextlib.suppress(OSError):  # an edge that stops goes on stopping
            if path.stat().st_ino == self._inode:  # not a newer edge's
                path.unlink()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            logger.debug("nobody asks to take over after all: %s", error.strerror)
            return
        _, user, _ = _PEERCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
        if user not in (0, os.geteuid()):
            sock.close()
            return
        self._tasks.start(self._serve(HandoffChannel(sock)), "handing over to a successor")

    async def _serve(self, post: HandoffChannel) -> None:
        try:
            message, sockets = await post.receive()
            _close(sockets)
            if not isinstance(message, Ask) or message.version != VERSION:
                await post.send(HandoffRefusal("it speaks another version of the hand-over"))
            elif self._turn.locked():
                await post.send(HandoffRefusal("another one is taking over already"))
            else:
                async with self._turn:
                    await self._hand_over(post)
        except SuccessionError as error:
            logger.warning("an edge that wanted to take over failed: %s", error)
        finally:
            post.close()


@contextlib.contextmanager
def _reachable(directory: Path, name: str = SOCKET) -> Iterator[str]:
    """A path to the socket that fits into an address of 108 bytes, however deep the directory is."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)
