"""Traces of QUIC connections in files for visualisation tools (qlog 0.3, draft-ietf-quic-qlog-main-schema-04; JSON
text sequences, RFC 7464): one file per connection, bounded in size and number, readable by its owner only.

``tracing_engine`` records the events. They are written in blocks on the loop's thread: traces are for diagnosis,
not for permanent use.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
import os
import time
from typing import TYPE_CHECKING, Any, Final

from quictunnel.errors import ConfigError
from quictunnel.shared.files import make_directory, open_private

if TYPE_CHECKING:
    from pathlib import Path

    from quictunnel.transport.engine import Connection, Stats

logger = logging.getLogger(__name__)

MAX_BYTES: Final = 16 * 1024 * 1024
"""Size of one file: enough for about a gigabyte of transfer, and small enough for the tools. The trace ends there,
with an event that says so."""
MAX_FILES: Final = 64
"""Files of one process in a directory: a gigabyte together. Further connections are not traced until files are
removed."""
BLOCK: Final = 64 * 1024
"""Bytes of events that are gathered before they are written."""
SUFFIX: Final = ".sqlog"

_BEGIN: Final = "\x1e"


class NotTracedError(Exception):
    """Error of a trace that cannot be started; its text is the reason."""


class Tracer:
    """Directory of traces, with the limit of their number."""

    def __init__(self, directory: Path, *, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES) -> None:
        """Create the directory. Raises ConfigError when it cannot be written."""
        self.directory = directory.absolute()
        self.max_bytes = max_bytes
        self._max_files = max_files
        self._written: list[Trace] = []
        """Traces whose files exist, as far as is known."""
        self._number = itertools.count(1)
        self.make_directory()

    def make_directory(self) -> None:
        """Create the directory if it does not exist. Raises ConfigError when it cannot be written."""
        directory = self.directory
        try:
            make_directory(directory)
        except OSError as error:
            raise ConfigError(f"The qlog directory {directory} cannot be made: {error.strerror}.") from None
        if not os.access(directory, os.W_OK | os.X_OK):
            raise ConfigError(f"The qlog directory {directory} cannot be written.")

    @property
    def has_room(self) -> bool:
        """Return True if another file is allowed. Removed files do not count."""
        if len(self._written) >= self._max_files:
            self._written = [trace for trace in self._written if trace.is_open or trace.path.exists()]
        return len(self._written) < self._max_files

    def begin(self, connection: Connection, engine: str, at: float) -> Trace:
        """Return a new trace of a connection, starting ``at`` this time of the engine's clock. Raises
        NotTracedError."""
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
                "the limit of qlog files in %s is reached; further connections are not traced", self.directory
            )
        return trace


def tracer_of(directory: Path) -> Tracer:
    """Return this process's writer for a directory, which bounds the files of all its traces together.

    Raises:
        ConfigError: the directory cannot be made.
    """
    tracer = _known(directory.absolute())
    tracer.make_directory()  # it may have been removed since
    return tracer


@functools.cache
def _known(directory: Path) -> Tracer:
    return Tracer(directory)


class Trace:
    """Qlog file of one connection."""

    def __init__(self, path: Path, connection: Connection, engine: str, at: float, max_bytes: int) -> None:
        """Create the file. Raises OSError."""
        self.path = path
        self.stats: Stats | None = None
        self.is_open = True
        self.is_cut = False
        """True if the trace ended early: at its size limit, or because the disk is full."""
        self._descriptor = open_private(path, os.O_APPEND)
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
                        "ODCID": path.stem,  # the engines do not report it; tools need a unique value
                        "time_format": "relative",
                        "reference_time": round(time.time() * 1000, 3),
                    },
                },
            }
        )
        peer = {"dst_ip": connection.address[0], "dst_port": connection.address[1]}
        self.note(at, "connectivity:connection_started", {"src_ip": "", **peer})

    def note(self, at: float, name: str, data: dict[str, Any]) -> None:
        """Record an event. Events before the start of the trace have a negative time."""
        if self.is_open:
            self._put({"time": round((at - self._began) * 1000, 3), "name": name, "data": data})

    def record_stats(self, at: float, stats: Stats) -> None:
        """Record the engine's figures that have changed."""
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
        if self._written + self._size + len(text) > self._max - BLOCK // 64:
            end = {"time": entry.get("time", 0), "name": "quictunnel:trace_is_full", "data": {}}
            self._gathered.append(f"{_BEGIN}{json.dumps(end, separators=(',', ':'))}\n")
            self.is_cut = True
            self.close()
            return
        self._gathered.append(text)
        self._size += len(text)
        if self._size >= BLOCK:
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
