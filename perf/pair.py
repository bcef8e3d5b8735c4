"""Two engines in one process with one connection between them, for tests with many streams and no network.

There are no sockets: bursts are handed over directly. Time is virtual and advances to the next timer when nothing
else can be done. All events of the engines are checked against the state of the streams, and at the end no state
may be left.
"""

from __future__ import annotations

import collections
import random
from typing import TYPE_CHECKING, Any, Final

from quictunnel.transport.engine import Connected, Data, EngineSettings, Received, Reset, Stopped, Writable
from quictunnel.transport.engines import create_engine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from quictunnel.transport.engine import Connection, Event

NAME: Final = "soak.test"
EDGE: Final = ("192.0.2.1", 4433)
CLIENT: Final = ("198.51.100.7", 50_000)
ROUND_TRIP: Final = 0.001
"""The round trip."""
MAX_VIRTUAL_WAIT: Final = 300.0
"""Virtual seconds after which a wait fails."""
ABORT_CODE: Final = 3
SENDING, RECEIVING = 1, 2


class Failed(Exception):  # noqa: N818  a failed check, not a programming error
    """A check failed; the message is one line."""


class EngineEnd:
    """An engine with its end of the connection, and the open halves of its streams."""

    connection: Connection

    def __init__(self, engine: str, directory: Path, *, is_server: bool, **changes: Any) -> None:
        settings = EngineSettings(
            is_server=is_server,
            alpn="quictunnel-soak",
            certificate=directory / "leaf.pem" if is_server else None,
            private_key=directory / "leaf.key" if is_server else None,
            authority=None if is_server else directory / "ca.pem",
            **changes,
        )
        self.engine: Any = create_engine(settings, engine)
        self.address = EDGE if is_server else CLIENT
        self.inbox: list[Received] = []
        self.sent = self.arrived = 0
        """Bytes of datagrams."""
        self.event_counts: collections.Counter[str] = collections.Counter()
        """Events by their kinds."""
        self.opened = 0
        self.begun = 0
        """Number of the peer's streams that have begun, by RFC 9000 section 3.2."""
        self.awaited: set[int] = set()
        """Streams among these without any event so far."""
        self.open: dict[int, int] = {}

    # For users of the connection

    def begin(self) -> int:
        """Open a stream."""
        stream = self.connection.open()
        if stream is None:
            raise Failed(f"no stream could be opened after {self.opened:,}")
        self.open[stream] = SENDING | RECEIVING
        self.opened += 1
        return stream

    def is_sending(self, stream: int) -> bool:
        """Return True if the sending half of a stream is open."""
        return bool(self.open.get(stream, 0) & SENDING)

    def finish(self, stream: int) -> None:
        """End the sending half cleanly."""
        self.connection.finish(stream)
        self._over(stream, SENDING)

    def stop(self, stream: int, code: int) -> None:
        """Ask the peer to stop sending."""
        self.connection.stop(stream, code)
        self._over(stream, RECEIVING)

    def abort(self, stream: int, code: int = ABORT_CODE) -> None:
        """Reset the sending half and stop the receiving half."""
        self.connection.reset(stream, code)
        self._over(stream, SENDING)
        self.stop(stream, code)

    def data(self, stream: int, chunks: list[bytes], *, end: bool) -> None:
        """Handle received bytes or an end; for subclasses."""

    def writable(self, stream: int) -> None:
        """Continue to write; for subclasses."""

    # For the pair

    def on_event(self, connection: Connection, event: Event) -> None:
        """Check an event of the engine against the state, record it, and call the handler."""
        self.event_counts[type(event).__name__] += 1
        match event:
            case Connected():
                self.connection = connection
            case Data(stream, chunks, end):
                self._expect(stream)
                if end:
                    self._over(stream, RECEIVING)
                self.data(stream, chunks, end=end)
            case Reset(stream, _):
                self._expect(stream)
                self._over(stream, RECEIVING)
                if self.is_sending(stream):
                    self.abort(stream)
            case Stopped(stream, _):
                self._over(stream, SENDING)
            case Writable(stream):
                self.writable(stream)

    def uncounted(self) -> tuple[int, int]:
        """Return the bytes sent and received that are missing in the engine's counters."""
        stats = self.connection.stats()
        return self.sent - stats.bytes_sent, self.arrived - stats.bytes_received

    def describe_open_streams(self) -> str:
        """Return a description of streams that are still open; empty if there are none."""
        streams = self.connection.stats().streams_open
        if not (self.open or self.awaited or streams):
            return ""
        halves = collections.Counter(self.open.values())
        return (
            f"{halves[SENDING]} streams still sending, {halves[RECEIVING]} receiving, {halves[3]} both, "
            f"{len(self.awaited)} without an event, {streams} in the engine"
        )

    def describe_leaks(self) -> str:
        """Return a description of state that is left after the connection was closed and has drained; empty if
        there is none."""
        # A leak shows only in private attributes.
        known, inside = len(self.engine._connections), (0, 0)  # noqa: SLF001
        if self.engine.name == "native":
            inside = self.engine._engine.population()  # noqa: SLF001
        unfinished = len(list(self.engine.poll()))
        is_clean = not (known or any(inside) or unfinished or self.engine.has_connections())
        if is_clean and self.engine.timeout() is None and self.event_counts["Closed"] == 1:
            return ""
        return (
            f"{known} connections, {inside} inside, {unfinished} events, timer {self.engine.timeout()}, "
            f"{self.event_counts['Closed']} ends reported"
        )

    def _over(self, stream: int, half: int) -> None:
        left = self.open.pop(stream, 0) & ~half
        if left:
            self.open[stream] = left

    def _expect(self, stream: int) -> None:
        """Check that an event of this stream is allowed: the peer has opened it, or its receiving half is open."""
        number = stream >> 2
        if bool(stream & 1) == self.connection.is_client:
            self.awaited.update(range(self.begun, number + 1))
            self.begun = max(self.begun, number + 1)
            if number in self.awaited:
                self.awaited.remove(number)
                self.open[stream] = SENDING | RECEIVING
        if not self.open.get(stream, 0) & RECEIVING:
            raise Failed(f"stream {stream} had an event after its end")


class Pair:
    """Two sides, the datagrams in flight between them, and the virtual time."""

    def __init__(self, edge: EngineEnd, client: EngineEnd, *, loss: float = 0.0) -> None:
        self.edge, self.client, self.loss = edge, client, loss
        self.sides = (edge, client)
        self.chance = random.Random(1)
        self.now = 1000.0
        client.connection = client.engine.connect(EDGE, NAME, self.now)
        self.until(
            lambda: bool(edge.event_counts["Connected"] and client.event_counts["Connected"]), "the handshake"
        )
        edge.connection.admit()
        self.advance(1)
        # Datagrams of Retry belong to no connection.
        self.uncounted = [side.uncounted() for side in self.sides]

    def turn(self) -> bool:
        """Do everything that can be done now. Return True if there was anything."""
        busy = False
        for here, there in (self.sides, self.sides[::-1]):
            batch, here.inbox = here.inbox, []
            if batch:
                here.engine.receive(batch, self.now)
                here.arrived += sum(len(received.payload) for received in batch)
            due = here.engine.timeout()
            if is_due := due is not None and due <= self.now:
                here.engine.expire(self.now)
            for connection, event in here.engine.poll():
                here.on_event(connection, event)
                busy = True
            bursts = list(here.engine.transmit(self.now))
            for burst in bursts:
                joined = burst.parts[0] if len(burst.parts) == 1 else b"".join(burst.parts)
                here.sent += len(joined)
                if not self.loss or self.chance.random() >= self.loss:
                    there.inbox.append(Received(joined, burst.segment, here.address))
            busy |= bool(batch or is_due or bursts)
        if busy:
            self.now += ROUND_TRIP
        return busy

    def until(self, done: Callable[[], bool], what: str) -> None:
        """Run until ``done()`` returns True. Raises Failed if that takes too long or the connection closes."""
        end = self.now + MAX_VIRTUAL_WAIT
        while not done():
            if not self._advance(end) or any(side.event_counts["Closed"] for side in self.sides):
                counts = " and ".join(str(dict(side.event_counts)) for side in self.sides)
                raise Failed(f"{what} did not end; events: {counts}")

    def advance(self, seconds: float) -> None:
        """Let time pass, and timers expire."""
        end = self.now + seconds
        while self._advance(end):
            pass

    def close(self) -> None:
        """Close the connection. Raises Failed if streams are open before, or if state is left afterwards."""
        self.advance(1)
        for side, uncounted in zip(self.sides, self.uncounted, strict=True):
            if left := side.describe_open_streams():
                raise Failed(f"left open at {side.address[0]}: {left}")
            if side.uncounted() != uncounted:
                raise Failed(f"{side.address[0]} counts bytes wrong: {uncounted} became {side.uncounted()}")
        self.client.connection.close(0)
        self.advance(60)
        for side in self.sides:
            if left := side.describe_leaks():
                raise Failed(f"left behind at {side.address[0]}: {left}")

    def _advance(self, end: float) -> bool:
        """Do a turn, or advance to the next timer. Return False when ``end`` is reached."""
        if not self.turn():
            timers = [side.engine.timeout() for side in self.sides]
            self.now = max(self.now, min(at for at in (*timers, end) if at is not None))
        return self.now < end
