"""The cost of showing requests: the same small requests with ``--quiet``, with a line each, and on the screen.

    python -m perf.request_lines                # a minute: eight rounds of wrk with 16 visitors
    python -m perf.request_lines --most 0.05    # exit code 1 when the median of lines or screen loses more

All clients run all the time, with one edge and one origin, and the order alternates. The ratio of the client's CPU
time for a request is reported as well, because other load on the machine affects it less than the rate.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import pty
import re
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from perf.iperf import cpu_seconds
from perf.machine import MachineLoad
from perf.targets import line_of, need, running, start_edge

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS: Final = 2
"""Seconds of one run of wrk."""
ADDRESS: Final = re.compile(rb"TCP(?: address:)? +(?:\x1b\[[0-9;]*m)*([0-9.]+):(\d+)")
RESPONSE: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
RATE: Final = re.compile(r"Requests/sec:\s+([\d.]+)")


class Client(NamedTuple):
    """Running client with a public TCP port."""

    name: str
    pid: int
    url: str


class Cost(NamedTuple):
    """Ratios to the client that shows nothing, in one round."""

    rate: float
    cpu: float


class Answer(asyncio.Protocol):
    """Origin that answers each request with five bytes, in one write."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer whole requests; wrk sends each at once."""
        self._transport.write(data.count(b"\r\n\r\n") * RESPONSE)


async def serve() -> None:
    """Run the origin."""
    server = await asyncio.get_running_loop().create_server(Answer, "127.0.0.1", 0)
    print(f"port {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def origin() -> Iterator[int]:
    """Run the origin in a process of its own; yield its port."""
    with running([sys.executable, "-m", "perf.request_lines", "--origin"], stdout=subprocess.PIPE) as process:
        yield int(line_of(process, "port ").split()[1])


@contextlib.contextmanager
def client(
    name: str, port: int, environment: dict[str, str], *options: str, on_terminal: bool
) -> Iterator[Client]:
    """Run ``quictunnel tcp`` whose output is read all the time, from a pipe or a terminal."""
    reading, writing = pty.openpty() if on_terminal else os.pipe()
    command = [sys.executable, "-m", "quictunnel", "tcp", str(port), *options]
    with running(command, stdout=writing, env=environment | {"TERM": "xterm"}) as process:
        os.close(writing)
        said = b""
        while (match := ADDRESS.search(said)) is None:
            said += os.read(reading, 65536)
        threading.Thread(target=_drain, args=(reading,), daemon=True).start()
        yield Client(name, process.pid, f"http://{match[1].decode()}:{int(match[2])}/5")


def _drain(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # EIO is the end of a terminal
        while os.read(descriptor, 65536):
            pass


def run_wrk(target: Client) -> tuple[float, float]:
    """Return the requests a second, and the client's CPU seconds for each."""
    before = cpu_seconds(target.pid)
    command = [need("wrk"), "-t1", "-c16", f"-d{SECONDS}s", target.url]
    match = RATE.search(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert match is not None, "wrk reports a rate"
    rate = float(match[1])
    return rate, (cpu_seconds(target.pid) - before) / rate / SECONDS


def measure(rounds: int) -> tuple[float, dict[str, list[Cost]]]:
    """Return the median rate without output, and the costs of the others in each round."""
    with tempfile.TemporaryDirectory(prefix="quictunnel-perf-") as name, contextlib.ExitStack() as stack:
        environment = stack.enter_context(start_edge(Path(name)))
        port = stack.enter_context(origin())
        quiet, *others = (
            stack.enter_context(client(kind, port, environment, *options, on_terminal=on_terminal))
            for kind, options, on_terminal in (
                ("quiet", ("--quiet",), False),
                ("lines", (), False),
                ("screen", (), True),
            )
        )
        rates: list[float] = []
        found: dict[str, list[Cost]] = {other.name: [] for other in others}
        for number in range(rounds + 1):
            order = [quiet, *others] if number % 2 else [*others, quiet]
            results = {each: run_wrk(each) for each in order}
            if number:  # the first round warms up
                rate, cpu = results[quiet]
                rates.append(rate)
                for other in others:
                    found[other.name].append(Cost(results[other][0] / rate, results[other][1] / cpu))
        return statistics.median(rates), found


def main() -> int:
    """Run the benchmark as the command line asks and print its results."""
    parser = argparse.ArgumentParser(description="Measure the cost of showing requests.")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--most", type=float, help="maximum loss of rate, such as 0.05")
    parser.add_argument("--origin", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.origin:
        asyncio.run(serve())
    print(f"busy before: {MachineLoad().busy_before:.2f} of all cores")
    quiet, found = measure(options.rounds)
    print(f"quiet: {quiet:.0f} requests a second")
    losses = []
    for name, costs in found.items():
        rates = sorted(cost.rate for cost in costs)
        losses.append(1 - statistics.median(rates))
        print(f"{name}: {statistics.median(rates):.3f} of that rate ({rates[0]:.2f} to {rates[-1]:.2f}), "
              f"{statistics.median(cost.cpu for cost in costs):.3f} of the client's CPU time")  # fmt: skip
    return 0 if options.most is None or max(losses) <= options.most else 1


if __name__ == "__main__":
    sys.exit(main())
