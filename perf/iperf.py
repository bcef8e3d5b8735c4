"""Throughput of TCP streams by iperf3, and its cost: MB/s, and CPU seconds of given processes.

    with iperf.server() as port:                                  # the origin; expose this port
        result = iperf.run("127.0.0.1", public_port, seconds=5, direction="down", pids=[edge, client])
        print(result.mb_per_second, result.cpu_seconds)

``up`` is visitor to origin, ``down`` is origin to visitor (iperf3's ``-R``). Bytes are counted at the receiver, so
that buffers on the way do not count. On the command line, give a target that leads to an ``iperf3 -s``:

    python -m perf.iperf HOST:PORT --seconds 5 --pid 1234 --pid 1235
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from quictunnel.shared.address import parse_address

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Direction = Literal["up", "down"]
MB = 1_000_000
GRACE = 60.0
"""Seconds beyond the measured ones for iperf3 to begin and end its test through a slow tunnel."""
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Result:
    """Throughput of one run, and the CPU time of the processes."""

    direction: Direction
    seconds: float
    """Wall time of the receiver."""
    mb_per_second: float
    cpu_seconds: dict[int, float] = field(default_factory=dict)
    """User and system time of each given process, over the whole run."""


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of all threads of a process (proc(5), fields 14 and 15 of stat)."""
    # The second field is the program's name in parentheses, which may itself hold blanks and parentheses.
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / TICKS


def free_port() -> int:
    """Return a free TCP port of loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def server(port: int | None = None) -> Iterator[int]:
    """Run an ``iperf3 -s`` on loopback during a ``with`` block; yield its port."""
    port = port or free_port()
    command = ["iperf3", "--server", "--bind", "127.0.0.1", "--port", str(port), "--forceflush"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Server listening"):
                break
        else:
            raise RuntimeError("iperf3 did not start")
        # Its reports would fill the pipe after some runs, so another process reads them.
        with subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL):
            process.stdout.close()
            try:
                yield port
            finally:
                process.kill()


def run(
    host: str,
    port: int,
    *,
    seconds: int = 5,
    direction: Direction = "down",
    streams: int = 1,
    pids: Sequence[int] = (),
) -> Result:
    """Transfer ``streams`` streams for ``seconds``. Raises RuntimeError with iperf3's message if it fails."""
    command = ["iperf3", "--client", host, "--port", str(port), "--time", str(seconds), "--json"]
    command += ["--parallel", str(streams)]
    before = {pid: cpu_seconds(pid) for pid in pids}
    done = subprocess.run(
        [*command, "--reverse"] if direction == "down" else command,
        capture_output=True,
        text=True,
        timeout=seconds + GRACE,
        check=False,
    )
    spent = {pid: cpu_seconds(pid) - began for pid, began in before.items()}
    try:
        report = json.loads(done.stdout)
    except json.JSONDecodeError:
        report = {"error": done.stderr or "no output"}
    if "error" in report:
        raise RuntimeError(f"iperf3 {direction} failed: {str(report['error']).strip()}")
    received = report["end"]["sum_received"]
    return Result(direction, received["seconds"], received["bytes"] / received["seconds"] / MB, spent)


def main() -> None:
    """Run the benchmark as the command line asks and print its results."""
    parser = argparse.ArgumentParser(description="One TCP stream each way by iperf3, and its CPU cost.")
    parser.add_argument("target", help="HOST:PORT that leads to an iperf3 -s")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--pid", type=int, action="append", default=[], help="a process to account for")
    options = parser.parse_args()
    host, port = parse_address(options.target, what="the target")
    directions: tuple[Direction, ...] = ("up", "down")
    for direction in directions:
        result = run(host, port, seconds=options.seconds, direction=direction, pids=options.pid)
        cpu = ", ".join(f"{pid}: {spent:.2f} s" for pid, spent in result.cpu_seconds.items())
        print(f"{direction:5} {result.mb_per_second:8.1f} MB/s   CPU {cpu or '-'}")
        time.sleep(0.1)  # iperf3 serves one test at a time and needs a moment between two


if __name__ == "__main__":
    main()
