"""Wrapper of an engine that writes traces (``qlog``) of all or some connections. It is in place only while traces
are wanted.

It records what passes through the engine interface: sizes of datagrams in and out, long headers (which are not
encrypted), bytes passed to receivers of streams, resets, and after each transmission the engine's figures of the
path: round-trip times, congestion window, bytes in flight, packets lost. Packet numbers and frames, which only the
engines know, are not recorded. A trace therefore contains no secret but the addresses of both ends.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from quictunnel.transport.engine import Closed, Connected, Data, Reset, Stopped
from quictunnel.transport.qlog import NotTracedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from quictunnel.transport.engine import (
        Address,
        Connection,
        Engine,
        EngineCounters,
        Event,
        Received,
        Transmit,
    )
    from quictunnel.transport.qlog import Trace, Tracer

logger = logging.getLogger(__name__)

MAX_EARLY: Final = 64
"""Addresses without a known connection for which events are kept: an edge learns of a connection when its
handshake is complete. The oldest are dropped first."""
EARLY_EVENTS: Final = 32
"""Events kept for each such address; a handshake has a dozen."""

_TYPES: Final = ("initial", "0RTT", "handshake", "retry")


class TracingEngine:
    """Engine (``transport.engine.Engine``) that traces another one, whose connections it passes on.

    :meth:`trace_all` and :meth:`trace_one` choose connections. A connection chosen by both has one file."""

    def __init__(self, inner: Engine, on_unwanted: Callable[[], None]) -> None:
        """Create the wrapper.

        Args:
            inner: the engine.
            on_unwanted: called when no connection is traced any more, possibly within a call of this object, which
                then completes without tracing.
        """
        self.inner = inner
        self.name = inner.name
        self.version = inner.version
        self._on_unwanted = on_unwanted
        self._default_tracer: Tracer | None = None
        self._chosen: set[Connection] = set()
        """Connections chosen by :meth:`trace_one`; each has a trace."""
        self._traces: dict[Connection, Trace] = {}
        self._known: dict[Connection, Address] = {}
        """Addresses of all connections, traced or not: one look-up tells their datagrams from a new peer's."""
        self._by_address: dict[Address, Connection] = {}
        self._early: OrderedDict[Address, list[tuple[float, str, dict[str, Any]]]] = OrderedDict()
        self._touched: dict[Connection, None] = {}
        self._now = 0.0

    @property
    def counters(self) -> EngineCounters:
        return self.inner.counters

    # Choice of connections.

    def trace_all(self, tracer: Tracer | None, known: Iterable[Connection], now: float) -> None:
        """Trace every connection from now on. With None, only those chosen by :meth:`trace_one`.

        Args:
            tracer: opens the files.
            known: connections that exist already.
            now: time on the engine's clock.
        """
        self._now = now
        self._default_tracer = tracer
        self._early.clear()
        for connection in tuple(self._traces):
            if connection not in self._chosen:
                self._traces.pop(connection).close()
        for connection in known:
            self._record_address(connection)
            if tracer is not None and connection not in self._traces:
                self._begin_if_possible(connection, tracer)
        self._report_if_unwanted()

    def trace_one(self, connection: Connection, tracer: Tracer, known: Iterable[Connection], now: float) -> Trace:
        """Trace an open connection until its end or :meth:`untrace_one`. Return its trace, which may exist
        already.

        Raises:
            NotTracedError: there are too many files, or the file cannot be written.
        """
        self._now = now
        for each in known:
            self._record_address(each)
        trace = self._traces.get(connection)
        try:
            if trace is None or not trace.is_open:
                trace = self._begin(connection, tracer)
            self._chosen.add(connection)
        finally:
            self._report_if_unwanted()
        return trace

    def untrace_one(self, connection: Connection) -> None:
        """Undo :meth:`trace_one`."""
        self._chosen.discard(connection)
        if self._default_tracer is None:
            self._end(connection)

    def trace_of(self, connection: Connection) -> Trace | None:
        """Return the open trace of a connection, or None."""
        trace = self._traces.get(connection)
        return trace if trace is not None and trace.is_open else None

    def forget(self, connection: Connection) -> None:
        """Close the trace of a connection that is over."""
        address = self._known.pop(connection, None)
        if address is not None and self._by_address.get(address) is connection:
            del self._by_address[address]
        self._touched.pop(connection, None)
        self._end(connection)

    def close(self) -> None:
        """Close all traces; the connections continue."""
        for trace in self._traces.values():
            trace.close()
        self._traces.clear()

    # The engine interface.

    def connect(self, address: Address, server_name: str, now: float) -> Connection:
        self._now = now
        connection = self.inner.connect(address, server_name, now)
        self._add(connection)
        return connection

    def receive(self, batch: Sequence[Received], now: float) -> None:
        self._now = now
        self.inner.receive(batch, now)
        for received in batch:
            address, payload = received.address, received.payload
            if self._is_seen(address):
                self._datagrams(address, "received", payload, len(payload), received.segment)

    def expire(self, now: float) -> None:
        self._now = now
        self.inner.expire(now)

    def timeout(self) -> float | None:
        return self.inner.timeout()

    def poll(self) -> Iterator[tuple[Connection, Event]]:
        for connection, event in self.inner.poll():
            self._event(connection, event)
            yield connection, event

    def transmit(self, now: float) -> Iterator[Transmit]:
        self._now = now
        for burst in self.inner.transmit(now):
            if self._is_seen(burst.address):
                size = sum(map(len, burst.parts))
                first = burst.parts[0] if burst.parts else b""
                self._datagrams(burst.address, "sent", first, size, burst.segment)
            yield burst
        touched, self._touched = self._touched, {}
        for connection in touched:
            if (trace := self._traces.get(connection)) is not None:
                trace.record_stats(now, connection.stats())
                if not trace.is_open:
                    self._end(connection)

    def has_connections(self) -> bool:
        return self.inner.has_connections()

    # Internal.

    def _record_address(self, connection: Connection) -> None:
        if connection not in self._known:
            self._known[connection] = connection.address
            self._by_address[connection.address] = connection

    def _add(self, connection: Connection) -> None:
        if connection in self._known:
            return
        self._record_address(connection)
        early = self._early.pop(connection.address, ())
        tracer = self._default_tracer
        trace = None if tracer is None else self._begin_if_possible(connection, tracer)
        if trace is not None:
            for at, name, data in early:
                trace.note(at, name, data)

    def _begin(self, connection: Connection, tracer: Tracer) -> Trace:
        trace = self._traces[connection] = tracer.begin(connection, self.name, self._now)
        return trace

    def _begin_if_possible(self, connection: Connection, tracer: Tracer) -> Trace | None:
        """Return a new trace. Return None, with a line in the log, when there are too many files already."""
        try:
            return self._begin(connection, tracer) if tracer.has_room else None
        except NotTracedError as error:
            logger.error("%s", error)
            return None

    def _end(self, connection: Connection) -> None:
        """Close a trace; the connection may continue."""
        self._chosen.discard(connection)
        trace = self._traces.pop(connection, None)
        if trace is not None:
            trace.close()
            self._report_if_unwanted()

    def _report_if_unwanted(self) -> None:
        if self._default_tracer is None and not self._traces:
            self._on_unwanted()

    def _is_seen(self, address: Address) -> bool:
        """Return True if datagrams of this address are recorded."""
        connection = self._connection_at(address)
        return self._default_tracer is not None if connection is None else connection in self._traces

    def _datagrams(
        self, address: Address, direction: str, first: bytes | memoryview, size: int, segment: int
    ) -> None:
        """Record a batch of datagrams. ``first`` contains the beginning of the first one."""
        sizes = [min(segment, size - at) for at in range(0, size, max(1, segment))]
        self._note(
            address,
            f"transport:datagrams_{direction}",
            {"count": len(sizes), "raw": [{"length": length} for length in sizes]},
        )
        header = long_header(bytes(first[:64]))
        if header is not None:
            self._note(address, f"transport:packet_{direction}", {"header": header, "is_coalesced": True})

    def _note(self, address: Address, name: str, data: dict[str, Any]) -> None:
        connection = self._connection_at(address)
        if connection is not None:
            self._touched[connection] = None
            self._traces[connection].note(self._now, name, data)
            return
        early = self._early.setdefault(address, [])
        self._early.move_to_end(address)
        if len(early) < EARLY_EVENTS:
            early.append((self._now, name, data))
        if len(self._early) > MAX_EARLY:
            self._early.popitem(last=False)

    def _connection_at(self, address: Address) -> Connection | None:
        connection = self._by_address.get(address)
        if connection is None:
            # A traced connection may have migrated to this address.
            connection = next((each for each in self._traces if each.address == address), None)
            if connection is not None:
                old = self._known[connection]
                if self._by_address.get(old) is connection:
                    del self._by_address[old]
                self._known[connection] = address
                self._by_address[address] = connection
        return connection

    def _event(self, connection: Connection, event: Event) -> None:
        if isinstance(event, Connected):
            self._add(connection)
        trace = self._traces.get(connection)
        if trace is not None:
            match event:
                case Connected():
                    trace.note(self._now, "connectivity:connection_state_updated", {"new": "connected"})
                case Data(stream, chunks, end):
                    size = sum(map(len, chunks))
                    moved = {"stream_id": stream, "length": size, "from": "transport", "to": "application"}
                    trace.note(self._now, "transport:data_moved", moved | ({"fin": True} if end else {}))
                case Reset(stream, code) | Stopped(stream, code):
                    name = f"quictunnel:stream_{type(event).__name__.lower()}"
                    trace.note(self._now, name, {"stream_id": stream, "error_code": code})
                case Closed(cause, code, reason):
                    trace.record_stats(self._now, connection.stats())
                    data = {"application_code": code, "reason": reason, "trigger": cause.name.lower()}
                    trace.note(self._now, "connectivity:connection_closed", data)
        if isinstance(event, Closed):
            self.forget(connection)


def long_header(datagram: bytes) -> dict[str, Any] | None:
    """Return what the first packet of a datagram shows to everybody (RFC 8999 section 5.1, RFC 9000 section 17.2);
    None for a short header, which shows nothing."""
    if len(datagram) < 7 or not datagram[0] & 0x80:
        return None
    version = int.from_bytes(datagram[1:5])
    length = datagram[5]
    destination = datagram[6 : 6 + length]
    rest = datagram[6 + length :]
    source = rest[1 : 1 + rest[0]] if rest else b""
    return {
        "packet_type": _TYPES[datagram[0] >> 4 & 3] if version else "version_negotiation",
        "version": f"{version:08x}",
        "dcid": destination.hex(),
        "scid": source.hex(),
    }
