"""Join of a TCP connection and a stream: the path of every byte.

There is no task, queue or future in it. Bytes read from TCP are written to the stream, bytes of the stream to the
TCP transport. Flow control: a stream without room pauses reading from its TCP connection; a TCP transport whose
buffer is full withholds the stream's credit. A FIN is passed on as a FIN and an RST as a reset, in each direction.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Final, cast

from quictunnel.transport import descriptors, tcp
from quictunnel.transport.refusal import Refusal
from quictunnel.transport.stream_sender import MAX_DISCARDED
from quictunnel.transport.unread_bytes import UnreadBytesTransport
from quictunnel.wire.codes import StreamCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.transport.stream import Stream
    from quictunnel.transport.throttle import Throttle

WRITE_HIGH: Final = 64 * 1024
"""Bytes that may wait in a TCP transport before credit is withheld."""
WRITE_LOW: Final = 16 * 1024
"""Bytes at which credit flows again: some are left so that the socket does not run dry for a round trip."""
POLL_INTERVAL: Final = 5.0
"""Seconds between checks whether a connection from which nothing is being read still exists."""
PENDING_POLL_INTERVAL: Final = 1.0
"""The same for a connection that waits to be joined: it holds one of few places, for ten seconds at most."""
READ_SIZE: Final = 128 * 1024
"""The most that one read takes; more would let one busy connection delay others on the loop, and its bytes
would have left the processor's caches when they are sent."""

_ANSWERED: Final = {
    StreamCode.REFUSED: Refusal.NO_ANSWER,
    StreamCode.UNREACHABLE: Refusal.NO_ANSWER,
    StreamCode.UNKNOWN_LEASE: Refusal.NO_TUNNEL,
}
"""Codes of a stream of which the other end has consumed nothing, with which its visitor may still be answered."""


class _Reading(threading.local):
    """The buffer that connections are read into.

    Reads are synchronous (get_buffer, recv_into, buffer_updated in one iteration of the loop), so all connections
    of a loop share one buffer, and only the bytes read are copied out. There is one per thread, because a process
    may run an edge and a client on two loops."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(READ_SIZE))


_reading = _Reading()


class Splice(asyncio.BaseProtocol):
    """Base of :class:`TlsSplice` and :class:`TcpSplice`: joins a transport to a stream.

    ``on_connected`` is called when the connection is established, and calls :meth:`join` then or later. Until
    then, nothing is read but the data already in flight. ``on_closed`` is called exactly once, when the transport
    is closed and nothing of the connection is left to be delivered.
    """

    __slots__ = (
        "_awaits_join",
        "_early",
        "_has_stream_ended",
        "_has_tcp_ended",
        "_is_writing_paused",
        "_on_connected",
        "_poll_timer",
        "_stream",
        "_transport",
        "_uncredited",
        "has_delivered_all",
        "is_complete",
        "is_refused",
        "lost",
        "on_closed",
        "on_stream_refused",
        "on_visitor_refused",
        "throttle",
    )

    def __init__(
        self, on_connected: Callable[[Splice], None], on_closed: Callable[[Splice], None] | None = None
    ) -> None:
        self._on_connected: Callable[[Splice], None] | None = on_connected
        self.on_closed = on_closed
        """May be set until the transport is closed."""
        self.on_stream_refused: Callable[[Splice, StreamCode], bool] | None = None
        """Called when the other end gave the stream up without having consumed any of it. Returns True if it has
        joined the splice with another stream, to which the bytes written to the first are then written, or has
        refused the visitor itself."""
        self.on_visitor_refused: Callable[[Splice, Refusal], bool] | None = None
        """Called before the TCP connection is reset because no stream serves it. Returns True if it answers the
        visitor instead: it has called :meth:`detach`, and calls :meth:`connection_lost` at the end."""
        self.throttle: Throttle | None = None
        self.lost: StreamCode | None = None
        """Code with which the stream was lost, if it was."""
        self.is_complete = False
        """True when both directions ended and every byte was passed on."""
        self.has_delivered_all = False
        """True if the stream had ended and all of it was passed on when the TCP connection closed."""
        self.is_refused = False
        """True if the TCP connection was reset, or answered, without having been joined."""
        self._transport: asyncio.Transport | None = None
        self._stream: Stream | None = None
        self._awaits_join = False
        """True while reading is paused until :meth:`join`."""
        self._early: list[bytes | memoryview] | None = None
        """Bytes for the next join or for the error page: read before the join, or left over by a lost stream."""
        self._poll_timer: asyncio.TimerHandle | None = None
        self._is_writing_paused = False
        """True while the transport's write buffer is above its high-water mark."""
        self._uncredited = 0
        """Bytes written to the transport, or dropped after it was lost, and not yet credited."""
        self._has_tcp_ended = False
        """True once the TCP peer has sent its FIN."""
        self._has_stream_ended = False
        """True once the stream has ended and a FIN was sent to the TCP peer."""

    @property
    def transport(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    @property
    def is_connected(self) -> bool:
        """Return True while a TCP connection is open, or its last bytes are still to be read."""
        return self._transport is not None

    @property
    def stream(self) -> Stream | None:
        return self._stream

    def join(self, stream: Stream) -> None:
        """Join with this stream; bytes that it has received already are written to TCP now."""
        self._stream = stream
        if self._transport is None:
            stream.abort(StreamCode.ABORTED)
            return
        if stream.is_over:
            tcp.reset(self._transport)
            return
        stream.attach(self)
        if self._early:
            early, self._early = b"".join(self._early), None
            stream.write(early)
        if self._has_tcp_ended:
            stream.finish()
        if self._awaits_join and not self._transport.is_closing():
            self._awaits_join = False
            if stream.room:
                self._transport.resume_reading()
            else:
                self._poll_later()

    def refuse(self, reason: Refusal | None = None) -> None:
        """Reset a TCP connection that no stream serves, or let it be answered if there is a ``reason``."""
        if self._transport is not None:
            may_answer = reason is not None and not self.is_refused
            self.is_refused = True
            if reason is None or not may_answer or not self._try_answer(reason):
                tcp.reset(self._transport)

    def detach(self) -> tuple[bytes, bool]:
        """Stop using the transport, which gets another protocol. Return the bytes that were read and passed to
        nobody, and whether the peer has sent its FIN."""
        if self._poll_timer is not None:
            self._poll_timer.cancel()
            self._poll_timer = None
        self._awaits_join = False
        early, self._early = b"".join(self._early or ()), None
        return early, self._has_tcp_ended

    def _try_answer(self, reason: Refusal) -> bool:
        """Let the visitor be answered, which takes the transport away. Return False if nobody answers."""
        transport = self._transport
        if self.on_visitor_refused is None or transport is None or transport.is_closing():
            return False
        return self.on_visitor_refused(self, reason)

    # From asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's by behaviour, not by class.
        transport = cast("asyncio.Transport", transport)
        self._transport = transport
        tcp.tune(transport)
        descriptors.set_close_on_fork(transport.get_extra_info("socket"))
        transport.set_write_buffer_limits(WRITE_HIGH, WRITE_LOW)
        # Called once, and not kept: its closure would use memory as long as the visitor stays.
        on_connected, self._on_connected = self._on_connected, None
        assert on_connected is not None
        on_connected(self)
        if self._stream is None:
            # uvloop starts to read after this method in any case, so the pause comes one iteration later; by then
            # it may have read once.
            asyncio.get_running_loop().call_soon(self._pause_until_join)

    def received(self, data: bytes) -> None:
        """Handle bytes read from the transport."""
        stream = self._stream
        if stream is None:
            if self.lost is None:
                if self._early is None:
                    self._early = []
                self._early.append(data)
            else:
                self._discard(len(data))
        elif not stream.is_over:
            stream.write(data)
            if self.throttle is not None:
                self.throttle.received(len(data), self.stream_room)
            if not stream.room or (self.throttle is not None and self.throttle.pauses_reading):
                self.transport.pause_reading()
                self._poll_later()

    def eof_received(self) -> bool:
        self._has_tcp_ended = True
        if self._stream is not None:
            self._stream.finish()
            self._close_if_done()
            self._poll_later()
        return True  # keep the transport: the other direction continues

    def pause_writing(self) -> None:
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        self._credit()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            descriptors.clear_close_on_fork(self._transport.get_extra_info("socket"))
        if self._read_unread_bytes(exc):
            return
        stream = self._stream
        self._transport = None
        if self._poll_timer is not None:
            self._poll_timer.cancel()
        if self.throttle is not None:
            self.throttle.close()
        if stream is not None and exc is None and not stream.receive_done and self._waits_for_throttle_alone:
            stream.consume(self._uncredited)
            stream.consume_end()
        if stream is not None:
            self.has_delivered_all = stream.receive_done
            self.is_complete = self._has_tcp_ended and self.has_delivered_all and exc is None
            if not (self.is_complete or stream.is_over):
                # Until the peer has every byte that was read, the stream holds this connection's place.
                self._report_when_over(stream)
                stream.abort_after_delivery(StreamCode.ABORTED)
                return
        self._report_closed()

    def _read_unread_bytes(self, error: Exception | None) -> bool:  # noqa: ARG002 - for the subclasses
        """Start to read the bytes that the kernel may still hold after a failed write. Return False if there can
        be none, or nobody would get them."""
        return False

    @property
    def wants_unread_bytes(self) -> bool:
        """Return True if bytes that the TCP peer has sent can still be delivered after a failed write."""
        return self._stream is not None and not self._stream.is_over and not self._has_tcp_ended

    def writing_failed(self) -> None:
        """Handle a failed write: no more bytes are sent to the TCP peer; those that it has sent are still read."""
        self._is_writing_paused = False
        assert self._stream is not None, "wants_unread_bytes is True"
        self._stream.stop_receiving()
        if (
            self._stream.request_room()
        ):  # there may be room since the connection was closed, and reading was not resumed
            self.stream_room()

    def _report_when_over(self, stream: Stream) -> None:
        others = stream.on_over

        def over(stream: Stream) -> None:
            if others is not None:
                others(stream)
            self._report_closed()

        if self.on_closed is not None:
            stream.on_over = over

    def _report_closed(self) -> None:
        self._stream = None
        if self.on_closed is not None:
            self.on_closed(self)

    # From the stream (transport.stream_consumer.StreamConsumer).

    def stream_data(self, chunks: list[bytes], size: int) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._uncredited += size
        if len(chunks) == 1:
            transport.write(chunks[0])
        else:
            transport.writelines(chunks)
        if self.throttle is not None:
            self.throttle.sent(size, self._credit)
        if not self._is_writing_paused:
            self._credit()

    def stream_end(self) -> None:
        self._has_stream_ended = True
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        tcp.end_writing(transport)
        # The end counts as consumed when nothing before it is left in this process.
        transport.set_write_buffer_limits(0)
        if not self._is_writing_paused:
            self._credit()
        self._close_if_done()

    def stream_room(self) -> None:
        if self.throttle is not None and (
            self.throttle.pauses_reading or self._stream is None or not self._stream.request_room()
        ):
            return
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def stream_lost(self, code: StreamCode, unconsumed: list[bytes | memoryview] | None) -> None:
        self._stream = None
        transport = self._transport
        if transport is None:
            return
        if unconsumed is not None and self.on_stream_refused is not None and not transport.is_closing():
            self._early = unconsumed
            self._awaits_join = True
            transport.pause_reading()
            if self.on_stream_refused(self, code):
                return
        self.lost = code
        if unconsumed is not None and code in _ANSWERED:
            self._early = unconsumed
            if self._try_answer(_ANSWERED[code]):
                return
        if code is not StreamCode.ABORTED:
            tcp.reset(transport)  # TCP has one kind of reset, whatever the code
        elif not transport.is_closing():
            # Like a reset of the other TCP connection: earlier bytes are delivered before it. Bytes that the peer
            # sends meanwhile are dropped, but they are read: a peer that cannot send may not read either.
            self._uncredited = 0
            if not self._has_tcp_ended:
                transport.resume_reading()
            tcp.reset_after_delivery(transport)

    # Internal.

    def _pause_until_join(self) -> None:
        if self.is_refused or self.lost is not None:
            return  # the transport has another protocol, or is being reset
        if self._stream is None and self._transport is not None and not self._transport.is_closing():
            self._awaits_join = True
            self._transport.pause_reading()
            self._poll_later()

    def _poll_later(self) -> None:
        """Check from time to time whether the connection was reset, which is not noticed while nothing is read."""
        if self._poll_timer is None and self._transport is not None:
            seconds = PENDING_POLL_INTERVAL if self._stream is None else POLL_INTERVAL
            self._poll_timer = asyncio.get_running_loop().call_later(seconds, self._poll)

    def _poll(self) -> None:
        self._poll_timer = None
        transport = self._transport
        if transport is None or transport.is_closing() or (transport.is_reading() and not self._has_tcp_ended):
            return
        if not tcp.is_gone(transport):
            self._poll_later()
        elif self._stream is None or self._has_tcp_ended:
            transport.abort()
        else:
            self._stream.stop_receiving()  # its bytes are still to be read, when the stream has room

    def _credit(self) -> None:
        stream = self._stream
        if stream is None or (
            self.throttle is not None and (self.throttle.withholds_credit or self._is_writing_paused)
        ):
            return
        if self._uncredited:
            size, self._uncredited = self._uncredited, 0
            stream.consume(size)
        if self._has_stream_ended and not stream.receive_done:
            stream.consume_end()

    def _discard(self, size: int) -> None:
        self._uncredited += size
        if self._uncredited > MAX_DISCARDED and self._transport is not None:
            tcp.reset(self._transport)

    @property
    def _waits_for_throttle_alone(self) -> bool:
        """Return True if both directions ended and all bytes were sent: only their credit is still withheld."""
        return (
            self._has_tcp_ended
            and self._has_stream_ended
            and not self._is_writing_paused
            and self.throttle is not None
        )

    def _close_if_done(self) -> None:
        if self._has_tcp_ended and self._has_stream_ended and self.lost is None and self._transport is not None:
            self._transport.close()  # after its write buffer is flushed


class TlsSplice(Splice, asyncio.Protocol):
    """Splice of a TLS visitor. Each call brings the bytes of one read of the socket. The last bytes of a broken
    connection are TLS as well, so only the transport can read them."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        self.received(data)


class TcpSplice(Splice, asyncio.BufferedProtocol):
    """Splice of a plain TCP connection, from which no more is read than the stream has room for. It is no
    ``asyncio.Protocol``: uvloop would then read without that bound."""

    __slots__ = ()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  room decides, not the hint
        stream = self._stream
        room = stream.room if stream is not None else 0 if self.lost is None else READ_SIZE
        # Zero room: reading was paused during this read event, or there is no stream yet. asyncio wants a buffer.
        return _reading.buffer[: min(room, READ_SIZE) or 1]

    def buffer_updated(self, nbytes: int) -> None:
        self.received(bytes(_reading.buffer[:nbytes]))

    def eof_received(self) -> bool:
        if (
            not self._has_stream_ended
            and tcp.has_reported_error(self.transport)
            and not isinstance(self.transport, UnreadBytesTransport)
        ):
            # A reset may look like a FIN here (tcp.has_reported_error). The error of a failed write, which comes
            # soon, tells which it was. If none comes, abort.
            asyncio.get_running_loop().call_later(POLL_INTERVAL, self.transport.abort)
            return True
        return super().eof_received()

    def _read_unread_bytes(self, error: Exception | None) -> bool:
        if not self.wants_unread_bytes or self._transport is None:
            return False
        rest = UnreadBytesTransport.take(self._transport, self, error)
        if rest is None:
            return False
        self._transport = rest
        self.writing_failed()
        return True
