"""A Stream: one visitor's bytes within a session, both directions, with credit.

A stream stands between the engine below (through the link) and one ``StreamSide`` above. What it keeps is bounded
by its windows: nothing is written beyond the credit, nothing is credited before it has left.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from quictunnel.errors import ProtocolError
from quictunnel.transport.delivery_watch import DeliveryWatch
from quictunnel.transport.stream_sender import StreamSender
from quictunnel.wire.codes import StreamCode, reset_code, stream_code
from quictunnel.wire.control_state import Side
from quictunnel.wire.credit import INITIAL_WINDOW, ReceiveWindow

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.transport.link import Link
    from quictunnel.transport.stream_side import StreamSide
    from quictunnel.wire.credit import WindowPool
    from quictunnel.wire.preface import Preface

NOT_TAKEN: Final = frozenset({StreamCode.REFUSED, StreamCode.UNREACHABLE, StreamCode.UNKNOWN_LEASE})
"""Codes by which a client says that it had no connection to give a visitor's bytes to."""
IN_FLIGHT: Final = 1.0
"""Seconds after the last byte for which a visitor counts as being in the middle of something."""


class StreamOwner(Protocol):
    """The session, as its streams use it."""

    link: Link
    pool: WindowPool
    is_away: bool

    @property
    def side(self) -> Side:
        """The end of the session that this is."""

    @property
    def keeps_enough(self) -> bool:
        """Return True if streams may keep nothing beyond an initial window now."""

    def now(self) -> float:
        """Return the time of the loop."""

    def keep(self, more: int) -> None:
        """Count bytes that are kept beyond an initial window."""

    def owe(self, stream: Stream) -> None:
        """Note that bytes of a stream were consumed, which the peer is to be told."""

    def say_aborted(self, stream: Stream, code: StreamCode) -> None:
        """Tell the peer that a stream was given up, of which QUIC may have no word left."""

    def settle(self, stream: Stream) -> None:
        """Forget the stream if both directions have ended cleanly."""

    def left(self, stream: Stream) -> None:
        """Note that a stream was given up while it was on no QUIC stream."""

    def forget(self, stream: Stream) -> None:
        """Forget a stream that is over."""


class Stream:
    """Byte stream of one visitor. Created by a session; exists until both directions ended or one was given up."""

    __slots__ = (
        "_asked",
        "_delivery_watch",
        "_early",
        "_end_arrived",
        "_full",
        "_has_stopped",
        "_pending_abort",
        "_quic_stream",
        "_sender",
        "_session",
        "_side",
        "active_at",
        "is_over",
        "is_stopped",
        "on_over",
        "preface",
        "receive_done",
        "receive_window",
    )

    def __init__(self, session: StreamOwner, preface: Preface, send_window: int, now: float) -> None:
        """Belongs to no link yet; :meth:`bind` has to follow."""
        self.preface = preface
        self.receive_window = ReceiveWindow(INITIAL_WINDOW, session.pool, now)
        self.receive_done = False
        """The peer's end was consumed."""
        self.is_over = False
        self.on_over: Callable[[Stream], None] | None = None
        """Called once, when the stream is over for whatever reason."""
        self.active_at = now
        """Time at which bytes last came, went or were consumed."""
        self._asked = False
        self._session = session
        self._quic_stream: int | None = None
        """On the link of now; None while there is none, or it has not got there yet."""
        self._sender = StreamSender(send_window)
        self._full = False
        """The last write left no room: the side above waits to be told."""
        self._side: StreamSide | None = None
        self._early: list[bytes] | None = None
        """Bytes that arrived before there was a side above. None while there are none, to save an empty list."""
        self._end_arrived = False
        self.is_stopped = False
        """The peer takes no more bytes of ours: they are dropped."""
        self._has_stopped = False
        """True once the peer was told that its bytes are refused."""
        self._pending_abort: StreamCode | None = None
        """Given up as soon as the peer has consumed everything that was written."""
        self._delivery_watch: DeliveryWatch | None = None

    @property
    def number(self) -> int:
        """The number that the edge gave the stream in this session."""
        return self.preface.stream

    @property
    def send_done(self) -> bool:
        """Return True if the peer has consumed our end."""
        return self._sender.is_done

    @property
    def has_ended(self) -> bool:
        """The peer's end has arrived."""
        return self._end_arrived

    @property
    def bytes_received(self) -> int:
        """Bytes that came from the peer so far."""
        return self.receive_window.received

    @property
    def bytes_sent(self) -> int:
        """Bytes handed to the engine so far."""
        return self._sender.buffer.sent

    def in_flight(self, now: float) -> bool:
        """Return True if the visitor is in the middle of something.

        Bytes moved a moment ago, or are kept on either side because somebody takes them slowly, or the visitor
        spoke last and waits for an answer. An idle keep-alive connection is not in the middle of anything."""
        return (
            self._asked
            or self.active_at > now - IN_FLIGHT
            or self._sender.buffer.held > 0
            or self.receive_window.received > self.receive_window.consumed
            or (self._sender.is_finishing and not self._sender.is_done)
            or (self._end_arrived and not self.receive_done)
        )

    # For the side above.

    def attach(self, side: StreamSide) -> None:
        """Give the stream its end. What came before (at most the initial window) is delivered at once."""
        self._side = side
        early, self._early = self._early, None
        if early:
            side.stream_data(early, sum(map(len, early)))
        if self._end_arrived and not self.is_over:
            side.stream_end()

    def hand_to(self, side: StreamSide) -> None:
        """Put another side at this end. What the one before was told is not said again."""
        self._side = side

    @property
    def room(self) -> int:
        """Bytes that :meth:`write` takes now. When it is zero, stop reading until ``stream_room``."""
        sender = self._sender
        if sender.is_blocked or self.is_over:
            return 0
        room = sender.room
        within_initial = INITIAL_WINDOW - sender.buffer.held
        if room > within_initial and self._session.keeps_enough:
            return max(0, within_initial)
        return room

    def asks_room(self) -> bool:
        """Return True if there is room now. If not, ``stream_room`` follows when there is."""
        self._full = not self.room
        return not self._full

    def write(self, data: bytes) -> None:
        """Send bytes; they must not change any more. A caller that cannot stop in the middle of what it read
        may give more than :attr:`room` once; the rest waits here for credit."""
        sender = self._sender
        if self.is_over or sender.is_finishing:
            return
        sender.written += len(data)
        if self.is_stopped:
            self._full = not self.room
            if self._full:
                asyncio.get_running_loop().call_soon(self.lose, StreamCode.STALLED)
            return
        session = self._session
        sender.buffer.append(data)
        sender.count_kept(session)
        self.active_at = session.now()
        self._asked = session.side is Side.EDGE
        if not sender.is_blocked:
            self._push()
        self._full = not self.room

    def finish(self) -> None:
        """End this direction. All bytes that were written arrive, and then the end."""
        sender = self._sender
        if not sender.is_finishing and not self.is_over:
            sender.is_finishing = True
            if not sender.is_blocked and not self.is_stopped:
                self._push()

    def consume(self, size: int) -> None:
        """Note that bytes of ``stream_data`` have left."""
        if size and not self.is_over:  # of a stream that has brought nothing the peer may not even know
            self.receive_window.consume(size)
            self.active_at = self._session.now()
            self._session.owe(self)

    def consume_end(self) -> None:
        """Note that the end was passed on."""
        if not self.is_over:
            self.receive_window.consume(1)
            self.receive_done = True
            self._session.owe(self)
            if self.is_stopped:
                self.lose(StreamCode.ABORTED)  # one direction has ended, and nobody takes the other

    def stop(self) -> None:
        """Take no more of the peer's bytes, because the TCP connection that they were for is gone. What was
        written, and what is still written, arrives. :meth:`abort_after_delivery` has to follow."""
        if self.is_over or self._has_stopped:
            return
        self._has_stopped = True
        self._delivery_watch = DeliveryWatch(
            self._sender, self._awaits_delivery, partial(self.lose, StreamCode.STALLED)
        )
        if self._quic_stream is not None:
            self._session.link.connection.stop(self._quic_stream, StreamCode.ABORTED)
            self._session.link.wake()

    def abort_after_delivery(self, code: StreamCode) -> None:
        """Give up both directions as soon as the peer has consumed everything that was written.

        They are also given up when the peer makes no progress for ``DELIVERY_TIMEOUT``. The side above is told
        nothing any more; the stream lives on until then."""
        if not self.is_over:
            self.stop()
            self._side = None
            self._early = None
            self._pending_abort = code
            self._abort_if_delivered()

    def abort(self, code: StreamCode) -> None:
        """Give up both directions; the other side sees a reset. The side above is told nothing."""
        if not self.is_over:
            if self._quic_stream is not None:
                connection = self._session.link.connection
                is_edge = self._session.side is Side.EDGE
                connection.reset(self._quic_stream, reset_code(code, self.number) if is_edge else code)
                connection.stop(self._quic_stream, code)
                if self._sender.is_end_given or self.is_stopped or self._has_stopped or self._side is None:
                    # Perhaps complete both ways as far as QUIC knows, which then has no word left (RFC 9000
                    # sections 3.1 and 3.2), or tells its user nothing of a direction that was stopped. Where
                    # nobody has stood at this end, a stop by the peer may still be on its way.
                    self._session.say_aborted(self, code)
                self._session.link.wake()
            else:
                # Without a link: the peer will find that it is not known here any more.
                self._session.left(self)
            self._over()

    # From the link (transport.link.StreamEvents).

    def data(self, chunks: list[bytes], *, end: bool) -> None:
        """Take in bytes of the peer, and its end. Raises ProtocolError."""
        if self.is_over:
            return
        if self._end_arrived:
            if chunks:
                raise ProtocolError("bytes behind the end of a stream")
            return  # said again on a new link
        size = sum(map(len, chunks))
        self.receive_window.arrived(size)
        self.active_at = self._session.now()
        # An end alone asks for nothing: a visitor who only hangs up must not hold up a drain.
        self._asked = self._session.side is Side.CLIENT and (size > 0 or self._asked)
        self._end_arrived = end
        if self._has_stopped:
            return
        side = self._side
        if side is None:
            if self._early is None:
                self._early = []
            self._early += chunks
            return
        if size:
            side.stream_data(chunks, size)
        if end and not self.is_over:
            side.stream_end()

    def reset(self, code: int) -> None:
        """Give up the stream, which the peer gave up."""
        self.lose(stream_code(code))

    def stopped(self, code: int) -> None:
        """Send no more bytes, because the peer takes none.

        With ABORTED the peer's TCP connection is gone, and what that had said may still be on its way: it is
        awaited, and its end is a reset, or this side's when the peer had ended cleanly."""
        if self._sender.is_done or self.is_over:
            return
        reason = stream_code(code)
        if reason is not StreamCode.ABORTED:
            self.lose(reason)
            return
        if self.is_stopped:
            return
        self.is_stopped = True
        if self._side is None or self.receive_done:
            self.lose(reason)
            return
        self._sender.discard()
        self._sender.count_kept(self._session)
        if self.receive_window.owed:
            self._session.owe(self)
        if self._full:
            self._tell_room()

    def writable(self) -> None:
        """Go on writing: the engine takes bytes again."""
        if self.is_stopped:
            return
        self._sender.is_blocked = False
        self._push()
        if self._full:
            self._tell_room()

    # From the session.

    @property
    def quic_stream(self) -> int | None:
        """The QUIC stream on the link of now; None while there is none."""
        return self._quic_stream

    @property
    def is_untouched(self) -> bool:
        """Return True if the peer may not know the stream, so that it may be opened as if for the first time."""
        return self._sender.buffer.base == 0 and not self.is_stopped

    def bind(self, quic_stream: int) -> None:
        """Go on with this QUIC stream of the session's link."""
        self._quic_stream = quic_stream
        connection = self._session.link.connection
        if self._has_stopped:
            connection.stop(quic_stream, StreamCode.ABORTED)
        if self.is_stopped:
            self._session.link.wake()
            return  # the peer says so again
        if self._sender.is_end_given:
            connection.finish(quic_stream)
        self._push()
        if self._full:
            self._tell_room()

    def unbind(self) -> None:
        """Leave the link, which is gone. What is written is kept, as far as the window goes."""
        self._quic_stream = None
        self._sender.is_blocked = False
        if self._full:
            self._tell_room()

    def standing(self) -> tuple[int, int, int, int]:
        """Return the entry of a ``ResumeState``: number, bytes received, bytes consumed, limit."""
        consumed, limit = self.receive_window.announce(self._session.now(), 0.0)
        return self.number, self.receive_window.received + self._end_arrived, consumed, limit

    def restart(self) -> None:
        """Send everything again: the peer has never heard of the stream."""
        self._sender.restart()

    def on_resume_state(self, received: int, consumed: int, limit: int) -> None:
        """Send again what the peer did not receive, by its entry of a ``ResumeState``. Raises ProtocolError."""
        if self.is_stopped:
            return
        self._sender.resume(received, consumed, limit)
        self._sender.count_kept(self._session)
        if self._sender.is_done:
            self._session.settle(self)
        self._abort_if_delivered()

    def lose(self, code: StreamCode) -> None:
        """Give up the stream, which the peer, the link or a deadline ended, and tell the side above."""
        if not self.is_over:
            side, untaken = self._side, self._untaken(code)
            self.abort(code)
            if side is not None:
                side.stream_lost(code, untaken)

    def _untaken(self, code: StreamCode) -> list[bytes | memoryview] | None:
        buffer = self._sender.buffer
        is_touched = buffer.base or self.is_stopped or self.receive_window.received or self._end_arrived
        return None if code not in NOT_TAKEN or is_touched else buffer.pieces()

    def credited(self, consumed: int, limit: int) -> bool:
        """Take in what the peer consumed and allows. Return True if that was news. Raises ProtocolError."""
        if self.is_stopped:
            return False
        sender = self._sender
        has_consumed = consumed > sender.consumed
        is_news = has_consumed or limit > sender.limit
        if has_consumed:
            self.active_at = self._session.now()
        sender.credit(consumed, limit)
        sender.count_kept(self._session)
        if sender.is_done:
            self._session.settle(self)
            self._abort_if_delivered()
            return is_news
        if not sender.is_blocked and sender.buffer.next_chunk is not None:
            self._push()
        if self._full:
            self._tell_room()
        if self._pending_abort is not None:
            self._abort_if_delivered()
        return is_news

    # Inside.

    def _push(self) -> None:
        if self._quic_stream is not None:
            link = self._session.link
            self._sender.push(link.connection, self._quic_stream)
            link.wake()

    def _abort_if_delivered(self) -> None:
        if self._pending_abort is not None and (self.is_stopped or self._sender.is_delivered):
            self.abort(self._pending_abort)

    def _awaits_delivery(self) -> bool:
        """Return True if the peer owes progress. A session without a link cannot make any."""
        is_waiting = self._sender.buffer.held > 0 or self._pending_abort is not None
        return is_waiting and not self._session.is_away

    def _tell_room(self) -> None:
        if self._side is not None and not self._sender.is_finishing and self.room:
            self._full = False
            self._side.stream_room()

    def _over(self) -> None:
        self.is_over = True
        if self._delivery_watch is not None:
            self._delivery_watch.close()
        self._sender.clear(self._session)
        self._early = None
        self.receive_window.close()
        self._session.forget(self)
        if self.on_over is not None:
            self.on_over(self)

    def settled(self) -> None:
        """End: both directions have ended cleanly, and both sides know."""
        if not self.is_over:
            self._over()
