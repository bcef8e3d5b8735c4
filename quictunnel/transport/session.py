"""Session of a client and an edge: their streams, with numbers and credit.

A session can outlive its link if its owner decides so: it is then *away*, its streams keep unacknowledged bytes,
and :meth:`Session.resume` continues on another link. Both ends first send the offsets of each stream
(:class:`ResumeState`); then the edge opens every stream again, and each end sends the bytes that the other lacks.

The same class serves both ends. It owns what its streams share: the pool of windows, the batching of credit
(:class:`CreditSender`) and the exchange of offsets on a new link (:class:`ResumeExchange`). Leases, visitors and
origins belong to its owner, which it calls through :class:`SessionHandler`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Protocol

from quictunnel.errors import ProtocolError
from quictunnel.transport.credit_sender import CreditSender
from quictunnel.transport.incoming_stream import IncomingStream
from quictunnel.transport.link import PLACEHOLDER_HANDLER, IgnoringLinkHandler, Link
from quictunnel.transport.resume_exchange import ResumeExchange
from quictunnel.transport.stream import Stream
from quictunnel.wire.codes import OLDEST_VERSION, SessionCode, StreamCode, stream_code
from quictunnel.wire.control_state import Side
from quictunnel.wire.credit import UselessEntryLimit, WindowPool
from quictunnel.wire.messages import Credits, ResumeState, StreamsAborted
from quictunnel.wire.numbers import StreamNumbers
from quictunnel.wire.preface import Preface, encode_preface

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.transport.engine import Closed, Stats
    from quictunnel.transport.link import StreamHandler
    from quictunnel.wire.messages import AnyMessage

logger = logging.getLogger(__name__)

MAX_RETAINED_BYTES: Final = 64 * 1024 * 1024
"""Bytes that the streams of a session may retain together until the peer has consumed them. The initial window of
each stream does not count.
Twice the pool from which honest receivers open larger windows, so they never reach it; a peer that raises limits
and consumes nothing would otherwise pin the largest window with every stream."""


class SessionHandler(Protocol):
    """Callbacks of a session. Those that handle a message of the peer may raise ProtocolError, which ends the
    session."""

    def session_up(self) -> None:
        """Handle an established link: send Hello, or wait for it."""

    def session_message(self, message: AnyMessage) -> None:
        """Handle a message of the peer that is not about streams."""

    def session_stream(self, stream: Stream) -> None:
        """Client: handle a stream that the edge opened for a visitor; attach a consumer now or soon."""

    def session_streams_available(self) -> None:
        """Handle a raised limit of streams."""

    def session_resumed(self) -> None:
        """Handle the end of a resumption: both ends have exchanged the offsets of their streams."""

    def session_away(self, closed: Closed) -> bool:
        """Handle a lost link. Return True to keep the streams; :meth:`Session.resume` or
        :meth:`Session.end_if_away` then has to follow."""

    def session_down(self, closed: Closed) -> None:
        """Handle the end of the session and of all its streams."""


class Session:
    """Session of a client and an edge. All methods are called on the loop's thread."""

    def __init__(self, side: Side, handler: SessionHandler, schedule_transmit: Callable[[], None]) -> None:
        self.link = Link(side, self, schedule_transmit)
        self.window_pool = WindowPool()
        self.peer_window = 0
        """Initial limit of bytes on a new stream to the peer, from its Hello or Welcome."""
        self.version = OLDEST_VERSION
        """Version of the protocol in use, from Welcome."""
        self.is_away = False
        """True while the session has no link and waits for another."""
        self.retained_bytes = 0
        """Bytes that the streams retain, without those within an initial window each (``MAX_RETAINED_BYTES``)."""
        self._streams: dict[int, Stream] = {}
        self._handler = handler
        self._side = side
        self._numbers = StreamNumbers()
        """Edge: numbers assigned so far; client: numbers seen so far."""
        self._loop = asyncio.get_running_loop()
        self._useless_entries = UselessEntryLimit()
        self._credit_sender = CreditSender(self)
        self._exchange = ResumeExchange(self, side, self._streams, self._numbers)

    # For the owner.

    @property
    def stream_count(self) -> int:
        """Number of open streams."""
        return len(self._streams)

    @property
    def is_awaiting_resume_state(self) -> bool:
        """Return True if the session has a new link, and the peer's ResumeState is not complete yet."""
        return self._exchange.is_pending

    @property
    def is_ready(self) -> bool:
        """Return True if the session has a link and awaits no ResumeState, so a new stream need not wait.

        Also True before the handshake is complete, and while the link is being closed."""
        return not self.is_away and not self.is_awaiting_resume_state

    @property
    def skipped_numbers(self) -> int:
        """Client: number of streams that have not arrived although later ones have."""
        return self._numbers.skipped

    def add_retained(self, more: int) -> None:
        """Add to the count of bytes that streams retain; a negative number subtracts."""
        self.retained_bytes += more
        if self.window_pool.memory_share is not None:
            self.window_pool.memory_share.charge(more)

    @property
    def is_at_retained_limit(self) -> bool:
        """Return True if streams may retain nothing beyond an initial window now."""
        return self.retained_bytes >= MAX_RETAINED_BYTES or (
            self.window_pool.memory_share is not None and self.window_pool.memory_share.is_used_up
        )

    def is_active(self, now: float) -> bool:
        """Return True if a drain should wait for any of the streams."""
        return any(stream.is_active(now) for stream in self._streams.values())

    def send(self, message: AnyMessage) -> None:
        """Send a message on the control stream."""
        self.link.send(message)

    def resume(self, link: Link, handler: SessionHandler) -> None:
        """Continue on this link, whose other end knows the session. A former link is closed: the later one
        wins."""
        old, self.link, self._handler = self.link, link, handler
        old.set_handler(IgnoringLinkHandler())
        old.streams.clear()
        if not old.is_down:
            old.close(SessionCode.LINK_REPLACED)
        if not self.is_away:
            self._leave_link()
        self.is_away = False
        link.set_handler(self)

    def send_resume_state(self) -> None:
        """Send the offsets of every stream: the first message of the session after Hello or Welcome."""
        self._credit_sender.clear()
        self._exchange.begin()

    def end_if_away(self, closed: Closed) -> None:
        """End a session that is away; do nothing otherwise."""
        if self.is_away:
            self.is_away = False
            self._end(closed)

    def open(self, *, lease: int, tls: bool, host: str, port: int) -> Stream | None:
        """Edge: open a stream for a visitor and queue its preface. Return None while the client allows no more.

        While the session is not ready (:attr:`is_ready`), the stream waits and is opened with the resumed ones."""
        assert self._side is Side.EDGE
        preface = Preface(stream=self._numbers.next, lease=lease, tls=tls, host=host, port=port)
        if not self.is_ready:
            self._numbers.record(preface.stream)
            return self._add(preface)
        quic_stream = self.link.open(PLACEHOLDER_HANDLER)
        if quic_stream is None:
            return None
        self._numbers.record(preface.stream)
        encoded = encode_preface(preface)
        taken = self.link.connection.write(quic_stream, encoded)
        assert taken == len(encoded), "a fresh stream always has room for its preface"
        self.link.schedule_transmit()
        stream = self._add(preface)
        self.attach_quic_stream(stream, quic_stream)
        return stream

    def close(self, code: SessionCode, reason: str = "") -> None:
        """Close the link; without one do nothing.

        The session ends with it, unless its handler keeps it (:meth:`SessionHandler.session_away`).
        """
        self.link.close(code, reason)

    def stats(self) -> Stats:
        """Return the figures of the link's connection."""
        return self.link.stats()

    # From the link (transport.link.LinkHandler).

    def link_up(self) -> None:
        """Report the established link to the owner."""
        self._handler.session_up()

    def link_message(self, message: AnyMessage) -> None:
        """Handle messages about streams; pass others to the owner. Raises ProtocolError."""
        if isinstance(message, ResumeState):
            if self._exchange.on_resume_state(message):
                self._handler.session_resumed()
                self._exchange.release_parked()
        elif self._exchange.is_pending:
            raise ProtocolError("a message before the ResumeState")
        elif isinstance(message, Credits):
            self._credits(message)
        elif isinstance(message, StreamsAborted):
            self._aborted(message)
        else:
            self._handler.session_message(message)

    def link_stream(self, quic_stream: int) -> StreamHandler:
        """Return the receiver of a stream that the edge opened. Raises ProtocolError at the edge, and before
        Welcome."""
        if self._side is Side.EDGE:
            raise ProtocolError("only an edge opens streams for visitors")
        if not self.peer_window:
            raise ProtocolError("a stream for a visitor before Welcome")
        return IncomingStream(self, quic_stream)

    def link_streams_available(self) -> None:
        """Open streams that wait to be opened again; report the limit to the owner."""
        self._exchange.open_again()
        self._handler.session_streams_available()

    def link_batch_ended(self) -> None:
        """Send the credit that is due."""
        self._credit_sender.flush()

    def link_down(self, closed: Closed) -> None:
        """Keep the streams for another link if the owner wants that; otherwise end."""
        if self._handler.session_away(closed):
            self.is_away = True
            self._leave_link()
        else:
            self._end(closed)

    # From streams and incoming streams.

    def arrived(self, preface: Preface, quic_stream: int, chunks: list[bytes], *, end: bool) -> None:
        """Client: create the stream of a complete preface.

        After a resumption the stream may exist already, or be over."""
        stream = self._streams.get(preface.stream)
        if stream is not None:
            if stream.quic_stream is not None:
                raise ProtocolError("two streams with one number")
            self.attach_quic_stream(stream, quic_stream)
        elif self._numbers.record(preface.stream):
            stream = self._add(preface)
            self.attach_quic_stream(stream, quic_stream)
            self._handler.session_stream(stream)
        else:
            self.link.connection.stop(quic_stream, StreamCode.ABORTED)
            self.reject(quic_stream, StreamCode.ABORTED)
            if self.version >= 2:  # if all of it has arrived, QUIC does not send the stop
                self.link.send(StreamsAborted([(preface.stream, StreamCode.ABORTED)]))
            return
        if chunks or end:
            stream.data(chunks, end=end)

    def park(self, incoming: IncomingStream, number: int) -> int | None:
        """Client: let an incoming stream wait for the edge's ResumeState (:meth:`ResumeExchange.park`)."""
        return self._exchange.park(incoming, number)

    def reset_before_start(self, quic_stream: int, code: StreamCode, number: int | None) -> None:
        """Client: handle a reset of a stream by the edge before its preface was complete.

        Args:
            quic_stream: the QUIC stream.
            code: the reason.
            number: the stream's number, if the reset or the preface contained it.
        """
        self.reject(quic_stream, code)
        if number is None:
            self._numbers.record_without_number()  # by a peer of protocol version 1
            return
        stream = self._streams.get(number)
        if stream is None:
            self._numbers.record(number)
        elif stream.quic_stream is None:
            stream.fail(code)
        else:
            raise ProtocolError("two streams with one number")

    def reject(self, quic_stream: int, code: int) -> None:
        """Reset a QUIC stream that belongs to no stream."""
        self.link.connection.reset(quic_stream, code)
        self.link.streams.pop(quic_stream, None)
        self.link.schedule_transmit()

    def attach_quic_stream(self, stream: Stream, quic_stream: int) -> None:
        """Continue a stream on a QUIC stream of the link."""
        self.link.streams[quic_stream] = stream
        stream.attach_quic_stream(quic_stream)

    def count_useless_entry(self) -> None:
        """Count an entry of the peer that changes nothing. Raises ProtocolError above a limit."""
        self._useless_entries.count(self._loop.time(), self._numbers.next)

    @property
    def side(self) -> Side:
        """Return the end of the session that this object is: client or edge."""
        return self._side

    def now(self) -> float:
        """Return the time of the loop."""
        return self._loop.time()

    def send_credit(self, stream: Stream) -> None:
        """Send credit, soon, for a stream of which bytes were consumed."""
        self._credit_sender.add(stream)

    def send_aborted(self, stream: Stream, code: StreamCode) -> None:
        """Send a message that a stream was aborted, for which QUIC may have no frame left."""
        if self.version >= 2:
            self.link.send(StreamsAborted([(stream.number, code)]))
        elif stream.has_received_end:
            # Its end has arrived, so with this credit the peer drops everything that it retains for the stream.
            window = stream.receive_window
            self.link.send(Credits([(stream.number, window.received + 1, window.limit)]))

    def forget_if_ended(self, stream: Stream) -> None:
        """Forget the stream if both directions have ended cleanly."""
        if stream.send_done and stream.receive_done and not stream.receive_window.has_uncredited_bytes:
            self._exchange.remember(stream)
            stream.complete()

    def aborted_without_quic_stream(self, stream: Stream) -> None:
        """Note that a stream was aborted while it had no QUIC stream.

        While the session is away there is nothing to do: the next ResumeState does not name the stream. On a new
        link the edge may have named it already; it then resets the stream when its turn to be opened again
        comes."""
        if self._side is Side.EDGE and not self.is_away:
            self._exchange.reset_later(stream)

    def forget(self, stream: Stream) -> None:
        """Forget a stream that is over."""
        self._streams.pop(stream.number, None)
        if stream.quic_stream is not None:
            self.link.streams.pop(stream.quic_stream, None)
        self._credit_sender.forget(stream)

    # Internal.

    def _add(self, preface: Preface) -> Stream:
        self._streams[preface.stream] = Stream(self, preface, self.peer_window, self._loop.time())
        return self._streams[preface.stream]

    def _leave_link(self) -> None:
        self._exchange.leave_link()
        for stream in list(self._streams.values()):
            stream.detach_quic_stream()

    def _end(self, closed: Closed) -> None:
        self._credit_sender.close()
        for stream in list(self._streams.values()):
            stream.ended_with_session = True
            stream.fail(StreamCode.CLOSING)
        self._handler.session_down(closed)

    def _credits(self, message: Credits) -> None:
        for number, consumed, limit in message.entries:
            stream = self._streams.get(number)
            if stream is not None and stream.credited(consumed, limit):
                continue
            self.count_useless_entry()
            if stream is not None:
                continue
            if not self._numbers.has_seen(number):
                raise ProtocolError("credit for a stream that was never opened")

    def _aborted(self, message: StreamsAborted) -> None:
        """Handle streams that the peer has aborted; at the client, possibly before their prefaces arrived."""
        for number, code in message.entries:
            stream = self._streams.get(number)
            if stream is not None:
                stream.fail(stream_code(code))
                continue
            self.count_useless_entry()
            if self._side is Side.CLIENT:
                self._numbers.record(number)
            elif not self._numbers.has_seen(number):
                raise ProtocolError("the end of a stream that was never opened")
