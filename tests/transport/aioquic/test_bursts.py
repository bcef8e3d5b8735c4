"""Bursts of datagrams that an aioquic engine hands out."""

from __future__ import annotations

KIB = 1024


def test_bursts_are_segments_of_one_size(make_pair):
    pair = make_pair()
    _, edge = pair.connect()
    stream = edge.open()
    edge.quic.recovery.cc.congestion_window = 10**6
    edge.quic.recovery.pacer._rate = 0
    edge.write(stream, bytes(128 * KIB))
    bursts = pair.edge.engine.transmit(pair.now)
    for burst in bursts:
        assert len(burst.parts) <= 64
        assert sum(map(len, burst.parts)) <= 65_000
        assert all(len(part) == burst.segment for part in burst.parts[:-1])
        assert len(burst.parts[-1]) <= burst.segment
    assert sum(len(burst.parts) for burst in bursts) > 90
    assert len(bursts) <= 4
