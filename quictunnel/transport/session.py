"""A Session: the streams of one client and one edge, their numbers, and their credit.

The same class serves both sides. It owns what streams share: the pool of windows, the batching of credit,
the deadline of half-open streams. What a session is for (leases, visitors, origins) is its owner's
business, told through :class:`SessionEvents`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Protocol

from quictunnel.errors import ProtocolError
from quictunnel.transport.link import Link
from quictunnel.transport.stream import Arrival, Stream
from quictunnel.wire.codes import SessionCode, StreamCode
from quictunnel.wire.control import Side
from quictunnel.wire.credit import WindowPool
from quictunnel.wire.messages import MAX_CREDITS, Credits
from quictunnel.wire.preface import Preface, PrefaceReader, encode_preface

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.transport.engine import Closed, Stats
    from quictunnel.transport.link import StreamEvents
    from quictunnel.wire.messages import AnyMessage

logger = logging.getLogger(__name__)

SWEEP: Final = 0.25
"""Seconds after which consumed bytes are credited even when they are few, so that idle streams keep nothing
on the sending side; also the grain of the half-open deadline."""
HALF_OPEN_TIMEOUT: Final = 300.0
"""Seconds without a byte after which a stream with one direction ended is given up. Long enough for a request
that was half-closed and takes minutes to answer; TCP stacks themselves wait one minute (FIN-WAIT-2)."""


class SessionEvents(Protocol):
    """Whoever a session works for. All may raise ProtocolError, which ends the session."""

    def session_up(self) -> None: ...
    def session_message(self, message: AnyMessage) -> None:
        """The peer said something other than credit."""

    def session_stream(self, stream: Stream) -> None:
        """Client: the edge opened a stream for a visitor; attach a side to it now or soon."""

    def session_streams_available(self) -> None: ...

    def session_down(self, closed: Closed) -> None:
        """The link is gone, and every stream with it."""


class Session:
    """See the module. All methods are called on the loop's thread."""

    def __init__(self, side: Side, events: SessionEvents, wake: Callable[[], None]) -> None:
        self.link = Link(side, self, wake)
        self.pool = WindowPool()
        self.peer_window = 0
        """What the peer lets us send on a new stream; known after Hello or Welcome."""
        self.kept = 0
        """Bytes beyond an initial window each that the streams keep; see ``stream.MAX_KEPT``."""
        self._streams: dict[int, Stream] = {}
        self._events = events
        self._side = side
        self._next_number = 0
        self._due: set[Stream] = set()
        self._owed: set[Stream] = set()
        self._half_open: set[Stream] = set()
        self._loop = asyncio.get_running_loop()
        self._sweep: asyncio.TimerHandle | None = None
        self._flush_soon = False

    # For the owner.

    @property
    def streams(self) -> int:
        """Streams open now."""
        return len(self._streams)

    def in_flight(self, now: float) -> bool:
        """Whether any visitor would lose something if the session ended now."""
        return any(stream.in_flight(now) for stream in self._streams.values())

    def say(self, message: AnyMessage) -> None:
        self.link.send(message)

    def open(self, *, lease: int, tls: bool, host: str, port: int) -> Stream | None:
        """Edge: a stream for a visitor, its preface queued. None while the client allows no more."""
        assert self._side is Side.EDGE
        preface = Preface(stream=self._next_number, lease=lease, tls=tls, host=host, port=port)
        quic_stream = self.link.open(_PENDING)
        if quic_stream is None:
            return None
        self._next_number += 1
        encoded = encode_preface(preface)
        taken = self.link.connection.write(quic_stream, encoded)
        assert taken == len(encoded), "a fresh stream always has room for its preface"
        self.link.wake()
        return self._add(preface, quic_stream)

    def close(self, code: SessionCode, reason: str = "") -> None:
        """End the session now; :meth:`SessionEvents.session_down` follows."""
        self.link.close(code, reason)

    def stats(self) -> Stats:
        return self.link.stats()

    # From the link (transport.link.LinkEvents).

    def link_up(self) -> None:
        self._events.session_up()

    def link_message(self, message: AnyMessage) -> None:
        if isinstance(message, Credits):
            self._credits(message)
        else:
            self._events.session_message(message)

    def link_stream(self, quic_stream: int) -> StreamEvents:
        if self._side is Side.EDGE:
            raise ProtocolError("only an edge opens streams for visitors")
        if not self.peer_window:
            raise ProtocolError("a stream for a visitor before the greeting")
        return Arrival(self, quic_stream)

    def link_streams_available(self) -> None:
        self._events.session_streams_available()

    def link_turn_ended(self) -> None:
        if self._due:
            self._announce(self._due)

    def link_down(self, closed: Closed) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        for stream in list(self._streams.values()):
            stream.lose(StreamCode.ABORTED)
        self._events.session_down(closed)

    # From streams and arrivals.

    @staticmethod
    def preface_reader() -> PrefaceReader:
        return PrefaceReader()

    def arrived(self, preface: Preface, quic_stream: int, chunks: list[bytes], *, end: bool) -> None:
        """Client: a preface is complete. Numbers rise by one but may arrive in any order."""
        if preface.stream in self._streams:
            raise ProtocolError("two streams with one number")
        self._next_number = max(self._next_number, preface.stream + 1)
        stream = self._add(preface, quic_stream)
        self._events.session_stream(stream)
        if chunks or end:
            stream.data(chunks, end=end)

    def abandoned(self, quic_stream: int, code: StreamCode) -> None:
        self.link.connection.reset(quic_stream, code)
        self.link.streams.pop(quic_stream, None)
        self.link.wake()

    @property
    def side(self) -> Side:
        return self._side

    def now(self) -> float:
        return self._loop.time()

    def half_closed(self, stream: Stream) -> None:
        """One direction has ended: the deadline of half-open streams begins."""
        self._half_open.add(stream)
        self._arm()

    def owe(self, stream: Stream) -> None:
        """Bytes were consumed: tell the peer at the end of this turn, or some time."""
        if stream.receive_window.due or stream.receive_done:
            self._due.add(stream)
            if not self._flush_soon:
                self._flush_soon = True
                self._loop.call_soon(self._flush)
        else:
            self._owed.add(stream)
            self._arm()

    def waive(self, stream: Stream) -> None:
        """The peer need keep nothing for this stream, whose end has arrived and which is given up."""
        window = stream.receive_window
        self.link.send(Credits([(stream.number, window.received + 1, window.limit)]))

    def settle(self, stream: Stream) -> None:
        """Forget a stream whose two directions have both ended cleanly."""
        if stream.send_done and stream.receive_done and not stream.receive_window.owed:
            stream.settled()

    def forget(self, stream: Stream, quic_stream: int) -> None:
        self._streams.pop(stream.number, None)
        self.link.streams.pop(quic_stream, None)
        self._due.discard(stream)
        self._owed.discard(stream)
        self._half_open.discard(stream)

    # Inside.

    def _add(self, preface: Preface, quic_stream: int) -> Stream:
        stream = Stream(self, preface, quic_stream, self.peer_window, self._loop.time())
        self._streams[preface.stream] = stream
        self.link.streams[quic_stream] = stream
        return stream

    def _credits(self, message: Credits) -> None:
        for number, consumed, limit in message.entries:
            stream = self._streams.get(number)
            if stream is not None:
                stream.credited(consumed, limit)
            elif number >= self._next_number:
                raise ProtocolError("credit for a stream that never was")

    def _flush(self) -> None:
        self._flush_soon = False
        if self._due and not self.link.is_down:
            self._announce(self._due)

    def _announce(self, streams: set[Stream]) -> None:
        now = self._loop.time()
        rtt = self.link.stats().rtt
        batch = list(streams)
        streams.clear()
        for start in range(0, len(batch), MAX_CREDITS):
            part = batch[start : start + MAX_CREDITS]
            self.link.send(Credits([(s.number, *s.receive_window.announce(now, rtt)) for s in part]))
        for stream in batch:
            self._owed.discard(stream)
            self.settle(stream)

    def _arm(self) -> None:
        if self._sweep is None:
            self._sweep = self._loop.call_later(SWEEP, self._swept)

    def _swept(self) -> None:
        self._sweep = None
        if self.link.is_down:
            return
        if self._owed:
            self._announce(self._owed)
        deadline = self._loop.time() - HALF_OPEN_TIMEOUT
        for stream in [s for s in self._half_open if s.active_at < deadline]:
            stream.lose(StreamCode.STALLED)
        if self._half_open:
            self._arm()


class _Pending:
    """Stands behind a stream between its opening and its registration, in which nothing can happen."""

    def data(self, chunks: list[bytes], *, end: bool) -> None: ...
    def reset(self, code: int) -> None: ...
    def stopped(self, code: int) -> None: ...
    def writable(self) -> None: ...


_PENDING: Final = _Pending()
