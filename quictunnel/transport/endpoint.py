"""Driver of an engine on asyncio: one socket, one timer, one transmission per iteration of the loop.

Each connection has a handler (:class:`ConnectionHandler`) that is called with its events, in order. An exception
in a handler closes its connection only. QUIC libraries and sessions are unknown here.

Everything runs on the loop's thread. The order within an iteration: read batches, pass them to the engine, call
the handlers, end the batch for each handler that was called; then transmit, once, what was queued by all of them
and by other code.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from quictunnel.transport.engine import (
    CloseCause,
    Closed,
    Connected,
    Data,
    Reset,
    Stopped,
    StreamsAvailable,
    Writable,
)
from quictunnel.transport.tracing_engine import TracingEngine
from quictunnel.wire.codes import SessionCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.transport.engine import Address, Connection, Engine, Event, Stats
    from quictunnel.transport.qlog import Trace, Tracer
    from quictunnel.transport.udp import DatagramSocket

logger = logging.getLogger(__name__)

# Batches read in one iteration of the loop. Under a flood the rest waits in the socket's buffer, and is dropped
# there, while timers and the sockets of visitors are served.
BATCHES_PER_TURN = 2
# Timers are set on whole milliseconds, the resolution of epoll and uvloop; uvloop would spin on a shorter wait.
# It is also the shortest wait, so that an engine with a stuck deadline does not spin either.
GRANULARITY = 0.001
# Seconds between logged exceptions. Others are only counted: a peer that can provoke one must not fill the disk.
FAULT_LOG_INTERVAL = 1.0


class ConnectionHandler(Protocol):
    """Callbacks of a connection. The methods mirror the events of ``engine``."""

    def connected(self) -> None:
        """Handle a complete handshake."""

    def data(self, stream: int, chunks: list[bytes], *, end: bool) -> None:
        """Handle bytes of a stream, and its end."""

    def reset(self, stream: int, code: int) -> None:
        """Handle a reset of the peer's direction of a stream."""

    def stopped(self, stream: int, code: int) -> None:
        """Handle a stop: the peer accepts no more bytes of a stream."""

    def writable(self, stream: int) -> None:
        """Continue to write: the engine accepts bytes of a stream again."""

    def streams_available(self) -> None:
        """Handle a raised limit of streams."""

    def batch_ended(self) -> None:
        """Handle the end of a batch of events, once: send what was held back to be sent together. Not
        called after :meth:`closed`."""

    def closed(self, cause: CloseCause, code: int, reason: str) -> None:
        """Handle the end of the connection. No call follows."""


@dataclass(slots=True)
class Traffic:
    """Counts of all connections of an endpoint. Those of a closed connection are as they were at its end."""

    bytes_sent: int = 0
    bytes_received: int = 0
    packets_sent: int = 0
    packets_received: int = 0
    packets_lost: int = 0

    def add(self, stats: Stats) -> None:
        """Add the counts of a connection."""
        self.bytes_sent += stats.bytes_sent
        self.bytes_received += stats.bytes_received
        self.packets_sent += stats.packets_sent
        self.packets_received += stats.packets_received
        self.packets_lost += stats.packets_lost


class Endpoint:
    """Driver of ``engine`` over ``socket``. It owns the socket, and both end with it."""

    def __init__(
        self,
        engine: Engine,
        socket: DatagramSocket,
        *,
        on_connection: Callable[[Connection], ConnectionHandler] | None = None,
    ) -> None:
        """Start on the running loop. ``on_connection`` returns the handler of a connection that a peer has opened;
        without it such connections are closed."""
        self.faults = 0
        """Number of exceptions of handlers and of the engine, whose interface allows none."""
        self._engine = engine
        self._socket = socket
        self._on_connection = on_connection
        self._loop = asyncio.get_running_loop()
        # uvloop's clock is constant during an iteration and has whole milliseconds only, too coarse for round
        # trips and pacing. Both clocks are the system's monotonic one.
        self._now = self._loop.time if isinstance(self._loop, asyncio.BaseEventLoop) else time.monotonic
        self._handlers: dict[Connection, ConnectionHandler] = {}
        self._closed_traffic = Traffic()
        self._flush_due: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._gone: asyncio.Future[None] | None = None
        self._next_log_at = -math.inf
        self._is_closing = False
        self._is_closed = False
        socket.attach(self._loop, self._readable)

    @property
    def local_address(self) -> Address:
        """Return the address to which the socket is bound."""
        return self._socket.local_address

    @property
    def socket(self) -> DatagramSocket:
        """Return the current socket."""
        return self._socket

    @property
    def engine(self) -> Engine:
        """Return the engine, or the wrapper that traces it."""
        return self._engine

    @property
    def is_closed(self) -> bool:
        """Return True after :meth:`abort` or :meth:`close`."""
        return self._is_closed

    @property
    def connections(self) -> tuple[Connection, ...]:
        """Return the established connections."""
        return tuple(self._handlers)

    def traffic(self) -> Traffic:
        """Return the counts of all connections. Asks the engine for those of each open one."""
        traffic = replace(self._closed_traffic)
        for connection in self._handlers:
            traffic.add(connection.stats())
        return traffic

    # Traces. The wrapper of the engine is in place only while some are wanted.

    def trace(self, tracer: Tracer | None) -> None:
        """Trace every connection from now on, including the open ones. With None, stop all traces but those of
        :meth:`trace_one`."""
        if tracer is not None or isinstance(self._engine, TracingEngine):
            self._tracing().trace_all(tracer, self._handlers, self._now())

    def trace_one(self, connection: Connection, tracer: Tracer) -> Trace:
        """Trace one connection until its end. Return its trace, which may exist already. Raises NotTracedError."""
        return self._tracing().trace_one(connection, tracer, self._handlers, self._now())

    def untrace_one(self, connection: Connection) -> None:
        """Undo :meth:`trace_one`."""
        if isinstance(self._engine, TracingEngine):
            self._engine.untrace_one(connection)

    def trace_of(self, connection: Connection) -> Trace | None:
        """Return the open trace of a connection, or None."""
        return self._engine.trace_of(connection) if isinstance(self._engine, TracingEngine) else None

    def _tracing(self) -> TracingEngine:
        if not isinstance(self._engine, TracingEngine):
            self._engine = TracingEngine(self._engine, self._stop_tracing)
        return self._engine

    def _end_trace(self, connection: Connection) -> None:
        """Close the trace of a connection that is over, if the trace was started after the Closed event."""
        if isinstance(self._engine, TracingEngine):
            self._engine.forget(connection)

    def _stop_tracing(self) -> None:
        if isinstance(self._engine, TracingEngine):
            self._engine = self._engine.inner

    # For the modules above.

    def connect(self, address: Address, server_name: str, handler: ConnectionHandler) -> Connection:
        """Open a connection. ``address`` is numeric, of the socket's family and in the form of ``getaddrinfo``,
        because datagrams of the peer are matched by it."""
        if self._is_closing:
            raise RuntimeError("the endpoint is closed")
        if len(address) != len(self.local_address):
            raise ValueError(f"cannot reach {address[0]} from a socket at {self.local_address[0]}")
        connection = self._engine.connect(address, server_name, self._now())
        self._handlers[connection] = handler
        self.schedule_transmit()
        return connection

    def schedule_transmit(self) -> None:
        """Transmit what was queued, once, after the callbacks of this iteration of the loop."""
        if self._flush_due is None and not self._is_closed:
            self._flush_due = self._loop.call_soon(self._flush)

    def rebind(self, new: DatagramSocket) -> None:
        """Replace the socket by another one of the same family, and close the old one. Client connections migrate;
        server connections follow with the peer's next packet."""
        if len(new.local_address) != len(self.local_address):
            raise ValueError("a connection cannot change between IPv4 and IPv6")
        if self._is_closed:
            new.close()
            return
        old, self._socket = self._socket, new
        old.detach()
        self._take(old)  # datagrams that arrived before the change are still valid
        old.close()
        new.attach(self._loop, self._readable)
        for connection in self._handlers:
            if connection.is_client:
                connection.migrate()
        self.schedule_transmit()

    async def close(self, grace: float, code: int = SessionCode.DONE, reason: str = "") -> None:
        """Close every connection, repeat CONNECTION_CLOSE to peers that missed it for up to ``grace`` seconds (RFC
        9000 section 10.2.1), then :meth:`abort`. Cancellation aborts at once."""
        self._is_closing = True
        try:
            for connection in tuple(self._handlers):
                connection.close(code, reason)
            self._flush()
            if self._engine.has_connections() and not self._is_closed:
                self._gone = self._loop.create_future()
                await asyncio.wait([self._gone], timeout=grace)
        finally:
            self.abort()

    def abort(self) -> None:
        """End now, without CONNECTION_CLOSE: peers detect it by their idle timeout. Call the remaining handlers'
        ``closed``."""
        if self._is_closed:
            return
        self._is_closing = self._is_closed = True
        if self._flush_due is not None:
            self._flush_due.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._socket.close()
        if isinstance(self._engine, TracingEngine):
            self._engine.close()
            self._stop_tracing()
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)
        while self._handlers:
            connection, handler = self._handlers.popitem()
            self._report_closed(connection, handler, Closed(CloseCause.LOCAL, SessionCode.DONE, ""))

    # Callbacks of the loop.

    def _readable(self) -> None:
        for _ in range(BATCHES_PER_TURN):
            if self._is_closed or not self._take(self._socket):
                break
        # Once for all batches: the bytes of a stream that came in several are reported together.
        self._dispatch()
        self.schedule_transmit()

    def _flush(self) -> None:
        if self._is_closed:
            return
        if self._flush_due is not None:
            self._flush_due.cancel()
            self._flush_due = None
        try:
            self._socket.send(self._engine.transmit(self._now()))
        except Exception as error:  # noqa: BLE001  the timer must stay set: it may let the engine recover
            self._report(error, "The QUIC engine failed to transmit")
        self._dispatch()
        self._set_timer()

    def _timer_fired(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        deadline = self._engine.timeout()
        now = self._now()
        if deadline is None or deadline > now:
            self._set_timer()
            return
        try:
            self._engine.expire(now)
        except Exception as error:  # noqa: BLE001  the timers of other connections must run
            self._report(error, "The QUIC engine failed to run its timers")
        self._dispatch()
        self.schedule_transmit()
        self._set_timer()

    def _set_timer(self) -> None:
        """Set the timer, unless it fires early enough already: a needless wake-up is cheaper than moving the timer
        with every packet."""
        if self._is_closed:
            return
        if self._gone is not None and not self._gone.done() and not self._engine.has_connections():
            self._gone.set_result(None)
        deadline = self._engine.timeout()
        if deadline is None or self._timer_at <= deadline + GRANULARITY:
            return
        if self._timer is not None:
            self._timer.cancel()
        now = self._loop.time()
        # Subtract a thousandth of a step, because rounding of floats could otherwise add a whole one.
        steps = max(1, math.ceil((deadline - now) / GRANULARITY - 0.001))
        self._timer_at = max(deadline, now + steps * GRANULARITY)
        self._timer = self._loop.call_at(self._timer_at, self._timer_fired)

    # Between the engine and the handlers.

    def _take(self, socket: DatagramSocket) -> bool:
        """Pass one batch to the engine. Return False if there was none."""
        batch = socket.receive()
        if batch:
            try:
                self._engine.receive(batch, self._now())
            except Exception as error:  # noqa: BLE001  a datagram must not affect others
                self._report(error, "The QUIC engine failed to receive datagrams")
        return bool(batch)

    def _dispatch(self) -> None:
        events: list[tuple[Connection, Event]] = []
        try:
            # A copy: handlers cause further events, which belong to the next iteration. Events returned before an
            # exception are dispatched as well, or bytes of other connections would be missing.
            events.extend(self._engine.poll())
        except Exception as error:  # noqa: BLE001  the timer and other connections must continue
            self._report(error, "The QUIC engine failed to report events")
        touched: dict[Connection, None] = {}
        for connection, event in events:
            touched[connection] = None
            try:
                self._deliver(connection, event)
            except Exception as error:  # noqa: BLE001  it must affect its connection only
                self._handler_failed(connection, error)
        for connection in touched:
            handler = self._handlers.get(connection)
            if handler is not None:
                try:
                    handler.batch_ended()
                except Exception as error:  # noqa: BLE001  as above
                    self._handler_failed(connection, error)

    def _deliver(self, connection: Connection, event: Event) -> None:
        handler = self._handlers.get(connection)
        if handler is None and isinstance(event, Connected) and not connection.is_client:
            handler = self._accept(connection)
        if handler is None:  # refused, or failed before
            if isinstance(event, Closed):
                self._end_trace(connection)
            return
        match event:
            case Data(stream, chunks, end):
                handler.data(stream, chunks, end=end)
            case Writable(stream):
                handler.writable(stream)
            case Connected():
                handler.connected()
            case Reset(stream, code):
                handler.reset(stream, code)
            case Stopped(stream, code):
                handler.stopped(stream, code)
            case StreamsAvailable():
                handler.streams_available()
            case Closed():
                self._end_trace(connection)
                self._forget(connection)
                self._report_closed(connection, handler, event)

    def _accept(self, connection: Connection) -> ConnectionHandler | None:
        if self._is_closing or self._on_connection is None:
            connection.close(SessionCode.GOING_AWAY)
            return None
        handler = self._handlers[connection] = self._on_connection(connection)
        return handler

    def _report_closed(self, connection: Connection, handler: ConnectionHandler, closed: Closed) -> None:
        try:
            handler.closed(closed.cause, closed.code, closed.reason)
        except Exception as error:  # noqa: BLE001  it must affect its connection only
            self._report(error, f"The end of the connection with {connection.address[0]} was not handled")

    def _forget(self, connection: Connection) -> ConnectionHandler | None:
        handler = self._handlers.pop(connection, None)
        if handler is not None:
            self._closed_traffic.add(connection.stats())
        return handler

    def _handler_failed(self, connection: Connection, error: Exception) -> None:
        """Close a connection whose handler raised. The handler gets ``closed`` and no other call."""
        self._report(error, f"The connection with {connection.address[0]} is closed because of an internal error")
        handler = self._forget(connection)
        connection.close(SessionCode.INTERNAL)
        self.schedule_transmit()
        if handler is not None:
            self._report_closed(connection, handler, Closed(CloseCause.INTERNAL, SessionCode.INTERNAL, ""))

    def _report(self, error: Exception, what: str) -> None:
        self.faults += 1
        now = self._loop.time()
        if now >= self._next_log_at:
            self._next_log_at = now + FAULT_LOG_INTERVAL
            logger.error(what, exc_info=error)
