"""Sockets without a system: :class:`SimSocket` is a ``DatagramSocket`` on a simulated :class:`Network`."""

from __future__ import annotations

import random
from collections import deque
from typing import TYPE_CHECKING

from quictunnel.transport.engine import Received
from quictunnel.transport.udp import MAX_PAYLOAD, MAX_SEGMENTS, RECEIVE_DATAGRAMS, UdpCounters
from tests.simnet.link import Conditions, Link, Packet

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

    from quictunnel.transport.engine import Address, Transmit

# Bytes that wait in a socket to be read, as much as the real one asks for; then what arrives is dropped.
INBOX_BYTES = 4 * 1024 * 1024


class SimSocket:
    """Made by :meth:`Network.socket`. Joins and cuts datagrams as UDP_GRO and UDP_SEGMENT do."""

    def __init__(self, network: Network, address: Address, up: Conditions, down: Conditions) -> None:
        name = network.name_link(address)
        loop = network.loop
        self.up = Link(f"{name} up", loop, network.chance(f"{name} up"), network.route, up)
        self.down = Link(f"{name} down", loop, network.chance(f"{name} down"), self._arrived, down)
        self.counters = UdpCounters()
        self.overflowed = 0
        """Datagrams dropped because nobody read the earlier ones."""
        self.astray = 0
        """Datagrams that arrived for an address which this socket had left."""
        self.joins = True
        """True if reads bring several datagrams (False: as on a system without UDP_GRO)."""
        self._network = network
        self._address = address
        self._inbox: deque[tuple[float, Packet]] = deque()
        self._inbox_bytes = 0
        self._on_readable: Callable[[], None] | None = None
        self._told: asyncio.Handle | None = None
        self._is_closed = False

    @property
    def local_address(self) -> Address:
        return self._address

    @property
    def is_attached(self) -> bool:
        return self._on_readable is not None

    def move(self, address: Address) -> None:
        """Be somewhere else from now on, as behind a NAT that forgot: whoever uses the socket is not told.
        What is under way to the old address is lost."""
        self._network.move(self, address)
        self._address = address

    def attach(self, loop: asyncio.AbstractEventLoop, on_readable: Callable[[], None]) -> None:
        assert loop is self._network.loop
        assert self._on_readable is None, "attached already"
        self._on_readable = on_readable
        self._tell()

    def detach(self) -> None:
        self._on_readable = None
        if self._told is not None:
            self._told.cancel()
            self._told = None

    def close(self) -> None:
        """Close the socket. Datagrams sent before are still carried; those on their way to it are lost."""
        if not self._is_closed:
            self.detach()
            self._is_closed = True
            self._inbox.clear()
            self.down.close()
            self._network.forget(self)

    def receive(self) -> list[Received]:
        batch: list[Received] = []
        count = 0
        while self._inbox and count < RECEIVE_DATAGRAMS:
            joined = self._take_joined()
            count += len(joined)
            first = joined[0]
            self.counters.reads += 1
            if first.payload:
                payload = b"".join([packet.payload for packet in joined])
                batch.append(Received(payload, len(first.payload), first.source))
        self.counters.received += count
        return batch

    def _take_joined(self) -> list[Packet]:
        """The next datagram and those behind it that one read brings: of the same instant and sender, all of
        one size, but that the last may be shorter."""
        at, first = self._pop()
        joined = [first]
        segment = size = len(first.payload)
        while self.joins and self._inbox and len(joined) < MAX_SEGMENTS:
            then, packet = self._inbox[0]
            length = len(packet.payload)
            if (
                then != at
                or packet.source != first.source
                or not 0 < length <= segment
                or size + length > MAX_PAYLOAD
            ):
                break
            self._pop()
            joined.append(packet)
            size += length
            if length < segment:
                break
        return joined

    def _pop(self) -> tuple[float, Packet]:
        at, packet = self._inbox.popleft()
        self._inbox_bytes -= len(packet.payload)
        return at, packet

    def send(self, transmits: Iterable[Transmit]) -> None:
        assert not self._is_closed, "sending from a closed socket"
        for parts, segment, address in transmits:
            assert segment > 0
            assert len(address) == len(self._address), "the peer's address is of another family"
            whole = b"".join(parts)
            self.counters.writes += 1
            for offset in range(0, len(whole), segment):
                payload = whole[offset : offset + segment]
                if len(payload) > MAX_PAYLOAD:
                    self.counters.dropped_oversize += 1
                    continue
                self.counters.sent += 1
                self.up.send(Packet(payload, self._address, address))

    def _arrived(self, packet: Packet) -> None:
        if packet.destination != self._address:
            self.astray += 1
        elif self._inbox_bytes + len(packet.payload) > INBOX_BYTES:
            self.overflowed += 1
        else:
            self._inbox.append((self._network.loop.time(), packet))
            self._inbox_bytes += len(packet.payload)
            self._tell()

    def _tell(self) -> None:
        if self._inbox and self._on_readable is not None and self._told is None:
            self._told = self._network.loop.call_soon(self._tell_now)

    def _tell_now(self) -> None:
        self._told = None
        if self._on_readable is not None:
            self._on_readable()
            self._tell()


class Network:
    """A core that is everywhere at once, and the links of the sockets that hang on it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seed: int = 1) -> None:
        self.loop = loop
        self.unroutable = 0
        """Packets for an address where no socket is."""
        self._seed = seed
        self._sockets: dict[Address, SimSocket] = {}
        self._names: dict[Address, int] = {}
        self._links: list[Link] = []

    @property
    def sockets(self) -> list[SimSocket]:
        """Return the sockets that are not closed."""
        return list(self._sockets.values())

    def socket(
        self,
        address: Address,
        *,
        up: Conditions | None = None,
        down: Conditions | None = None,
        both: Conditions | None = None,
    ) -> SimSocket:
        """A socket at ``address`` (IPv4 pairs or IPv6 quadruples). ``both``: the same conditions each way, in
        two copies; what is left out is perfect."""
        assert address not in self._sockets, "the address is in use"
        perfect = both or Conditions()
        made = SimSocket(self, address, up or perfect.copy(), down or perfect.copy())
        self._links += [made.up, made.down]
        self._sockets[address] = made
        return made

    def chance(self, name: str) -> random.Random:
        """A generator for one purpose, so that traffic in one place does not change the luck of another."""
        return random.Random(f"{self._seed} {name}")

    def name_link(self, address: Address) -> str:
        self._names[address] = self._names.get(address, 0) + 1
        return f"{address[0]}:{address[1]}#{self._names[address]}"

    def route(self, packet: Packet) -> None:
        receiver = self._sockets.get(packet.destination)
        if receiver is None:
            self.unroutable += 1
        else:
            receiver.down.send(packet)

    def move(self, socket: SimSocket, address: Address) -> None:
        assert address not in self._sockets, "the address is in use"
        del self._sockets[socket.local_address]
        self._sockets[address] = socket

    def forget(self, socket: SimSocket) -> None:
        del self._sockets[socket.local_address]

    def close(self) -> None:
        """Lose everything that is under way."""
        for link in self._links:
            link.close()
