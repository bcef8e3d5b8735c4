"""What QUIC connections did, in files that tools draw (qlog 0.3, draft-ietf-quic-qlog-main-schema-04; JSON text
sequences, RFC 7464): one for each connection, of bounded size and number, for their owner alone.

A :class:`Traced` engine stands before an engine while traces are wanted, of all connections or of some, and
nothing does otherwise. It sees what goes over the seam, which is the same for every engine: datagrams in and out
with their sizes, long headers (which are in the clear), bytes handed to streams' readers, resets, and after each
turn what the engine knows of the path: round trip times, congestion window, bytes in flight, packets lost. It does
not see numbers and frames of packets, which only the engines' own code does. So nothing in the files is secret
either, except who talks with whom.

Files are written on the loop's thread, in pieces: traces are for looking into something, not for every day.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
import os
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from quictunnel.errors import ConfigError
from quictunnel.transport.engine import Closed, Connected, Data, Reset, Stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from quictunnel.transport.engine import (
        Address,
        Connection,
        Engine,
        EngineCounters,
        Event,
        Received,
        Stats,
        Transmit,
    )

logger = logging.getLogger(__name__)

MAX_BYTES: Final = 16 * 1024 * 1024
"""Of one file: a gigabyte of transfer or so, and what tools still open. The trace ends there and says so."""
MAX_FILES: Final = 64
"""Of one process in a directory, a gigabyte altogether. Connections after these are not traced, until somebody has
removed some."""
PIECE: Final = 64 * 1024
"""Bytes after which what was gathered is written."""
MAX_EARLY: Final = 64
"""Addresses that are not known to belong to a connection, whose last events are kept until it is known: an edge
learns of a connection when its handshake is done. Those of longest ago are forgotten."""
EARLY_EVENTS: Final = 32
"""That are kept of each; a handshake has a dozen."""
SUFFIX: Final = ".sqlog"

_TYPES: Final = ("initial", "0RTT", "handshake", "retry")
_BEGIN: Final = "\x1e"


class NotTracedError(Exception):
    """No trace can be begun; says why."""


class Tracer:
    """Where traces go, and how many there may be."""

    def __init__(self, directory: Path, *, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES) -> None:
        """Makes the directory. Raises ConfigError when it cannot be written."""
        self.directory = directory.absolute()
        self.max_bytes = max_bytes
        self._max_files = max_files
        self._written: list[Trace] = []
        """Those whose files are there, as far as is known."""
        self._number = itertools.count(1)
        self.make_directory()

    def make_directory(self) -> None:
        """If it is not there. Raises ConfigError when it cannot be written."""
        directory = self.directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"The qlog directory {directory} cannot be made: {error.strerror}.") from None
        if not os.access(directory, os.W_OK | os.X_OK):
            raise ConfigError(f"The qlog directory {directory} cannot be written.")

    @property
    def has_room(self) -> bool:
        """Whether another file may be begun. Those that somebody has removed do not count."""
        if len(self._written) >= self._max_files:
            self._written = [trace for trace in self._written if trace.is_open or trace.path.exists()]
        return len(self._written) < self._max_files

    def begin(self, connection: Connection, engine: str, at: float) -> Trace:
        """A trace of a connection from now on (``at``: the engine's clock). Raises NotTracedError."""
        if not self.has_room:
            raise NotTracedError(
                f"There are {self._max_files} qlog files of this process in {self.directory}, and there may be no "
                "more; remove some."
            )
        side = "client" if connection.is_client else "server"
        name = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.getpid()}-{next(self._number)}-{side}{SUFFIX}"
        try:
            trace = Trace(self.directory / name, connection, engine, at, self.max_bytes)
        except OSError as error:
            raise NotTracedError(f"{self.directory / name} cannot be written: {error.strerror}.") from None
        self._written.append(trace)
        if len(self._written) == self._max_files:
            logger.warning(
                "there are as many qlog files in %s as there may be; the next begin none", self.directory
            )
        return trace


def tracer_of(directory: Path) -> Tracer:
    """That of this process for a directory, so that many connections one after another do not fill a disk either,
    nor do traces that are switched on again and again. Raises ConfigError."""
    tracer = _known(directory.absolute())
    tracer.make_directory()  # it may have been removed since
    return tracer


@functools.cache
def _known(directory: Path) -> Tracer:
    return Tracer(directory)


class Trace:
    """One connection's file."""

    def __init__(self, path: Path, connection: Connection, engine: str, at: float, max_bytes: int) -> None:
        """Raises OSError when there can be none."""
        self.path = path
        self.stats: Stats | None = None
        self.is_open = True
        self.is_cut = False
        """It ended before its time: at its bound, or because the disk is full."""
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._gathered: list[str] = []
        self._size = 0
        self._written = 0
        self._max = max_bytes
        self._began = at
        side = "client" if connection.is_client else "server"
        self._put(
            {
                "qlog_version": "0.3",
                "qlog_format": "JSON-SEQ",
                "title": f"quictunnel {side}, {engine} engine, with {connection.address[0]}",
                "trace": {
                    "vantage_point": {"type": side},
                    "common_fields": {
                        "ODCID": path.stem,  # the engines do not say it; tools want something that is unique
                        "time_format": "relative",
                        "reference_time": round(time.time() * 1000, 3),
                    },
                },
            }
        )
        peer = {"dst_ip": connection.address[0], "dst_port": connection.address[1]}
        self.note(at, "connectivity:connection_started", {"src_ip": "", **peer})

    def note(self, at: float, name: str, data: dict[str, Any]) -> None:
        """An event. Those that began before the trace have a negative time."""
        if self.is_open:
            self._put({"time": round((at - self._began) * 1000, 3), "name": name, "data": data})

    def look(self, at: float, stats: Stats) -> None:
        """What the engine knows now; said as far as it has changed."""
        before, self.stats = self.stats, stats
        now, then = _metrics(stats), _metrics(before) if before is not None else {}
        changed = {name: value for name, value in now.items() if then.get(name) != value}
        if changed:
            self.note(at, "recovery:metrics_updated", changed)
        lost = stats.packets_lost - (before.packets_lost if before is not None else 0)
        if lost:
            self.note(at, "quictunnel:packets_lost", {"count": lost})

    def close(self) -> None:
        """Write what is left; nothing follows."""
        if self.is_open:
            self.is_open = False
            self._write()
            os.close(self._descriptor)

    def _put(self, entry: dict[str, Any]) -> None:
        text = f"{_BEGIN}{json.dumps(entry, separators=(',', ':'))}\n"
        if self._written + self._size + len(text) > self._max - PIECE // 64:
            end = {"time": entry.get("time", 0), "name": "quictunnel:trace_is_full", "data": {}}
            self._gathered.append(f"{_BEGIN}{json.dumps(end, separators=(',', ':'))}\n")
            self.is_cut = True
            self.close()
            return
        self._gathered.append(text)
        self._size += len(text)
        if self._size >= PIECE:
            self._write()

    def _write(self) -> None:
        text, self._gathered = "".join(self._gathered), []
        self._written += self._size
        self._size = 0
        try:
            os.write(self._descriptor, text.encode())
        except OSError as error:
            logger.error("%s cannot be written any more: %s", self.path, error.strerror or error)
            self.is_cut = True
            if self.is_open:
                self.is_open = False
                os.close(self._descriptor)


def _metrics(stats: Stats) -> dict[str, float]:
    return {
        "smoothed_rtt": round(stats.rtt * 1000, 3),
        "congestion_window": stats.congestion_window,
        "bytes_in_flight": stats.bytes_in_flight,
        "mtu": stats.datagram_size,
    }


class Traced:
    """An engine, traced (a transport.engine.Engine). Connections are the inner engine's own.

    Which of them are wanted is said by :meth:`trace_all` and :meth:`trace_one`; a connection has one file, whoever
    wants it."""

    def __init__(self, inner: Engine, on_unwanted: Callable[[], None]) -> None:
        """``on_unwanted``: no connection is wanted any more; it is told in the middle of what this object does,
        which then goes on as if it were not there."""
        self.inner = inner
        self.name = inner.name
        self.version = inner.version
        self._on_unwanted = on_unwanted
        self._everything: Tracer | None = None
        self._chosen: set[Connection] = set()
        """Those wanted for their own sake; each has a trace."""
        self._traces: dict[Connection, Trace] = {}
        self._known: dict[Connection, Address] = {}
        """All connections, those that are not traced as well, so that their datagrams are told apart from those of
        newcomers at the cost of a look."""
        self._by_address: dict[Address, Connection] = {}
        self._early: OrderedDict[Address, list[tuple[float, str, dict[str, Any]]]] = OrderedDict()
        self._touched: dict[Connection, None] = {}
        self._now = 0.0

    @property
    def counters(self) -> EngineCounters:
        return self.inner.counters

    # Which connections.

    def trace_all(self, tracer: Tracer | None, known: Iterable[Connection], now: float) -> None:
        """Trace every connection from now on; None: those alone that were chosen, whose files go on either way.
        ``known``: those that are there already."""
        self._now = now
        self._everything = tracer
        self._early.clear()
        for connection in tuple(self._traces):
            if connection not in self._chosen:
                self._traces.pop(connection).close()
        for connection in known:
            self._meet(connection)
            if tracer is not None and connection not in self._traces:
                self._begin_if_possible(connection, tracer)
        self._rest()

    def trace_one(self, connection: Connection, tracer: Tracer, known: Iterable[Connection], now: float) -> Trace:
        """Trace a connection, which is not over, until its end, or until :meth:`untrace_one`; where it has a trace
        already, that is it. Raises NotTracedError."""
        self._now = now
        for each in known:
            self._meet(each)
        trace = self._traces.get(connection)
        try:
            if trace is None or not trace.is_open:
                trace = self._begin(connection, tracer)
            self._chosen.add(connection)
        finally:
            self._rest()
        return trace

    def untrace_one(self, connection: Connection) -> None:
        """It is not chosen any more."""
        self._chosen.discard(connection)
        if self._everything is None:
            self._end(connection)

    def trace_of(self, connection: Connection) -> Trace | None:
        """What is being written of a connection."""
        trace = self._traces.get(connection)
        return trace if trace is not None and trace.is_open else None

    def forget(self, connection: Connection) -> None:
        """It is over."""
        address = self._known.pop(connection, None)
        if address is not None and self._by_address.get(address) is connection:
            del self._by_address[address]
        self._touched.pop(connection, None)
        self._end(connection)

    def close(self) -> None:
        """End all traces; the connections go on."""
        for trace in self._traces.values():
            trace.close()
        self._traces.clear()

    # The seam.

    def connect(self, address: Address, server_name: str, now: float) -> Connection:
        self._now = now
        connection = self.inner.connect(address, server_name, now)
        self._newcomer(connection)
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
                trace.look(now, connection.stats())
                if not trace.is_open:
                    self._end(connection)

    def has_connections(self) -> bool:
        return self.inner.has_connections()

    # Inside.

    def _meet(self, connection: Connection) -> None:
        if connection not in self._known:
            self._known[connection] = connection.address
            self._by_address[connection.address] = connection

    def _newcomer(self, connection: Connection) -> None:
        if connection in self._known:
            return
        self._meet(connection)
        early = self._early.pop(connection.address, ())
        trace = self._begin_if_possible(connection, self._everything) if self._everything is not None else None
        if trace is not None:
            for at, name, data in early:
                trace.note(at, name, data)

    def _begin(self, connection: Connection, tracer: Tracer) -> Trace:
        trace = self._traces[connection] = tracer.begin(connection, self.name, self._now)
        return trace

    def _begin_if_possible(self, connection: Connection, tracer: Tracer) -> Trace | None:
        """One of many: when there are too many, that was said once."""
        try:
            return self._begin(connection, tracer) if tracer.has_room else None
        except NotTracedError as error:
            logger.error("%s", error)
            return None

    def _end(self, connection: Connection) -> None:
        """Of a trace; the connection may go on."""
        self._chosen.discard(connection)
        trace = self._traces.pop(connection, None)
        if trace is not None:
            trace.close()
            self._rest()

    def _rest(self) -> None:
        if self._everything is None and not self._traces:
            self._on_unwanted()

    def _is_seen(self, address: Address) -> bool:
        """Whether datagrams of this address are of interest. Those of most are not where few are traced."""
        connection = self._whose(address)
        return self._everything is not None if connection is None else connection in self._traces

    def _datagrams(self, address: Address, way: str, first: bytes | memoryview, size: int, segment: int) -> None:
        """``first``: bytes with which the first of them begins."""
        sizes = [min(segment, size - at) for at in range(0, size, max(1, segment))]
        self._note(
            address,
            f"transport:datagrams_{way}",
            {"count": len(sizes), "raw": [{"length": length} for length in sizes]},
        )
        header = long_header(bytes(first[:64]))
        if header is not None:
            self._note(address, f"transport:packet_{way}", {"header": header, "is_coalesced": True})

    def _note(self, address: Address, name: str, data: dict[str, Any]) -> None:
        connection = self._whose(address)
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

    def _whose(self, address: Address) -> Connection | None:
        connection = self._by_address.get(address)
        if connection is None:
            # Of those that are traced one may have moved.
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
            self._newcomer(connection)
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
                    trace.look(self._now, connection.stats())
                    said = {"application_code": code, "reason": reason, "trigger": cause.name.lower()}
                    trace.note(self._now, "connectivity:connection_closed", said)
        if isinstance(event, Closed):
            self.forget(connection)


def long_header(datagram: bytes) -> dict[str, Any] | None:
    """What the first packet of a datagram shows to everybody (RFC 8999 section 5.1, RFC 9000 section 17.2); None
    of one with a short header, which shows nothing."""
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
