"""The path that every byte takes: a TCP connection and a stream that hold each other.

No task, no queue, no future. Bytes read from TCP go into the stream, bytes of the stream go into the TCP
transport. The brakes: a stream without room stops the reading of its TCP connection; a TCP transport whose
buffer is full withholds the stream's credit. FIN and RST pass in each direction as what they are.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Final, cast

from quictunnel.transport import descriptors, tcp
from quictunnel.transport.remainder import Remainder
from quictunnel.transport.stream_sender import MAX_DISCARDED
from quictunnel.wire.codes import StreamCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.transport.stream import Stream
    from quictunnel.transport.throttle import Throttle

WRITE_HIGH: Final = 64 * 1024
"""Bytes that may wait in a TCP transport before credit is withheld."""
WRITE_LOW: Final = 16 * 1024
"""Bytes at which credit flows again: some are left so that the socket does not run dry for a round trip."""
LOOK: Final = 5.0
"""Seconds between looks at whether a connection from which nothing is being read is still there."""
WAITING_LOOK: Final = 1.0
"""And at one that waits to be joined: it holds one of few places, for ten seconds at most."""
READ_SIZE: Final = 128 * 1024
"""The most that one read takes; more would let one busy connection hold up its neighbours on the loop, and what is
read would have left the processor's caches when it is sent."""


class _Reading(threading.local):
    """The buffer that connections are read into.

    Reads are synchronous (get_buffer, recv_into, buffer_updated without a turn of the loop between), so all
    connections of a loop share one buffer and only what was read is copied out. One a thread, because a process
    may run an edge and a client on two loops."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(READ_SIZE))


_reading = _Reading()


class Splice(asyncio.BaseProtocol):
    """Joins a transport to a stream: what :class:`TlsSplice` and :class:`TcpSplice` share.

    ``on_made`` is told when the connection is there and calls :meth:`join`, at once or later; until then
    no more is read from it than was under way. ``on_gone`` is called exactly once, when the transport is closed
    for good.
    """

    __slots__ = (
        "_early",
        "_ended",
        "_finished",
        "_held",
        "_on_made",
        "_owed",
        "_paused",
        "_stream",
        "_transport",
        "_watch",
        "had_all",
        "is_complete",
        "is_refused",
        "lost",
        "on_gone",
        "on_refused",
        "throttle",
    )

    def __init__(self, on_made: Callable[[Splice], None], on_gone: Callable[[Splice], None] | None = None) -> None:
        self._on_made: Callable[[Splice], None] | None = on_made
        self.on_gone = on_gone
        """May be set as long as the transport is there."""
        self.on_refused: Callable[[Splice, StreamCode], bool] | None = None
        """Asked when the other end gave the stream up without having taken anything of it: whether the splice was
        joined with another. What was written to the first is then written to that."""
        self.throttle: Throttle | None = None
        self.lost: StreamCode | None = None
        """Code with which the stream was lost, if it was."""
        self.is_complete = False
        """Both directions have ended, and everything was passed on."""
        self.had_all = False
        """The stream had ended, and everything of it was passed on, when the TCP peer went."""
        self.is_refused = False
        """True when it was reset without having been joined."""
        self._transport: asyncio.Transport | None = None
        self._stream: Stream | None = None
        self._held = False
        """Reading waits for :meth:`join`."""
        self._early: list[bytes | memoryview] | None = None
        """Read before that: what one turn of the loop brought."""
        self._watch: asyncio.TimerHandle | None = None
        self._paused = False
        """The transport's write buffer is above its high-water mark."""
        self._owed = 0
        """Bytes given to the transport and not yet credited."""
        self._ended = False
        """The TCP peer has ended its direction."""
        self._finished = False
        """The stream has ended; the TCP peer has been told."""

    @property
    def transport(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    @property
    def is_connected(self) -> bool:
        """There is a TCP connection, or what is left of it to be read."""
        return self._transport is not None

    @property
    def stream(self) -> Stream | None:
        return self._stream

    def join(self, stream: Stream) -> None:
        """Splice with this stream; whatever came on it before goes out now."""
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
        if self._ended:
            stream.finish()
        if self._held and not self._transport.is_closing():
            self._held = False
            if stream.room:
                self._transport.resume_reading()
            else:
                self._keep_looking()

    def refuse(self) -> None:
        """Reset the TCP connection; it was never joined."""
        if self._transport is not None:
            self.is_refused = True
            tcp.reset(self._transport)

    # From asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's by behaviour, not by class.
        transport = cast("asyncio.Transport", transport)
        self._transport = transport
        tcp.tune(transport)
        descriptors.own(transport.get_extra_info("socket"))
        transport.set_write_buffer_limits(WRITE_HIGH, WRITE_LOW)
        # Called once, and not kept: whatever it closes over would stay as long as the visitor.
        on_made, self._on_made = self._on_made, None
        assert on_made is not None
        on_made(self)
        if self._stream is None:
            # uvloop starts reading after this method whatever it says, so the pause comes a moment later; it may
            # have looked at the socket once by then.
            asyncio.get_running_loop().call_soon(self._hold)

    def received(self, data: bytes) -> None:
        """Bytes were read from the transport."""
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
            if not stream.room or (self.throttle is not None and self.throttle.holds_reading):
                self.transport.pause_reading()
                self._keep_looking()

    def eof_received(self) -> bool:
        self._ended = True
        if self._stream is not None:
            self._stream.finish()
            self._close_if_done()
            self._keep_looking()
        return True  # keep the transport: the other direction goes on

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._credit()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            descriptors.disown(self._transport.get_extra_info("socket"))
        if self._reads_on(exc):
            return
        stream = self._stream
        self._transport = None
        if self._watch is not None:
            self._watch.cancel()
        if self.throttle is not None:
            self.throttle.close()
        if stream is not None and exc is None and not stream.receive_done and self._is_owed_by_throttle_alone:
            stream.consume(self._owed)
            stream.consume_end()
        if stream is not None:
            self.had_all = stream.receive_done
            self.is_complete = self._ended and self.had_all and exc is None
            if not (self.is_complete or stream.is_over):
                # Until the peer has everything that was read, the stream keeps this connection's place.
                self._tell_when_over(stream)
                stream.abort_after_delivery(StreamCode.ABORTED)
                return
        self._gone()

    def _reads_on(self, error: Exception | None) -> bool:  # noqa: ARG002 - for those below
        """Read on if a connection that broke has something left to be read. Return True if it has."""
        return False

    @property
    def wants_remainder(self) -> bool:
        """Return True if bytes that the TCP peer has sent can still be delivered after a failed write."""
        return self._stream is not None and not self._stream.is_over and not self._ended

    def writing_failed(self) -> None:
        """The TCP peer takes nothing more; what it has said is still read."""
        self._paused = False
        assert self._stream is not None, "somebody wants what it has said"
        self._stream.stop()
        if self._stream.asks_room():  # perhaps there is since the connection was closed, and reading did not go on
            self.stream_room()

    def _tell_when_over(self, stream: Stream) -> None:
        others = stream.on_over

        def over(stream: Stream) -> None:
            if others is not None:
                others(stream)
            self._gone()

        if self.on_gone is not None:
            stream.on_over = over

    def _gone(self) -> None:
        self._stream = None
        if self.on_gone is not None:
            self.on_gone(self)

    # From the stream (transport.stream_side.StreamSide).

    def stream_data(self, chunks: list[bytes], size: int) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._owed += size
        if len(chunks) == 1:
            transport.write(chunks[0])
        else:
            transport.writelines(chunks)
        if self.throttle is not None:
            self.throttle.sent(size, self._credit)
        if not self._paused:
            self._credit()

    def stream_end(self) -> None:
        self._finished = True
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        tcp.end_writing(transport)
        # The end counts as consumed when nothing before it is left in this process.
        transport.set_write_buffer_limits(0)
        if not self._paused:
            self._credit()
        self._close_if_done()

    def stream_room(self) -> None:
        if self.throttle is not None and (
            self.throttle.holds_reading or self._stream is None or not self._stream.asks_room()
        ):
            return
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def stream_lost(self, code: StreamCode, untaken: list[bytes | memoryview] | None) -> None:
        self._stream = None
        transport = self._transport
        if transport is None:
            return
        if untaken is not None and self.on_refused is not None and not transport.is_closing():
            self._early = untaken
            self._held = True
            transport.pause_reading()
            if self.on_refused(self, code):
                return
        self.lost = code
        if code is not StreamCode.ABORTED:
            tcp.reset(transport)  # TCP has one kind of reset, whatever the code
        elif not transport.is_closing():
            # As a reset of the other TCP connection: what came before it is delivered before it. What the peer
            # says meanwhile goes nowhere, but who cannot send does not read either.
            self._owed = 0
            if not self._ended:
                transport.resume_reading()
            tcp.reset_after_delivery(transport)

    # Inside.

    def _hold(self) -> None:
        if self._stream is None and self._transport is not None and not self._transport.is_closing():
            self._held = True
            self._transport.pause_reading()
            self._keep_looking()

    def _keep_looking(self) -> None:
        """Nothing is read now, so a reset would go unnoticed: look from time to time."""
        if self._watch is None and self._transport is not None:
            seconds = WAITING_LOOK if self._stream is None else LOOK
            self._watch = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        self._watch = None
        transport = self._transport
        if transport is None or transport.is_closing() or (transport.is_reading() and not self._ended):
            return
        if not tcp.is_gone(transport):
            self._keep_looking()
        elif self._stream is None or self._ended:
            transport.abort()
        else:
            self._stream.stop()  # what it had said is still to be read, when there is room

    def _credit(self) -> None:
        stream = self._stream
        if stream is None or (self.throttle is not None and (self.throttle.holds_credit or self._paused)):
            return
        if self._owed:
            owed, self._owed = self._owed, 0
            stream.consume(owed)
        if self._finished and not stream.receive_done:
            stream.consume_end()

    def _discard(self, size: int) -> None:
        self._owed += size
        if self._owed > MAX_DISCARDED and self._transport is not None:
            tcp.reset(self._transport)

    @property
    def _is_owed_by_throttle_alone(self) -> bool:
        """Both ends have come and everything has left; only the credit for it is still withheld."""
        return self._ended and self._finished and not self._paused and self.throttle is not None

    def _close_if_done(self) -> None:
        if self._ended and self._finished and self.lost is None and self._transport is not None:
            self._transport.close()  # flushes what is still buffered first


class TlsSplice(Splice, asyncio.Protocol):
    """Joins a TLS visitor to a stream; what comes is as much as one read of the socket below brought. What is left
    of a broken connection is TLS as well: only the transport may read it."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        self.received(data)


class TcpSplice(Splice, asyncio.BufferedProtocol):
    """Joins a plain TCP connection to a stream, reading exactly as much as the stream has room for. Is no
    ``asyncio.Protocol``, because uvloop would take it for one and read as much as it likes."""

    __slots__ = ()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  room decides, not the hint
        stream = self._stream
        room = stream.room if stream is not None else 0 if self.lost is None else READ_SIZE
        # Zero room happens only when reading was paused during this very read event; asyncio wants a buffer.
        return _reading.buffer[: min(room, READ_SIZE) or 1]

    def buffer_updated(self, nbytes: int) -> None:
        self.received(bytes(_reading.buffer[:nbytes]))

    def eof_received(self) -> bool:
        if not self._finished and tcp.has_told_error(self.transport) and not isinstance(self.transport, Remainder):
            # The write that failed says whether this is an end; if there was none, it is taken for a reset.
            asyncio.get_running_loop().call_later(LOOK, self.transport.abort)
            return True
        return super().eof_received()

    def _reads_on(self, error: Exception | None) -> bool:
        if not self.wants_remainder or self._transport is None:
            return False
        rest = Remainder.take(self._transport, self, error)
        if rest is None:
            return False
        self._transport = rest
        self.writing_failed()
        return True
