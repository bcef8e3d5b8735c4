"""A Stream: one visitor's bytes within a session, both directions, with credit.

Between the engine below (through the link) and one :class:`StreamSide` above. What it keeps is bounded by its
windows: nothing is written beyond the credit, nothing is credited before it has left.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from quictunnel.errors import ProtocolError
from quictunnel.wire.codes import StreamCode, reset_code, stream_code
from quictunnel.wire.control_state import Side
from quictunnel.wire.credit import INITIAL_WINDOW, ReceiveWindow, SendWindow
from quictunnel.wire.send_buffer import SendBuffer

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.transport.session import Session
    from quictunnel.wire.preface import Preface

NOT_TAKEN: Final = frozenset({StreamCode.REFUSED, StreamCode.UNREACHABLE, StreamCode.UNKNOWN_LEASE})
"""By which a client says that it had no connection to give a visitor's bytes to."""
DELIVERY_TIMEOUT: Final = 60.0
"""Seconds without progress after which the delivery of what a broken TCP connection had said is given up. Twice
what it takes to find a link dead, so that a session has another link first; a connection that lives has no such
deadline."""
MAX_DISCARDED: Final = 16 * 1024 * 1024
"""Bytes taken from a TCP connection and dropped after the peer has stopped reading them, so that a sender is not
blocked before it looks for its answer. More than the socket buffers of a connection hold; whoever has sent so much
and not read what is waiting for it is reset, as it would be without a tunnel."""
IN_FLIGHT: Final = 1.0
"""Seconds after the last byte for which a visitor counts as being in the middle of something."""


class StreamSide(Protocol):
    """What stands at this end of a stream: a splice, or something that answers in its place."""

    def stream_data(self, chunks: list[bytes], size: int) -> None:
        """Bytes came; :meth:`Stream.consume` them when they have left."""

    def stream_end(self) -> None:
        """No more bytes will come; :meth:`Stream.consume_end` when that was passed on."""

    def stream_room(self) -> None:
        """:attr:`Stream.room` is above zero again."""

    def stream_lost(self, code: StreamCode, untaken: list[bytes | memoryview] | None) -> None:
        """The stream is gone without a clean end. Nothing follows. ``untaken``: everything that was written, when
        the peer vouches that nobody was there to take any of it; it may be said again to somebody else."""


class Stream:
    """See the module. Made by a session; lives until both directions ended or either was given up."""

    __slots__ = (
        "_asked",
        "_blocked",
        "_delivery_timer",
        "_early",
        "_end_arrived",
        "_excess",
        "_finish_given",
        "_finishing",
        "_full",
        "_has_stopped",
        "_pending_abort",
        "_quic_stream",
        "_replay",
        "_send_window",
        "_session",
        "_side",
        "active_at",
        "is_over",
        "is_stopped",
        "on_over",
        "preface",
        "receive_done",
        "receive_window",
        "send_done",
    )

    def __init__(self, session: Session, preface: Preface, send_window: int, now: float) -> None:
        """Belongs to no link yet; :meth:`bind` has to follow."""
        self.preface = preface
        self.receive_window = ReceiveWindow(INITIAL_WINDOW, session.pool, now)
        self.receive_done = False
        """The peer's end was consumed."""
        self.send_done = False
        """Our end was credited."""
        self.is_over = False
        self.on_over: Callable[[Stream], None] | None = None
        """Called once, when the stream is over for whatever reason."""
        self.active_at = now
        """When bytes last came, went or were consumed."""
        self._asked = False
        self._session = session
        self._quic_stream: int | None = None
        """On the link of now; None while there is none, or it has not got there yet."""
        self._send_window = SendWindow(send_window)
        self._replay = SendBuffer()
        self._blocked = False
        self._full = False
        """The last write left no room: the side above waits to be told."""
        self._excess = 0
        """Bytes kept beyond an initial window, as the session counts them."""
        self._finishing = False
        self._finish_given = False
        self._side: StreamSide | None = None
        self._early: list[bytes] | None = None
        """Bytes that arrived before there was a side above. None while there are none, to save an empty list."""
        self._end_arrived = False
        self.is_stopped = False
        """The peer takes no more bytes of ours: they are dropped."""
        self._has_stopped = False
        """We take no more bytes of the peer's, and have told it so."""
        self._pending_abort: StreamCode | None = None
        """Given up as soon as the peer has consumed everything that was written."""
        self._delivery_timer: asyncio.TimerHandle | None = None

    @property
    def number(self) -> int:
        return self.preface.stream

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
        return self._replay.sent

    def in_flight(self, now: float) -> bool:
        """Whether the visitor is in the middle of something: bytes moved a moment ago, or are kept on either side
        because somebody takes them slowly, or the visitor spoke last and waits for an answer. An idle keep-alive
        connection is not."""
        return (
            self._asked
            or self.active_at > now - IN_FLIGHT
            or self._replay.held > 0
            or self.receive_window.received > self.receive_window.consumed
            or (self._finishing and not self.send_done)
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
        """Somebody else stands at this end from now on; what the one before was told is not said again."""
        self._side = side

    @property
    def room(self) -> int:
        """Bytes that :meth:`write` takes now. When it is zero, stop reading until ``stream_room``."""
        if self._blocked or self.is_over:
            return 0
        room = self._send_window.room
        within_initial = INITIAL_WINDOW - self._replay.held
        if room > within_initial and self._session.keeps_enough:
            return max(0, within_initial)
        return room

    def asks_room(self) -> bool:
        """Whether there is room now. Where not, ``stream_room`` follows when there is."""
        self._full = not self.room
        return not self._full

    def write(self, data: bytes) -> None:
        """Send bytes; they must not change any more. A caller that cannot stop in the middle of what it read
        may give more than :attr:`room` once; the rest waits here for credit."""
        if self.is_over or self._finishing:
            return
        self._send_window.written += len(data)
        if self.is_stopped:
            self._full = not self.room
            if self._full:
                asyncio.get_running_loop().call_soon(self.lose, StreamCode.STALLED)
            return
        self._replay.append(data)
        self._count_kept()
        self.active_at = self._session.now()
        self._asked = self._session.side is Side.EDGE
        if not self._blocked:
            self._push()
        self._full = not self.room

    def finish(self) -> None:
        """No more bytes will be written. Those that were will all arrive, and then the end."""
        if not self._finishing and not self.is_over:
            self._finishing = True
            if not self._blocked and not self.is_stopped:
                self._push()

    def consume(self, size: int) -> None:
        """Bytes of ``stream_data`` have left."""
        if size and not self.is_over:  # of a stream that has brought nothing the peer may not even know
            self.receive_window.consume(size)
            self.active_at = self._session.now()
            self._session.owe(self)

    def consume_end(self) -> None:
        """The end was passed on."""
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
        self._watch_delivery()
        if self._quic_stream is not None:
            self._session.link.connection.stop(self._quic_stream, StreamCode.ABORTED)
            self._session.link.wake()

    def abort_after_delivery(self, code: StreamCode) -> None:
        """Give up both directions as soon as the peer has consumed everything that was written, or makes no
        progress for :data:`DELIVERY_TIMEOUT`. The side above is told nothing any more; the stream lives on until
        then."""
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
                if self._finish_given or self.is_stopped or self._has_stopped or self._side is None:
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
        self.lose(stream_code(code))

    def stopped(self, code: int) -> None:
        """The peer takes no more of our bytes. With ABORTED its TCP connection is gone, and what that had said may
        still be on its way: it is awaited, and its end is a reset, or this side's when the peer had ended
        cleanly."""
        if self.send_done or self.is_over:
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
        self._replay.drop()
        self._count_kept()
        self._send_window.limit = self._send_window.written + MAX_DISCARDED
        self._blocked = False
        if self.receive_window.owed:
            self._session.owe(self)
        if self._full:
            self._tell_room()

    def writable(self) -> None:
        if self.is_stopped:
            return
        self._blocked = False
        self._push()
        if self._full:
            self._tell_room()

    # From the session.

    @property
    def quic_stream(self) -> int | None:
        return self._quic_stream

    @property
    def is_untouched(self) -> bool:
        """Whether the peer has not been seen to know of it, so that it may be opened as if for the first time."""
        return self._replay.base == 0 and not self.is_stopped

    def bind(self, quic_stream: int) -> None:
        """It travels on this QUIC stream of the session's link from now on."""
        self._quic_stream = quic_stream
        connection = self._session.link.connection
        if self._has_stopped:
            connection.stop(quic_stream, StreamCode.ABORTED)
        if self.is_stopped:
            self._session.link.wake()
            return  # the peer says so again
        if self._finish_given:
            connection.finish(quic_stream)
        self._push()
        if self._full:
            self._tell_room()

    def unbind(self) -> None:
        """The link is gone. What is written is kept, as far as the window goes."""
        self._quic_stream = None
        self._blocked = False
        if self._full:
            self._tell_room()

    def standing(self) -> tuple[int, int, int, int]:
        """For the peer, on a new link: how far it has come here; see ``messages.Standing``."""
        consumed, limit = self.receive_window.announce(self._session.now(), 0.0)
        return self.number, self.receive_window.received + self._end_arrived, consumed, limit

    def restart(self) -> None:
        """The peer has never heard of it."""
        self._replay.rewind(0)
        self._finish_given = False

    def stands(self, received: int, consumed: int, limit: int) -> None:
        """The peer says how far it has come there: what it did not receive is sent again. Raises ProtocolError."""
        if self.is_stopped:
            return
        replay = self._replay
        if not replay.base <= received <= replay.sent + self._finish_given or consumed > received:
            raise ProtocolError("a standing that cannot be")
        self._send_window.grant(consumed, limit, received)
        replay.credit(min(consumed, replay.end))
        replay.rewind(min(received, replay.end))
        self._finish_given = received > replay.end
        self._count_kept()
        if self._finish_given and consumed > replay.end:
            self.send_done = True
            self._session.settle(self)
        self._abort_if_delivered()

    def lose(self, code: StreamCode) -> None:
        """The peer, the link or a deadline ended the stream: give it up and tell the side above."""
        if not self.is_over:
            side, untaken = self._side, self._untaken(code)
            self.abort(code)
            if side is not None:
                side.stream_lost(code, untaken)

    def _untaken(self, code: StreamCode) -> list[bytes | memoryview] | None:
        is_touched = self._replay.base or self.is_stopped or self.receive_window.received or self._end_arrived
        if code not in NOT_TAKEN or is_touched:
            return None
        return self._replay.pieces()

    def credited(self, consumed: int, limit: int) -> bool:
        """The peer consumed bytes and allows more. Whether it said anything new. Raises ProtocolError."""
        if self.is_stopped:
            return False
        is_news = consumed > self._send_window.consumed or limit > self._send_window.limit
        if consumed > self._send_window.consumed:
            self.active_at = self._session.now()
        self._send_window.grant(consumed, limit, self._replay.sent + self._finish_given)
        self._replay.credit(min(consumed, self._replay.end))
        self._count_kept()
        if self._finish_given and consumed > self._replay.end:
            self.send_done = True
            self._session.settle(self)
            self._abort_if_delivered()
            return is_news
        if not self._blocked and self._replay.next_chunk is not None:
            self._push()
        if self._full:
            self._tell_room()
        if self._pending_abort is not None:
            self._abort_if_delivered()
        return is_news

    # Inside.

    def _push(self) -> None:
        """Hand to the engine what the credit allows and the engine takes."""
        if self._quic_stream is None:
            return
        connection = self._session.link.connection
        replay = self._replay
        while (chunk := replay.next_chunk) is not None:
            allowed = self._send_window.limit - replay.sent
            if allowed <= 0:
                break
            if len(chunk) > allowed:
                chunk = memoryview(chunk)[:allowed]
            taken = connection.write(self._quic_stream, chunk)
            replay.mark_sent(taken)
            if taken < len(chunk):
                self._blocked = True
                break
        else:
            if self._finishing and not self._finish_given:
                connection.finish(self._quic_stream)
                self._finish_given = True
        self._session.link.wake()

    def _abort_if_delivered(self) -> None:
        if self._pending_abort is not None and (
            self.is_stopped or (self.send_done if self._finishing else not self._replay.held)
        ):
            self.abort(self._pending_abort)

    def _watch_delivery(self) -> None:
        self._delivery_timer = asyncio.get_running_loop().call_later(
            DELIVERY_TIMEOUT, self._check_delivery, self._send_window.consumed
        )

    def _check_delivery(self, before: int) -> None:
        """Give up what makes no progress. A session without a link cannot make any."""
        is_waiting = self._replay.held > 0 or self._pending_abort is not None
        if is_waiting and self._send_window.consumed == before and not self._session.is_away:
            self.lose(StreamCode.STALLED)
        else:
            self._watch_delivery()

    def _count_kept(self) -> None:
        excess = max(0, self._replay.held - INITIAL_WINDOW)
        if excess != self._excess:
            self._session.keep(excess - self._excess)
            self._excess = excess

    def _tell_room(self) -> None:
        if self._side is not None and not self._finishing and self.room:
            self._full = False
            self._side.stream_room()

    def _over(self) -> None:
        self.is_over = True
        if self._delivery_timer is not None:
            self._delivery_timer.cancel()
        self._session.keep(-self._excess)
        self._replay.clear()
        self._early = None
        self.receive_window.close()
        self._session.forget(self)
        if self.on_over is not None:
            self.on_over(self)

    def settled(self) -> None:
        """Both directions have ended cleanly and both sides know."""
        if not self.is_over:
            self._over()
