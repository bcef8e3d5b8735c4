"""Forwarding of datagrams between two edges that share one UDP socket during a hot restart.

While the predecessor finishes its visitors, the successor reads the UDP socket and forwards the datagrams that
belong to connections of the predecessor. The first byte of a connection ID tells to which edge it belongs
(``EngineSettings.cid_prefix``). The predecessor sends through the UDP socket directly. A third edge may take over
before the first one has ended: it forwards datagrams to the second edge, which still forwards those of the first.
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
"""Bytes of one forwarded message: a read of the UDP socket (at most 64 KiB) and the address of its sender."""

_LONG_HEADER: Final = 0x80
_PACKET_TYPE: Final = 0x30
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[tuple[bytes, int, tuple[str | int, ...]]] = msgspec.msgpack.Decoder(
    tuple[bytes, int, tuple[str | int, ...]]
)


def is_for_edge(datagram: bytes, cid_prefix: int) -> bool:
    """Return True if a datagram belongs to a connection whose IDs have this prefix, or may begin a new connection.

    See RFC 9000 sections 17.2 and 17.3.
    """
    if datagram[0] & _LONG_HEADER:
        # The destination connection ID of an Initial packet may be one that the client has chosen.
        return datagram[0] & _PACKET_TYPE == 0 or len(datagram) < 7 or datagram[6] == cid_prefix
    return len(datagram) < 2 or datagram[1] == cid_prefix


class SuccessorUdpSocket:
    """The UDP socket of an edge that took over (a transport.udp.DatagramSocket).

    It returns the datagrams of this edge, and forwards those of the predecessor through ``pipe`` until that one
    ends.
    """

    def __init__(self, source: DatagramSocket, pipe: socket.socket, cid_prefix: int) -> None:
        """Use both sockets, which :meth:`close` closes.

        Args:
            source: the edge's own UDP socket.
            pipe: socket to the other process.
            cid_prefix: first byte of this edge's connection IDs.
        """
        self._source = source
        self._pipe: socket.socket | None = pipe
        self._cid_prefix = cid_prefix
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
        """Return the received datagrams of this edge."""
        batch = self._source.receive()
        if self._pipe is None:
            return batch
        # Datagrams that GRO has joined are from one socket of a client, which has one connection.
        mine = []
        for received in batch:
            if is_for_edge(received.payload, self._cid_prefix):
                mine.append(received)
            else:
                self._pass_on(received)
        return mine

    def send(self, transmits: Iterable[Transmit]) -> None:
        """Send datagrams."""
        self._source.send(transmits)

    def with_source(self, source: DatagramSocket) -> SuccessorUdpSocket:
        """Return a socket like this one that reads from another source, with a duplicate of the pipe."""
        assert self._pipe is not None
        return SuccessorUdpSocket(source, self._pipe.dup(), self._cid_prefix)

    @property
    def has_predecessor(self) -> bool:
        """Return True if the predecessor still runs and gets its datagrams from here."""
        if self._pipe is None:
            return False
        hung_up = select.poll()
        hung_up.register(self._pipe, 0)
        return not hung_up.poll(0)

    def close(self) -> None:
        """Close the socket and the pipe."""
        self._source.close()
        self._close_pipe()

    def _pass_on(self, received: Received) -> None:
        if self._pipe is None:
            return
        message = _encoder.encode((received.payload, received.segment, received.address))
        try:
            self._pipe.send(message)
        except BlockingIOError:
            pass  # the buffer is full: the datagram is dropped, as by a router
        except OSError:
            logger.info("the predecessor has ended")
            self._close_pipe()

    def _close_pipe(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None


class PredecessorUdpSocket:
    """The UDP socket of an edge whose successor has taken over (a transport.udp.DatagramSocket).

    It reads the datagrams that the successor forwards, and sends through ``udp``, a duplicate of the UDP socket.
    """

    def __init__(self, udp: DatagramSocket, pipe: socket.socket) -> None:
        """Use both sockets, which :meth:`close` closes."""
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
        """Return the received datagrams of this edge."""
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
            batch.append(Received(payload, segment, address))  # type: ignore[arg-type]  # as the successor encoded it
        return batch

    def send(self, transmits: Iterable[Transmit]) -> None:
        """Send datagrams."""
        self._udp.send(transmits)

    def close(self) -> None:
        """Close the socket and the pipe."""
        self.detach()
        self._pipe.close()
        self._udp.close()
