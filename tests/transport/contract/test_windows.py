"""Limits on the memory that a peer can make an engine hold: windows, and stream data with gaps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from aioquic.quic.packet import QuicErrorCode

from quictunnel.transport.engine import TRUSTED, Closed
from quictunnel.transport.engines.aioquic.varint import encode
from tests.transport.engine_pair import stream_frame

if TYPE_CHECKING:
    from quictunnel.transport.engine import Connection
    from tests.transport.engine_pair import Pair

KIB = 1024
STREAM_WINDOW = TRUSTED.stream_window


def abort_streams(pair: Pair, writer: Connection, reader: Connection) -> None:
    """``reader`` gives 60 streams up in the middle of what ``writer`` says, on a link that loses some of it."""
    for number in range(60):
        stream = reader.open()
        reader.write(stream, b"x")
        pair.settle(0.05)
        writer.write(stream, bytes(128 * KIB))
        for link in (pair.up, pair.down):
            link.loss = 0.3
        pair.settle(0.02)
        if number % 2:
            writer.reset(stream, 1)
        reader.stop(stream, 1)
        reader.reset(stream, 1)
        for link in (pair.up, pair.down):
            link.loss = 0.0
        pair.settle(2)
    assert writer.stats().streams_open == reader.stats().streams_open == 0


def test_a_sparse_offset_allocates_no_gap(fight):
    stream = fight.stream()
    before = fight.held()
    fight.say(stream_frame(stream, STREAM_WINDOW - 1, b"y"))
    assert fight.held() - before < 64 * KIB
    assert not fight.is_over()
    fight.say(stream_frame(stream, STREAM_WINDOW, b"y"))
    assert fight.defender.closed_with(QuicErrorCode.FLOW_CONTROL_ERROR)


def test_windows_do_not_double(fight):
    stream = fight.stream()
    for _ in range(20):
        fight.say(stream_frame(stream, STREAM_WINDOW - 1, b"y"))
        fight.pair.settle()
    assert not fight.is_over()
    fight.say(stream_frame(stream, STREAM_WINDOW, b"y"))
    assert fight.defender.closed_with(QuicErrorCode.FLOW_CONTROL_ERROR)


@pytest.mark.parametrize("is_read", [True, False])
def test_windows_advance_by_what_is_delivered(fight, is_read):
    stream = fight.stream()
    collect = fight.defender.collect
    if not is_read:
        fight.defender.collect = lambda: False
    for at in range(0, 512 * KIB, KIB):
        fight.say(stream_frame(stream, at, bytes(KIB)))
    fight.pair.settle()
    delivered = 512 * KIB if is_read else 0
    assert len(fight.defender.received.get(stream, b"")) == delivered
    fight.say(stream_frame(stream, delivered + STREAM_WINDOW - 1, b"y"))
    assert not fight.is_over()
    fight.defender.collect = collect
    fight.say(stream_frame(stream, delivered + STREAM_WINDOW, b"y"))
    assert fight.defender.closed_with(QuicErrorCode.FLOW_CONTROL_ERROR)


def test_the_connection_window_is_a_wall(fight):
    full, too, wall = (fight.stream() for _ in range(3))
    for stream in (full, too):
        fight.say(stream_frame(stream, STREAM_WINDOW - 1, b"y"))
    assert not fight.is_over()
    fight.say(stream_frame(wall, 1, b"y"))
    assert fight.defender.closed_with(QuicErrorCode.FLOW_CONTROL_ERROR)


def test_a_final_size_counts_against_the_windows(fight):
    """RESET_STREAM claims bytes that are never sent (RFC 9000 section 4.5)."""
    stream = fight.stream()
    fight.say(b"\x04", encode(stream), encode(0), encode(STREAM_WINDOW + 1))
    assert fight.defender.closed_with(QuicErrorCode.FLOW_CONTROL_ERROR)


def test_streams_that_are_aborted_do_not_wear_the_connection_window_out(fight):
    abort_streams(fight.pair, fight.hostile, fight.victim)
    for stream in (fight.stream(), fight.stream()):
        fight.say(stream_frame(stream, 1536 * KIB - 1, b"y"))
    assert not fight.is_over()


def test_holes_in_one_stream_are_bounded(fight):
    stream = fight.stream()
    before = most = fight.held()
    for offset in range(1, 40_000, 200):
        fight.say(*(stream_frame(stream, at, b"y") for at in range(offset, offset + 200, 2)))
        most = max(most, fight.held())
        if fight.is_over():
            break
    assert most - before < 512 * KIB
    (closed,) = fight.defender.of(Closed)
    assert closed.code == QuicErrorCode.INTERNAL_ERROR  # RFC 9000 has no code for it


def test_bytes_that_fill_their_holes_leave_no_pieces(fight):
    stream = fight.stream()
    text = bytes(range(256)) * 4
    before = fight.held()
    for start in (512, 0, 700, 256, 128, 900, 400):
        fight.say(stream_frame(stream, start, text[start : start + 300]))
    fight.say(stream_frame(stream, 0, text[:200]), stream_frame(stream, 1000, text[1000:], fin=True))
    assert bytes(fight.defender.received[stream]) == text
    assert stream in fight.defender.ended
    assert fight.held() - before < 16 * KIB


def test_crypto_ahead_of_what_came_is_bounded_after_the_handshake(fight):
    fight.say(b"\x06", encode(1 << 16), encode(1), b"x")
    assert fight.defender.closed_with(QuicErrorCode.CRYPTO_BUFFER_EXCEEDED)
