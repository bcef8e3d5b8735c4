"""A TCP connection that broke: what it had said arrives before the reset, and nothing more is sent to it."""

import asyncio
import hashlib

import pytest

from quictunnel.transport.delivery_watch import DELIVERY_TIMEOUT
from quictunnel.transport.link import CONTROL_STREAM
from quictunnel.transport.stream import Stream
from quictunnel.transport.stream_sender import MAX_DISCARDED
from quictunnel.wire.codes import SessionCode, StreamCode
from quictunnel.wire.credit import INITIAL_WINDOW
from quictunnel.wire.messages import StreamsAborted
from tests.simnet.clock import VirtualLoop
from tests.simnet.socket import Network
from tests.transport.sessions.session_pair import WAN, Pump, SessionPair, payloads

SIDES = ["edge", "client"]


class Broken:
    """Stands for a TCP connection that breaks with so much of its payload unsent."""

    def __init__(self, stream: Stream, payload: bytes) -> None:
        self.stream = stream
        self.left = memoryview(payload)
        self.lost: StreamCode | None = None
        stream.replace_consumer(self)
        stream.stop_receiving()
        self.stream_room()

    def stream_room(self) -> None:
        while self.left and (room := self.stream.room):
            part, self.left = bytes(self.left[:room]), self.left[room:]
            self.stream.write(part)
        if not self.left:
            self.stream.abort_after_delivery(StreamCode.ABORTED)

    def stream_data(self, chunks: list[bytes], size: int) -> None:
        raise AssertionError("bytes for a connection that is gone")

    def stream_end(self) -> None: ...

    def stream_lost(self, code: StreamCode, unconsumed: object) -> None:
        self.lost = code


async def streams(pair: SessionPair, breaks: str) -> tuple[Stream, Stream]:
    """The two halves of one stream: that of the side whose connection breaks, and the other."""
    arrival = asyncio.get_running_loop().create_future()
    pair.client_half.on_stream = arrival.set_result
    edge, client = pair.open(), await arrival
    return (edge, client) if breaks == "edge" else (client, edge)


@pytest.mark.parametrize("breaks", SIDES)
@pytest.mark.parametrize("size", [0, 1, 500_000])
async def test_data_before_a_reset_arrives_first(pair: SessionPair, breaks: str, size: int) -> None:
    here, there = await streams(pair, breaks)
    answer = payloads(1, 1, size)[0]
    listener = Pump(there, bytes(4_000_000))
    await asyncio.sleep(0.5)  # the window is full, and nobody takes anything
    Broken(here, answer)
    await listener.done.wait()
    assert (listener.lost, listener.ended) == (StreamCode.ABORTED, False)
    assert listener.hash.digest() == hashlib.sha256(answer).digest()
    await pair.settled()


@pytest.mark.parametrize("breaks", SIDES)
async def test_a_direction_that_had_ended_before_the_reset_ends_cleanly(pair: SessionPair, breaks: str) -> None:
    here, there = await streams(pair, breaks)
    answer = payloads(1, 1, 200_000)[0]
    listener = Pump(there, bytes(4_000_000))
    speaker = Pump(here, answer, reading=False)
    speaker.stream.stop_receiving()
    async with asyncio.timeout(5):
        await speaker.said.wait()
    speaker.stream.abort_after_delivery(StreamCode.ABORTED)
    await listener.done.wait()
    assert listener.ended
    assert listener.hash.digest() == hashlib.sha256(answer).digest()
    await pair.settled()
    assert listener.lost is StreamCode.ABORTED  # for its own direction, whose bytes nobody took


@pytest.mark.parametrize("breaks", SIDES)
async def test_a_sender_that_never_looks_for_its_answer_is_reset(pair: SessionPair, breaks: str) -> None:
    here, there = await streams(pair, breaks)
    listener = Pump(there, bytes(2 * MAX_DISCARDED), reading=False)
    await asyncio.sleep(0.5)
    taken = listener.sent
    assert taken <= INITIAL_WINDOW + 512 * 1024
    Broken(here, b"answer")
    await listener.done.wait()
    assert listener.received == 6
    assert listener.sent - taken == MAX_DISCARDED
    assert listener.lost is StreamCode.STALLED
    await pair.settled()


@pytest.mark.parametrize("breaks", SIDES)
async def test_reset_without_pending_data_is_immediate(
    pair: SessionPair, breaks: str, virtual_time: VirtualLoop
) -> None:
    here, there = await streams(pair, breaks)
    listener = Pump(there, b"x", reading=False)
    await asyncio.sleep(1)
    begun = virtual_time.time()
    here.abort_after_delivery(StreamCode.ABORTED)
    await listener.done.wait()
    assert virtual_time.time() - begun < 0.1
    await pair.settled()


@pytest.mark.parametrize("breaks", SIDES)
async def test_a_peer_that_takes_nothing_in_is_given_up(
    pair: SessionPair, breaks: str, virtual_time: VirtualLoop
) -> None:
    here, there = await streams(pair, breaks)
    listener = Pump(there, b"", reading=False)
    begun = virtual_time.time()
    broken = Broken(here, bytes(10 * INITIAL_WINDOW))
    await listener.done.wait()
    assert DELIVERY_TIMEOUT <= virtual_time.time() - begun <= DELIVERY_TIMEOUT + 1
    assert listener.lost is broken.lost is StreamCode.STALLED
    await pair.settled()


@pytest.mark.parametrize("breaks", SIDES)
async def test_a_peer_that_takes_it_in_slowly_gets_all_of_it(pair: SessionPair, breaks: str) -> None:
    here, there = await streams(pair, breaks)
    answer = payloads(1, 1, INITIAL_WINDOW)[0]
    listener = Pump(there, bytes(100), reading=False)
    Broken(here, answer)
    for _ in range(4):
        await asyncio.sleep(DELIVERY_TIMEOUT - 5)
        assert listener.lost is None
        there.consume(INITIAL_WINDOW // 4)
    await listener.done.wait()
    assert listener.lost is StreamCode.ABORTED
    assert listener.hash.digest() == hashlib.sha256(answer).digest()
    await pair.settled()


@pytest.mark.parametrize("breaks", SIDES)
@pytest.mark.parametrize("lost_after", [0.0, 0.01, 0.03, 0.06, 0.1])
async def test_a_delivery_survives_the_loss_of_the_link(
    network: Network, pair: SessionPair, breaks: str, lost_after: float
) -> None:
    """The link is lost before the other side has heard that it is stopped, or after."""
    pair.client_half.keeps = pair.edge_half.keeps = True
    here, there = await streams(pair, breaks)
    answer = payloads(1, 1, 400_000)[0]
    listener = Pump(there, bytes(4_000_000))
    await asyncio.sleep(0.2)
    Broken(here, answer)
    await asyncio.sleep(lost_after)
    for socket in network.sockets:
        socket.up.conditions.black_hole = socket.down.conditions.black_hole = True
    await pair.client_half.is_away.wait()
    await pair.edge_half.is_away.wait()
    await asyncio.sleep(4 * DELIVERY_TIMEOUT)
    assert listener.lost is None
    for socket in network.sockets:
        socket.up.conditions.black_hole = socket.down.conditions.black_hole = False
    pair.redial(network.socket(("10.0.2.1", 6001), both=WAN.copy()))
    async with asyncio.timeout(10):
        await listener.done.wait()
    assert (listener.lost, listener.ended) == (StreamCode.ABORTED, False)
    assert listener.hash.digest() == hashlib.sha256(answer).digest()
    await pair.settled()


async def test_both_connections_of_a_stream_may_break_at_once(pair: SessionPair) -> None:
    edge, client = await streams(pair, "edge")
    Broken(edge, bytes(10_000))
    Broken(client, bytes(10_000))
    async with asyncio.timeout(1):
        await pair.settled()


@pytest.mark.parametrize("breaks", SIDES)
async def test_peer_that_resets_both_directions_is_understood(pair: SessionPair, breaks: str) -> None:
    """As peers did that know no delivery."""
    here, there = await streams(pair, breaks)
    listener = Pump(there, bytes(1_000_000))
    await asyncio.sleep(0.2)
    connection = here._session.link.connection
    connection.stop(here.quic_stream, StreamCode.ABORTED)
    connection.reset(here.quic_stream, StreamCode.ABORTED)
    here._session.link.schedule_transmit()
    await listener.done.wait()
    assert listener.lost is StreamCode.ABORTED
    here.abort(StreamCode.ABORTED)
    await pair.settled()


async def test_leaving_visitor_ends_an_unclaimed_stream(pair: SessionPair) -> None:
    """The client still dials the origin, which may take minutes."""
    edge, client = await streams(pair, "edge")
    over = asyncio.Event()
    client.on_over = lambda _: over.set()
    edge.write(b"question")
    await asyncio.sleep(0.5)
    edge.abort_after_delivery(StreamCode.ABORTED)
    async with asyncio.timeout(DELIVERY_TIMEOUT / 10):
        await over.wait()
        await pair.settled()


@pytest.mark.parametrize("breaks", SIDES)
async def test_stream_without_a_quic_signal_ends_on_both_sides(
    pair: SessionPair, breaks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer's end arrives when it has been stopped, of which an engine tells nothing. It is acknowledged before
    the peer hears of the stop, which its engine then ignores, as it does with a reset of what has arrived."""
    here, there = await streams(pair, breaks)
    side, other = (pair.edge, pair.client) if breaks == "edge" else (pair.client, pair.edge)
    listener = Pump(there, b"")  # ends its direction at once
    hear = side.link.data

    def hear_control(stream: int, chunks: list[bytes], *, end: bool) -> None:
        if stream == CONTROL_STREAM:
            hear(stream, chunks, end=end)

    monkeypatch.setattr(side.link, "data", hear_control)
    monkeypatch.setattr(other.link, "stopped", lambda *_: None)
    monkeypatch.setattr(other.link, "reset", lambda *_: None)
    here.write(b"the last words")
    here.finish()
    here.abort_after_delivery(StreamCode.ABORTED)
    async with asyncio.timeout(5):
        await listener.done.wait()
        while pair.client.stream_count or pair.edge.stream_count:  # noqa: ASYNC110 - of virtual time
            await asyncio.sleep(0.05)


async def test_visitor_that_resets_during_the_dial_is_forgotten(pair: SessionPair) -> None:
    """The stop and the end arrive together, when nobody stands at the client's end."""
    taken: list[Stream] = []
    pair.client_half.on_stream = taken.append
    edge = pair.open()
    edge.write(b"question")
    edge.finish()
    edge.abort_after_delivery(StreamCode.ABORTED)
    async with asyncio.timeout(5):
        await pair.settled()
    assert all(stream.is_over for stream in taken)


async def test_peer_of_version_1_gets_credits(pair: SessionPair) -> None:
    pair.edge.version = pair.client.version = 1
    here, there = await streams(pair, "edge")
    listener = Pump(there, b"x" * 1000)
    Pump(here, b"y" * 1000, reading=False)
    await asyncio.sleep(0.2)
    here.abort(StreamCode.ABORTED)
    async with asyncio.timeout(5):
        await listener.done.wait()
        await pair.settled()


async def test_end_of_a_stream_that_never_was_ends_the_session(pair: SessionPair) -> None:
    pair.edge_half.keeps = False
    pair.client.send(StreamsAborted([(7, 1)]))
    await pair.edge_half.is_down.wait()
    assert pair.edge_half.down is not None
    assert pair.edge_half.down.code == SessionCode.PROTOCOL
