"""A Session: the streams of one client and one edge, their numbers, and their credit.

A session outlives its link when its owner says so: it is then *away*, its streams keep what was not consumed, and
:meth:`Session.resume` goes on with another link. Both sides first say how each stream stands
(:class:`ResumeState`); then the edge opens every stream again, and each side sends what the other did not receive.

The same class serves both sides. It owns what streams share: the pool of windows, the batching of credit,
and what is said again on a new link. What a session is for (leases, visitors, origins) is its owner's
business, told through :class:`SessionEvents`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from quictunnel.errors import ProtocolError
from quictunnel.transport.incoming_stream import IncomingStream
from quictunnel.transport.link import Discarded, Link
from quictunnel.transport.stream import Stream
from quictunnel.wire.codes import OLDEST_VERSION, SessionCode, StreamCode, reset_code, stream_code
from quictunnel.wire.control_state import Side
from quictunnel.wire.credit import INITIAL_WINDOW, IdleCreditBudget, WindowPool
from quictunnel.wire.messages import MAX_CREDITS, MAX_RESUME_ENTRIES, Credits, ResumeState, StreamsAborted
from quictunnel.wire.numbers import MAX_SKIPPED, StreamNumbers
from quictunnel.wire.preface import Preface, encode_preface

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.transport.engine import Closed, Stats
    from quictunnel.transport.link import StreamEvents
    from quictunnel.wire.messages import AnyMessage

logger = logging.getLogger(__name__)

MAX_KEPT: Final = 64 * 1024 * 1024
"""Bytes beyond an initial window each that the streams of a session may keep until the peer has consumed them.
Twice the pool out of which honest receivers open larger windows, so they never meet it; one that raises limits and
consumes nothing would else pin the largest window with every stream."""
MAX_SETTLED: Final = 256
"""Streams that ended well here and may still be waited for there, because the last word was lost with the link:
those of a round trip or so. A stream beyond them is reset on the other side although all of it arrived."""
SWEEP: Final = 0.25
"""Seconds after which consumed bytes are credited even when they are few, so that idle streams keep nothing
on the sending side."""


class SessionEvents(Protocol):
    """Whoever a session works for. All may raise ProtocolError, which ends the session."""

    def session_up(self) -> None: ...
    def session_message(self, message: AnyMessage) -> None:
        """The peer said something other than credit."""

    def session_stream(self, stream: Stream) -> None:
        """Client: the edge opened a stream for a visitor; attach a side to it now or soon."""

    def session_streams_available(self) -> None: ...

    def session_resumed(self) -> None:
        """It goes on with another link: both sides know how they stand."""

    def session_away(self, closed: Closed) -> bool:
        """The link is gone. Whether to keep the streams; :meth:`Session.resume` or :meth:`Session.end` follows."""

    def session_down(self, closed: Closed) -> None:
        """The session is over, and every stream with it."""


class Session:
    """See the module. All methods are called on the loop's thread."""

    def __init__(self, side: Side, events: SessionEvents, wake: Callable[[], None]) -> None:
        self.link = Link(side, self, wake)
        self.pool = WindowPool()
        self.peer_window = 0
        """What the peer lets us send on a new stream; known after Hello or Welcome."""
        self.version = OLDEST_VERSION
        """Of the protocol, which both sides speak; known after Welcome."""
        self.is_away = False
        """It has no link now, and waits for another."""
        self.kept = 0
        """Bytes beyond an initial window each that the streams keep; see ``MAX_KEPT``."""
        self._streams: dict[int, Stream] = {}
        self._events = events
        self._side = side
        self._numbers = StreamNumbers()
        """Edge: those given so far; client: those met so far."""
        self._settled: deque[tuple[int, int, int, int]] = deque(maxlen=MAX_SETTLED)
        self._to_open: dict[int, Stream] = {}
        """Edge: streams that are opened again as soon as the client allows it, and those that were given up since
        it was told of them: it is told of their end in the same way."""
        self._unmentioned: set[int] | None = None
        """Streams that the peer has not said anything of yet; None when it has said how it stands."""
        self._following = 0
        """Client: the number of the edge's next stream, as it said in its account."""
        self._unknown: set[int] = set()
        """Client: numbers that the edge has named in its account and that are not open here."""
        self._parked: list[IncomingStream] = []
        """Client: streams that came before the whole of the edge's account, which says where they go on."""
        self._due: set[Stream] = set()
        self._owed: set[Stream] = set()
        self._loop = asyncio.get_running_loop()
        self._sweep: asyncio.TimerHandle | None = None
        self._flush_soon = False
        self._idle_credits = IdleCreditBudget()

    # For the owner.

    @property
    def streams(self) -> int:
        """Streams open now."""
        return len(self._streams)

    @property
    def is_awaiting_standing(self) -> bool:
        """It goes on with a link on which the peer has not said yet how it stands."""
        return self._unmentioned is not None

    @property
    def can_carry(self) -> bool:
        """A visitor who comes now can be carried at once: both sides know how they stand on the link of now."""
        return not self.is_away and not self.is_awaiting_standing

    @property
    def skipped_numbers(self) -> int:
        """Client: stream numbers that it has not met and that may still come."""
        return self._numbers.skipped

    def keep(self, more: int) -> None:
        """Count so many bytes more that a stream keeps, or less when it is negative."""
        self.kept += more
        if self.pool.memory is not None:
            self.pool.memory.keep(more)

    @property
    def keeps_enough(self) -> bool:
        """Return True if streams may keep nothing beyond an initial window now."""
        return self.kept >= MAX_KEPT or (self.pool.memory is not None and self.pool.memory.is_used_up)

    def in_flight(self, now: float) -> bool:
        """Whether any visitor would lose something if the session ended now."""
        return any(stream.in_flight(now) for stream in self._streams.values())

    def say(self, message: AnyMessage) -> None:
        self.link.send(message)

    def resume(self, link: Link, events: SessionEvents) -> None:
        """Go on with this link, whose other end knows the session. A link that was still there is closed: whoever
        comes later is right."""
        old, self.link, self._events = self.link, link, events
        old.serve(Discarded())
        old.streams.clear()
        if not old.is_down:
            old.close(SessionCode.REPLACED)
        if not self.is_away:
            self._leave_link()
        self.is_away = False
        link.serve(self)

    def stand(self) -> None:
        """Say how every stream stands here; the first thing said on a link that a session goes on with."""
        self._due.clear()
        self._owed.clear()
        standings = [stream.standing() for stream in self._streams.values()]
        standings += self._settled
        if self._side is Side.EDGE:
            standings.append((self._numbers.next, 0, 0, 0))
        for start in range(0, len(standings) or 1, MAX_RESUME_ENTRIES):
            part = standings[start : start + MAX_RESUME_ENTRIES]
            self.link.send(ResumeState(part, start + MAX_RESUME_ENTRIES >= len(standings)))
        self._unmentioned = set(self._streams)

    def end(self, closed: Closed) -> None:
        """Give up a session that is away."""
        if self.is_away:
            self.is_away = False
            self._end(closed)

    def open(self, *, lease: int, tls: bool, host: str, port: int) -> Stream | None:
        """Edge: a stream for a visitor, its preface queued. None while the client allows no more. As long as the
        session cannot carry it (:attr:`can_carry`), it waits for those that are opened again."""
        assert self._side is Side.EDGE
        preface = Preface(stream=self._numbers.next, lease=lease, tls=tls, host=host, port=port)
        if not self.can_carry:
            self._numbers.meet(preface.stream)
            return self._add(preface)
        quic_stream = self.link.open(_PENDING)
        if quic_stream is None:
            return None
        self._numbers.meet(preface.stream)
        encoded = encode_preface(preface)
        taken = self.link.connection.write(quic_stream, encoded)
        assert taken == len(encoded), "a fresh stream always has room for its preface"
        self.link.wake()
        stream = self._add(preface)
        self._bind(stream, quic_stream)
        return stream

    def close(self, code: SessionCode, reason: str = "") -> None:
        """End the session now; :meth:`SessionEvents.session_down` follows."""
        self.link.close(code, reason)

    def stats(self) -> Stats:
        return self.link.stats()

    # From the link (transport.link.LinkEvents).

    def link_up(self) -> None:
        self._events.session_up()

    def link_message(self, message: AnyMessage) -> None:
        if isinstance(message, ResumeState):
            self._stands(message)
        elif self._unmentioned is not None:
            raise ProtocolError("said something before how it stands")
        elif isinstance(message, Credits):
            self._credits(message)
        elif isinstance(message, StreamsAborted):
            self._aborted(message)
        else:
            self._events.session_message(message)

    def link_stream(self, quic_stream: int) -> StreamEvents:
        if self._side is Side.EDGE:
            raise ProtocolError("only an edge opens streams for visitors")
        if not self.peer_window:
            raise ProtocolError("a stream for a visitor before the greeting")
        return IncomingStream(self, quic_stream)

    def link_streams_available(self) -> None:
        self._open_again()
        self._events.session_streams_available()

    def link_turn_ended(self) -> None:
        if self._due:
            self._announce(self._due)

    def link_down(self, closed: Closed) -> None:
        if self._events.session_away(closed):
            self.is_away = True
            self._leave_link()
        else:
            self._end(closed)

    # From streams and arrivals.

    def arrived(self, preface: Preface, quic_stream: int, chunks: list[bytes], *, end: bool) -> None:
        """Client: a preface is complete, and how the edge stands is known. On a link that the session goes on
        with, it may be that of a stream which is here already, or is over here."""
        stream = self._streams.get(preface.stream)
        if stream is not None:
            if stream.quic_stream is not None:
                raise ProtocolError("two streams with one number")
            self._bind(stream, quic_stream)
        elif self._numbers.meet(preface.stream):
            stream = self._add(preface)
            self._bind(stream, quic_stream)
            self._events.session_stream(stream)
        else:
            self.link.connection.stop(quic_stream, StreamCode.ABORTED)
            self.abandoned(quic_stream, StreamCode.ABORTED)
            if self.version >= 2:  # all of it may be here, and then QUIC says nothing of the stop
                self.link.send(StreamsAborted([(preface.stream, StreamCode.ABORTED)]))
            return
        if chunks or end:
            stream.data(chunks, end=end)

    def park(self, arrival: IncomingStream, number: int) -> int | None:
        """Client: have an arrival wait for the edge's account. Return the bytes that may come meanwhile; None if
        it need not wait: the account is here, or the stream is over."""
        stream = self._streams.get(number)
        if self._unmentioned is None or (stream is None and self._numbers.has_met(number)):
            return None
        self._parked.append(arrival)
        return INITIAL_WINDOW if stream is None else stream.receive_window.room

    def gave_up_early(self, quic_stream: int, code: StreamCode, number: int | None) -> None:
        """Client: the edge reset a stream that is none here yet; ``number``: its number, if the edge said it."""
        self.abandoned(quic_stream, code)
        if number is None:
            self._numbers.lose_unnamed()
            return
        stream = self._streams.get(number)
        if stream is None:
            self._numbers.meet(number)
        elif stream.quic_stream is None:
            stream.lose(code)
        else:
            raise ProtocolError("two streams with one number")

    def abandoned(self, quic_stream: int, code: int) -> None:
        self.link.connection.reset(quic_stream, code)
        self.link.streams.pop(quic_stream, None)
        self.link.wake()

    @property
    def side(self) -> Side:
        return self._side

    def now(self) -> float:
        return self._loop.time()

    def owe(self, stream: Stream) -> None:
        """Bytes were consumed: tell the peer at the end of this turn, or some time."""
        if stream.receive_window.due or stream.receive_done or stream.is_stopped:
            self._due.add(stream)
            if not self._flush_soon:
                self._flush_soon = True
                self._loop.call_soon(self._flush)
        else:
            self._owed.add(stream)
            self._arm()

    def say_aborted(self, stream: Stream, code: StreamCode) -> None:
        """Tell the peer of a stream that was given up and of which QUIC may have no word left."""
        if self.version >= 2:
            self.link.send(StreamsAborted([(stream.number, code)]))
        elif stream.has_ended:
            # The peer need keep nothing for it, whose end has arrived.
            window = stream.receive_window
            self.link.send(Credits([(stream.number, window.received + 1, window.limit)]))

    def settle(self, stream: Stream) -> None:
        """Forget a stream whose two directions have both ended cleanly."""
        if stream.send_done and stream.receive_done and not stream.receive_window.owed:
            # The peer may not have heard the last of it when the link is lost.
            self._settled.append(stream.standing())
            stream.settled()

    def left(self, stream: Stream) -> None:
        """A stream was given up while it was on no QUIC stream. Whoever was told of it on this link is told."""
        if self._side is Side.EDGE and not self.is_away:
            self._to_open[stream.number] = stream

    def forget(self, stream: Stream) -> None:
        self._streams.pop(stream.number, None)
        if stream.quic_stream is not None:
            self.link.streams.pop(stream.quic_stream, None)
        self._due.discard(stream)
        self._owed.discard(stream)

    # Inside.

    def _add(self, preface: Preface) -> Stream:
        self._streams[preface.stream] = Stream(self, preface, self.peer_window, self._loop.time())
        return self._streams[preface.stream]

    def _bind(self, stream: Stream, quic_stream: int) -> None:
        self.link.streams[quic_stream] = stream
        stream.bind(quic_stream)

    def _leave_link(self) -> None:
        self._to_open.clear()
        self._parked.clear()
        self._unknown.clear()
        self._unmentioned = None
        for stream in list(self._streams.values()):
            stream.unbind()

    def _end(self, closed: Closed) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        for stream in list(self._streams.values()):
            stream.lose(StreamCode.CLOSING)
        self._events.session_down(closed)

    def _stands(self, message: ResumeState) -> None:
        """The peer says how far its streams have come; those that it never mentions are over there, or (edge) have
        never arrived."""
        if self._unmentioned is None:
            raise ProtocolError("said how it stands without being asked")
        if not message.entries:
            self._idle_credits.spend(self._loop.time(), self._numbers.next)
        for number, received, consumed, limit in message.entries:
            stream = self._streams.get(number)
            if stream is None:
                self._stands_unknown(number, is_following=not limit)
                continue
            if number not in self._unmentioned:
                raise ProtocolError("two standings of one stream")
            self._unmentioned.remove(number)
            stream.stands(received, consumed, limit)
        if message.last:
            unmentioned, self._unmentioned = self._unmentioned, None
            self._miss(unmentioned)

    def _stands_unknown(self, number: int, *, is_following: bool) -> None:
        """An entry about a stream that is not here."""
        if self._side is Side.EDGE:
            if number >= self._numbers.next:
                raise ProtocolError("a standing of a stream that never was")
            self._idle_credits.spend(self._loop.time(), self._numbers.next)
            return
        if is_following:
            self._following = number
            return
        self._unknown.add(number)
        if len(self._unknown) > MAX_SKIPPED:
            raise ProtocolError("too many standings of streams that are not here")

    def _miss(self, unmentioned: set[int]) -> None:
        for number in unmentioned:
            stream = self._streams.get(number)
            if stream is None:
                continue
            if self._side is Side.EDGE and stream.is_untouched:
                stream.restart()
            else:
                stream.lose(StreamCode.ABORTED)
        if self._side is Side.EDGE:
            waiting = self._to_open | self._streams
            # The smallest number last, where it is cheap to take off.
            self._to_open = {number: waiting[number] for number in sorted(waiting, reverse=True)}
            self._open_again()
        else:
            self._numbers.reconcile(self._unknown, self._following)
            self._unknown.clear()
        self._events.session_resumed()
        parked, self._parked = self._parked, []
        for arrival in parked:
            arrival.go_on()

    def _open_again(self) -> None:
        while self._to_open and self._unmentioned is None:
            quic_stream = self.link.open(_PENDING)
            if quic_stream is None:
                return
            _, stream = self._to_open.popitem()
            if stream.is_over:
                self.link.connection.stop(quic_stream, StreamCode.ABORTED)
                self.abandoned(quic_stream, reset_code(StreamCode.ABORTED, stream.number))
            else:
                self.link.connection.write(quic_stream, encode_preface(stream.preface))
                self._bind(stream, quic_stream)

    def _credits(self, message: Credits) -> None:
        for number, consumed, limit in message.entries:
            stream = self._streams.get(number)
            if stream is not None and stream.credited(consumed, limit):
                continue
            self._idle_credits.spend(self._loop.time(), self._numbers.next)
            if stream is not None:
                continue
            if not self._numbers.has_met(number):
                raise ProtocolError("credit for a stream that never was")

    def _aborted(self, message: StreamsAborted) -> None:
        """The peer has given streams up. (Client: perhaps before their prefaces are here.)"""
        for number, code in message.entries:
            stream = self._streams.get(number)
            if stream is not None:
                stream.lose(stream_code(code))
                continue
            self._idle_credits.spend(self._loop.time(), self._numbers.next)
            if self._side is Side.CLIENT:
                self._numbers.meet(number)
            elif not self._numbers.has_met(number):
                raise ProtocolError("the end of a stream that never was")

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
        if self._owed and not self.link.is_down:
            self._announce(self._owed)


class _Pending:
    """Stands behind a stream between its opening and its registration, in which nothing can happen."""

    def data(self, chunks: list[bytes], *, end: bool) -> None: ...
    def reset(self, code: int) -> None: ...
    def stopped(self, code: int) -> None: ...
    def writable(self) -> None: ...


_PENDING: Final = _Pending()
