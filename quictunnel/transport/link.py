"""Link: a QUIC connection that carries a session.

The link handles the control stream (QUIC stream 0, opened by the client) and passes the events of every other
stream to the receiver that is registered for it. Credit, leases and TCP belong to other modules.
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
peer with a longer queue does not read its control stream any more."""
KEEPALIVE: Final = 4.0
"""Seconds between pings of a client. NAT bindings for UDP last 30 s in the strictest routers in use; a
restarted edge can send a stateless reset only in reply to a packet, and all clients should be back after five
seconds."""
CHECK_INTERVAL: Final = 1.0
"""Seconds between a client's checks whether its edge still answers."""
TRANSFER_SIZE: Final = 1000
"""Bytes received between two checks from which on they count as a transfer rather than as answers to pings."""
MAX_STALL_PINGS: Final = 3
"""Pings, one per check, after a transfer from the edge has stopped. A NAT may have given this client another port:
the edge's packets are then lost until it receives one from the new port, and a client that only downloads sends
nothing while nothing arrives."""


class StreamHandler(Protocol):
    """Receiver of the events of one QUIC stream."""

    def data(self, chunks: list[bytes], *, end: bool) -> None:
        """Handle bytes of the peer, and its end."""

    def reset(self, code: int) -> None:
        """Handle a reset of the peer's direction."""

    def stopped(self, code: int) -> None:
        """Handle a stop: the peer accepts no more bytes."""

    def writable(self) -> None:
        """Continue to write: the engine accepts bytes of the stream again."""


class LinkHandler(Protocol):
    """Callbacks of a link."""

    def link_up(self) -> None:
        """Handle a complete handshake; the control stream is open for writing."""

    def link_message(self, message: AnyMessage) -> None:
        """Handle a control message that the state allows. May raise ProtocolError."""

    def link_stream(self, quic_stream: int) -> StreamHandler:
        """Return the receiver of a stream that the peer opened. May raise ProtocolError."""

    def link_streams_available(self) -> None:
        """Handle a raised limit of streams."""

    def link_batch_ended(self) -> None:
        """Handle the end of a batch of events: queue now what is to be sent because of them."""

    def link_down(self, closed: Closed) -> None:
        """Handle the end of the link. No call follows."""


class IgnoringLinkHandler:
    """Events of a link that was given up: all of them are ignored."""

    def link_up(self) -> None: ...
    def link_message(self, message: AnyMessage) -> None: ...
    def link_stream(self, quic_stream: int) -> StreamHandler:
        del quic_stream
        return _IGNORED

    def link_streams_available(self) -> None: ...
    def link_batch_ended(self) -> None: ...
    def link_down(self, closed: Closed) -> None: ...


class Link:
    """QUIC connection as a session uses it. All methods are called on the loop's thread."""

    def __init__(self, side: Side, handler: LinkHandler, schedule_transmit: Callable[[], None]) -> None:
        self.streams: dict[int, StreamHandler] = {}
        self.is_up = False
        self.is_down = False
        self._is_closing = False
        """True when the link is down or closed by this side: messages still in flight are ignored."""
        self._connection: Connection | None = None
        self._control = FrameReader()
        self._control_queue: deque[bytes | memoryview] = deque()
        self._control_queued = 0
        self._control_state = ControlStateMachine(side)
        self._handler = handler
        self._timer: asyncio.TimerHandle | None = None
        self._checks = 0
        self._stall_pings = 0
        self._received = 0
        self._side = side
        self._schedule_transmit = schedule_transmit
        self._next_peer_stream = 1 if side is Side.CLIENT else 4
        self._skipped: set[int] = set()
        self.unanswered_for = 0.0
        """Client: seconds for which the edge has acknowledged nothing although packets are in flight."""
        self._acked = 0
        self.rtt = 0.0
        """Round-trip time in seconds at the last call of :meth:`stats`; other threads may read it."""

    @property
    def is_closing(self) -> bool:
        """Return True if the link is down, or this side has closed it."""
        return self._is_closing

    @property
    def connection(self) -> Connection:
        """Return the QUIC connection that :meth:`attach` has set."""
        assert self._connection is not None
        return self._connection

    def set_handler(self, handler: LinkHandler) -> None:
        """Replace the callbacks: a session that lost its link continues on this one."""
        self._handler = handler

    def attach(self, connection: Connection) -> None:
        """Set the QUIC connection: once, before any of its events."""
        self._connection = connection

    # For the session.

    def send(self, message: AnyMessage) -> None:
        """Send a message on the control stream. Close the link if the queue is too long."""
        if self._is_closing:
            return
        self._control_state.sent(message)
        data = frame(message)
        self._control_queue.append(data)
        self._control_queued += len(data)
        if self._control_queued > MAX_CONTROL_QUEUE:
            self.close(SessionCode.PROTOCOL, "the control stream is not being read")
            return
        self._push_control()

    def open(self, handler: StreamHandler) -> int | None:
        """Open a QUIC stream. Return None while the peer's limit is reached."""
        quic_stream = None if self._is_closing else self.connection.open()
        if quic_stream is not None:
            self.streams[quic_stream] = handler
        return quic_stream

    def close(self, code: SessionCode, reason: str = "") -> None:
        """End the link; :meth:`LinkHandler.link_down` follows."""
        if not self.is_down and self._connection is not None:
            self._is_closing = True
            self._connection.close(code, reason)
            self._schedule_transmit()

    def schedule_transmit(self) -> None:
        """Transmit what was queued, at the end of this iteration of the loop."""
        self._schedule_transmit()

    def stats(self) -> Stats:
        """Return the engine's current figures. For the loop's own thread only, like all calls of an engine."""
        stats = self.connection.stats()
        self.rtt = stats.rtt
        return stats

    # From the endpoint (transport.endpoint.ConnectionHandler).

    def connected(self) -> None:
        """Open the control stream (client) and report the link."""
        if self._side is Side.CLIENT:
            if self.connection.open() is None:
                self._violated(ProtocolError("no stream is allowed"))
                return
            self.connection.prioritise(CONTROL_STREAM)
            self._check_later()
        self.stats()
        self.is_up = True
        self._handler.link_up()

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
        self._handler.link_streams_available()

    def batch_ended(self) -> None:
        """Tell the session that all events of a batch were reported."""
        if not self.is_down:
            self._handler.link_batch_ended()

    def closed(self, cause: CloseCause, code: int, reason: str) -> None:
        """Tell the session that the link is down."""
        if self.is_down:
            return
        self.is_down = self._is_closing = True
        self.is_up = False
        if self._timer is not None:
            self._timer.cancel()
        self._control_queue.clear()
        self._handler.link_down(Closed(cause, code, reason))
        self.streams.clear()

    # Inside.

    def _receiver(self, stream: int) -> StreamHandler:
        receiver = self.streams.get(stream)
        if receiver is None:
            if not self._is_new(stream):
                return _IGNORED
            receiver = self.streams[stream] = self._handler.link_stream(stream)
        return receiver

    def _is_new(self, stream: int) -> bool:
        """Return True if the peer has just opened the stream.

        Anything else without a receiver is over here, and the rest of one batch of events may still speak of it.
        Stream numbers rise by four for each kind (RFC 9000 section
        2.1) but arrive in any order; those skipped are remembered, as many as the peer may have open."""
        if (stream & 1 == 0) is (self._side is Side.CLIENT):
            return False
        if stream < self._next_peer_stream:
            if stream not in self._skipped:
                return False
            self._skipped.remove(stream)
            return True
        self._skipped.update(range(self._next_peer_stream, stream, 4))
        self._next_peer_stream = stream + 4
        return True

    def _control_data(self, chunks: list[bytes], *, end: bool) -> None:
        if self._side is Side.EDGE and CONTROL_STREAM not in self.streams:
            self.streams[CONTROL_STREAM] = _IGNORED
            self.connection.prioritise(CONTROL_STREAM)
        for chunk in chunks:
            for message in self._control.feed(chunk):
                if self._is_closing:
                    return
                self._control_state.received(message)
                self._handler.link_message(message)
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
        self._schedule_transmit()

    def _violated(self, error: ProtocolError) -> None:
        logger.warning("peer %s broke the protocol: %s", self.connection.address[0], error)
        self.close(SessionCode.PROTOCOL, str(error))

    def _check_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(CHECK_INTERVAL, self._check)

    def _check(self) -> None:
        """Keep the NAT binding open, and restore the path after the NAT has changed it."""
        stats = self.stats()
        is_owed = stats.bytes_in_flight > 0 and stats.packets_acked == self._acked
        self._acked = stats.packets_acked
        self.unanswered_for = self.unanswered_for + CHECK_INTERVAL if is_owed else 0.0
        before, self._received = self._received, stats.bytes_received
        received = self._received - before
        self._checks += 1
        if received > TRANSFER_SIZE:
            self._stall_pings = MAX_STALL_PINGS
        elif received:
            self._stall_pings = 0
        elif self._stall_pings:
            self._stall_pings -= 1
            self.connection.ping()
        if self._checks * CHECK_INTERVAL >= KEEPALIVE:
            self._checks = 0
            self.connection.ping()
        self._schedule_transmit()
        self._check_later()


class _IgnoringStreamHandler:
    """Receiver of a stream that is over: ignores events that are still in flight."""

    def data(self, chunks: list[bytes], *, end: bool) -> None: ...
    def reset(self, code: int) -> None: ...
    def stopped(self, code: int) -> None: ...
    def writable(self) -> None: ...


_IGNORED: Final = _IgnoringStreamHandler()


class _PendingStreamHandler:
    """Receiver of a stream between its opening and its registration; no event can arrive in between."""

    def data(self, chunks: list[bytes], *, end: bool) -> None: ...
    def reset(self, code: int) -> None: ...
    def stopped(self, code: int) -> None: ...
    def writable(self) -> None: ...


PLACEHOLDER_HANDLER: Final = _PendingStreamHandler()
"""Stand-in for the handler of a stream, for a caller of :meth:`Link.open` that sets the real one immediately
afterwards."""
