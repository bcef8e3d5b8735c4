"""A recorder without a thread, and a connection whose bytes a test supplies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quictunnel.inspect import limits
from quictunnel.inspect.exchange_store import (
    FIXED_COST,
    FRAME_COST,
    HEADER_COST,
    Direction,
    Exchange,
    ExchangeStore,
)
from quictunnel.inspect.recorder import Recorder, Tap

if TYPE_CHECKING:
    from collections.abc import Iterable

IN, OUT = Direction.REQUEST, Direction.RESPONSE


class Recording:
    """Recorder whose connection a test feeds; it processes bytes at once. ``exchanges``: the result."""

    def __init__(self) -> None:
        self.now = 100.0
        self.store = ExchangeStore(lambda: 1_700_000_000.0)
        self.recorder = Recorder(self.store, lambda: None, lambda: self.now)
        self.tap = self.recorder.tap("192.0.2.1:50000")

    @property
    def exchanges(self) -> list[Exchange]:
        return list(self.store)

    @property
    def only(self) -> Exchange:
        (exchange,) = self.exchanges
        return exchange

    def pass_bytes(self, direction: Direction, *pieces: bytes, tap: Tap | None = None) -> None:
        for piece in pieces:
            (tap or self.tap).tapped(direction).passed(piece, len(piece))
        self.drain()

    def visitor_sends(self, *pieces: bytes) -> None:
        self.pass_bytes(IN, *pieces)

    def origin_sends(self, *pieces: bytes) -> None:
        self.pass_bytes(OUT, *pieces)

    def unseen(self, direction: Direction, size: int) -> None:
        """So many bytes pass while there is no room."""
        direction = self.tap.tapped(direction)
        direction.passed_so_far += size
        direction.lost = direction.passed_so_far

    def ended(self, direction: Direction) -> None:
        self.tap.tapped(direction).ended()
        self.drain()

    def closed(self, why: str = "") -> None:
        self.tap.closed(why)
        self.drain()

    def drain(self) -> None:
        while self.recorder.drain():
            pass
        self.check()

    def check(self) -> None:
        """Nothing grew past its bound, and what is counted is what is there."""
        assert self.store.stored == sum(exchange.cost for exchange in self.store) <= limits.MAX_STORED
        assert len(self.store) <= limits.MAX_EXCHANGES
        for exchange in self.store:
            assert exchange.cost == cost_of(exchange)
            for message in (exchange.request, exchange.response):
                assert len(message.body.data) <= message.body.limit <= limits.MAX_BODY
                assert len(message.body.data) <= message.body.size
            assert len(exchange.frames) <= limits.MAX_FRAMES
            assert sum(len(frame.data) for frame in exchange.frames) <= limits.MAX_STORED_FRAMES
            assert len(exchange.notes) < 10
        assert 0 <= self.recorder.head_budget.used <= limits.MAX_PARSING
        assert self.recorder.connections <= limits.MAX_CONNECTIONS
        assert not self.recorder.is_faulty


def cost_of(exchange: Exchange) -> int:
    """Return the bytes that an exchange really keeps."""
    messages = (exchange.request, exchange.response)
    bodies = sum(len(message.body.data) for message in messages)
    heads = sum(2 * len(message.head) + HEADER_COST * len(message.headers) for message in messages)
    frames = sum(len(frame.data) + FRAME_COST for frame in exchange.frames)
    return FIXED_COST + bodies + heads + frames


def bytewise(data: bytes) -> Iterable[bytes]:
    return (data[at : at + 1] for at in range(len(data)))
