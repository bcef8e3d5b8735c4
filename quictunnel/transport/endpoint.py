"""The asyncio side of an engine: one socket, one timer, one transmit a loop turn.

Here datagrams meet the clock. What connections are for is none of this module's business: each has a sink
(:class:`ConnectionEvents`) that is told what happened, in order, and a fault in one sink costs its connection
only. No QUIC library and no session shows up in here.

Everything runs on the loop's thread. The order within a turn: read batches, hand them to the engine, tell the
sinks, let each touched sink end its turn; then, once, transmit what all of that and everybody else's writes
have queued.
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

log = logging.getLogger(__name__)

# Batches read in one loop turn. Under a flood the rest waits in the socket's buffer, and is dropped there,
# while timers and the sockets of visitors get their turns.
BATCHES_PER_TURN = 2
# Timers are set on whole milliseconds: that is all epoll and uvloop resolve, and a shorter wait would make
# uvloop spin. It is also the least wait, so that an engine with a stuck deadline cannot do so either.
GRANULARITY = 0.001
# Seconds between faults that are logged; those between are only counted, or a peer who found one could
# fill the disk.
FAULT_LOG_INTERVAL = 1.0


class ConnectionEvents(Protocol):
    """The owner of a connection. The methods mirror the events of ``engine``."""

    def connected(self) -> None:
        """Note that the handshake is complete."""

    def data(self, stream: int, chunks: list[bytes], *, end: bool) -> None:
        """Take in bytes of a stream, and its end."""

    def reset(self, stream: int, code: int) -> None:
        """Note that the peer gave up its direction of a stream."""

    def stopped(self, stream: int, code: int) -> None:
        """Note that the peer takes no more of a stream."""

    def writable(self, stream: int) -> None:
        """Note that a stream takes bytes again."""

    def streams_available(self) -> None:
        """Note that the peer allows more streams."""

    def turn_ended(self) -> None:
        """Handle the end of a batch of events, once: send what was held back to be sent together. Not
        called after :meth:`closed`."""

    def closed(self, cause: CloseCause, code: int, reason: str) -> None:
        """The connection is over; nothing follows."""


@dataclass(slots=True)
class Traffic:
    """Counts of all connections of an endpoint, those that are over included, as far as the engine knew of each at
    its end."""

    bytes_sent: int = 0
    bytes_received: int = 0
    packets_sent: int = 0
    packets_received: int = 0
    packets_lost: int = 0

    def add(self, stats: Stats) -> None:
        """Count a connection in."""
        self.bytes_sent += stats.bytes_sent
        self.bytes_received += stats.bytes_received
        self.packets_sent += stats.packets_sent
        self.packets_received += stats.packets_received
        self.packets_lost += stats.packets_lost


class Endpoint:
    """Drives ``engine`` over ``socket``; owns the socket, and both end with it."""

    def __init__(
        self,
        engine: Engine,
        socket: DatagramSocket,
        *,
        on_connection: Callable[[Connection], ConnectionEvents] | None = None,
    ) -> None:
        """Starts at once, on the running loop. ``on_connection`` makes the sink of a connection that a peer
        began; without it such connections are closed."""
        self.faults = 0
        """Exceptions that came out of sinks and, against its promise, the engine."""
        self._engine = engine
        self._socket = socket
        self._on_connection = on_connection
        self._loop = asyncio.get_running_loop()
        # uvloop's clock stands still during a turn and knows whole milliseconds only, too coarse for round
        # trips and pacing; both clocks are the system's monotonic one.
        self._now = self._loop.time if isinstance(self._loop, asyncio.BaseEventLoop) else time.monotonic
        self._sinks: dict[Connection, ConnectionEvents] = {}
        self._past = Traffic()
        self._flush_due: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._gone: asyncio.Future[None] | None = None
        self._quiet_until = -math.inf
        self._is_closing = False
        self._is_closed = False
        socket.attach(self._loop, self._readable)

    @property
    def local_address(self) -> Address:
        """The address that the socket is bound to."""
        return self._socket.local_address

    @property
    def socket(self) -> DatagramSocket:
        """The socket of now."""
        return self._socket

    @property
    def engine(self) -> Engine:
        """The engine that the endpoint drives."""
        return self._engine

    @property
    def is_closed(self) -> bool:
        """True after the end."""
        return self._is_closed

    @property
    def connections(self) -> tuple[Connection, ...]:
        """Return the connections that are there now, without the handshakes that peers have not completed."""
        return tuple(self._sinks)

    def traffic(self) -> Traffic:
        """Return what all connections have carried. Costs a question to the engine for each that is there."""
        traffic = replace(self._past)
        for connection in self._sinks:
            traffic.add(connection.stats())
        return traffic

    # What connections do, in files. The engine that does it is there while some are wanted, and at no other time.

    def trace(self, tracer: Tracer | None) -> None:
        """Write what every connection does to files from now on, also of those that are there; None: no more, but
        of those that :meth:`trace_one` was said of, which go on in their files either way."""
        if tracer is not None or isinstance(self._engine, TracingEngine):
            self._tracing().trace_all(tracer, self._sinks, self._now())

    def trace_one(self, connection: Connection, tracer: Tracer) -> Trace:
        """Write what one of the connections does, until its end; where that is done already, this says where.
        Raises NotTracedError."""
        return self._tracing().trace_one(connection, tracer, self._sinks, self._now())

    def untrace_one(self, connection: Connection) -> None:
        """Trace a connection no more than the others."""
        if isinstance(self._engine, TracingEngine):
            self._engine.untrace_one(connection)

    def trace_of(self, connection: Connection) -> Trace | None:
        """Return the trace that is being written of a connection now."""
        return self._engine.trace_of(connection) if isinstance(self._engine, TracingEngine) else None

    def _tracing(self) -> TracingEngine:
        if not isinstance(self._engine, TracingEngine):
            self._engine = TracingEngine(self._engine, self._trace_no_more)
        return self._engine

    def _end_trace(self, connection: Connection) -> None:
        """End the trace of a connection that is over, if it began after the engine had said so."""
        if isinstance(self._engine, TracingEngine):
            self._engine.forget(connection)

    def _trace_no_more(self) -> None:
        if isinstance(self._engine, TracingEngine):
            self._engine = self._engine.inner

    # For the modules above.

    def connect(self, address: Address, server_name: str, sink: ConnectionEvents) -> Connection:
        """Begin a connection. ``address`` is numeric, of the socket's family and in the form that
        ``getaddrinfo`` gives, because replies are recognised by it."""
        if self._is_closing:
            raise RuntimeError("the endpoint is closed")
        if len(address) != len(self.local_address):
            raise ValueError(f"cannot reach {address[0]} from a socket at {self.local_address[0]}")
        connection = self._engine.connect(address, server_name, self._now())
        self._sinks[connection] = sink
        self.wake()
        return connection

    def wake(self) -> None:
        """Something was queued: transmit once all that is ready in this loop turn has run."""
        if self._flush_due is None and not self._is_closed:
            self._flush_due = self._loop.call_soon(self._flush)

    def rebind(self, new: DatagramSocket) -> None:
        """Go on from another socket of the same family, and close the old one. Connections that this side
        began migrate; those that peers began follow when the peer hears of it."""
        if len(new.local_address) != len(self.local_address):
            raise ValueError("a connection cannot change between IPv4 and IPv6")
        if self._is_closed:
            new.close()
            return
        old, self._socket = self._socket, new
        old.detach()
        self._take(old)  # what had arrived before the change is still good
        old.close()
        new.attach(self._loop, self._readable)
        for connection in self._sinks:
            if connection.is_client:
                connection.migrate()
        self.wake()

    async def close(self, grace: float, code: int = SessionCode.DONE, reason: str = "") -> None:
        """Close every connection, stay for up to ``grace`` seconds to repeat the goodbye to peers that missed
        it (RFC 9000 section 10.2.1), then :meth:`abort`. Cancelling it aborts at once."""
        self._is_closing = True
        try:
            for connection in tuple(self._sinks):
                connection.close(code, reason)
            self._flush()
            if self._engine.has_connections() and not self._is_closed:
                self._gone = self._loop.create_future()
                await asyncio.wait([self._gone], timeout=grace)
        finally:
            self.abort()

    def abort(self) -> None:
        """End now, without a goodbye: peers find out by their idle time-out. Sinks that are left are told."""
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
            self._trace_no_more()
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)
        while self._sinks:
            connection, sink = self._sinks.popitem()
            self._tell_closed(connection, sink, Closed(CloseCause.LOCAL, SessionCode.DONE, ""))

    # Callbacks of the loop.

    def _readable(self) -> None:
        for _ in range(BATCHES_PER_TURN):
            if self._is_closed or not self._take(self._socket):
                break
        # Once for all of them: a stream whose bytes came in several tells them in one piece.
        self._dispatch()
        self.wake()

    def _flush(self) -> None:
        if self._is_closed:
            return
        if self._flush_due is not None:
            self._flush_due.cancel()
            self._flush_due = None
        try:
            self._socket.send(self._engine.transmit(self._now()))
        except Exception as error:  # noqa: BLE001  an engine's fault must not stop the timer that might get it going
            self._report(error, "The QUIC engine failed to transmit")
        self._dispatch()
        self._settle()

    def _timer_fired(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        deadline = self._engine.timeout()
        now = self._now()
        if deadline is None or deadline > now:
            self._settle()
            return
        try:
            self._engine.expire(now)
        except Exception as error:  # noqa: BLE001  the other connections' timers must go on
            self._report(error, "The QUIC engine failed to run its timers")
        self._dispatch()
        self.wake()
        self._settle()

    def _settle(self) -> None:
        """Set the timer, unless the one that is set comes early enough: a timer that fires for nothing is
        cheaper than one that is moved with every packet."""
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
        # A thousandth of the step forgives the rounding of floats, which would else cost a whole one.
        steps = max(1, math.ceil((deadline - now) / GRANULARITY - 0.001))
        self._timer_at = max(deadline, now + steps * GRANULARITY)
        self._timer = self._loop.call_at(self._timer_at, self._timer_fired)

    # Between the engine and the sinks.

    def _take(self, socket: DatagramSocket) -> bool:
        """Hand one batch to the engine. False: there was none."""
        batch = socket.receive()
        if batch:
            try:
                self._engine.receive(batch, self._now())
            except Exception as error:  # noqa: BLE001  one datagram must not cost more than itself
                self._report(error, "The QUIC engine failed to take datagrams in")
        return bool(batch)

    def _dispatch(self) -> None:
        events: list[tuple[Connection, Event]] = []
        try:
            # A copy: sinks make further events, which are for the next turn. What was taken out before a fault is
            # told all the same, or bytes of other connections would be missing.
            events.extend(self._engine.poll())
        except Exception as error:  # noqa: BLE001  the timer and the other connections must go on
            self._report(error, "The QUIC engine failed to say what happened")
        touched: dict[Connection, None] = {}
        for connection, event in events:
            touched[connection] = None
            try:
                self._tell(connection, event)
            except Exception as error:  # noqa: BLE001  a sink's fault costs its connection only
                self._sink_failed(connection, error)
        for connection in touched:
            sink = self._sinks.get(connection)
            if sink is not None:
                try:
                    sink.turn_ended()
                except Exception as error:  # noqa: BLE001  as above
                    self._sink_failed(connection, error)

    def _tell(self, connection: Connection, event: Event) -> None:
        sink = self._sinks.get(connection)
        if sink is None and isinstance(event, Connected) and not connection.is_client:
            sink = self._accept(connection)
        if sink is None:  # refused, or failed before
            if isinstance(event, Closed):
                self._end_trace(connection)
            return
        match event:
            case Data(stream, chunks, end):
                sink.data(stream, chunks, end=end)
            case Writable(stream):
                sink.writable(stream)
            case Connected():
                sink.connected()
            case Reset(stream, code):
                sink.reset(stream, code)
            case Stopped(stream, code):
                sink.stopped(stream, code)
            case StreamsAvailable():
                sink.streams_available()
            case Closed():
                self._end_trace(connection)
                self._forget(connection)
                self._tell_closed(connection, sink, event)

    def _accept(self, connection: Connection) -> ConnectionEvents | None:
        if self._is_closing or self._on_connection is None:
            connection.close(SessionCode.GOING_AWAY)
            return None
        sink = self._sinks[connection] = self._on_connection(connection)
        return sink

    def _tell_closed(self, connection: Connection, sink: ConnectionEvents, closed: Closed) -> None:
        try:
            sink.closed(closed.cause, closed.code, closed.reason)
        except Exception as error:  # noqa: BLE001  a sink's fault costs its connection only
            self._report(error, f"The connection with {connection.address[0]} was not taken down properly")

    def _forget(self, connection: Connection) -> ConnectionEvents | None:
        sink = self._sinks.pop(connection, None)
        if sink is not None:
            self._past.add(connection.stats())
        return sink

    def _sink_failed(self, connection: Connection, error: Exception) -> None:
        """Close a connection whose sink raised; the sink is told of its end and of nothing else."""
        self._report(
            error, f"The connection with {connection.address[0]} is closed because of a fault on this side"
        )
        sink = self._forget(connection)
        connection.close(SessionCode.INTERNAL)
        self.wake()
        if sink is not None:
            self._tell_closed(connection, sink, Closed(CloseCause.INTERNAL, SessionCode.INTERNAL, ""))

    def _report(self, error: Exception, what: str) -> None:
        self.faults += 1
        now = self._loop.time()
        if now >= self._quiet_until:
            self._quiet_until = now + FAULT_LOG_INTERVAL
            log.error(what, exc_info=error)
