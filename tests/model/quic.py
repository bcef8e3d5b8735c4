"""QUIC connections without packets: a scheduler chooses which piece arrives next.

What QUIC promises holds, and nothing more: the bytes of one stream arrive in order and once. Bytes of different
streams, resets, stops and the end of the connection overtake each other. Whatever is under way may be lost with
the link. An engine tells nothing of a direction that it has stopped, as quinn does.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from quictunnel.transport.engine import (
    CloseCause,
    Closed,
    Connected,
    Data,
    Reset,
    Stats,
    Stopped,
    StreamsAvailable,
    Writable,
)

if TYPE_CHECKING:
    from quictunnel.transport.engine import Address
    from tests.model.scripted_engine import ScriptedEngine

IDLE_TIMEOUT: Final = 30.0
HANDSHAKE_TIMEOUT: Final = 5.0


class Direction:
    """Direction of a stream: what was sent and has not arrived, and how it ends."""

    __slots__ = (
        "code", "end_sent", "flight", "in_flight", "is_blocked", "is_closed", "is_done", "is_stopped", "stop_code",
    )  # fmt: skip

    def __init__(self) -> None:
        self.flight: deque[bytes] = deque()
        self.in_flight = 0
        self.end_sent = False
        self.code: int | None = None
        """Of a RESET_STREAM that was sent."""
        self.is_closed = False
        """The receiver has the end, or the reset."""
        self.is_done = False
        """The sender knows that."""
        self.stop_code: int | None = None
        """Of a STOP_SENDING that is under way to the sender."""
        self.is_stopped = False
        """The receiver takes no more of it."""
        self.is_blocked = False


class Stream:
    """Both directions of a stream, by the side that sends."""

    __slots__ = ("directions", "opened_by")

    def __init__(self, opened_by: End) -> None:
        self.opened_by = opened_by
        self.directions = {True: Direction(), False: Direction()}


Piece = tuple[str, int]
"""Item that can arrive: its kind, and the number of its stream."""


class End:
    """End of a connection (a ``transport.engine.Connection``)."""

    def __init__(self, engine: ScriptedEngine, link: QuicLink, address: Address, *, is_client: bool) -> None:
        self.engine = engine
        self.link = link
        self.address = address
        self.is_client = is_client
        self.closed: Closed | None = None
        self.is_connected = False
        self.last_heard = engine.now()
        self.began = engine.now()
        self.outbox: deque[Piece] = deque()
        """Pieces of no stream, under way to the peer."""
        self.opened = 0
        self.allowed = engine.peer_streams
        self.wants_streams = False
        self.freed: set[int] = set()
        """Streams of the peer's that are over here and whose place it may have again."""
        self.acked = 0
        self.is_owed = False
        self.bytes_received = 0
        self.close_code = 0
        self.close_reason = ""

    @property
    def peer(self) -> End | None:
        return self.link.server if self.is_client else self.link.client

    # From the endpoint (transport.engine.Connection).

    def open(self) -> int | None:
        if self.closed is not None:
            return None
        if self.opened >= self.allowed:
            self.wants_streams = True
            self.engine.refused_streams += 1
            self.engine.network.reach("the peer allows no more streams")
            return None
        number = 4 * self.opened + (0 if self.is_client else 1)
        self.opened += 1
        self.link.streams[number] = Stream(self)
        return number

    def write(self, stream: int, data: bytes | memoryview) -> int:
        direction = self._direction(stream)
        if direction is None or direction.code is not None or direction.end_sent or self.closed is not None:
            return 0
        taken = min(len(data), max(0, self.engine.send_buffer - direction.in_flight))
        if taken:
            direction.flight.append(bytes(data[:taken]))
            direction.in_flight += taken
            self.is_owed = True
        if taken < len(data):
            direction.is_blocked = True
            self.engine.network.reach("a link is full")
        return taken

    def finish(self, stream: int) -> None:
        direction = self._direction(stream)
        if direction is not None and direction.code is None:
            direction.end_sent = True
            self.is_owed = True

    def reset(self, stream: int, code: int) -> None:
        direction = self._direction(stream)
        if direction is not None and direction.code is None and not direction.is_done:
            direction.code = code
            self.is_owed = True

    def stop(self, stream: int, code: int) -> None:
        direction = self._direction(stream, mine=False)
        if direction is not None and not direction.is_closed and not direction.is_stopped:
            direction.is_stopped = True
            direction.stop_code = code
            self.is_owed = True

    def prioritise(self, stream: int) -> None: ...

    def admit(self) -> None: ...

    def ping(self) -> None:
        if self.closed is None and ("ping", 0) not in self.outbox:
            self.outbox.append(("ping", 0))
            self.is_owed = True

    def migrate(self) -> None:
        self.ping()
        if self.link.server is not None:
            host, port = self.link.server.address[:2]
            self.link.server.address = (host, port + 1)

    def close(self, code: int, reason: str = "") -> None:
        if self.closed is None:
            self.close_code, self.close_reason = int(code), reason
            self.outbox.append(("close", 0))
            self.die(CloseCause.LOCAL, code, reason)

    def stats(self) -> Stats:
        return Stats(
            rtt=0.05, congestion_window=100_000, bytes_in_flight=100 * self.is_owed, datagram_size=1350,
            bytes_sent=0, bytes_received=self.bytes_received, packets_sent=0, packets_received=0, packets_lost=0,
            packets_acked=self.acked, streams_open=0, last_heard=self.last_heard,
        )  # fmt: skip

    # From the scheduler.

    def die(self, cause: CloseCause, code: int = 0, reason: str = "") -> None:
        """The connection is over at this end."""
        if self.closed is None:
            self.closed = Closed(cause, int(code), reason)
            if not self.is_client and not self.is_connected:
                return  # nobody has heard of it
            self.engine.tell(self, self.closed)

    def pieces(self) -> list[Piece]:
        """Return what can arrive next at the peer, if anything there still matters."""
        peer = self.peer
        if peer is not None and peer.closed is not None:
            return []
        found: list[Piece] = [piece for piece in self.outbox if piece[0] != "pong" or len(self.outbox) == 1]
        if self.link.phase < 3:
            return [piece for piece in found if piece[0] in ("first", "second", "third", "close")]
        for number, stream in self.link.streams.items():
            direction = stream.directions[self.is_client]
            if not direction.is_closed:
                if direction.code is not None:
                    found.append(("reset", number))
                if direction.flight:
                    found.append(("data", number))
                elif direction.end_sent:
                    found.append(("end", number))  # also of a direction that was reset afterwards
            if stream.directions[not self.is_client].stop_code is not None:
                found.append(("stop", number))
        return found

    def deliver(self, piece: Piece, size: int | None = None, *, with_end: bool = True) -> bool:
        """Let one piece arrive at the peer; of data, ``size`` bytes. Return False if it had nothing to bring."""
        kind, number = piece
        if number == 0 and kind in ("ping", "pong", "close", "first", "second", "third"):
            if piece not in self.outbox:
                return False
            self.outbox.remove(piece)
        peer = self._heard(kind)
        if kind in ("first", "second", "third"):
            self.link.shake_hands(kind)
        elif peer is None or peer.closed is not None:
            return False
        elif kind == "close":
            if any(stream.directions[self.is_client].flight for stream in self.link.streams.values()):
                self.engine.network.reach("a close overtakes bytes")
            peer.die(CloseCause.PEER, self.close_code, self.close_reason)
        elif kind == "ping":
            peer.outbox.append(("pong", 0))
        elif kind == "streams":
            self.outbox.remove(piece)
            peer.allowed += 1
            if peer.wants_streams:
                peer.wants_streams = False
                peer.engine.tell(peer, StreamsAvailable())
        elif kind != "pong":
            self._deliver_of_stream(kind, number, peer, size, with_end=with_end)
        return True

    # Inside.

    def _direction(self, stream: int, *, mine: bool = True) -> Direction | None:
        if self.closed is not None:
            return None
        found = self.link.streams.get(stream)
        return None if found is None else found.directions[self.is_client is mine]

    def _heard(self, kind: str) -> End | None:
        """Note at the peer that something has arrived, and with it what acknowledges what the peer had sent."""
        peer = self.peer
        if peer is not None and peer.closed is None:
            peer.last_heard = peer.engine.now()
            peer.bytes_received += 50
            if ("pong", 0) in self.outbox:
                self.outbox.remove(("pong", 0))
                kind = "pong"
            if kind == "pong":
                peer.acked += 1
                peer.is_owed = any(piece[0] != "pong" for piece in peer.pieces())
        return peer

    def _deliver_of_stream(self, kind: str, number: int, peer: End, size: int | None, *, with_end: bool) -> None:
        stream = self.link.streams[number]
        direction = stream.directions[self.is_client]
        if ("pong", 0) not in peer.outbox:
            peer.outbox.append(("pong", 0))
        if kind == "stop":
            self._deliver_stop(number, peer, stream.directions[peer.is_client])
            return
        if kind == "reset":
            assert direction.code is not None
            if direction.flight:
                self.engine.network.reach("a reset overtakes bytes")
            direction.flight.clear()
            self._close_direction(number, stream, direction, peer)
            if not direction.is_stopped:
                peer.engine.tell(peer, Reset(number, direction.code))
            return
        control = self.link.streams.get(0)
        if number and control is not None and control.directions[self.is_client].flight:
            self.engine.network.reach("a stream overtakes a control message")
        chunks = self._take(direction, size)
        if number == 0 and direction.flight:
            self.engine.network.reach("a control message arrives in parts")
        end = direction.end_sent and not direction.flight and (with_end or not chunks)
        peer.bytes_received += sum(map(len, chunks))
        if end:
            self._close_direction(number, stream, direction, peer)
        if not direction.is_stopped and (chunks or end):
            peer.engine.tell(peer, Data(number, chunks, end))
        if direction.is_blocked and direction.code is None and direction.in_flight < self.engine.send_buffer:
            direction.is_blocked = False
            self.engine.tell(self, Writable(number))

    @staticmethod
    def _take(direction: Direction, size: int | None) -> list[bytes]:
        chunks: list[bytes] = []
        left = direction.in_flight if size is None else size
        while direction.flight and left > 0:
            chunk = direction.flight.popleft()
            if len(chunk) > left:
                direction.flight.appendleft(chunk[left:])
                chunk = chunk[:left]
            chunks.append(chunk)
            left -= len(chunk)
            direction.in_flight -= len(chunk)
        return chunks

    def _deliver_stop(self, number: int, peer: End, direction: Direction) -> None:
        code, direction.stop_code = direction.stop_code, None
        assert code is not None
        if direction.is_done or direction.code is not None:
            return
        direction.code = code
        peer.engine.tell(peer, Stopped(number, code))

    def _close_direction(self, number: int, stream: Stream, direction: Direction, peer: End) -> None:
        """The receiver has the end of a direction. Its acknowledgement travels with what it sends next."""
        direction.is_closed = True
        direction.is_done = self.engine.acks_at_once()
        if all(each.is_closed for each in stream.directions.values()):
            opener = stream.opened_by
            other = opener.peer
            if other is not None and other.closed is None:
                other.outbox.append(("streams", number))


class QuicLink:
    """Connection with both of its ends."""

    def __init__(self, network: Any, client_engine: ScriptedEngine, address: Address) -> None:
        self.network = network
        self.number = len(network.links) if not network.links else network.links[-1].number + 1
        self.streams: dict[int, Stream] = {}
        self.seen: set[int] = set()
        """Streams of which something has arrived at the client."""
        self.phase = 0
        """0: nothing arrived; 1: the client's first packet did; 2: the server's; 3: the handshake is complete."""
        self.is_cut = False
        """Nothing arrives any more, in either direction, and nobody says so."""
        self.is_paused = False
        """Nothing arrives for the time being."""
        self.address = address
        self.server: End | None = None
        self.client = End(client_engine, self, address, is_client=True)
        self.client.outbox.append(("first", 0))
        self.client.is_owed = True

    @property
    def ends(self) -> list[End]:
        return [end for end in (self.client, self.server) if end is not None]

    @property
    def is_over(self) -> bool:
        return all(end.closed is not None for end in self.ends)

    def shake_hands(self, kind: str) -> None:
        """A flight of the handshake has arrived."""
        if kind == "first" and self.phase == 0:
            engine = self.network.server_at(self.address)
            if engine is None:
                return
            self.phase = 1
            self.server = End(engine, self, self.network.next_client_address(), is_client=False)
            self.server.outbox.append(("second", 0))
        elif kind == "second" and self.phase == 1 and self.client.closed is None:
            self.phase = 2
            self.client.is_connected = True
            self.client.outbox.append(("third", 0))
            self.client.engine.tell(self.client, Connected())
        elif kind == "third" and self.phase == 2 and self.server is not None and self.server.closed is None:
            self.phase = 3
            self.server.is_connected = True
            self.server.engine.connections.append(self.server)
            self.server.engine.tell(self.server, Connected())
