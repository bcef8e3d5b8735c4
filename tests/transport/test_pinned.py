"""Tests of how much memory a peer with a valid token can pin behind one missing byte: little, until it has
delivered something."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from aioquic.quic.packet import QuicErrorCode

from quictunnel.transport.engine import KIB, TRUSTED, CloseCause, Closed, EngineSettings
from quictunnel.transport.engines import create_engine
from tests.transport.engine_pair import Pair, inject, settings_for, stream_frame
from tests.transport.engine_pairings import ENGINES, engines, needs_native

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["engines"]

FIRST = EngineSettings(is_server=True, alpn="").first_window
PIECE = 1100
TOO_MUCH = [(CloseCause.PROTOCOL, QuicErrorCode.FLOW_CONTROL_ERROR)]


@pytest.fixture(params=[pytest.param(name, marks=[needs_native] if name == "native" else []) for name in ENGINES])
def attacked(request: pytest.FixtureRequest, paths: dict[str, Path]) -> Pair:
    """An edge, and a client of the reference engine, which can be talked past its own limits."""
    pair = make(paths, ("aioquic", request.param))
    pair.connect()
    assert pair.connection.open() == 0
    pair.connection.write(0, b"h")
    pair.settle()
    return pair


def make(paths: dict[str, Path], engines: tuple[str, str], **edge: object) -> Pair:
    client = create_engine(settings_for("client", paths), engines[0])
    return Pair(client, create_engine(settings_for("edge", paths, **edge), engines[1]))  # type: ignore[arg-type]


def pin(pair: Pair, start: int, count: int) -> None:
    """So many bytes of the control stream behind one that is missing."""
    for at in range(start + 1, start + 1 + count, PIECE):
        inject(pair, pair.connection, stream_frame(0, at, bytes(min(PIECE, start + 1 + count - at))))
    pair.edge.collect()


def ends(pair: Pair) -> list[tuple[CloseCause, int]]:
    return [(event.cause, event.code) for event in pair.edge.of(Closed)]


def test_peer_that_delivered_nothing_pins_little(attacked: Pair):
    pin(attacked, 1, FIRST - 2)
    assert ends(attacked) == []
    pin(attacked, 1 + FIRST, PIECE)
    assert ends(attacked) == TOO_MUCH


def test_peer_that_delivered_much_may_use_the_largest_window(attacked: Pair):
    sent = 1
    while sent < 2048 * KIB:
        sent += attacked.connection.write(0, bytes(64 * KIB))
        attacked.settle(0.01)
    attacked.settle()
    assert len(attacked.edge.received[0]) == sent
    # One stream has half of the connection's window, and moves it when a quarter was used.
    pin(attacked, sent, TRUSTED.stream_window * 3 // 4 - PIECE)
    assert ends(attacked) == []
    pin(attacked, sent, TRUSTED.connection_window)
    assert ends(attacked) == TOO_MUCH


def test_an_honest_upload_is_not_held_up(paths: dict[str, Path], engines: tuple[str, str]):
    """5 MB at 100 Mbit/s and 50 ms each way, beside the same with the largest window from the start."""
    took = {}
    for first in (FIRST, TRUSTED.connection_window):
        pair = make(paths, engines, first_window=first)
        for link in (pair.up, pair.down):
            link.delay, link.rate, link.queue = 0.05, 12.5e6, 600_000
        client, _ = pair.connect()
        stream, sent = client.open(), 0
        began = pair.now
        while len(pair.edge.received.get(stream, b"")) < 5_000_000:
            sent += client.write(stream, bytes(min(256 * KIB, 5_000_000 - sent)))
            pair.settle(0.01)
            assert pair.now - began < 10
        took[first] = pair.now - began
    assert took[FIRST] <= 1.1 * took[TRUSTED.connection_window], took
