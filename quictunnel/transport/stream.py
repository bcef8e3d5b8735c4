"""Byte stream of one visitor within a session: both directions, with credit.

A stream connects the engine (through the link) and one ``StreamConsumer``. Its memory is bounded by its windows:
nothing is sent beyond the credit, and no byte is credited before the consumer has passed it on.
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
    from quictunnel.transport.stream_consumer import StreamConsumer
    from quictunnel.wire.credit import WindowPool
    from quictunnel.wire.preface import Preface

NOT_CONSUMED: Final = frozenset({StreamCode.REFUSED, StreamCode.UNREACHABLE, StreamCode.UNKNOWN_LEASE})
"""Codes of a client that had no connection to which it could pass a visitor's bytes."""
ACTIVE_TIME: Final = 1.0
"""Seconds after the last byte for which a stream counts as active."""


class StreamOwner(Protocol):
    """The session, as its streams use it."""

    link: Link
    window_pool: WindowPool
    is_away: bool

    @property
    def side(self) -> Side:
        """Return the end of the session to which the stream belongs: client or edge."""

    @property
    def is_at_retained_limit(self) -> bool:
        """Return True if streams may retain nothing beyond an initial window now."""

    def now(self) -> float:
        """Return the time of the loop."""

    def add_retained(self, more: int) -> None:
        """Add to the count of bytes retained beyond an initial window."""

    def send_credit(self, stream: Stream) -> None:
        """Send credit to the peer, soon: bytes of the stream were consumed."""

    def send_aborted(self, stream: Stream, code: StreamCode) -> None:
        """Send a message that the stream was aborted, for which QUIC may have no frame left."""

    def forget_if_ended(self, stream: Stream) -> None:
        """Forget the stream if both directions have ended cleanly."""

    def aborted_without_quic_stream(self, stream: Stream) -> None:
        """Note that a stream was aborted while it had no QUIC stream."""

    def forget(self, stream: Stream) -> None:
        """Forget a stream that is over."""


class Stream:
    """Byte stream of one visitor. Created by a session; exists until both directions ended or one was given up."""

    __slots__ = (
        "_awaits_answer",
        "_awaits_room",
        "_consumer",
        "_delivery_watch",
        "_early",
        "_has_received_end",
        "_has_sent_stop",
        "_pending_abort",
        "_quic_stream",
        "_sender",
        "_session",
        "active_at",
        "ended_with_session",
        "is_over",
        "is_stopped_by_peer",
        "on_over",
        "preface",
        "receive_done",
        "receive_window",
    )

    def __init__(self, session: StreamOwner, preface: Preface, send_window: int, now: float) -> None:
        """Create a stream that has no QUIC stream until :meth:`attach_quic_stream`."""
        self.preface = preface
        self.receive_window = ReceiveWindow(INITIAL_WINDOW, session.window_pool, now)
        self.receive_done = False
        """True once the peer's end was consumed."""
        self.is_over = False
        self.ended_with_session = False
        """True if the end of its session ended it."""
        self.on_over: Callable[[Stream], None] | None = None
        """Called once, when the stream is over for whatever reason."""
        self.active_at = now
        """Time at which bytes last came, went or were consumed."""
        self._awaits_answer = False
        self._session = session
        self._quic_stream: int | None = None
        """QUIC stream on the current link. None without a link, or before the stream was opened on it."""
        self._sender = StreamSender(send_window)
        self._awaits_room = False
        """True after a write that left no room: the consumer waits for ``stream_room``."""
        self._consumer: StreamConsumer | None = None
        self._early: list[bytes] | None = None
        """Bytes that arrived before a consumer was attached. None instead of an empty list, to save memory."""
        self._has_received_end = False
        self.is_stopped_by_peer = False
        """True once the peer refuses bytes: they are dropped."""
        self._has_sent_stop = False
        """True once the peer was told that its bytes are refused."""
        self._pending_abort: StreamCode | None = None
        """Code with which the stream is aborted when the peer has consumed all that was written."""
        self._delivery_watch: DeliveryWatch | None = None

    @property
    def number(self) -> int:
        """The number that the edge gave the stream in this session."""
        return self.preface.stream

    @property
    def send_done(self) -> bool:
        """Return True if the peer has consumed the end of this direction."""
        return self._sender.is_done

    @property
    def has_received_end(self) -> bool:
        """Return True if the peer's end has arrived."""
        return self._has_received_end

    @property
    def bytes_received(self) -> int:
        """Return the number of bytes received from the peer."""
        return self.receive_window.received

    @property
    def bytes_sent(self) -> int:
        """Return the number of bytes handed to the engine."""
        return self._sender.buffer.sent

    def is_active(self, now: float) -> bool:
        """Return True if a drain should wait for the visitor.

        That is the case if bytes moved a moment ago, or wait on either side for a slow reader, or the visitor sent
        last and waits for an answer. An idle keep-alive connection is not active."""
        return (
            self._awaits_answer
            or self.active_at > now - ACTIVE_TIME
            or self._sender.buffer.size > 0
            or self.receive_window.received > self.receive_window.consumed
            or (self._sender.is_finishing and not self._sender.is_done)
            or (self._has_received_end and not self.receive_done)
        )

    # For the consumer.

    def attach(self, consumer: StreamConsumer) -> None:
        """Attach the consumer. Bytes that arrived before (at most the initial window) are passed to it at once."""
        self._consumer = consumer
        early, self._early = self._early, None
        if early:
            consumer.stream_data(early, sum(map(len, early)))
        if self._has_received_end and not self.is_over:
            consumer.stream_end()

    def replace_consumer(self, consumer: StreamConsumer) -> None:
        """Attach another consumer. Bytes and events that the former one has had are not repeated."""
        self._consumer = consumer

    @property
    def room(self) -> int:
        """Number of bytes that :meth:`write` accepts now. At zero, the consumer pauses reading until
        ``stream_room``."""
        sender = self._sender
        if sender.is_writing_paused or self.is_over:
            return 0
        room = sender.room
        within_initial = INITIAL_WINDOW - sender.buffer.size
        if room > within_initial and self._session.is_at_retained_limit:
            return max(0, within_initial)
        return room

    def request_room(self) -> bool:
        """Return True if there is room now. Otherwise ``stream_room`` is called when there is."""
        self._awaits_room = not self.room
        return not self._awaits_room

    def write(self, data: bytes) -> None:
        """Send bytes, which must not change afterwards. A caller that has read more than :attr:`room` may exceed
        it once; the excess waits here for credit."""
        sender = self._sender
        if self.is_over or sender.is_finishing:
            return
        sender.written += len(data)
        if self.is_stopped_by_peer:
            self._awaits_room = not self.room
            if self._awaits_room:
                asyncio.get_running_loop().call_soon(self.fail, StreamCode.STALLED)
            return
        session = self._session
        sender.buffer.append(data)
        sender.count_retained(session)
        self.active_at = session.now()
        self._awaits_answer = session.side is Side.EDGE
        if not sender.is_writing_paused:
            self._push()
        self._awaits_room = not self.room

    def finish(self) -> None:
        """End this direction. The end follows all bytes that were written."""
        sender = self._sender
        if not sender.is_finishing and not self.is_over:
            sender.is_finishing = True
            if not sender.is_writing_paused and not self.is_stopped_by_peer:
                self._push()

    def consume(self, size: int) -> None:
        """Note that the consumer has passed on bytes of ``stream_data``."""
        if size and not self.is_over:  # without received bytes, the peer may not know the stream yet
            self.receive_window.consume(size)
            self.active_at = self._session.now()
            self._session.send_credit(self)

    def consume_end(self) -> None:
        """Note that the end was passed on."""
        if not self.is_over:
            self.receive_window.consume(1)
            self.receive_done = True
            self._session.send_credit(self)
            if self.is_stopped_by_peer:
                self.fail(StreamCode.ABORTED)  # one direction has ended, and the other is refused

    def stop_receiving(self) -> None:
        """Refuse further bytes of the peer, because their TCP connection is gone. Bytes written before and after
        are still delivered. The caller calls :meth:`abort_after_delivery` later."""
        if self.is_over or self._has_sent_stop:
            return
        self._has_sent_stop = True
        self._delivery_watch = DeliveryWatch(
            self._sender, self._awaits_delivery, partial(self.fail, StreamCode.STALLED)
        )
        if self._quic_stream is not None:
            self._session.link.connection.stop(self._quic_stream, StreamCode.ABORTED)
            self._session.link.schedule_transmit()

    def abort_after_delivery(self, code: StreamCode) -> None:
        """Abort both directions as soon as the peer has consumed everything that was written.

        They are also aborted when the peer makes no progress for ``DELIVERY_TIMEOUT``. The consumer is detached at
        once."""
        if not self.is_over:
            self.stop_receiving()
            self._consumer = None
            self._early = None
            self._pending_abort = code
            self._abort_if_delivered()

    def abort(self, code: StreamCode) -> None:
        """Abort both directions; the peer sees a reset. The consumer is not called."""
        if not self.is_over:
            if self._quic_stream is not None:
                connection = self._session.link.connection
                is_edge = self._session.side is Side.EDGE
                connection.reset(self._quic_stream, reset_code(code, self.number) if is_edge else code)
                connection.stop(self._quic_stream, code)
                if (
                    self._sender.is_end_given
                    or self.is_stopped_by_peer
                    or self._has_sent_stop
                    or self._consumer is None
                ):
                    # For QUIC the stream may be complete in both directions, and then it has no frame left to send
                    # (RFC 9000 sections 3.1 and 3.2), or it reports nothing of a stopped direction to its
                    # user. Without a consumer, a stop by the peer may still be in flight.
                    self._session.send_aborted(self, code)
                self._session.link.schedule_transmit()
            else:
                # The session is away, or has not opened the stream again on its new link.
                self._session.aborted_without_quic_stream(self)
            self._over()

    # From the link (transport.link.StreamHandler).

    def data(self, chunks: list[bytes], *, end: bool) -> None:
        """Handle bytes of the peer, and its end. Raises ProtocolError."""
        if self.is_over:
            return
        if self._has_received_end:
            if chunks:
                raise ProtocolError("bytes behind the end of a stream")
            return  # repeated on a new link
        size = sum(map(len, chunks))
        self.receive_window.arrived(size)
        self.active_at = self._session.now()
        # An end alone needs no answer: a visitor who only closes must not delay a drain.
        self._awaits_answer = self._session.side is Side.CLIENT and (size > 0 or self._awaits_answer)
        self._has_received_end = end
        if self._has_sent_stop:
            return
        consumer = self._consumer
        if consumer is None:
            if self._early is None:
                self._early = []
            self._early += chunks
            return
        if size:
            consumer.stream_data(chunks, size)
        if end and not self.is_over:
            consumer.stream_end()

    def reset(self, code: int) -> None:
        """Handle a reset by the peer: the stream is lost."""
        self.fail(stream_code(code))

    def stopped(self, code: int) -> None:
        """Handle a stop by the peer, which refuses further bytes.

        ABORTED means that the peer's TCP connection is gone while bytes that the peer sent may still be in flight.
        This end continues to receive them. Then the peer resets the stream; if the peer has ended its direction
        cleanly, this end resets the stream (:meth:`consume_end`)."""
        if self._sender.is_done or self.is_over:
            return
        reason = stream_code(code)
        if reason is not StreamCode.ABORTED:
            self.fail(reason)
            return
        if self.is_stopped_by_peer:
            return
        self.is_stopped_by_peer = True
        if self._consumer is None or self.receive_done:
            self.fail(reason)
            return
        self._sender.discard()
        self._sender.count_retained(self._session)
        if self.receive_window.has_uncredited_bytes:
            self._session.send_credit(self)
        if self._awaits_room:
            self._report_room()

    def writable(self) -> None:
        """Continue to write: the engine accepts bytes again."""
        if self.is_stopped_by_peer:
            return
        self._sender.is_writing_paused = False
        self._push()
        if self._awaits_room:
            self._report_room()

    # From the session.

    @property
    def quic_stream(self) -> int | None:
        """Return the QUIC stream on the current link; None while there is none."""
        return self._quic_stream

    @property
    def can_send_all_again(self) -> bool:
        """Return True if no byte was acknowledged, so that :meth:`send_all_again` may send all of them again."""
        return self._sender.buffer.base == 0 and not self.is_stopped_by_peer

    def attach_quic_stream(self, quic_stream: int) -> None:
        """Continue on this QUIC stream of the session's link."""
        self._quic_stream = quic_stream
        connection = self._session.link.connection
        if self._has_sent_stop:
            connection.stop(quic_stream, StreamCode.ABORTED)
        if self.is_stopped_by_peer:
            self._session.link.schedule_transmit()
            return  # the peer repeats its stop
        if self._sender.is_end_given:
            connection.finish(quic_stream)
        self._push()
        if self._awaits_room:
            self._report_room()

    def detach_quic_stream(self) -> None:
        """Detach from a lost link. Bytes written meanwhile are retained, up to the window."""
        self._quic_stream = None
        self._sender.is_writing_paused = False
        if self._awaits_room:
            self._report_room()

    def resume_entry(self) -> tuple[int, int, int, int]:
        """Return the entry of a ``ResumeState``: number, bytes received, bytes consumed, limit."""
        consumed, limit = self.receive_window.next_credit(self._session.now(), rtt=0.0)
        return self.number, self.receive_window.received + self._has_received_end, consumed, limit

    def send_all_again(self) -> None:
        """Send everything again: the peer does not know the stream."""
        self._sender.send_all_again()

    def on_resume_state(self, received: int, consumed: int, limit: int) -> None:
        """Send again the bytes that the peer lacks by its entry of a ``ResumeState``. Raises ProtocolError."""
        if self.is_stopped_by_peer:
            return
        self._sender.resume(received, consumed, limit)
        self._sender.count_retained(self._session)
        if self._sender.is_done:
            self._session.forget_if_ended(self)
        self._abort_if_delivered()

    def fail(self, code: StreamCode) -> None:
        """Abort both directions and call the consumer's ``stream_lost``: for every cause but the consumer itself,
        which calls :meth:`abort`."""
        if not self.is_over:
            consumer, unconsumed = self._consumer, self._unconsumed(code)
            self.abort(code)
            if consumer is not None:
                consumer.stream_lost(code, unconsumed)

    def _unconsumed(self, code: StreamCode) -> list[bytes | memoryview] | None:
        """Return all bytes that were written, if the peer consumed none of them; None otherwise."""
        buffer = self._sender.buffer
        was_used = buffer.base or self.is_stopped_by_peer or self.receive_window.received or self._has_received_end
        return None if code not in NOT_CONSUMED or was_used else buffer.pieces()

    def credited(self, consumed: int, limit: int) -> bool:
        """Handle credit: bytes that the peer consumed, and its limit. Return True if either has grown. Raises
        ProtocolError."""
        if self.is_stopped_by_peer:
            return False
        sender = self._sender
        has_consumed = consumed > sender.consumed
        is_news = has_consumed or limit > sender.limit
        if has_consumed:
            self.active_at = self._session.now()
        sender.credit(consumed, limit)
        sender.count_retained(self._session)
        if sender.is_done:
            self._session.forget_if_ended(self)
            self._abort_if_delivered()
            return is_news
        if not sender.is_writing_paused and sender.buffer.next_chunk is not None:
            self._push()
        if self._awaits_room:
            self._report_room()
        if self._pending_abort is not None:
            self._abort_if_delivered()
        return is_news

    # Internal.

    def _push(self) -> None:
        if self._quic_stream is not None:
            link = self._session.link
            self._sender.push(link.connection, self._quic_stream)
            link.schedule_transmit()

    def _abort_if_delivered(self) -> None:
        if self._pending_abort is not None and (self.is_stopped_by_peer or self._sender.is_delivered):
            self.abort(self._pending_abort)

    def _awaits_delivery(self) -> bool:
        """Return True if the peer has bytes to consume. Without a link it cannot."""
        is_waiting = self._sender.buffer.size > 0 or self._pending_abort is not None
        return is_waiting and not self._session.is_away

    def _report_room(self) -> None:
        if self._consumer is not None and not self._sender.is_finishing and self.room:
            self._awaits_room = False
            self._consumer.stream_room()

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

    def complete(self) -> None:
        """Remove a stream of which both directions ended cleanly, known to both ends."""
        if not self.is_over:
            self._over()
