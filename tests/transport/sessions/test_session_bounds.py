"""Ends of which QUIC cannot tell, what is in flight, what a session keeps, and what comes out of turn."""

import asyncio
import time

import pytest

from quictunnel.transport.link import CONTROL_STREAM
from quictunnel.transport.session import MAX_RETAINED_BYTES
from quictunnel.transport.stream import ACTIVE_TIME
from quictunnel.wire.codes import SessionCode, StreamCode
from quictunnel.wire.credit import INITIAL_WINDOW
from quictunnel.wire.framing import frame
from quictunnel.wire.messages import MAX_WINDOW, Bind, Credits
from quictunnel.wire.preface import Preface, encode_preface
from tests.transport.sessions.session_pair import WAN, Half, SessionPair, StartPair


class StalledConsumer:
    """Consumer that accepts bytes and never consumes them."""

    def __init__(self, stream):
        self.stream = stream
        self.size = 0
        self.ended = asyncio.Event()
        self.lost = asyncio.Event()
        stream.attach(self)

    def stream_data(self, chunks, size):
        self.size += size

    def stream_end(self):
        self.ended.set()

    def stream_room(self): ...

    def stream_lost(self, code, unconsumed=None):
        self.lost.set()


async def attach_both_ends(pair: SessionPair) -> tuple[StalledConsumer, StalledConsumer]:
    arrival = asyncio.get_running_loop().create_future()
    pair.client_half.on_stream = arrival.set_result
    edge = StalledConsumer(pair.open())
    return edge, StalledConsumer(await arrival)


@pytest.mark.parametrize("who", ["edge", "client"])
async def test_abort_after_both_ends_reaches_the_other_side(pair: SessionPair, who: str) -> None:
    """QUIC has no word left then: both directions are complete, so neither RESET_STREAM nor STOP_SENDING goes."""
    edge, client = await attach_both_ends(pair)
    gives_up, other = (edge, client) if who == "edge" else (client, edge)
    for side in (edge, client):
        side.stream.write(bytes(1000))
        side.stream.finish()
    await edge.ended.wait()
    await client.ended.wait()
    await asyncio.sleep(1)  # acknowledged
    gives_up.stream.abort(StreamCode.ABORTED)
    other.stream.consume(1000)
    other.stream.consume_end()
    async with asyncio.timeout(30):
        await pair.settled()


async def test_stream_with_unsent_bytes_is_in_flight(pair: SessionPair) -> None:
    """A slow visitor takes seconds over what is in its window; whoever drains must see that."""
    edge, client = await attach_both_ends(pair)
    client.stream.write(bytes(INITIAL_WINDOW))
    await asyncio.sleep(2 * ACTIVE_TIME)
    assert edge.size == INITIAL_WINDOW
    assert pair.edge.is_active(pair.edge.now())
    assert pair.client.is_active(pair.client.now())
    edge.stream.consume(INITIAL_WINDOW)
    client.stream.finish()
    await asyncio.sleep(2 * ACTIVE_TIME)
    assert pair.edge.is_active(pair.edge.now())  # the end has not been passed on
    assert pair.client.is_active(pair.client.now())
    edge.stream.consume_end()
    await asyncio.sleep(2 * ACTIVE_TIME)
    assert not pair.edge.is_active(pair.edge.now())
    assert not pair.client.is_active(pair.client.now())
    edge.stream.abort(StreamCode.ABORTED)


@pytest.mark.slow
async def test_retained_bytes_are_bounded_with_any_peer_limit(pair: SessionPair) -> None:
    """A peer that raises limits and consumes nothing makes the sender retain it all."""
    limit = MAX_RETAINED_BYTES
    streams = [pair.open() for _ in range(2 * limit // MAX_WINDOW)]
    pair.client_half.on_stream = StalledConsumer
    await asyncio.sleep(1)
    pair.client.send(Credits([(stream.number, 0, MAX_WINDOW) for stream in streams]))
    keepers = [StalledConsumer(stream) for stream in streams]
    for stream in pair.client._streams.values():
        stream.receive_window.limit = MAX_WINDOW  # as it has told
    await asyncio.sleep(1)
    for _ in range(MAX_WINDOW // INITIAL_WINDOW):
        for side in keepers:
            if side.stream.room >= INITIAL_WINDOW:
                side.stream.write(bytes(INITIAL_WINDOW))
        await asyncio.sleep(0.5)
    held = sum(stream._sender.buffer.size - INITIAL_WINDOW for stream in streams)
    assert limit <= held <= limit + INITIAL_WINDOW
    assert pair.edge.retained_bytes == held
    another = pair.open()  # a stream that retains little is not held up
    assert another.room == INITIAL_WINDOW
    streams.append(another)
    for stream in streams:
        stream.abort(StreamCode.ABORTED)
    assert pair.edge.retained_bytes == 0


class Share:
    """Memory of a token, of which nothing is left while it is said so."""

    def __init__(self) -> None:
        self.taken = 0
        self.is_used_up = False

    def lend(self, wanted: int) -> int:
        return 0

    def charge(self, more: int) -> None:
        self.taken += more


async def test_a_token_without_memory_keeps_initial_windows_and_no_more(pair: SessionPair) -> None:
    """The limit holds whatever the client allows, and retained bytes are given back at the end."""
    share = pair.edge.window_pool.memory_share = Share()
    streams = [pair.open() for _ in range(2)]
    pair.client_half.on_stream = StalledConsumer
    await asyncio.sleep(1)
    pair.client.send(Credits([(stream.number, 0, MAX_WINDOW) for stream in streams]))
    for stream in pair.client._streams.values():
        stream.receive_window.limit = MAX_WINDOW  # as it has told
    await asyncio.sleep(1)
    first, second = streams
    assert first.room == MAX_WINDOW
    first.write(bytes(3 * INITIAL_WINDOW))
    assert share.taken == 2 * INITIAL_WINDOW
    share.is_used_up = True
    assert first.room == 0
    assert second.room == INITIAL_WINDOW
    assert second.receive_window._pool.take(0, INITIAL_WINDOW) == 0
    for stream in streams:
        stream.abort(StreamCode.ABORTED)
    assert share.taken == 0


async def test_messages_in_the_batch_of_the_close_are_ignored(pair: SessionPair) -> None:
    """A client that was replaced must not bind again, which would take the name from the one that replaced it."""
    pair.edge.close(SessionCode.LINK_REPLACED)
    bind = Bind(lease=1, unencrypted=False, h2=False, ticket=b"")
    pair.edge.link.data(CONTROL_STREAM, [frame(bind)], end=False)
    await pair.edge_half.is_down.wait()
    assert pair.edge_half.messages == []


async def test_an_edge_that_has_not_greeted_opens_no_streams(
    start_pair: StartPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def impatient(self: Half, message: object) -> None:
        connection = self.session.link.connection
        connection.admit()
        connection.write(connection.open(), encode_preface(Preface(0, 1, False, "192.0.2.1", 1)))

    monkeypatch.setattr(Half, "session_message", impatient)
    pair = start_pair(both=WAN.copy())
    await pair.client_half.is_down.wait()
    assert pair.client_half.streams == []
    await pair.edge_half.is_down.wait()
    assert pair.edge_half.down.code == SessionCode.PROTOCOL


async def test_pieces_that_wait_for_a_local_service_cost_the_same_each(pair: SessionPair) -> None:
    """A visitor may fill an initial window byte by byte before the local service is dialled."""
    arrival = asyncio.get_running_loop().create_future()
    pair.client_half.on_stream = arrival.set_result
    pair.open()
    stream = await arrival
    part = INITIAL_WINDOW // 8
    taken = []
    for _ in range(8):
        began = time.process_time()
        for _ in range(part):
            stream.data([b"x"], end=False)
        taken.append(time.process_time() - began)
    assert min(taken[-3:]) < 6 * taken[0], taken
    side = StalledConsumer(stream)
    assert side.size == 8 * part
