"""Two engines and the link between them, on a virtual clock. No sockets, no sleeping, one seed."""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aioquic.tls import Epoch

from quictunnel.transport.engine import (
    TRUSTED,
    CloseCause,
    Closed,
    Connected,
    Data,
    EngineSettings,
    Received,
    Reset,
    Stopped,
    StreamsAvailable,
    Writable,
)
from quictunnel.transport.engines import create_engine
from quictunnel.transport.engines.aioquic.engine import AioquicEngine
from quictunnel.transport.engines.aioquic.varint import encode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from aioquic.quic.packet import QuicErrorCode

    from quictunnel.transport.engine import Connection, Engine, Transmit

LARGEST_WINDOW = {"first_window": TRUSTED.connection_window}
"""Setting of an edge for tests in which how a window is earned does not matter."""

EDGE = ("192.0.2.1", 4433)
CLIENT = ("198.51.100.7", 50_000)


@dataclass
class Link:
    """Direction of a network path."""

    delay: float = 0.0
    rate: float = 0.0
    """Bytes a second; 0: no limit."""
    queue: int = 1_000_000
    loss: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    jitter: float = 0.0
    down: bool = False
    mtu: int = 1472
    """The largest datagram."""
    free_at: float = 0.0
    carried: int = 0
    dropped: int = 0

    def carry(self, datagram: bytes, now: float, rng: random.Random) -> list[tuple[float, bytes]]:
        if self.down or len(datagram) > self.mtu or (self.loss and rng.random() < self.loss):
            return []
        if self.rate:
            start = max(now, self.free_at)
            if (start - now) * self.rate > self.queue:
                self.dropped += 1
                return []
            self.free_at = now = start + len(datagram) / self.rate
        if self.corrupt and rng.random() < self.corrupt:
            at = rng.randrange(len(datagram))
            datagram = datagram[:at] + bytes([datagram[at] ^ (1 << rng.randrange(8))]) + datagram[at + 1 :]
        self.carried += len(datagram)
        arrivals = [(now + self.delay + rng.random() * self.jitter, datagram)]
        if self.duplicate and rng.random() < self.duplicate:
            arrivals.append((now + self.delay + rng.random() * self.jitter, datagram))
        return arrivals


@dataclass
class Peer:
    """An engine with what it was told."""

    engine: Any
    """An engine of either kind; some tests look at what is behind the seam."""
    events: list[object] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    received: dict[int, bytearray] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    on_event: Callable[[Connection, object], None] | None = None

    def collect(self) -> bool:
        heard = False
        for connection, event in self.engine.poll():
            heard = True
            self.events.append(event)
            match event:
                case Connected():
                    if connection not in self.connections:
                        self.connections.append(connection)
                case Data(stream, chunks, end):
                    self.received.setdefault(stream, bytearray()).extend(b"".join(chunks))
                    if end:
                        assert stream not in self.ended
                        self.ended.add(stream)
                case Reset() | Stopped() | Writable() | StreamsAvailable() | Closed():
                    pass
            if self.on_event is not None:
                self.on_event(connection, event)
        return heard

    def of(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]

    def closed_with(self, code: QuicErrorCode, cause: CloseCause = CloseCause.PROTOCOL) -> bool:
        """Return True if exactly one connection ended, with this cause and code."""
        return [(event.cause, event.code) for event in self.of(Closed)] == [(cause, code)]


class Pair:
    """A client engine, an edge engine, and time."""

    def __init__(self, client: Engine, edge: Engine, *, seed: int = 1) -> None:
        self.now = 1000.0
        self.rng = random.Random(seed)
        self.client = Peer(client)
        self.edge = Peer(edge)
        self.up = Link()
        self.down = Link()
        self.client_address: tuple[str, int] = CLIENT
        self.addresses = {CLIENT}
        self._queue: list[tuple[float, int, Peer, bytes, tuple[str, int]]] = []
        self._order = itertools.count()
        self.sent: list[tuple[str, bytes]] | None = None
        self.victim = "edge"
        """The side that a hostile peer attacks."""
        self.connection: Connection

    def connect(self, *, admit: bool = True) -> tuple[Connection, Connection]:
        self.connection = self.client.engine.connect(EDGE, "edge.test", self.now)
        self.run(lambda: bool(self.client.of(Connected) and self.edge.connections), limit=10)
        assert self.edge.connections, self.client.events
        accepted = self.edge.connections[-1]
        if admit:
            accepted.admit()
            self.settle()
        return self.connection, accepted

    def move_client(self, address: tuple[str, int]) -> None:
        """The network gives the client another address; what is under way to the old one is lost."""
        self.client_address = address

    def deliver(self, peer: Peer, transmits: list[Transmit] | tuple[Transmit, ...]) -> None:
        """Put what ``peer`` sends on the link."""
        for transmit in transmits:
            joined = b"".join(transmit.parts)
            for start in range(0, len(joined), transmit.segment):
                self._carry(peer, joined[start : start + transmit.segment], transmit.address)

    def _carry(self, peer: Peer, datagram: bytes, address: tuple) -> None:
        if self.sent is not None:
            self.sent.append(("client" if peer is self.client else "edge", datagram))
        if peer is self.client:
            link, target, source = self.up, self.edge, self.client_address
        else:
            link, target, source = self.down, self.client, EDGE
            if address != self.client_address:
                return
        for at, arrived in link.carry(datagram, self.now, self.rng):
            heapq.heappush(self._queue, (at, next(self._order), target, arrived, source))

    def turn(self) -> bool:
        """Everything that can be done now; whether anything was."""
        busy = False
        batches: dict[int, tuple[Peer, list[Received]]] = {}
        while self._queue and self._queue[0][0] <= self.now:
            _, _, target, datagram, source = heapq.heappop(self._queue)
            batches.setdefault(id(target), (target, []))[1].append(Received(datagram, len(datagram), source))
        for target, batch in batches.values():
            busy = True
            target.engine.receive(batch, self.now)
        for peer in (self.client, self.edge):
            due = peer.engine.timeout()
            if due is not None and due <= self.now:
                busy = True
                peer.engine.expire(self.now)
            busy |= peer.collect()
            transmits = list(peer.engine.transmit(self.now))
            busy |= bool(transmits) or peer.collect()
            self.deliver(peer, transmits)
        return busy

    def next_time(self) -> float | None:
        times = [t for t in (self.client.engine.timeout(), self.edge.engine.timeout()) if t is not None]
        if self._queue:
            times.append(self._queue[0][0])
        return min(times, default=None)

    def run(self, until: Callable[[], bool] = lambda: False, *, limit: float = 60.0) -> bool:
        """Let time pass until ``until`` holds (True) or ``limit`` seconds passed or nothing is left (False)."""
        end = self.now + limit
        spins = 0
        while True:
            while self.turn():
                spins += 1
                assert spins < 10_000, "time stands still"
            if until():
                return True
            following = self.next_time()
            if following is None or following > end:
                self.now = end
                return until()
            if following > self.now:
                spins = 0
            self.now = max(self.now, following)

    def settle(self, seconds: float = 0.2) -> None:
        self.run(limit=seconds)


def forge(source: Connection, *frames: bytes, cid: bytes | None = None, number: int | None = None) -> bytes:
    """An authentic 1-RTT packet of ``source`` that says what we want."""
    quic = source.quic
    if number is None:
        number = quic._packet_number
        quic._packet_number += 1
    payload = b"".join(frames).ljust(4, b"\0")
    return quic.one_rtt.sealer(cid or quic._peer_cid.cid)(number, 4, payload)


def inject(pair: Pair, source: Connection, *frames: bytes, address: tuple[str, int] | None = None, **how) -> None:
    """Hand a forged packet to the other side at once, and let it answer."""
    target = pair.edge if source.is_client else pair.client
    origin = address or (pair.client_address if source.is_client else EDGE)
    datagram = forge(source, *frames, **how)
    target.engine.receive([Received(datagram, len(datagram), origin)], pair.now)
    target.collect()


def stream_frame(number: int, offset: int, data: bytes, *, fin: bool = False) -> bytes:
    return b"".join((bytes((0x0E | fin,)), encode(number), encode(offset), encode(len(data)), data))


def new_cid_frame(sequence: int, retire: int, cid: bytes | None = None) -> bytes:
    cid = sequence.to_bytes(8, "big") if cid is None else cid
    return b"".join((b"\x18", encode(sequence), encode(retire), bytes((len(cid),)), cid, bytes(16)))


def ack_frame(largest: int, *more: int, first: int = 0) -> bytes:
    """``more``: the gaps and sizes of further ranges, by turns."""
    return b"\x02" + b"".join(map(encode, (largest, 0, len(more) // 2, first, *more)))


def connect_saying(pair: Pair, crypto: bytes) -> None:
    """An aioquic client begins a handshake that says ``crypto``, however much that is."""
    pair.connection = pair.client.engine.connect(EDGE, "edge.test", pair.now)
    pair.up.down = True
    pair.turn()
    pair.up.down = False
    quic = pair.connection.quic
    sender = quic._crypto_streams[Epoch.INITIAL].sender
    sender.__init__(stream_id=None, writable=True)
    sender.write(crypto)
    quic._loss.spaces[0].sent_packets.clear()
    quic.recovery.cc.congestion_window = 10**9
    quic.recovery.cc.bytes_in_flight = 0
    pair.client.engine.touch(pair.connection)
    pair.run(lambda: bool(pair.client.of(Closed)), limit=4)


def settings_for(side: str, paths: dict[str, Path], **changes: object) -> EngineSettings:
    base: dict[str, object] = {"is_server": side == "edge", "alpn": "test/1"}
    if side == "edge":
        base |= {"certificate": paths["certificate"], "private_key": paths["key"], "reset_key": b"k" * 32}
    else:
        base |= {"authority": paths["authority"]}
    return EngineSettings(**(base | changes))  # type: ignore[arg-type]  # keywords by name


def make_pair_of(
    paths: dict[str, Path],
    engines: tuple[str, str],
    *,
    seed: int = 1,
    client: dict[str, object] | None = None,
    edge: dict[str, object] | None = None,
) -> Pair:
    """Return a pair of engines by name, the client's and the edge's.

    Args:
        paths: files of certificates.
        engines: the names of the engines.
        seed: of the link, and of what an aioquic engine chooses at random.
        client: settings of the client by name.
        edge: settings of the edge by name.
    """
    rng = random.Random(seed)
    more = {"client": client or {}, "edge": edge or {}}
    made: list[Engine] = []
    for side, name in zip(("client", "edge"), engines, strict=True):
        settings = settings_for(side, paths, **more[side])
        is_reference = name == "aioquic"
        made.append(
            AioquicEngine(settings, random=rng.randbytes) if is_reference else create_engine(settings, name)
        )
    return Pair(*made, seed=seed)


def lost_close(pair: Pair) -> list[bytes]:
    """The edge's goodbye is lost; what it says when eight more packets of the client come."""
    client, edge = pair.connect()
    stream = client.open()
    client.write(stream, b"x")
    pair.settle()
    pair.down.down = True
    edge.close(5, "gone")
    pair.settle(0.001)
    pair.down.down = False
    assert not pair.client.of(Closed)
    pair.sent = []
    for _ in range(8):
        inject(pair, client, b"\x01")
        pair.turn()
    said = [datagram for side, datagram in pair.sent if side == "edge"]
    pair.settle()
    assert [(event.cause, event.code) for event in pair.client.of(Closed)] == [(CloseCause.PEER, 5)]
    return said
