"""A bulk transfer does not make a keystroke wait, nor does one stalled reader stop the others."""

import asyncio
import statistics

import pytest

from quictunnel.transport.stream import Stream
from quictunnel.wire.codes import StreamCode
from tests.simnet.clock import VirtualLoop
from tests.simnet.link import Conditions
from tests.transport.sessions.session_pair import Pump, StartPair

RTT = 0.05


class Echo:
    """An origin that answers every byte."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        stream.attach(self)

    def stream_data(self, chunks: list[bytes], size: int) -> None:
        self.stream.consume(size)
        self.stream.write(b"".join(chunks))

    def stream_end(self) -> None:
        self.stream.consume_end()
        self.stream.finish()

    def stream_room(self) -> None: ...
    def stream_lost(self, code: StreamCode, unconsumed: object) -> None: ...


class Typist:
    """A visitor that types a byte and measures how long its echo takes."""

    def __init__(self, stream: Stream, loop: VirtualLoop) -> None:
        self.stream = stream
        self.loop = loop
        self.typed: list[float] = []
        self.echoed: list[float] = []
        self.all_echoed = asyncio.Event()
        self.done = asyncio.Event()
        self.keys = 0
        stream.attach(self)

    async def type(self, keys: int, pause: float) -> list[float]:
        self.keys = keys
        for _ in range(keys):
            self.typed.append(self.loop.time())
            self.stream.write(b"x")
            await asyncio.sleep(pause)
        await self.all_echoed.wait()
        self.stream.finish()
        await self.done.wait()
        return [b - a for a, b in zip(self.typed, self.echoed, strict=True)]

    def stream_data(self, chunks: list[bytes], size: int) -> None:
        self.echoed += [self.loop.time()] * size
        self.stream.consume(size)
        if len(self.echoed) == self.keys:
            self.all_echoed.set()

    def stream_end(self) -> None:
        self.stream.consume_end()
        self.done.set()

    def stream_room(self) -> None: ...
    def stream_lost(self, code: StreamCode, unconsumed: object) -> None:
        raise AssertionError(code)


@pytest.mark.parametrize("loss", [0.0, 0.01])
async def test_keystroke_beside_a_bulk_transfer_is_quick(
    start_pair: StartPair, virtual_time: VirtualLoop, loss: float, engines: tuple[str, str]
) -> None:
    """CUBIC, which aioquic has, overfills the queue every few seconds. When that strikes a keystroke it and those
    behind it take two round trips of a full queue, 200 ms. At a native edge it does in some runs, so there one
    in twenty may; elsewhere one in a hundred."""
    pair = start_pair(both=Conditions.wan(mbit=100, rtt=RTT, loss=loss))
    await pair.greet()
    bulk_size = 40 * 1024 * 1024 if not loss else 8 * 1024 * 1024

    def serve(stream: Stream) -> None:
        if stream.number == 0:
            bulk.append(Pump(stream, bytes(bulk_size)))
        else:
            Echo(stream)

    bulk: list[Pump] = []
    pair.client_half.on_stream = serve
    download = Pump(pair.open(), b"")
    await asyncio.sleep(1)  # of virtual time: the bulk transfer is at full speed
    typist = Typist(pair.open(), virtual_time)
    times = await typist.type(100, 0.05)
    p50, p99 = statistics.median(times), sorted(times)[98]
    print(f"loss {loss:.0%}: p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms, worst {max(times) * 1000:.0f} ms")
    assert download.received > 1024 * 1024
    p95 = sorted(times)[94]
    assert (p95 if engines == ("aioquic", "native") else p99) <= 3 * RTT
    assert max(times) <= 5 * RTT
    async with asyncio.timeout(600):
        await download.done.wait()
        await pair.settled()


async def test_hundred_stalled_readers_do_not_block_others(
    start_pair: StartPair, virtual_time: VirtualLoop
) -> None:
    pair = start_pair(both=Conditions.wan(mbit=100, rtt=RTT))
    await pair.greet()
    size = 4 * 1024 * 1024
    pair.client_half.on_stream = lambda stream: origins.append(Pump(stream, bytes(size)))
    origins: list[Pump] = []
    stalled = [Pump(pair.open(), b"", reading=False) for _ in range(100)]
    await asyncio.sleep(5)
    held = sum(pump.received for pump in stalled)
    assert held <= 100 * 64 * 1024
    assert all(origin.sent <= 64 * 1024 for origin in origins)
    begin = virtual_time.time()
    reader = Pump(pair.open(), b"")
    await reader.done.wait()
    seconds = virtual_time.time() - begin
    assert reader.received == size
    print(f"beside 100 stalled readers: {size * 8 / seconds / 1e6:.0f} Mbit/s")
    assert size * 8 / seconds / 1e6 > 30  # from a cold start: slow start and window growth included
    for pump in stalled:
        pump.stream.abort(StreamCode.ABORTED)
    await pair.settled()
    assert all(origin.lost is StreamCode.ABORTED for origin in origins[:100])
