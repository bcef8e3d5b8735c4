"""Asking every process of this user on this machine what it has open, and clearing away what dead ones left."""

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

from quictunnel.shared.paths import default_runtime_dir
from quictunnel.status.model import Listed, Report
from quictunnel.status.server import KEY_BYTES, PORT_FILE, SOCKET, check_directory

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_PROCESSES: Final = 500
"""Processes that are asked; each costs a connection, one after the other."""
PATIENCE: Final = 1.0
"""Seconds for one process to answer; a loop that is late for longer has other worries than this."""
MAX_ANSWER: Final = 256 * 1024
"""Bytes of a report: a hundred tunnels with the longest names there are stay below."""

MAX_PORT_FILE: Final = 256
"""Bytes of a file that says where to ask; it has a number and a key."""


@dataclass(frozen=True, slots=True)
class Found:
    """What there is."""

    reports: tuple[Report, ...] = ()
    faults: tuple[str, ...] = ()
    """A sentence for each process that could not be asked."""
    unasked: int = 0
    """Processes beyond the limit."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Bytes a second."""

    inward: float
    outward: float


@dataclass(frozen=True, slots=True)
class Look:
    """Two looks at the same things, a moment apart."""

    found: Found
    rates: Mapping[tuple[int, str, int], Rate] = field(default_factory=dict)
    """By process, address and local port."""


class _StaleError(Exception):
    """Nobody is behind it any more."""


def find(directory: Path | None = None) -> Found:
    """Ask once. Raises OSError when the directory is not this user's alone."""
    directory = directory or default_runtime_dir()
    try:
        check_directory(directory)
    except FileNotFoundError:
        return Found()
    paths = sorted(path for path in directory.iterdir() if path.suffix in (SOCKET, PORT_FILE))
    return asyncio.run(_ask_all(paths))


def look(pause: float, directory: Path | None = None) -> Look:
    """Ask, and when there is something to see, ask again after ``pause`` seconds for the rates."""
    before = find(directory)
    if not before.reports:
        return Look(before)
    time.sleep(pause)
    found = find(directory)
    return Look(found, _rates(before, found, pause))


async def _ask_all(paths: list[Path]) -> Found:
    reports: list[Report] = []
    faults: list[str] = []
    for path in paths[:MAX_PROCESSES]:
        try:
            reports.append(await _ask(path))
        except _StaleError:
            with contextlib.suppress(OSError):  # another one who asks was quicker
                path.unlink()
        except OSError as error:
            why = error.strerror or str(error) or "time is up"
            faults.append(f"Process {_pid(path) or path.name} does not answer ({why}).")
        except msgspec.MsgspecError:
            faults.append(f"Process {_pid(path) or path.name} answers in a way that this version cannot read.")
    return Found(tuple(reports), tuple(faults), max(0, len(paths) - MAX_PROCESSES))


async def _ask(path: Path) -> Report:
    """Raises _StaleError, OSError (also when time is up) or MsgspecError."""
    try:
        async with asyncio.timeout(PATIENCE):
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
        if _is_dead(_pid(path)):  # its port is somebody else's by now
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
        raise _StaleError  # its process died while it wrote
    return int(port), key


async def _read(reader: asyncio.StreamReader) -> bytes:
    answer = bytearray()
    while chunk := await reader.read(MAX_ANSWER):
        answer += chunk
        if len(answer) > MAX_ANSWER:
            raise OSError("its answer is too long")
    if not answer:
        raise OSError("it hung up")
    return bytes(answer)


def _pid(path: Path) -> int:
    """The process that a file is named after; 0 when it is named otherwise."""
    number = path.name.partition("-")[0]
    return int(number) if number.isascii() and number.isdigit() and len(number) < 10 else 0


def _is_dead(pid: int) -> bool:
    if not pid or sys.platform == "win32":  # where to ask is to end it
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def key(report: Report, tunnel: Listed) -> tuple[int, str, int]:
    """What a tunnel is known by from one look to the next."""
    return (report.pid, tunnel.url, tunnel.port)


def _rates(before: Found, after: Found, seconds: float) -> dict[tuple[int, str, int], Rate]:
    known = {key(report, tunnel): tunnel for report in before.reports for tunnel in report.tunnels}
    rates = {}
    for report in after.reports:
        for tunnel in report.tunnels:
            old = known.get(key(report, tunnel))
            if old is not None:
                inward, outward = tunnel.bytes_in - old.bytes_in, tunnel.bytes_out - old.bytes_out
                rates[key(report, tunnel)] = Rate(max(0, inward) / seconds, max(0, outward) / seconds)
    return rates
