"""Two engines in one process with one connection between them, for what needs many streams and no network.

No sockets: bursts are handed over directly. Time is virtual and runs on to the next timer when nothing else can be
done. Everything that an engine tells is held against what may be told, and at the end nothing may be left.
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
TICK: Final = 0.001
"""The round trip."""
PATIENCE: Final = 300.0
"""Virtual seconds after which what was waited for will not come."""
GONE: Final = 3
SENDING, RECEIVING = 1, 2


class Failed(Exception):  # noqa: N818  it is what a run has, not an error in it
    """What is wrong, in one line."""


class Side:
    """An engine with its end of the connection, and which halves of its streams are not over."""

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
        self.told: collections.Counter[str] = collections.Counter()
        """Events by their kinds."""
        self.opened = 0
        self.begun = 0
        """The peer's streams up to here have begun, by RFC 9000 section 3.2."""
        self.awaited: set[int] = set()
        """Those of them that nothing was heard of."""
        self.open: dict[int, int] = {}

    # For those who use the connection

    def begin(self) -> int:
        stream = self.connection.open()
        if stream is None:
            raise Failed(f"no stream could be opened after {self.opened:,}")
        self.open[stream] = SENDING | RECEIVING
        self.opened += 1
        return stream

    def is_sending(self, stream: int) -> bool:
        return bool(self.open.get(stream, 0) & SENDING)

    def finish(self, stream: int) -> None:
        self.connection.finish(stream)
        self._over(stream, SENDING)

    def stop(self, stream: int, code: int) -> None:
        self.connection.stop(stream, code)
        self._over(stream, RECEIVING)

    def give_up(self, stream: int, code: int = GONE) -> None:
        self.connection.reset(stream, code)
        self._over(stream, SENDING)
        self.stop(stream, code)

    def data(self, stream: int, chunks: list[bytes], *, end: bool) -> None:
        """Bytes or an end came."""

    def writable(self, stream: int) -> None:
        """There is room again."""

    # For the pair

    def hear(self, connection: Connection, event: Event) -> None:
        self.told[type(event).__name__] += 1
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
                    self.give_up(stream)
            case Stopped(stream, _):
                self._over(stream, SENDING)
            case Writable(stream):
                self.writable(stream)

    def uncounted(self) -> tuple[int, int]:
        """Bytes that were handed over and are not in the engine's counters."""
        stats = self.connection.stats()
        return self.sent - stats.bytes_sent, self.arrived - stats.bytes_received

    def left_open(self) -> str:
        streams = self.connection.stats().streams_open
        if not (self.open or self.awaited or streams):
            return ""
        halves = collections.Counter(self.open.values())
        return (
            f"{halves[SENDING]} streams still sending, {halves[RECEIVING]} receiving, {halves[3]} both, "
            f"{len(self.awaited)} never heard of, {streams} in the engine"
        )

    def left_behind(self) -> str:
        """After the connection is closed and has drained."""
        # Nothing public tells what only a leak can leave.
        known, inside = len(self.engine._connections), (0, 0)  # noqa: SLF001
        if self.engine.name == "native":
            inside = self.engine._engine.population()  # noqa: SLF001
        unfinished = len(list(self.engine.poll()))
        is_clean = not (known or any(inside) or unfinished or self.engine.has_connections())
        if is_clean and self.engine.timeout() is None and self.told["Closed"] == 1:
            return ""
        return (
            f"{known} connections, {inside} inside, {unfinished} events, timer {self.engine.timeout()}, "
            f"told of {self.told['Closed']} ends"
        )

    def _over(self, stream: int, half: int) -> None:
        left = self.open.pop(stream, 0) & ~half
        if left:
            self.open[stream] = left

    def _expect(self, stream: int) -> None:
        """News may come of a stream that the peer began, and of one whose receiving half is not over."""
        number = stream >> 2
        if bool(stream & 1) == self.connection.is_client:
            self.awaited.update(range(self.begun, number + 1))
            self.begun = max(self.begun, number + 1)
            if number in self.awaited:
                self.awaited.remove(number)
                self.open[stream] = SENDING | RECEIVING
        if not self.open.get(stream, 0) & RECEIVING:
            raise Failed(f"stream {stream} was heard of after its end")


class Pair:
    """Two sides, what is under way between them, and the time."""

    def __init__(self, edge: Side, client: Side, *, loss: float = 0.0) -> None:
        self.edge, self.client, self.loss = edge, client, loss
        self.sides = (edge, client)
        self.chance = random.Random(1)
        self.now = 1000.0
        client.connection = client.engine.connect(EDGE, NAME, self.now)
        self.until(lambda: bool(edge.told["Connected"] and client.told["Connected"]), "the handshake")
        edge.connection.admit()
        self.quiet(1)
        # A handshake has datagrams (Retry) that are no connection's.
        self.uncounted = [side.uncounted() for side in self.sides]

    def turn(self) -> bool:
        """Whatever can be done now; whether anything was."""
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
                here.hear(connection, event)
                busy = True
            bursts = list(here.engine.transmit(self.now))
            for burst in bursts:
                joined = burst.parts[0] if len(burst.parts) == 1 else b"".join(burst.parts)
                here.sent += len(joined)
                if not self.loss or self.chance.random() >= self.loss:
                    there.inbox.append(Received(joined, burst.segment, here.address))
            busy |= bool(batch or is_due or bursts)
        if busy:
            self.now += TICK
        return busy

    def until(self, done: Callable[[], bool], what: str) -> None:
        end = self.now + PATIENCE
        while not done():
            if not self._go_on(end) or any(side.told["Closed"] for side in self.sides):
                told = " and ".join(str(dict(side.told)) for side in self.sides)
                raise Failed(f"{what} did not come to its end; told were {told}")

    def quiet(self, seconds: float) -> None:
        """Let time pass, and timers run out."""
        end = self.now + seconds
        while self._go_on(end):
            pass

    def close(self) -> None:
        """Nothing may be left open before, nor left behind after."""
        self.quiet(1)
        for side, uncounted in zip(self.sides, self.uncounted, strict=True):
            if left := side.left_open():
                raise Failed(f"left open at {side.address[0]}: {left}")
            if side.uncounted() != uncounted:
                raise Failed(f"{side.address[0]} counts bytes wrong: {uncounted} became {side.uncounted()}")
        self.client.connection.close(0)
        self.quiet(60)
        for side in self.sides:
            if left := side.left_behind():
                raise Failed(f"left behind at {side.address[0]}: {left}")

    def _go_on(self, end: float) -> bool:
        """A turn, or time passes until the next timer; False when it is up."""
        if not self.turn():
            timers = [side.engine.timeout() for side in self.sides]
            self.now = max(self.now, min(at for at in (*timers, end) if at is not None))
        return self.now < end
