"""A Session: the streams of one client and one edge, their numbers, and their credit.

A session outlives its link when its owner says so: it is then *away*, its streams keep what was not consumed, and
:meth:`Session.resume` goes on with another link. Both sides first say how each stream stands
(:class:`ResumeState`); then the edge opens every stream again, and each side sends what the other did not receive.

The same class serves both sides. It owns what streams share: the pool of windows, the batching of credit
(:class:`CreditSender`) and the agreement on a new link (:class:`ResumeExchange`). The purpose of a session
(leases, visitors, origins) is its owner's business, told through :class:`SessionEvents`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Protocol

from quictunnel.errors import ProtocolError
from quictunnel.transport.credit_sender import CreditSender
from quictunnel.transport.incoming_stream import IncomingStream
from quictunnel.transport.link import PENDING, Discarded, Link
from quictunnel.transport.resume_exchange import ResumeExchange
from quictunnel.transport.stream import Stream
from quictunnel.wire.codes import OLDEST_VERSION, SessionCode, StreamCode, stream_code
from quictunnel.wire.control_state import Side
from quictunnel.wire.credit import IdleCreditBudget, WindowPool
from quictunnel.wire.messages import Credits, ResumeState, StreamsAborted
from quictunnel.wire.numbers import StreamNumbers
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


class SessionEvents(Protocol):
    """The owner of a session. Each method may raise ProtocolError, which ends the session."""

    def session_up(self) -> None:
        """Greet, or wait to be greeted: the link is there."""

    def session_message(self, message: AnyMessage) -> None:
        """Take in a message of the peer that is not about streams."""

    def session_stream(self, stream: Stream) -> None:
        """Client: the edge opened a stream for a visitor; attach a side to it now or soon."""

    def session_streams_available(self) -> None:
        """Note that the peer allows more streams."""

    def session_resumed(self) -> None:
        """Go on with another link: both sides know how they stand."""

    def session_away(self, closed: Closed) -> bool:
        """Return True to keep the streams, whose link is gone.

        :meth:`Session.resume` or :meth:`Session.end` has to follow then."""

    def session_down(self, closed: Closed) -> None:
        """Note that the session is over, and every stream with it."""


class Session:
    """The streams of one client and one edge. All methods are called on the loop's thread."""

    def __init__(self, side: Side, events: SessionEvents, wake: Callable[[], None]) -> None:
        self.link = Link(side, self, wake)
        self.pool = WindowPool()
        self.peer_window = 0
        """Bytes that the peer lets us send on a new stream; known after Hello or Welcome."""
        self.version = OLDEST_VERSION
        """Version of the protocol that both sides speak; known after Welcome."""
        self.is_away = False
        """True while the session has no link and waits for another."""
        self.kept = 0
        """Bytes beyond an initial window each that the streams keep; see ``MAX_KEPT``."""
        self._streams: dict[int, Stream] = {}
        self._events = events
        self._side = side
        self._numbers = StreamNumbers()
        """Edge: those given so far; client: those met so far."""
        self._loop = asyncio.get_running_loop()
        self._idle_credits = IdleCreditBudget()
        self._credit_sender = CreditSender(self)
        self._exchange = ResumeExchange(self, side, self._streams, self._numbers)

    # For the owner.

    @property
    def streams(self) -> int:
        """Streams open now."""
        return len(self._streams)

    @property
    def is_awaiting_standing(self) -> bool:
        """Return True if the session goes on with a link on which the peer has not said yet how it stands."""
        return self._exchange.is_pending

    @property
    def can_carry(self) -> bool:
        """Return True if a visitor can be carried at once: both sides know how they stand on this link."""
        return not self.is_away and not self.is_awaiting_standing

    @property
    def skipped_numbers(self) -> int:
        """Client: number of streams that have not come yet, although later ones have."""
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
        """Return True if any visitor would lose something if the session ended now."""
        return any(stream.in_flight(now) for stream in self._streams.values())

    def say(self, message: AnyMessage) -> None:
        """Send a message on the control stream."""
        self.link.send(message)

    def resume(self, link: Link, events: SessionEvents) -> None:
        """Go on with this link, whose other end knows the session.

        A link that was still there is closed: the later one is right."""
        old, self.link, self._events = self.link, link, events
        old.serve(Discarded())
        old.streams.clear()
        if not old.is_down:
            old.close(SessionCode.REPLACED)
        if not self.is_away:
            self._leave_link()
        self.is_away = False
        link.serve(self)

    def send_resume_state(self) -> None:
        """Say how every stream stands here; the first thing said on a link that a session goes on with."""
        self._credit_sender.clear()
        self._exchange.begin()

    def end(self, closed: Closed) -> None:
        """Give up a session that is away."""
        if self.is_away:
            self.is_away = False
            self._end(closed)

    def open(self, *, lease: int, tls: bool, host: str, port: int) -> Stream | None:
        """Edge: open a stream for a visitor and queue its preface. Return None while the client allows no more.

        As long as the session cannot carry it (:attr:`can_carry`), it waits for those that are opened again."""
        assert self._side is Side.EDGE
        preface = Preface(stream=self._numbers.next, lease=lease, tls=tls, host=host, port=port)
        if not self.can_carry:
            self._numbers.meet(preface.stream)
            return self._add(preface)
        quic_stream = self.link.open(PENDING)
        if quic_stream is None:
            return None
        self._numbers.meet(preface.stream)
        encoded = encode_preface(preface)
        taken = self.link.connection.write(quic_stream, encoded)
        assert taken == len(encoded), "a fresh stream always has room for its preface"
        self.link.wake()
        stream = self._add(preface)
        self.bind(stream, quic_stream)
        return stream

    def close(self, code: SessionCode, reason: str = "") -> None:
        """End the session now; :meth:`SessionEvents.session_down` follows."""
        self.link.close(code, reason)

    def stats(self) -> Stats:
        """Return the figures of the link's connection."""
        return self.link.stats()

    # From the link (transport.link.LinkEvents).

    def link_up(self) -> None:
        """Tell the owner that the link is there."""
        self._events.session_up()

    def link_message(self, message: AnyMessage) -> None:
        """Take in what is about streams; pass on the rest. Raises ProtocolError."""
        if isinstance(message, ResumeState):
            if self._exchange.on_resume_state(message):
                self._events.session_resumed()
                self._exchange.release_parked()
        elif self._exchange.is_pending:
            raise ProtocolError("said something before how it stands")
        elif isinstance(message, Credits):
            self._credits(message)
        elif isinstance(message, StreamsAborted):
            self._aborted(message)
        else:
            self._events.session_message(message)

    def link_stream(self, quic_stream: int) -> StreamEvents:
        """Return the receiver of a stream that the edge opened. Raises ProtocolError at the edge."""
        if self._side is Side.EDGE:
            raise ProtocolError("only an edge opens streams for visitors")
        if not self.peer_window:
            raise ProtocolError("a stream for a visitor before the greeting")
        return IncomingStream(self, quic_stream)

    def link_streams_available(self) -> None:
        """Open streams again that wait for it; tell the owner."""
        self._exchange.open_again()
        self._events.session_streams_available()

    def link_turn_ended(self) -> None:
        """Send the credit that is due."""
        self._credit_sender.flush()

    def link_down(self, closed: Closed) -> None:
        """Keep the streams for another link, if the owner wants it; else end."""
        if self._events.session_away(closed):
            self.is_away = True
            self._leave_link()
        else:
            self._end(closed)

    # From streams and arrivals.

    def arrived(self, preface: Preface, quic_stream: int, chunks: list[bytes], *, end: bool) -> None:
        """Client: begin the stream of a complete preface.

        On a link that the session goes on with, the stream may be here already, or be over here."""
        stream = self._streams.get(preface.stream)
        if stream is not None:
            if stream.quic_stream is not None:
                raise ProtocolError("two streams with one number")
            self.bind(stream, quic_stream)
        elif self._numbers.meet(preface.stream):
            stream = self._add(preface)
            self.bind(stream, quic_stream)
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
        """Client: have an arrival wait for the edge's account; see :meth:`ResumeExchange.park`."""
        return self._exchange.park(arrival, number)

    def gave_up_early(self, quic_stream: int, code: StreamCode, number: int | None) -> None:
        """Client: note that the edge reset a stream which is none here yet.

        Args:
            quic_stream: the QUIC stream.
            code: the reason.
            number: the stream's number, if the edge said it.
        """
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
        """Reset a QUIC stream that belongs to no stream."""
        self.link.connection.reset(quic_stream, code)
        self.link.streams.pop(quic_stream, None)
        self.link.wake()

    def bind(self, stream: Stream, quic_stream: int) -> None:
        """Have a stream go on with a QUIC stream of the link."""
        self.link.streams[quic_stream] = stream
        stream.bind(quic_stream)

    def spend_idle_credit(self) -> None:
        """Count an entry of the peer that changes nothing. Raises ProtocolError when there were too many."""
        self._idle_credits.spend(self._loop.time(), self._numbers.next)

    @property
    def side(self) -> Side:
        """The end of the session that this is."""
        return self._side

    def now(self) -> float:
        """Return the time of the loop."""
        return self._loop.time()

    def owe(self, stream: Stream) -> None:
        """Note that bytes of a stream were consumed, which the peer is to be told."""
        self._credit_sender.owe(stream)

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
            self._exchange.remember(stream)
            stream.settled()

    def left(self, stream: Stream) -> None:
        """Note that a stream was given up while it was on no QUIC stream.

        A client that was told of the stream on this link is told of its end."""
        if self._side is Side.EDGE and not self.is_away:
            self._exchange.tell_end_of(stream)

    def forget(self, stream: Stream) -> None:
        """Forget a stream that is over."""
        self._streams.pop(stream.number, None)
        if stream.quic_stream is not None:
            self.link.streams.pop(stream.quic_stream, None)
        self._credit_sender.forget(stream)

    # Inside.

    def _add(self, preface: Preface) -> Stream:
        self._streams[preface.stream] = Stream(self, preface, self.peer_window, self._loop.time())
        return self._streams[preface.stream]

    def _leave_link(self) -> None:
        self._exchange.leave_link()
        for stream in list(self._streams.values()):
            stream.unbind()

    def _end(self, closed: Closed) -> None:
        self._credit_sender.close()
        for stream in list(self._streams.values()):
            stream.lose(StreamCode.CLOSING)
        self._events.session_down(closed)

    def _credits(self, message: Credits) -> None:
        for number, consumed, limit in message.entries:
            stream = self._streams.get(number)
            if stream is not None and stream.credited(consumed, limit):
                continue
            self.spend_idle_credit()
            if stream is not None:
                continue
            if not self._numbers.has_met(number):
                raise ProtocolError("credit for a stream that never was")

    def _aborted(self, message: StreamsAborted) -> None:
        """Give up streams that the peer has given up. (Client: perhaps before their prefaces are here.)"""
        for number, code in message.entries:
            stream = self._streams.get(number)
            if stream is not None:
                stream.lose(stream_code(code))
                continue
            self.spend_idle_credit()
            if self._side is Side.CLIENT:
                self._numbers.meet(number)
            elif not self._numbers.has_met(number):
                raise ProtocolError("the end of a stream that never was")
