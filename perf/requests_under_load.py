"""Latency of small requests during a bulk transfer on links with loss: the cost of head-of-line blocking.

    python -m perf.requests_under_load               # everything that is installed; 15 minutes (root)
    python -m perf.requests_under_load --targets quictunnel ssh --losses 0.01
    python -m perf.requests_under_load --markdown    # as docs/PERFORMANCE.md has it

Each tunnel runs in its own lab (tests/netlab): 100 Mbit/s, 25 ms each way, a queue of one bandwidth-delay product.
One visitor downloads without end; another sends one byte every 50 ms on a connection of its own and gets it back.
Tunnels over TCP run with CUBIC and with BBR; frp over QUIC and quictunnel use their own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple

from perf.lab_tunnels import TARGETS, Visitors, choose_engine
from perf.tables import table
from perf.targets import Missing
from tests.netlab.lab import Lab, missing
from tests.netlab.rig import Bulk, Keystrokes, percentile

LOSSES: Final = (0.0, 0.01, 0.02)
OVER_UDP: Final = ("quictunnel", "frp, QUIC")
TCP: Final = ("cubic", "bbr")
WARM_UP: Final = 3.0
"""Seconds before anything is counted: slow start has ended and its excess has drained."""
REQUESTS: Final = 200
"""Number of requests, one every 50 ms: with 1 % of packets lost, some of them are lost."""


class LoadResult(NamedTuple):
    """The result of one run."""

    mbit: float
    p50_ms: float
    p99_ms: float


def measure(target: str, congestion: str, loss: float) -> LoadResult:
    """Run one tunnel on one link. Raises Missing."""
    with (
        tempfile.TemporaryDirectory(prefix="quictunnel-beside-") as name,
        Lab(delay_ms=25, rate_mbit=100, queue_ms=50, loss=loss) as lab,
        contextlib.ExitStack() as stack,
    ):
        if congestion:
            for host in (lab.client, lab.edge):
                # By the route and not by sysctl, which a host of the lab may not set to everything.
                device = host.run(["ip", "-o", "route", "show", "default"]).stdout.split()[2]
                host.run(["ip", "route", "change", "default", "dev", device, "congctl", congestion])
        visitors = Visitors(lab, TARGETS[target](lab, Path(name), stack))
        if visitors.wait(20) is None:
            raise Missing(f"{target} does not serve here")
        with Bulk(visitors.connect()) as bulk, visitors.connect() as echo_visitor:
            time.sleep(WARM_UP)
            begun = time.monotonic()
            delays = Keystrokes(echo_visitor).run(REQUESTS)
            mbit = bulk.mbit_between(begun, time.monotonic())
        return LoadResult(mbit, percentile(delays, 0.5) * 1000, percentile(delays, 0.99) * 1000)


def rows_of(cells: dict[str, dict[str, list[LoadResult]]]) -> list[list[str]]:
    """Return the rows of the table."""
    names = list(next(iter(cells.values())))
    rows = [["", *names]]
    for loss, found in cells.items():
        row = [loss]
        for name in names:
            if not found[name]:
                row.append("not here")
                continue
            mbit, p50, p99 = (statistics.median(values) for values in zip(*found[name], strict=True))
            row.append(f"{mbit:.1f} · {p50:.0f}/{p99:.0f}")
        rows.append(row)
    return rows


def main() -> None:
    """Run the benchmark as the command line asks and print its results."""
    parser = argparse.ArgumentParser(
        description="Small requests beside a bulk transfer on links that lose packets."
    )
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--losses", nargs="+", type=float, default=LOSSES, help="shares of packets")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--json", type=Path, help="write every single run there")
    options = parser.parse_args()
    if lack := missing():
        parser.error(lack)
    choose_engine()
    variants = [
        (name, congestion) for name in options.targets for congestion in ([""] if name in OVER_UDP else TCP)
    ]
    names = {variant: f"{variant[0]}, {variant[1].upper()}" if variant[1] else variant[0] for variant in variants}
    cells: dict[str, dict[str, list[LoadResult]]] = {
        f"{loss:.0%} loss": {names[variant]: [] for variant in variants} for loss in options.losses
    }
    for number in range(options.rounds):
        for loss in options.losses:
            for variant in variants:
                with contextlib.suppress(Missing):  # the table says so
                    cell = measure(*variant, loss)
                    cells[f"{loss:.0%} loss"][names[variant]].append(cell)
                    print(f"round {number + 1}: {loss:.0%} loss, {names[variant]}: {cell.mbit:.1f} Mbit/s, "
                          f"{cell.p50_ms:.0f}/{cell.p99_ms:.0f} ms", flush=True)  # fmt: skip
    print("\nMbit/s of the transfer · p50/p99 of the requests beside it, ms; medians of", options.rounds, "rounds")
    print(table(rows_of(cells), markdown=options.markdown))
    if options.json:
        options.json.write_text(json.dumps(cells, indent=1))


if __name__ == "__main__":
    main()
