"""Query of the status of all client processes of this user on this machine; removes sockets of ended processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from quictunnel.shared.files import check_directory
from quictunnel.shared.paths import default_runtime_dir
from quictunnel.status.model import Report, TunnelStatus
from quictunnel.status.server import KEY_BYTES, PORT_FILE, SOCKET

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_PROCESSES: Final = 500
"""Processes to query; each needs a connection, one after the other."""
QUERY_TIMEOUT: Final = 1.0
"""Seconds for one process to answer."""
MAX_REPORT: Final = 256 * 1024
"""Bytes of a report: more than a hundred tunnels with the longest possible names need."""

MAX_PORT_FILE: Final = 256
"""Bytes of a port file, which has a number and a key."""


@dataclass(frozen=True, slots=True)
class QueryResult:
    """Reports of the queried processes."""

    reports: tuple[Report, ...] = ()
    errors: tuple[str, ...] = ()
    """Sentences about the processes that did not answer."""
    unqueried: int = 0
    """Number of processes beyond MAX_PROCESSES, which were not queried."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Throughput in bytes a second."""

    inward: float
    outward: float


@dataclass(frozen=True, slots=True)
class StatusSample:
    """Reports, with rates from two queries."""

    result: QueryResult
    rates: Mapping[tuple[int, str, int], Rate] = field(default_factory=dict)
    """Rates by process, public URL and local port."""


class _StaleError(Exception):
    """Error of a socket or port file whose process has ended."""


def query(directory: Path | None = None) -> QueryResult:
    """Query all processes once.

    Args:
        directory: directory of the status sockets; None: the platform's default.

    Raises:
        OSError: the directory does not belong to this user alone.
    """
    directory = directory or default_runtime_dir()
    try:
        check_directory(directory)
    except FileNotFoundError:
        return QueryResult()
    paths = sorted(path for path in directory.iterdir() if path.suffix in (SOCKET, PORT_FILE))
    return asyncio.run(_query_all(paths))


def sample(pause: float, directory: Path | None = None) -> StatusSample:
    """Query all processes, and if any has tunnels, again after ``pause`` seconds to compute rates.

    Raises:
        OSError: the directory does not belong to this user alone.
    """
    before = query(directory)
    if not before.reports:
        return StatusSample(before)
    time.sleep(pause)
    result = query(directory)
    return StatusSample(result, _rates(before, result, pause))


async def _query_all(paths: list[Path]) -> QueryResult:
    reports: list[Report] = []
    errors: list[str] = []
    for path in paths[:MAX_PROCESSES]:
        try:
            reports.append(await _query(path))
        except _StaleError:
            with contextlib.suppress(OSError):  # another query has removed it already
                path.unlink()
        except OSError as error:
            why = error.strerror or str(error) or "timeout"
            errors.append(f"Process {_pid(path) or path.name} does not answer ({why}).")
        except msgspec.MsgspecError:
            errors.append(f"Process {_pid(path) or path.name} sent a report that this version cannot read.")
    return QueryResult(tuple(reports), tuple(errors), max(0, len(paths) - MAX_PROCESSES))


async def _query(path: Path) -> Report:
    """Query one process.

    Raises:
        _StaleError: the process has ended.
        OSError: the query failed or timed out.
        msgspec.MsgspecError: the report is malformed.
    """
    try:
        async with asyncio.timeout(QUERY_TIMEOUT):
            reader, writer = await _connect(path)
            try:
                answer = await _read(reader)
            finally:
                writer.transport.abort()
    except (ConnectionRefusedError, FileNotFoundError):
        raise _StaleError from None
    except OSError:
        if _is_dead(_pid(path)):
            raise _StaleError from None
        raise
    try:
        return msgspec.json.decode(answer, type=Report)
    except msgspec.MsgspecError:
        if _is_dead(_pid(path)):  # another process uses its port now
            raise _StaleError from None
        raise


async def _connect(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if path.suffix == SOCKET:
        if not hasattr(socket, "AF_UNIX"):
            raise OSError("this Python has no Unix sockets")
        return await asyncio.open_unix_connection(path)
    port, key = _written(path)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(key)
    return reader, writer


def _written(path: Path) -> tuple[int, bytes]:
    with path.open("rb") as file:
        port, _, key = file.read(MAX_PORT_FILE).strip().partition(b" ")
    if not port.isdigit() or len(key) != KEY_BYTES:
        raise _StaleError  # the process ended while it wrote the file
    return int(port), key


async def _read(reader: asyncio.StreamReader) -> bytes:
    report = bytearray()
    while chunk := await reader.read(MAX_REPORT):
        report += chunk
        if len(report) > MAX_REPORT:
            raise OSError("its report is too long")
    if not report:
        raise OSError("it closed the connection")
    return bytes(report)


def _pid(path: Path) -> int:
    """Return the process number in a file's name, or 0 if there is none."""
    number = path.name.partition("-")[0]
    return int(number) if number.isascii() and number.isdigit() and len(number) < 10 else 0


def _is_dead(pid: int) -> bool:
    if not pid or sys.platform == "win32":  # os.kill would end the process there
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def key(report: Report, tunnel: TunnelStatus) -> tuple[int, str, int]:
    """Return the key of a tunnel, the same in every query."""
    return (report.pid, tunnel.url, tunnel.port)


def _rates(before: QueryResult, after: QueryResult, seconds: float) -> dict[tuple[int, str, int], Rate]:
    known = {key(report, tunnel): tunnel for report in before.reports for tunnel in report.tunnels}
    rates = {}
    for report in after.reports:
        for tunnel in report.tunnels:
            old = known.get(key(report, tunnel))
            if old is not None:
                inward, outward = tunnel.bytes_in - old.bytes_in, tunnel.bytes_out - old.bytes_out
                rates[key(report, tunnel)] = Rate(max(0, inward) / seconds, max(0, outward) / seconds)
    return rates
