"""The cost of the traffic inspector: the same bytes with ``--inspect`` and without, in pairs.

    python -m perf.inspector                    # a minute: 64 MiB down and up, eight pairs; small requests by wrk
    python -m perf.inspector --most 0.3         # exit code 1 when the median of a direction loses more

Both tunnels run all the time, to one origin, and the order within a pair alternates. There is one visitor over
plain TCP on loopback, where the tunnel itself costs least and the inspector therefore weighs most. The ratio of
the client's CPU time is reported as well, because other load on the machine affects it less than the speed.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from perf.iperf import cpu_seconds
from perf.machine import MachineLoad
from perf.targets import Missing, line_of, need, ours, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from perf.targets import Target

MIB: Final = 1024 * 1024
CHUNK: Final = 1 * MIB
HEAD: Final = re.compile(rb"[A-Z]+ /(\d*) HTTP/1.1\r\n(?:[^\r]+\r\n)*\r\n")
LENGTH: Final = re.compile(rb"Content-Length: (\d+)")
WARM_UP_PAIRS: Final = 2
"""Pairs that are not counted, because windows grow in them."""


class PairResult(NamedTuple):
    """Ratios of a run with the inspector to one without it."""

    speed: float
    cpu: float


# The origin, a process of its own.


def serve() -> None:
    """Run the origin: ``GET /N`` returns N bytes; ``PUT`` is read to its end."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        print(f"port {listener.getsockname()[1]}", flush=True)
        while True:
            visitor = listener.accept()[0]
            threading.Thread(target=_answer, args=(visitor,), daemon=True).start()


def _answer(visitor: socket.socket) -> None:
    content, buffer, held = bytes(CHUNK), bytearray(CHUNK), b""
    with visitor, contextlib.suppress(ConnectionError):
        while True:
            while (match := HEAD.match(held)) is None:
                data = visitor.recv(65536)
                if not data:
                    return
                held += data
            length = LENGTH.search(match[0])
            left = int(length[1] if length else 0) - len(held) + match.end()
            held = held[match.end() :] if left <= 0 else b""
            while left > 0:
                left -= visitor.recv_into(buffer, min(left, CHUNK))
            size = int(match[1] or 0)
            visitor.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            for at in range(0, size, CHUNK):
                visitor.sendall(content[: size - at])


@contextlib.contextmanager
def origin() -> Iterator[int]:
    """Run the origin in a process of its own; yield its port."""
    command = [sys.executable, "-m", "perf.inspector", "--origin"]
    with running(command, stdout=subprocess.PIPE) as process:
        yield int(line_of(process, "port ").split()[1])


# The visitors.


def carry(visitor: socket.socket, direction: str, size: int) -> float:
    """Transfer ``size`` bytes. Return the seconds."""
    begun = time.perf_counter()
    buffer = bytearray(CHUNK)
    if direction == "down":
        visitor.sendall(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % size)
        expected = size + len(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    else:
        visitor.sendall(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
        for at in range(0, size, CHUNK):
            visitor.sendall(memoryview(buffer)[: size - at])
        expected = len(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    while expected:
        got = visitor.recv_into(buffer, min(expected, CHUNK))
        if not got:
            raise RuntimeError("the origin closed the connection")
        expected -= got
    return time.perf_counter() - begun


def pairs(off: Target, on: Target, direction: str, count: int, size: int) -> list[PairResult]:
    """Measure bulk transfers in one direction, in pairs."""
    with contextlib.ExitStack() as stack:
        sides = {side: stack.enter_context(socket.create_connection((side.host, side.port))) for side in (off, on)}
        found = []
        for number in range(WARM_UP_PAIRS + count):
            seconds, cpu = {}, {}
            for side in (off, on) if number % 2 else (on, off):
                assert side.client is not None
                before = cpu_seconds(side.client)
                seconds[side] = carry(sides[side], direction, size)
                cpu[side] = cpu_seconds(side.client) - before
            if number >= WARM_UP_PAIRS:
                found.append(PairResult(seconds[off] / seconds[on], cpu[on] / max(cpu[off], 0.01)))
    return found


def requests(off: Target, on: Target, count: int) -> list[PairResult]:
    """Measure small requests of 16 visitors by wrk, in pairs. Raises Missing."""
    program = need("wrk")
    found = []
    for number in range(count):
        rate, cpu = {}, {}
        for side in (off, on) if number % 2 else (on, off):
            assert side.client is not None
            before = cpu_seconds(side.client)
            command = [program, "-t1", "-c16", "-d2s", f"http://{side.host}:{side.port}/5"]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            match = re.search(r"Requests/sec:\s+([\d.]+)", said)
            assert match is not None, said
            rate[side] = float(match[1])
            cpu[side] = (cpu_seconds(side.client) - before) / rate[side]
        found.append(PairResult(rate[on] / rate[off], cpu[on] / cpu[off]))
    return found


def measure(count: int, size: int, *, with_requests: bool) -> dict[str, list[PairResult]]:
    """Measure both directions, and small requests if wrk is installed."""
    with tempfile.TemporaryDirectory(prefix="quictunnel-perf-") as name, contextlib.ExitStack() as stack:
        port = stack.enter_context(origin())
        off, on = (
            stack.enter_context(ours(port, Path(name), name=kind, more=more))
            for kind, more in (("off", ()), ("on", ("--inspect",)))
        )
        found = {direction: pairs(off, on, direction, count, size) for direction in ("down", "up")}
        if with_requests:
            with contextlib.suppress(Missing):
                found["small requests"] = requests(off, on, max(2, count // 2))
        return found


def main() -> int:
    """Run the benchmark as the command line asks and print its results."""
    parser = argparse.ArgumentParser(description="Measure the cost of the traffic inspector.")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--mib", type=int, default=64, help="of each transfer")
    parser.add_argument("--most", type=float, help="maximum loss of speed in either direction, such as 0.3")
    parser.add_argument("--origin", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.origin:
        serve()
    print(f"busy before: {MachineLoad().busy_before:.2f} of all cores")
    found = measure(options.pairs, options.mib * MIB, with_requests=options.most is None)
    for what, ratios in found.items():
        speeds = sorted(pair.speed for pair in ratios)
        cpu = statistics.median(pair.cpu for pair in ratios)
        print(f"{what}: with the inspector {statistics.median(speeds):.2f} of the speed without "
              f"({speeds[0]:.2f} to {speeds[-1]:.2f}), {cpu:.2f} of the client's CPU time")  # fmt: skip
    lost = {what: 1 - statistics.median(pair.speed for pair in ratios) for what, ratios in found.items()}
    return 0 if options.most is None or max(lost.values()) <= options.most else 1


if __name__ == "__main__":
    sys.exit(main())
