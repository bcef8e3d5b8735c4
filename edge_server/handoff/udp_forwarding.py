"""One UDP socket, two edges: while an old edge finishes its visitors, its successor reads the socket and passes on
what belongs to connections of the old one.

Whose a packet is, the first byte of its connection ID says (``EngineSettings.cid_mark``). The old edge goes on
sending from the socket itself. A third edge may follow before the first is gone: the second then gets its
datagrams from the third, and still passes on those of the first.
"""

from __future__ import annotations

import logging
import select
from typing import TYPE_CHECKING, Final

import msgspec

from quictunnel.transport.engine import Received
from quictunnel.transport.udp import RECEIVE_DATAGRAMS

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable, Iterable

    from quictunnel.transport.engine import Address, Transmit
    from quictunnel.transport.udp import DatagramSocket

logger = logging.getLogger(__name__)

PIPE_READ: Final = 128 * 1024
"""Bytes of one message between two edges: a read of the UDP socket, which has at most 64 KiB, and where it came
from."""

_LONG_HEADER: Final = 0x80
_PACKET_TYPE: Final = 0x30
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[tuple[bytes, int, tuple[str | int, ...]]] = msgspec.msgpack.Decoder(
    tuple[bytes, int, tuple[str | int, ...]]
)


def is_marked(datagram: bytes, mark: int) -> bool:
    """Return True if a datagram is for a connection whose IDs have this mark, or may begin a new one.

    See RFC 9000 sections 17.2 and 17.3.
    """
    if datagram[0] & _LONG_HEADER:
        # The ID in a first packet is the client's invention.
        return datagram[0] & _PACKET_TYPE == 0 or len(datagram) < 7 or datagram[6] == mark
    return len(datagram) < 2 or datagram[1] == mark


class ForwardingSocket:
    """The UDP socket of an edge that took over (a transport.udp.DatagramSocket).

    It reads its own datagrams, and sends those of the predecessor through ``pipe`` as long as that one is there.
    """

    def __init__(self, source: DatagramSocket, pipe: socket.socket, mark: int) -> None:
        """Takes both over."""
        self._source = source
        self._pipe: socket.socket | None = pipe
        self._mark = mark
        pipe.setblocking(False)

    @property
    def local_address(self) -> Address:
        """Return the local address."""
        return self._source.local_address

    def attach(self, loop: asyncio.AbstractEventLoop, on_readable: Callable[[], None]) -> None:
        """Call ``on_readable`` on the loop when there is something to receive."""
        self._source.attach(loop, on_readable)

    def detach(self) -> None:
        """Stop calling."""
        self._source.detach()

    def receive(self) -> list[Received]:
        """Return the datagrams of this edge that have come."""
        batch = self._source.receive()
        if self._pipe is None:
            return batch
        # Datagrams that were joined came from one socket of one client, which has one connection.
        mine = []
        for received in batch:
            if is_marked(received.payload, self._mark):
                mine.append(received)
            else:
                self._pass_on(received)
        return mine

    def send(self, transmits: Iterable[Transmit]) -> None:
        """Send datagrams."""
        self._source.send(transmits)

    def over(self, source: DatagramSocket) -> ForwardingSocket:
        """Return a socket like this for another source, with its own handle of the pipe."""
        assert self._pipe is not None
        return ForwardingSocket(source, self._pipe.dup(), self._mark)

    @property
    def has_predecessor(self) -> bool:
        """Return True if the predecessor is still there and gets its datagrams from here."""
        if self._pipe is None:
            return False
        hung_up = select.poll()
        hung_up.register(self._pipe, 0)
        return not hung_up.poll(0)

    def close(self) -> None:
        """Close the socket and the pipe."""
        self._source.close()
        self._leave()

    def _pass_on(self, received: Received) -> None:
        if self._pipe is None:
            return
        message = _encoder.encode((received.payload, received.segment, received.address))
        try:
            self._pipe.send(message)
        except BlockingIOError:
            pass  # full: dropped, as by any router
        except OSError:
            logger.info("the predecessor has ended")
            self._leave()

    def _leave(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None


class ForwardedSocket:
    """The UDP socket of an edge whose successor has taken over (a transport.udp.DatagramSocket).

    It reads what the successor passes on, and sends through ``udp``, its own handle of the socket.
    """

    def __init__(self, udp: DatagramSocket, pipe: socket.socket) -> None:
        """Takes both over."""
        self._udp = udp
        self._pipe = pipe
        self._loop: asyncio.AbstractEventLoop | None = None
        pipe.setblocking(False)

    @property
    def local_address(self) -> Address:
        """Return the local address."""
        return self._udp.local_address

    def attach(self, loop: asyncio.AbstractEventLoop, on_readable: Callable[[], None]) -> None:
        """Call ``on_readable`` on the loop when there is something to receive."""
        assert self._loop is None, "attached already"
        self._loop = loop
        loop.add_reader(self._pipe, on_readable)

    def detach(self) -> None:
        """Stop calling."""
        loop, self._loop = self._loop, None
        if loop is not None and not loop.is_closed():
            loop.remove_reader(self._pipe)

    def receive(self) -> list[Received]:
        """Return the datagrams of this edge that have come."""
        batch: list[Received] = []
        while len(batch) < RECEIVE_DATAGRAMS:
            try:
                message = self._pipe.recv(PIPE_READ)
            except BlockingIOError:
                break
            except OSError as error:
                logger.warning("no datagrams can be received from the successor: %s", error.strerror or error)
                self.detach()
                break
            if not message:
                logger.warning("the successor has ended, and the UDP socket with it")
                self.detach()
                break
            payload, segment, address = _decoder.decode(message)
            batch.append(Received(payload, segment, address))  # type: ignore[arg-type]  # as it went in over there
        return batch

    def send(self, transmits: Iterable[Transmit]) -> None:
        """Send datagrams."""
        self._udp.send(transmits)

    def close(self) -> None:
        """Close the socket and the pipe."""
        self.detach()
        self._pipe.close()
        self._udp.close()
