"""The cost of idle visitors and idle tunnels in memory and CPU time, and their effect on a busy visitor.

    python -m perf.idle                                    # 10,000 visitors, 1,000 tunnels; five minutes
    python -m perf.idle --visitors 2000 --tunnels 100 --rounds 1

Edge, client, origin and visitors are separate processes. An idle visitor has sent a request, received the
response, and stays connected. An idle tunnel is a client with a connection of its own to the edge and one lease; a
process runs a hundred of them. Memory is the increase of the resident set (RSS). CPU time is the increase beyond
that of idle processes. Throughput is that of one visitor over TCP; each ratio is to its throughput alone, just
before in the same round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import quictunnel
from perf.iperf import cpu_seconds
from perf.lab_tunnels import choose_engine
from perf.machine import MachineLoad
from perf.tables import table
from tests.harness.edge_process import children_environment, resident_memory, start_edge
from tests.harness.load_rig import LoadRig
from tests.harness.sockets import end, first_line, program, sockets_of
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence

KIB: Final = 1024
MIB: Final = 1024 * KIB
UNCOUNTED_VISITORS: Final = 100
"""Visitors before those that are counted, so that one-time allocations do not count."""
VISITORS_PER_STEP: Final = 2500
"""Visitors that connect at once."""
WATCHED_SECONDS: Final = 10.0
TUNNELS_PER_PROCESS: Final = 100
IDLE_COUNTS: Final = (0, 100, 1000, 5000, 10_000)
BUSY_BYTES: Final = 256 * MIB
START_SECONDS: Final = 60.0
MAX_IDLE_SOCKETS: Final = 50
"""Sockets of an edge without visitors, at most."""


def connect_visitors(rig: LoadRig, count: int, *, tls: bool) -> None:
    """Connect ``count`` idle visitors, in steps."""
    for start in range(0, count, VISITORS_PER_STEP):
        rig.do_checked("idle", count=min(VISITORS_PER_STEP, count - start), tls=tls)


def cpu_seconds_per_second(pids: Sequence[int]) -> list[float]:
    """Return the CPU seconds of each process per second of idling."""
    before = [cpu_seconds(pid) for pid in pids]
    time.sleep(WATCHED_SECONDS)
    return [(cpu_seconds(pid) - was) / WATCHED_SECONDS for pid, was in zip(pids, before, strict=True)]


def visitors(count: int, *, tls: bool) -> list[str]:
    """Return a row of the table: KiB for each visitor, and the share of a core that all of them use."""
    with tempfile.TemporaryDirectory(prefix="quictunnel-perf-") as name, LoadRig(Path(name)) as rig:
        pids = (rig.edge.pid, rig.client.pid)
        connect_visitors(rig, UNCOUNTED_VISITORS, tls=tls)
        quiet, before = cpu_seconds_per_second(pids), rig.memory()
        connect_visitors(rig, count, tls=tls)
        after, busy = rig.memory(), cpu_seconds_per_second(pids)
        rig.do_checked("ask_again")  # all of them are still connected
    kib = [(after[side] - before[side]) / count / KIB for side in ("edge", "client")]
    return _line(f"{count} visitors, {'TLS' if tls else 'raw'}", kib, busy, quiet)


def tunnels(count: int) -> list[str]:
    """Return a row of the table: KiB for each tunnel, and the share of a core that all of them use."""
    with tempfile.TemporaryDirectory(prefix="quictunnel-perf-") as name, contextlib.ExitStack() as stack:
        edge = start_edge(Path(name) / "state", "--grace", "0")
        stack.callback(edge.stop)
        environment = children_environment(edge)

        def start() -> tuple[int, float]:
            """Start a process with tunnels. Return its process ID, and the bytes of each tunnel but the first."""
            process = program([sys.executable, "-m", "perf.idle", "--inside"], environment)
            stack.callback(end, process)
            first, last = json.loads(first_line(process, START_SECONDS))
            return process.pid, (last - first) / (TUNNELS_PER_PROCESS - 1)

        start()
        quiet, before = cpu_seconds_per_second([edge.pid]), resident_memory(edge.pid)
        started = [start() for _ in range(count // TUNNELS_PER_PROCESS)]
        edge_kib = (resident_memory(edge.pid) - before) / (len(started) * TUNNELS_PER_PROCESS) / KIB
        edge_busy, *busy = cpu_seconds_per_second([edge.pid, *(pid for pid, _ in started)])
    kib = [edge_kib, statistics.mean(cost for _, cost in started) / KIB]
    return _line(f"{count} tunnels, {TUNNELS_PER_PROCESS} a process", kib, [edge_busy, sum(busy)], [*quiet, 0.0])


def hold_tunnels() -> None:
    """Hold tunnels, each with a connection of its own, until standard input ends."""
    token, edge, ca = (os.environ[f"QUICTUNNEL_{name}"] for name in ("TOKEN", "EDGE", "CA"))
    with contextlib.ExitStack() as stack:
        memory = []
        for _ in range(TUNNELS_PER_PROCESS):
            client = stack.enter_context(quictunnel.Client(edge, token=token, ca=ca))
            stack.enter_context(quictunnel.forward(1, client=client))
            memory.append(resident_memory(os.getpid()))
        print(json.dumps([memory[0], memory[-1]]), flush=True)
        sys.stdin.read()


def _line(what: str, kib: Sequence[float], busy: Sequence[float], quiet: Sequence[float]) -> list[str]:
    shares = [f"{(now - was) * 100:.2f} %" for now, was in zip(busy, quiet, strict=True)]
    return [what, *(f"{each:.1f}" for each in kib), f"{sum(kib):.1f}", *shares]


def throughput(rounds: int, counts: Sequence[int]) -> list[list[str]]:
    """Return rows of a table: the speed of one visitor beside different numbers of idle ones."""
    found: dict[int, list[tuple[float, float]]] = {count: [] for count in counts}
    for number in range(rounds):
        with tempfile.TemporaryDirectory(prefix="quictunnel-perf-") as name, LoadRig(Path(name)) as rig:
            rig.speed(BUSY_BYTES)
            for count in counts[:: -1 if number % 2 else 1]:
                alone = rig.speed(BUSY_BYTES)
                connect_visitors(rig, count, tls=False)
                speed = rig.speed(BUSY_BYTES)
                found[count].append((speed, speed / alone))
                rig.do("leave")
                eventually(lambda: sockets_of(rig.edge.pid) < MAX_IDLE_SOCKETS, "visitors are left", timeout=60)
    lines = []
    for count, pairs in found.items():
        speeds, ratios = zip(*pairs, strict=True)
        extremes = f"{min(ratios):.0%} to {max(ratios):.0%}"
        lines.append(
            [str(count), f"{statistics.median(speeds) / 1e6:.0f}", f"{statistics.median(ratios):.0%}", extremes]
        )
    return lines


def main() -> None:
    """Run the benchmark as the command line asks and print its results."""
    parser = argparse.ArgumentParser(description="Measure the cost of idle visitors and tunnels.")
    parser.add_argument("--visitors", type=int, default=10_000)
    parser.add_argument("--tunnels", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3, help="of the throughput beside idle visitors")
    parser.add_argument("--markdown", action="store_true", help="print tables as Markdown")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        hold_tunnels()
        return
    choose_engine()
    machine = MachineLoad()
    head = ["", "edge, KiB each", "client, KiB each", "together", "edge, CPU of all", "client, CPU of all"]
    costs = [head, *(visitors(options.visitors, tls=tls) for tls in (True, False)), tunnels(options.tunnels)]
    print(table(costs, markdown=options.markdown), "\n")
    head = ["idle visitors", "MB/s of the download", "relative to alone", "range"]
    counts = [count for count in IDLE_COUNTS if count <= options.visitors]
    print(table([head, *throughput(options.rounds, counts)], markdown=options.markdown), "\n")
    print(", ".join(f"{name} {value}" for name, value in machine.facts().items()))


if __name__ == "__main__":
    main()
