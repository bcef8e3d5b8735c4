"""A stream's halves against simple models."""

from __future__ import annotations

from aioquic.quic.packet_builder import QuicDeliveryState
from hypothesis import given
from hypothesis import strategies as st

from quictunnel.transport.engines.aioquic.congestion import Cubic, Pacer, SlowStart
from quictunnel.transport.engines.aioquic.streams import ReceiveHalf, SendHalf

ACKED, LOST = QuicDeliveryState.ACKED, QuicDeliveryState.LOST
TEXT = bytes(range(1, 251)) * 2


@given(st.lists(st.tuples(st.integers(0, len(TEXT) - 1), st.integers(0, 60)), max_size=40))
def test_pieces_in_any_order_are_reassembled(pieces):
    half = ReceiveHalf(1 << 20)
    stored, out = 0, b""
    known = set()
    for start, size in [*pieces, (0, len(TEXT))]:
        chunk = TEXT[start : start + size]
        known.update(range(start, start + len(chunk)))
        if start + len(chunk) > half.offset:
            offset = max(start, half.offset)
            stored += half.insert(offset, TEXT[offset : start + len(chunk)])
            if offset == half.offset:
                pulled = half.pull()
                stored -= len(pulled)
                out += b"".join(pulled)
        for before, after in zip(half.runs, half.runs[1:], strict=False):
            assert before.stop < after.start
        assert stored == sum(len(run.chunks) for run in half.runs)
        assert known == set(range(half.offset)) | {n for run in half.runs for n in range(run.start, run.stop)}
    assert out == TEXT


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=20),
    st.lists(st.tuples(st.integers(1, 50), st.booleans()), max_size=400),
    st.integers(0, 5),
)
def test_lost_data_is_resent_until_acknowledged(writes, sends, window_step):
    done = []
    half = SendHalf(10, lambda: done.append(True))
    for data in writes:
        assert half.write(data, 1 << 20) == len(data)
    half.finish()
    text = b"".join(writes)
    got = {}
    flight = []
    schedule = [*sends, *[(50, True)] * (len(text) + 50)]
    for space, arrives in schedule:
        half.window += window_step + (10 if arrives else 0)
        taken = half.take(space, 1 << 20)
        if taken is None:
            continue
        start, piece, fin = taken
        assert len(piece) <= space
        assert start + len(piece) <= half.window
        flight.append((taken, arrives))
        if arrives:
            got.update(zip(range(start, start + len(piece)), bytes(piece), strict=True))
            assert not fin or start + len(piece) == len(text)
        if len(flight) > 3:
            (start, piece, fin), arrived = flight.pop(0)
            half.on_delivery(ACKED if arrived else LOST, start, piece, fin)
    for (start, piece, fin), arrived in flight:
        half.on_delivery(ACKED if arrived else LOST, start, piece, fin)
    while (taken := half.take(1000, 1 << 20)) is not None:
        start, piece, fin = taken
        got.update(zip(range(start, start + len(piece)), bytes(piece), strict=True))
        half.on_delivery(ACKED, *taken)
        half.window += 100
    assert bytes(got[at] for at in range(len(text))) == text
    assert done == [True]


def test_slices_refer_to_what_was_written():
    half = SendHalf(1 << 20, lambda: None)
    data = bytes(100_000)
    half.write(data, 1 << 20)
    _, piece, _ = half.take(1300, 1 << 20)
    assert isinstance(piece, memoryview)
    assert piece.obj is data


def test_cubic_shrinks_once_per_round_trip_and_recovers():
    cc = Cubic(max_datagram_size=1000)
    cc.full = True
    cc.bytes_in_flight = 10_000
    cc.on_acked(10_000, 0.1, 0.2)
    assert cc.congestion_window == 20_000

    class Lost:
        packet_number = 1
        sent_bytes = 1000
        sent_time = 0.3

    cc.bytes_in_flight = 20_000
    cc.on_packets_lost(now=0.4, packets=[Lost()])
    assert cc.congestion_window == 14_000
    cc.on_packets_lost(now=0.41, packets=[Lost()])
    assert cc.congestion_window == 14_000
    now = 0.5
    while cc.congestion_window < 20_000:
        cc.bytes_in_flight = cc.congestion_window
        cc.on_acked(cc.congestion_window, now, now + 0.05)
        now += 0.05
    assert 1 < now < 6


def test_the_pacer_spreads_a_window_over_a_round_trip():
    pacer = Pacer(1000)
    pacer.gain = 1.0
    pacer.update_rate(100_000, 0.1)
    now, sent = 1.0, 0
    while now < 2.0:
        while pacer.available(now) >= 1000:
            pacer.spend(1000)
            sent += 1000
        following = pacer.next_time()
        assert following > now
        now = following
    assert 950_000 <= sent <= 1_050_000


def test_slow_start_ends_when_the_delay_stays_up():
    start = SlowStart()
    now, ended = 0.0, None
    for round_ in range(30):
        rtt = 0.05 if round_ < 8 else 0.09
        for _ in range(20):
            now += rtt / 20
            if start.is_over(now, rtt) and ended is None:
                ended = round_
    assert ended is not None
    assert 12 <= ended <= 16


def test_slow_start_survives_a_passing_delay():
    start = SlowStart()
    now = 0.0
    for round_ in range(30):
        rtt = 0.09 if round_ in (8, 9) else 0.05
        for _ in range(20):
            now += rtt / 20
            assert not start.is_over(now, rtt)
