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


def test_a_sparse_offset_allocates_no_gap(attack):
    stream = attack.stream()
    before = attack.held()
    attack.say(stream_frame(stream, STREAM_WINDOW - 1, b"y"))
    assert attack.held() - before < 64 * KIB
    assert not attack.is_over()
    attack.say(stream_frame(stream, STREAM_WINDOW, b"y"))
    assert attack.defender.closed_with(QuicErrorCode.FLOW_CONTROL_ERROR)


def test_windows_do_not_double(attack):
    stream = attack.stream()
    for _ in range(20):
        attack.say(stream_frame(stream, STREAM_WINDOW - 1, b"y"))
        attack.pair.settle()
    assert not attack.is_over()
    attack.say(stream_frame(stream, STREAM_WINDOW, b"y"))
    assert attack.defender.closed_with(QuicErrorCode.FLOW_CONTROL_ERROR)


@pytest.mark.parametrize("is_read", [True, False])
def test_windows_advance_by_what_is_delivered(attack, is_read):
    stream = attack.stream()
    collect = attack.defender.collect
    if not is_read:
        attack.defender.collect = lambda: False
    for at in range(0, 512 * KIB, KIB):
        attack.say(stream_frame(stream, at, bytes(KIB)))
    attack.pair.settle()
    delivered = 512 * KIB if is_read else 0
    assert len(attack.defender.received.get(stream, b"")) == delivered
    attack.say(stream_frame(stream, delivered + STREAM_WINDOW - 1, b"y"))
    assert not attack.is_over()
    attack.defender.collect = collect
    attack.say(stream_frame(stream, delivered + STREAM_WINDOW, b"y"))
    assert attack.defender.closed_with(QuicErrorCode.FLOW_CONTROL_ERROR)


def test_the_connection_window_is_a_wall(attack):
    full, too, wall = (attack.stream() for _ in range(3))
    for stream in (full, too):
        attack.say(stream_frame(stream, STREAM_WINDOW - 1, b"y"))
    assert not attack.is_over()
    attack.say(stream_frame(wall, 1, b"y"))
    assert attack.defender.closed_with(QuicErrorCode.FLOW_CONTROL_ERROR)


def test_a_final_size_counts_against_the_windows(attack):
    """RESET_STREAM claims bytes that are never sent (RFC 9000 section 4.5)."""
    stream = attack.stream()
    attack.say(b"\x04", encode(stream), encode(0), encode(STREAM_WINDOW + 1))
    assert attack.defender.closed_with(QuicErrorCode.FLOW_CONTROL_ERROR)


def test_aborted_streams_return_their_connection_credit(attack):
    abort_streams(attack.pair, attack.hostile, attack.victim)
    for stream in (attack.stream(), attack.stream()):
        attack.say(stream_frame(stream, 1536 * KIB - 1, b"y"))
    assert not attack.is_over()


def test_holes_in_one_stream_are_bounded(attack):
    stream = attack.stream()
    before = most = attack.held()
    for offset in range(1, 40_000, 200):
        attack.say(*(stream_frame(stream, at, b"y") for at in range(offset, offset + 200, 2)))
        most = max(most, attack.held())
        if attack.is_over():
            break
    assert most - before < 512 * KIB
    (closed,) = attack.defender.of(Closed)
    assert closed.code == QuicErrorCode.INTERNAL_ERROR  # RFC 9000 has no code for it


def test_bytes_that_fill_their_holes_leave_no_pieces(attack):
    stream = attack.stream()
    text = bytes(range(256)) * 4
    before = attack.held()
    for start in (512, 0, 700, 256, 128, 900, 400):
        attack.say(stream_frame(stream, start, text[start : start + 300]))
    attack.say(stream_frame(stream, 0, text[:200]), stream_frame(stream, 1000, text[1000:], fin=True))
    assert bytes(attack.defender.received[stream]) == text
    assert stream in attack.defender.ended
    assert attack.held() - before < 16 * KIB


def test_crypto_gap_is_bounded_after_the_handshake(attack):
    attack.say(b"\x06", encode(1 << 16), encode(1), b"x")
    assert attack.defender.closed_with(QuicErrorCode.CRYPTO_BUFFER_EXCEEDED)
