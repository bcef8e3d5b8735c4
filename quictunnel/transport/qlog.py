"""What QUIC connections did, in files that tools draw (qlog 0.3, draft-ietf-quic-qlog-main-schema-04; JSON text
sequences, RFC 7464): one for each connection, of bounded size and number, for their owner alone.

A :class:`Traced` engine stands before an engine while traces are wanted, and nothing does otherwise. It sees what
goes over the seam, which is the same for every engine: datagrams in and out with their sizes, long headers (which
are in the clear), bytes handed to streams' readers, resets, and after each turn what the engine knows of the path:
round trip times, congestion window, bytes in flight, packets lost. It does not see numbers and frames of packets,
which only the engines' own code does. So nothing in the files is secret either, except who talks with whom.

Files are written on the loop's thread, in pieces: traces are for looking into something, not for every day.
"""

from __future__ import annotations

import contextlib
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
    from collections.abc import Iterable, Iterator, Sequence
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
"""That one process writes, a gigabyte altogether. Connections after these are not traced."""
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


class Tracer:
    """Where traces go, and how many there may be."""

    def __init__(self, directory: Path, *, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES) -> None:
        """Makes the directory. Raises ConfigError when it cannot be written."""
        self.directory = directory
        self.max_bytes = max_bytes
        self._left = max_files
        self._number = itertools.count(1)
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"The qlog directory {directory} cannot be made: {error.strerror}.") from None
        if not os.access(directory, os.W_OK | os.X_OK):
            raise ConfigError(f"The qlog directory {directory} cannot be written.")

    def begin(self, connection: Connection, engine: str, at: float) -> Trace | None:
        """A trace of a connection from now on (``at``: the engine's clock); None when there are too many."""
        if self._left <= 0:
            return None
        self._left -= 1
        if not self._left:
            logger.warning(
                "there are as many qlog files in %s as there may be; the next begin none", self.directory
            )
        side = "client" if connection.is_client else "server"
        name = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.getpid()}-{next(self._number)}-{side}{SUFFIX}"
        try:
            return Trace(self.directory / name, connection, engine, at, self.max_bytes)
        except OSError as error:
            logger.error("%s cannot be written: %s", self.directory / name, error.strerror or error)
            return None


@functools.cache
def tracer_of(directory: Path) -> Tracer:
    """That of this process for a directory, so that many connections one after another do not fill a disk either.
    Raises ConfigError."""
    return Tracer(directory)


class Trace:
    """One connection's file."""

    def __init__(self, path: Path, connection: Connection, engine: str, at: float, max_bytes: int) -> None:
        """Raises OSError when there can be none."""
        self.path = path
        self.stats: Stats | None = None
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._gathered: list[str] = []
        self._size = 0
        self._written = 0
        self._max = max_bytes
        self._began = at
        self._is_open = True
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
        if self._is_open:
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
        if self._is_open:
            self._is_open = False
            self._write()
            os.close(self._descriptor)

    def _put(self, entry: dict[str, Any]) -> None:
        text = f"{_BEGIN}{json.dumps(entry, separators=(',', ':'))}\n"
        if self._written + self._size + len(text) > self._max - PIECE // 64:
            end = {"time": entry.get("time", 0), "name": "quictunnel:trace_is_full", "data": {}}
            self._gathered.append(f"{_BEGIN}{json.dumps(end, separators=(',', ':'))}\n")
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
            if self._is_open:
                self._is_open = False
                os.close(self._descriptor)


def _metrics(stats: Stats) -> dict[str, float]:
    return {
        "smoothed_rtt": round(stats.rtt * 1000, 3),
        "congestion_window": stats.congestion_window,
        "bytes_in_flight": stats.bytes_in_flight,
        "mtu": stats.datagram_size,
    }


class Traced:
    """An engine, traced (a transport.engine.Engine). Connections are the inner engine's own."""

    def __init__(self, inner: Engine, tracer: Tracer, known: Iterable[Connection], now: float) -> None:
        """``known``: those that are there already."""
        self.inner = inner
        self.name = inner.name
        self.version = inner.version
        self._tracer = tracer
        self._traces: dict[Connection, Trace | None] = {}
        self._by_address: dict[Address, Connection] = {}
        self._early: OrderedDict[Address, list[tuple[float, str, dict[str, Any]]]] = OrderedDict()
        self._touched: dict[Connection, None] = {}
        self._now = now
        for connection in known:
            self._begin(connection)

    @property
    def counters(self) -> EngineCounters:
        return self.inner.counters

    def close(self) -> None:
        """End all traces; the connections go on."""
        for trace in self._traces.values():
            if trace is not None:
                trace.close()
        self._traces.clear()

    # The seam.

    def connect(self, address: Address, server_name: str, now: float) -> Connection:
        self._now = now
        connection = self.inner.connect(address, server_name, now)
        self._begin(connection)
        return connection

    def receive(self, batch: Sequence[Received], now: float) -> None:
        self._now = now
        self.inner.receive(batch, now)
        for received in batch:
            self._datagrams(
                received.address, "received", received.payload, len(received.payload), received.segment
            )

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
            size = sum(map(len, burst.parts))
            self._datagrams(burst.address, "sent", burst.parts[0] if burst.parts else b"", size, burst.segment)
            yield burst
        touched, self._touched = self._touched, {}
        for connection in touched:
            if (trace := self._traces.get(connection)) is not None:
                trace.look(now, connection.stats())

    def has_connections(self) -> bool:
        return self.inner.has_connections()

    # Inside.

    def _begin(self, connection: Connection) -> None:
        if connection in self._traces:
            return
        trace = self._traces[connection] = self._tracer.begin(connection, self.name, self._now)
        address = connection.address
        self._by_address[address] = connection
        for at, name, data in self._early.pop(address, ()):
            if trace is not None:
                trace.note(at, name, data)

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
            if (trace := self._traces[connection]) is not None:
                trace.note(self._now, name, data)
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
            # Of those that are there one may have moved.
            connection = next((each for each in self._traces if each.address == address), None)
            if connection is not None:
                for old in [at for at, who in self._by_address.items() if who is connection]:
                    del self._by_address[old]
                self._by_address[address] = connection
        return connection

    def _event(self, connection: Connection, event: Event) -> None:
        if isinstance(event, Connected):
            self._begin(connection)
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
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        trace = self._traces.pop(connection, None)
        if trace is not None:
            trace.close()
        self._touched.pop(connection, None)
        with contextlib.suppress(KeyError):
            if self._by_address[connection.address] is connection:
                del self._by_address[connection.address]


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
