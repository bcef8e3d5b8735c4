"""A Link: one QUIC connection while it carries a session.

The link knows the control stream (QUIC stream 0, opened by the client) and hands every other stream's events to
the receiver that is registered for it. It knows nothing of credit, leases or TCP.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from quictunnel.errors import ProtocolError
from quictunnel.transport.engine import CloseCause, Closed
from quictunnel.wire.codes import SessionCode
from quictunnel.wire.control_state import ControlStateMachine, Side
from quictunnel.wire.framing import FrameReader, frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.transport.engine import Connection, Stats
    from quictunnel.wire.messages import AnyMessage

logger = logging.getLogger(__name__)

CONTROL_STREAM: Final = 0
MAX_CONTROL_QUEUE: Final = 1024 * 1024
"""Bytes of control messages waiting for the engine. Credits for ten thousand streams are a tenth of this; a
peer that lets more pile up no longer reads its control stream."""
KEEPALIVE: Final = 4.0
"""Seconds between pings of a client. NAT bindings for UDP last 30 s in the strictest routers in use; an edge that
was killed and started again can say so only to those who say something, and in five seconds all should be back."""
TICK: Final = 1.0
"""Seconds between a client's looks at whether its edge has fallen silent."""
BUSY: Final = 1000
"""Bytes received between two looks that make it a transfer, rather than answers to pings."""
DOUBTS: Final = 3
"""Pings, one a look, for an edge that was busy and fell silent. A NAT may have given this client another port:
the edge then sends into nothing until it hears from the new one, and a client that only downloads says nothing
while nothing comes."""


class StreamEvents(Protocol):
    """The receiver of the events of one QUIC stream."""

    def data(self, chunks: list[bytes], *, end: bool) -> None:
        """Take in bytes of the peer, and its end."""

    def reset(self, code: int) -> None:
        """Note that the peer gave up its direction."""

    def stopped(self, code: int) -> None:
        """Note that the peer takes no more bytes."""

    def writable(self) -> None:
        """Note that the stream takes bytes again."""


class LinkEvents(Protocol):
    """The owner of a link."""

    def link_up(self) -> None:
        """The handshake is complete and the control stream is open for writing."""

    def link_message(self, message: AnyMessage) -> None:
        """The peer said something, and it was its turn to. May raise ProtocolError."""

    def link_stream(self, quic_stream: int) -> StreamEvents:
        """The peer opened a stream. May raise ProtocolError."""

    def link_streams_available(self) -> None:
        """Note that the peer allows more streams."""

    def link_turn_ended(self) -> None:
        """Handle the end of a batch of events: queue now what is to be sent because of them."""

    def link_down(self, closed: Closed) -> None:
        """The link is gone; nothing follows."""


class Discarded:
    """Events of a link that was given up: all of them are ignored."""

    def link_up(self) -> None: ...
    def link_message(self, message: AnyMessage) -> None: ...
    def link_stream(self, quic_stream: int) -> StreamEvents:
        del quic_stream
        return _FORGOTTEN

    def link_streams_available(self) -> None: ...
    def link_turn_ended(self) -> None: ...
    def link_down(self, closed: Closed) -> None: ...


class Link:
    """QUIC connection as a session uses it. All methods are called on the loop's thread."""

    def __init__(self, side: Side, events: LinkEvents, wake: Callable[[], None]) -> None:
        self.streams: dict[int, StreamEvents] = {}
        self.is_up = False
        self.is_down = False
        self._is_closing = False
        """The link is down, or this side has closed it: what the peer said before it heard of that is ignored."""
        self._connection: Connection | None = None
        self._control = FrameReader()
        self._control_queue: deque[bytes | memoryview] = deque()
        self._control_queued = 0
        self._dialogue = ControlStateMachine(side)
        self._events = events
        self._tick: asyncio.TimerHandle | None = None
        self._ticks = 0
        self._doubts = 0
        self._received = 0
        self._side = side
        self._wake = wake
        self._next_peer_stream = 1 if side is Side.CLIENT else 4
        self._unseen: set[int] = set()
        self.silence = 0.0
        """Client: for how many seconds the edge has owed an answer; looked at every :data:`TICK`."""
        self._acked = 0
        self.rtt = 0.0
        """Seconds to the peer and back when that was last asked; other threads may read it."""

    @property
    def is_closing(self) -> bool:
        """Return True if the link is down, or this side has closed it."""
        return self._is_closing

    @property
    def connection(self) -> Connection:
        """The QUIC connection; set by :meth:`attach`."""
        assert self._connection is not None
        return self._connection

    def serve(self, events: LinkEvents) -> None:
        """Work for somebody else from now on: a session that lost its link and goes on with this one."""
        self._events = events

    def attach(self, connection: Connection) -> None:
        """Say which connection this link speaks for; once, before any event of it."""
        self._connection = connection

    # What the session asks for.

    def send(self, message: AnyMessage) -> None:
        """Say something on the control stream. Closes the link when the peer lets too much pile up."""
        if self._is_closing:
            return
        self._dialogue.sent(message)
        data = frame(message)
        self._control_queue.append(data)
        self._control_queued += len(data)
        if self._control_queued > MAX_CONTROL_QUEUE:
            self.close(SessionCode.PROTOCOL, "the control stream is not being read")
            return
        self._push_control()

    def open(self, events: StreamEvents) -> int | None:
        """Open a QUIC stream; None while the peer allows no more."""
        quic_stream = None if self._is_closing else self.connection.open()
        if quic_stream is not None:
            self.streams[quic_stream] = events
        return quic_stream

    def close(self, code: SessionCode, reason: str = "") -> None:
        """End the link; :meth:`LinkEvents.link_down` follows."""
        if not self.is_down and self._connection is not None:
            self._is_closing = True
            self._connection.close(code, reason)
            self._wake()

    def wake(self) -> None:
        """Something was queued: transmit at the end of this loop turn."""
        self._wake()

    def stats(self) -> Stats:
        """Return the engine's figures of now; only for the loop's own thread, as everything of an engine."""
        stats = self.connection.stats()
        self.rtt = stats.rtt
        return stats

    # What the endpoint tells (transport.endpoint.ConnectionEvents).

    def connected(self) -> None:
        """Open the control stream (client) and tell the session."""
        if self._side is Side.CLIENT:
            if self.connection.open() is None:
                self._violated(ProtocolError("no stream is allowed"))
                return
            self.connection.prioritise(CONTROL_STREAM)
            self._tick_later()
        self.stats()
        self.is_up = True
        self._events.link_up()

    def data(self, stream: int, chunks: list[bytes], *, end: bool) -> None:
        """Pass on bytes to the control stream or to the receiver of the stream."""
        if self._is_closing:
            return
        try:
            if stream == CONTROL_STREAM:
                self._control_data(chunks, end=end)
            else:
                self._receiver(stream).data(chunks, end=end)
        except ProtocolError as error:
            self._violated(error)

    def reset(self, stream: int, code: int) -> None:
        """Pass on a reset. Closes the link if it is of the control stream."""
        if self._is_closing:
            return
        try:
            if stream == CONTROL_STREAM:
                raise ProtocolError("the control stream was reset")
            self._receiver(stream).reset(code)
        except ProtocolError as error:
            self._violated(error)

    def stopped(self, stream: int, code: int) -> None:
        """Pass on a stop. Closes the link if it is of the control stream."""
        if self._is_closing:
            return
        if stream == CONTROL_STREAM:
            self._violated(ProtocolError("the control stream was stopped"))
            return
        try:
            self._receiver(stream).stopped(code)
        except ProtocolError as error:
            self._violated(error)

    def writable(self, stream: int) -> None:
        """Go on writing."""
        if stream == CONTROL_STREAM:
            self._push_control()
        elif (receiver := self.streams.get(stream)) is not None:
            receiver.writable()

    def streams_available(self) -> None:
        """Tell the session that the peer allows more streams."""
        self._events.link_streams_available()

    def turn_ended(self) -> None:
        """Tell the session that all events of a batch were told."""
        if not self.is_down:
            self._events.link_turn_ended()

    def closed(self, cause: CloseCause, code: int, reason: str) -> None:
        """Tell the session that the link is down."""
        if self.is_down:
            return
        self.is_down = self._is_closing = True
        self.is_up = False
        if self._tick is not None:
            self._tick.cancel()
        self._control_queue.clear()
        self._events.link_down(Closed(cause, code, reason))
        self.streams.clear()

    # Inside.

    def _receiver(self, stream: int) -> StreamEvents:
        receiver = self.streams.get(stream)
        if receiver is None:
            if not self._is_new(stream):
                return _FORGOTTEN
            receiver = self.streams[stream] = self._events.link_stream(stream)
        return receiver

    def _is_new(self, stream: int) -> bool:
        """Return True if the peer has just opened the stream.

        Anything else without a receiver is over here, and the rest of one batch of events may still speak of it.
        Stream numbers rise by four for each kind (RFC 9000 section
        2.1) but arrive in any order; those skipped are remembered, as many as the peer may have open."""
        if (stream & 1 == 0) is (self._side is Side.CLIENT):
            return False
        if stream < self._next_peer_stream:
            if stream not in self._unseen:
                return False
            self._unseen.remove(stream)
            return True
        self._unseen.update(range(self._next_peer_stream, stream, 4))
        self._next_peer_stream = stream + 4
        return True

    def _control_data(self, chunks: list[bytes], *, end: bool) -> None:
        if self._side is Side.EDGE and CONTROL_STREAM not in self.streams:
            self.streams[CONTROL_STREAM] = _FORGOTTEN
            self.connection.prioritise(CONTROL_STREAM)
        for chunk in chunks:
            for message in self._control.feed(chunk):
                if self._is_closing:
                    return
                self._dialogue.received(message)
                self._events.link_message(message)
        if end:
            raise ProtocolError("the control stream was ended")

    def _push_control(self) -> None:
        queue = self._control_queue
        while queue:
            chunk = queue[0]
            taken = self.connection.write(CONTROL_STREAM, chunk)
            self._control_queued -= taken
            if taken < len(chunk):
                queue[0] = memoryview(chunk)[taken:]
                break
            queue.popleft()
        self._wake()

    def _violated(self, error: ProtocolError) -> None:
        logger.warning("peer %s broke the protocol: %s", self.connection.address[0], error)
        self.close(SessionCode.PROTOCOL, str(error))

    def _tick_later(self) -> None:
        self._tick = asyncio.get_running_loop().call_later(TICK, self._look)

    def _look(self) -> None:
        """Keep the way to the edge open, and find it again when it was lost."""
        stats = self.stats()
        is_owed = stats.bytes_in_flight > 0 and stats.packets_acked == self._acked
        self._acked = stats.packets_acked
        self.silence = self.silence + TICK if is_owed else 0.0
        before, self._received = self._received, stats.bytes_received
        came = self._received - before
        self._ticks += 1
        if came > BUSY:
            self._doubts = DOUBTS
        elif came:
            self._doubts = 0
        elif self._doubts:
            self._doubts -= 1
            self.connection.ping()
        if self._ticks * TICK >= KEEPALIVE:
            self._ticks = 0
            self.connection.ping()
        self._wake()
        self._tick_later()


class _Forgotten:
    """Stands behind a stream that is over here: what the peer still says about it changes nothing."""

    def data(self, chunks: list[bytes], *, end: bool) -> None: ...
    def reset(self, code: int) -> None: ...
    def stopped(self, code: int) -> None: ...
    def writable(self) -> None: ...


_FORGOTTEN: Final = _Forgotten()


class _Pending:
    """Stands behind a stream between its opening and its registration, in which nothing can happen."""

    def data(self, chunks: list[bytes], *, end: bool) -> None: ...
    def reset(self, code: int) -> None: ...
    def stopped(self, code: int) -> None: ...
    def writable(self) -> None: ...


PENDING: Final = _Pending()
"""Given to :meth:`Link.open` by a caller that registers the stream right after."""
