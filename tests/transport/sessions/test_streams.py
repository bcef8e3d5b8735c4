"""Tests of single streams: ends, resets, credit, and protocol violations."""

import asyncio
import hashlib
import itertools

import pytest

from quictunnel.transport.credit_sender import SWEEP_INTERVAL
from quictunnel.transport.engine import CloseCause, EngineSettings
from quictunnel.transport.link import MAX_CONTROL_QUEUE
from quictunnel.wire.codes import SessionCode, StreamCode
from quictunnel.wire.credit import INITIAL_WINDOW, MAX_USELESS_ENTRIES, USELESS_ENTRIES_PER_STREAM
from quictunnel.wire.framing import frame
from quictunnel.wire.messages import Bind, Credits, Unbind
from quictunnel.wire.preface import Preface, encode_preface
from tests.simnet.clock import VirtualLoop
from tests.transport.sessions.session_pair import Pump, SessionPair, payloads

SEND_BUFFER = EngineSettings(is_server=False, alpn="").send_buffer


class RecordingConsumer:
    """Consumer that records its calls and passes nothing on."""

    def __init__(self, stream):
        self.stream = stream
        self.data = b""
        self.ended = asyncio.Event()
        self.lost = asyncio.Event()
        self.code = None
        self.arrived = asyncio.Event()
        self.room = asyncio.Event()
        stream.attach(self)

    def stream_data(self, chunks, size):
        self.data += b"".join(chunks)
        assert size == sum(map(len, chunks))
        self.arrived.set()

    def stream_end(self):
        self.ended.set()

    def stream_room(self):
        self.room.set()

    def stream_lost(self, code, unconsumed=None):
        self.code = code
        self.lost.set()


async def attach_both_ends(pair: SessionPair) -> tuple[RecordingConsumer, RecordingConsumer]:
    """Open a stream and attach a passive side at each end."""
    arrival = asyncio.get_running_loop().create_future()
    pair.client_half.on_stream = arrival.set_result
    edge = RecordingConsumer(pair.open())
    return edge, RecordingConsumer(await arrival)


async def test_stream_is_announced_before_its_first_byte(pair: SessionPair) -> None:
    edge, client = await attach_both_ends(pair)
    assert client.stream.preface == edge.stream.preface == Preface(0, 1, False, "192.0.2.1", 1)
    edge.stream.abort(StreamCode.ABORTED)
    await client.lost.wait()


@pytest.mark.parametrize("first", ["edge", "client"])
async def test_directions_may_end_far_apart(pair: SessionPair, first: str) -> None:
    edge, client = await attach_both_ends(pair)
    begins, goes_on = (edge, client) if first == "edge" else (client, edge)
    begins.stream.write(b"question")
    begins.stream.finish()
    await goes_on.ended.wait()
    assert goes_on.data == b"question"
    goes_on.stream.consume(8)
    goes_on.stream.consume_end()
    await asyncio.sleep(60)
    goes_on.stream.write(b"answer")
    await begins.arrived.wait()
    goes_on.stream.finish()
    await begins.ended.wait()
    assert begins.data == b"answer"
    assert begins.code is goes_on.code is None
    begins.stream.consume(6)
    begins.stream.consume_end()
    await pair.settled()


async def test_a_stream_is_not_over_before_the_last_end_was_consumed(pair: SessionPair) -> None:
    edge, client = await attach_both_ends(pair)
    for side in (edge, client):
        side.stream.finish()
    await edge.ended.wait()
    await client.ended.wait()
    await asyncio.sleep(5)
    assert pair.edge.stream_count == pair.client.stream_count == 1
    edge.stream.consume_end()
    client.stream.consume_end()
    await pair.settled()


@pytest.mark.parametrize("code", list(StreamCode))
@pytest.mark.parametrize("who", ["edge", "client"])
async def test_giving_up_is_seen_as_a_reset_with_its_code(pair: SessionPair, who: str, code: StreamCode) -> None:
    edge, client = await attach_both_ends(pair)
    gives_up, hears = (edge, client) if who == "edge" else (client, edge)
    hears.stream.write(b"on its way")
    gives_up.stream.abort(code)
    await hears.lost.wait()
    assert hears.code is code
    assert not hears.ended.is_set()
    assert not gives_up.lost.is_set()
    await pair.settled()


async def test_a_reset_after_a_clean_half_still_resets_the_other(pair: SessionPair) -> None:
    edge, client = await attach_both_ends(pair)
    edge.stream.finish()
    await client.ended.wait()
    client.stream.consume_end()
    client.stream.write(b"half an answer")
    await edge.arrived.wait()
    client.stream.abort(StreamCode.ABORTED)
    await edge.lost.wait()
    assert not edge.ended.is_set()
    await pair.settled()


async def test_data_before_a_side_is_attached_is_bounded(pair: SessionPair) -> None:
    arrival = asyncio.get_running_loop().create_future()
    pair.client_half.on_stream = arrival.set_result
    payload = payloads(1, 1, INITIAL_WINDOW + 1000)[0]
    edge = RecordingConsumer(pair.open())
    edge.stream.write(payload)
    assert edge.stream.room == 0
    edge.stream.finish()
    stream = await arrival
    await asyncio.sleep(2)
    assert stream.bytes_received == INITIAL_WINDOW
    client = Pump(stream, b"")
    await client.done.wait()
    assert client.hash.digest() == hashlib.sha256(payload).digest()
    edge.stream.consume_end()
    await pair.settled()


async def test_side_that_never_consumes_gets_one_window(pair: SessionPair) -> None:
    edge, client = await attach_both_ends(pair)
    edge.stream.write(bytes(INITIAL_WINDOW))
    assert edge.stream.room == 0
    await asyncio.sleep(5)
    assert len(client.data) == INITIAL_WINDOW
    assert edge.stream.room == 0
    client.stream.consume(INITIAL_WINDOW)
    await edge.room.wait()
    assert edge.stream.room >= INITIAL_WINDOW
    edge.stream.abort(StreamCode.ABORTED)


async def test_few_bytes_are_credited_too_after_a_moment(pair: SessionPair) -> None:
    edge, client = await attach_both_ends(pair)
    edge.stream.write(b"x")
    await client.arrived.wait()
    client.stream.consume(1)
    await asyncio.sleep(2 * SWEEP_INTERVAL)
    assert edge.stream._sender.buffer.size == 0
    edge.stream.abort(StreamCode.ABORTED)


@pytest.mark.parametrize("first", ["edge", "client"])
async def test_a_half_closed_stream_may_be_silent_for_hours(pair: SessionPair, first: str) -> None:
    """A question whose answer takes its time, as with ``docker exec -i``: TCP has no time-out for it."""
    edge, client = await attach_both_ends(pair)
    asks, answers = (edge, client) if first == "edge" else (client, edge)
    asks.stream.write(b"question")
    asks.stream.finish()
    await answers.ended.wait()
    answers.stream.consume(8)
    answers.stream.consume_end()
    await asyncio.sleep(2 * 3600)
    assert asks.code is answers.code is None
    answers.stream.write(b"answer")
    answers.stream.finish()
    await asks.ended.wait()
    assert asks.data == b"answer"
    asks.stream.consume(6)
    asks.stream.consume_end()
    await pair.settled()


@pytest.mark.parametrize("hours", [3, pytest.param(24, marks=pytest.mark.long)])
async def test_an_open_stream_may_be_silent_for_hours(pair: SessionPair, hours: int) -> None:
    edge, client = await attach_both_ends(pair)
    await asyncio.sleep(hours * 3600)
    edge.stream.write(b"still there?")
    await client.arrived.wait()
    edge.stream.abort(StreamCode.ABORTED)


async def test_the_end_of_a_session_is_a_reset_for_its_streams(pair: SessionPair) -> None:
    edge, client = await attach_both_ends(pair)
    pair.client.close(SessionCode.DONE)
    await edge.lost.wait()
    await client.lost.wait()
    assert pair.edge_half.down is not None
    assert (pair.edge_half.down.cause, pair.edge_half.down.code) == (CloseCause.PEER, SessionCode.DONE)


async def ends_with_protocol(pair: SessionPair, half) -> None:
    """``half`` noticed a breach and said so."""
    await pair.client_half.is_down.wait()
    await pair.edge_half.is_down.wait()
    other = pair.edge_half if half is pair.client_half else pair.client_half
    assert half.down.cause is CloseCause.LOCAL
    assert (other.down.cause, other.down.code) == (CloseCause.PEER, SessionCode.PROTOCOL)


class TestBreaches:
    async def test_bytes_beyond_the_credit(self, pair: SessionPair) -> None:
        edge, _ = await attach_both_ends(pair)
        edge.stream._sender.limit = 1 << 40
        edge.stream.write(bytes(INITIAL_WINDOW + 1))
        await ends_with_protocol(pair, pair.client_half)

    @pytest.mark.parametrize(
        "entry",
        [(0, 1, INITIAL_WINDOW), (0, 0, INITIAL_WINDOW - 1), (0, 0, 1 << 30), (7, 0, 0)],
        ids=["never sent", "taken back", "too much", "no such stream"],
    )
    async def test_dishonest_credit(self, pair: SessionPair, entry: tuple[int, int, int]) -> None:
        await attach_both_ends(pair)
        pair.client.send(Credits([entry]))
        await ends_with_protocol(pair, pair.edge_half)

    async def test_credit_for_a_stream_that_is_over_is_no_breach(self, pair: SessionPair) -> None:
        edge, client = await attach_both_ends(pair)
        edge.stream.abort(StreamCode.ABORTED)
        await client.lost.wait()
        pair.client.send(Credits([(0, 0, INITIAL_WINDOW)]))
        await asyncio.sleep(1)
        assert not pair.edge.link.is_down

    async def test_credit_that_changes_nothing_is_no_breach_until_it_is_too_much(self, pair: SessionPair) -> None:
        await attach_both_ends(pair)
        allowed = MAX_USELESS_ENTRIES + USELESS_ENTRIES_PER_STREAM
        for _ in range(3):
            for _ in range(allowed):
                pair.client.send(Credits([(0, 0, INITIAL_WINDOW)]))
            await asyncio.sleep(1)  # of virtual time, in which it is forgiven
            assert not pair.edge.link.is_down
        for _ in range(2 * allowed):
            pair.client.send(Credits([(0, 0, INITIAL_WINDOW)]))
        await ends_with_protocol(pair, pair.edge_half)

    async def test_a_message_out_of_turn(self, pair: SessionPair) -> None:
        pair.edge.link.connection.write(0, frame(Bind(1, False, False, b"")))
        pair.edge.link.schedule_transmit()
        await ends_with_protocol(pair, pair.client_half)

    @pytest.mark.parametrize("garbage", [b"\xff" * 8, b"\0\0\0\x02\x91\x63", b"\0\0\0\0"])
    async def test_garbage_on_the_control_stream(self, pair: SessionPair, garbage: bytes) -> None:
        pair.client.link.connection.write(0, garbage)
        pair.client.link.schedule_transmit()
        await ends_with_protocol(pair, pair.edge_half)

    async def test_the_end_of_the_control_stream(self, pair: SessionPair) -> None:
        pair.client.link.connection.finish(0)
        pair.client.link.schedule_transmit()
        await ends_with_protocol(pair, pair.edge_half)

    async def test_a_reset_of_the_control_stream(self, pair: SessionPair) -> None:
        pair.client.link.connection.reset(0, 1)
        pair.client.link.schedule_transmit()
        await ends_with_protocol(pair, pair.edge_half)

    @pytest.mark.parametrize("preface", [b"\0", b"\x02\x91\x01", b"\x05\xff\xff\xff\xff\xff"])
    async def test_a_malformed_preface(self, pair: SessionPair, preface: bytes) -> None:
        quic_stream = pair.edge.link.connection.open()
        pair.edge.link.connection.write(quic_stream, preface)
        pair.edge.link.schedule_transmit()
        await ends_with_protocol(pair, pair.client_half)

    async def test_a_stream_that_ends_within_its_preface(self, pair: SessionPair) -> None:
        quic_stream = pair.edge.link.connection.open()
        pair.edge.link.connection.write(quic_stream, b"\x10\x95")
        pair.edge.link.connection.finish(quic_stream)
        pair.edge.link.schedule_transmit()
        await ends_with_protocol(pair, pair.client_half)

    async def test_two_streams_with_one_number(self, pair: SessionPair) -> None:
        await attach_both_ends(pair)
        quic_stream = pair.edge.link.connection.open()
        pair.edge.link.connection.write(quic_stream, encode_preface(Preface(0, 1, False, "", 0)))
        pair.edge.link.schedule_transmit()
        await ends_with_protocol(pair, pair.client_half)


async def test_visitor_leaving_within_its_preface_is_harmless(pair: SessionPair) -> None:
    connection = pair.edge.link.connection
    quic_stream = connection.open()
    connection.write(quic_stream, b"\x10\x95")
    pair.edge.link.schedule_transmit()
    await asyncio.sleep(1)
    connection.reset(quic_stream, StreamCode.ABORTED)
    connection.stop(quic_stream, StreamCode.ABORTED)
    pair.edge.link.schedule_transmit()
    await pair.settled()
    edge, client = await attach_both_ends(pair)
    edge.stream.abort(StreamCode.ABORTED)
    await client.lost.wait()


async def test_the_control_queue_is_bounded(pair: SessionPair) -> None:
    """A peer that takes nothing in any more cannot make this side pile up messages for ever."""
    # All within one turn of the loop: nothing leaves in between, and the engine takes no more than its buffer.
    for _ in range((MAX_CONTROL_QUEUE + SEND_BUFFER) // len(frame(Unbind(1))) + 1):
        pair.client.send(Unbind(1))
    await pair.client_half.is_down.wait()
    assert pair.client_half.down is not None
    assert pair.client_half.down.cause is CloseCause.LOCAL
    assert pair.client_half.down.code == SessionCode.PROTOCOL


async def test_a_download_survives_a_nat_that_changes_its_mind(
    pair: SessionPair, network, virtual_time: VirtualLoop
) -> None:
    """The client does not know that its public address changed, and has nothing to say by itself."""
    payload = payloads(1, 1, 3_000_000)[0]
    arrivals: list[float] = []
    downloads: list[Pump] = []
    pair.client_half.on_stream = lambda stream: downloads.append(
        Pump(stream, b"", note=lambda: arrivals.append(virtual_time.time()))
    )
    source = Pump(pair.open(), payload)
    (socket,) = (s for s in network.sockets if s.local_address[0] == "10.0.0.2")
    for port in (6001, 6002, 6003):
        await asyncio.sleep(0.12)
        socket.move(("10.0.0.2", port))
    await downloads[0].done.wait()
    await source.done.wait()
    assert downloads[0].hash.digest() == hashlib.sha256(payload).digest()
    pauses = [after - before for before, after in itertools.pairwise(arrivals)]
    assert 0.1 < max(pauses) < 3  # it was interrupted, and not for long
    await pair.settled()
