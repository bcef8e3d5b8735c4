"""The cost of the edge's access log: new connections with ``--log-level info`` and with ``warning``.

    python -m perf.access_log                      # two minutes (root): eight rounds of text and JSON, TLS and TCP

Edges with and without the log run all the time, in front of one nginx. wrk opens a new connection for each
request. The order of the edges rotates. The log is a file, as under a service manager that writes one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from perf.iperf import cpu_seconds
from perf.machine import MachineLoad
from perf.targets import Target, ours
from perf.web import WebLoad, origin

LOGS: Final = {
    "none": ("--log-level", "warning"),
    "text": ("--log-level", "info", "--log-format", "text"),
    "json": ("--log-level", "info", "--log-format", "json"),
}


def measure(directory: Path, rounds: int, seconds: int, *, tls: bool) -> dict[str, list[tuple[float, float]]]:
    """Return the samples of each log format, by round: new connections a second, and the edge's CPU seconds per
    thousand of them."""
    with ExitStack() as stack:
        web = stack.enter_context(origin(directory))
        sides: dict[str, Target] = {
            name: stack.enter_context(ours(web.http, directory, tls=tls, name=name, log=log))
            for name, log in LOGS.items()
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in LOGS}
        for number in range(rounds + 1):
            turn = list(LOGS)[number % len(LOGS) :] + list(LOGS)[: number % len(LOGS)]
            for name in turn:
                side = sides[name]
                load = WebLoad(side.tls_host or side.host, side.host, side.port, seconds, directory)
                before = cpu_seconds(side.edge)
                rate = load.requests_per_second(tls=tls, fresh=True)
                if number:  # the first one is a warm-up
                    found[name].append((rate, (cpu_seconds(side.edge) - before) / (rate * seconds) * 1000))
        return found


def main() -> int:
    """Run the benchmark as the command line asks and print its results."""
    parser = argparse.ArgumentParser(description="Measure the cost of the access log.")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=2, help="of each turn")
    options = parser.parse_args()
    print(f"busy before: {MachineLoad().busy_before:.2f} of all cores")
    for kind in ("tls", "tcp"):
        with tempfile.TemporaryDirectory(prefix="quictunnel-perf-") as name:
            found = measure(Path(name), options.rounds, options.seconds, tls=kind == "tls")
        none = found["none"]
        print(f"{kind}: {statistics.median(rate for rate, _ in none):.0f} new connections a second without it")
        for log in ("text", "json"):
            rates = sorted(with_it[0] / without[0] for with_it, without in zip(found[log], none, strict=True))
            cpu = statistics.median(a[1] / b[1] for a, b in zip(found[log], none, strict=True))
            print(f"  {log}: {statistics.median(rates):.2f} of them with it ({rates[0]:.2f} to {rates[-1]:.2f}), "
                  f"{cpu:.2f} of the edge's CPU time for each")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
