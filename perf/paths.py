"""Bulk, keystrokes and fairness on bad links: the table by which the congestion control was chosen.

    python -m perf.paths                                    # every link, every target; 20 minutes (root)
    python -m perf.paths --links clean bloated --targets tcp-cubic native-bbr --rounds 3
    python -m perf.paths --markdown                         # as docs/PERFORMANCE.md has it

An edge and a client run in two network namespaces with a user-space WAN between them (tests/netlab). Plain TCP
runs over the same WAN without a tunnel. Bytes go from the client's host to the visitor. For each link and target:

- bulk: one transfer alone, Mbit/s;
- keystroke: one byte every 50 ms, echoed, on a connection of its own beside that transfer; p50 and p99 in ms. It
  shows the data that a target leaves in the link's queue;
- share: a transfer beside one of TCP with CUBIC without a tunnel, in percent of both; 50 is fair.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from perf.tables import table
from tests.harness import engine_pairing
from tests.netlab.lab import Lab, missing
from tests.netlab.rig import PATIENCE, Bulk, Keystrokes, Origin, Tunnelled, percentile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LINKS: Final[dict[str, dict[str, Any]]] = {
    "clean": {"rate_mbit": 100, "queue_ms": 50},
    "0.1 % loss": {"rate_mbit": 100, "queue_ms": 50, "loss": 0.001},
    "1 % loss": {"rate_mbit": 100, "queue_ms": 50, "loss": 0.01},
    "5 % loss": {"rate_mbit": 100, "queue_ms": 50, "loss": 0.05},
    "reordering": {"rate_mbit": 100, "queue_ms": 50, "jitter_ms": 10, "reorder": True},
    "bloated": {"rate_mbit": 20, "queue_ms": 1000},
    "shallow": {"rate_mbit": 100, "queue_ms": 5},
}
"""Network paths, all with 25 ms each way. ``bloated`` is a home router with bufferbloat, ``shallow`` has a small
queue."""
DELAY_MS: Final = 25
WARM_UP: Final = 3.0
"""Seconds before anything is counted: slow start has ended and its excess has drained."""
KEYSTROKES: Final = 100
SHARED_SECONDS: Final = 6.0
"""Seconds in which two transfers share the link, after as long a warm-up; CUBIC's cycle is shorter here."""


class PathTarget(NamedTuple):
    """Kernel TCP with this congestion control, or a tunnel on this engine with this one."""

    engine: str
    congestion: str

    @property
    def is_tunnel(self) -> bool:
        """Return True unless this is plain TCP."""
        return self.engine != "tcp"


TARGETS: Final = {
    "tcp-cubic": PathTarget("tcp", "cubic"),
    "tcp-bbr": PathTarget("tcp", "bbr"),
    "native-cubic": PathTarget("native", "cubic"),
    "native-bbr": PathTarget("native", "bbr"),
    "aioquic": PathTarget("aioquic", "cubic"),
}


class PathResult(NamedTuple):
    """Result of a target on a link."""

    mbit: float
    p50_ms: float
    p99_ms: float
    share: float


@contextlib.contextmanager
def visiting(lab: Lab, target: PathTarget, directory: Path) -> Iterator[Callable[[], socket.socket]]:
    """Yield a function that opens a connection to an origin in the client's host."""
    if not target.is_tunnel:
        with Origin(lab, address=lab.client.address, congestion=target.congestion) as origin:
            yield lambda: directly(lab, origin)
        return
    os.environ[engine_pairing.VARIABLE] = target.engine
    os.environ["QUICTUNNEL_CONGESTION"] = target.congestion
    engine_pairing.in_force = engine_pairing.Pairing(target.engine, target.engine)
    with Tunnelled(lab, directory) as tunnel:
        yield tunnel.visit


def directly(lab: Lab, origin: Origin) -> socket.socket:
    """Connect to the origin without a tunnel."""
    sock = lab.edge.socket(kind=socket.SOCK_STREAM)
    sock.settimeout(PATIENCE)
    sock.connect((lab.client.address, origin.port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def measure(link: dict[str, Any], target: PathTarget) -> PathResult:
    """Run one target on one link."""
    with (
        tempfile.TemporaryDirectory(prefix="quictunnel-paths-") as name,
        Lab(delay_ms=DELAY_MS, **link) as lab,
        visiting(lab, target, Path(name)) as visit,
    ):
        with Bulk(visit()) as bulk, visit() as echo_visitor:
            time.sleep(WARM_UP)
            begun = time.monotonic()
            delays = Keystrokes(echo_visitor).run(KEYSTROKES)
            mbit = bulk.mbit_between(begun, time.monotonic())
        with (
            Origin(lab, address=lab.client.address, congestion="cubic") as origin,
            Bulk(visit()) as ours,
            Bulk(directly(lab, origin)) as theirs,
        ):
            time.sleep(SHARED_SECONDS)
            begun = time.monotonic()
            time.sleep(SHARED_SECONDS)
            now = time.monotonic()
            mine, other = ours.mbit_between(begun, now), theirs.mbit_between(begun, now)
        return PathResult(
            mbit,
            percentile(delays, 0.5) * 1000,
            percentile(delays, 0.99) * 1000,
            100 * mine / (mine + other) if mine + other else 0.0,
        )


def rows_of(cells: dict[str, dict[str, list[PathResult]]]) -> list[list[str]]:
    """Return the rows of the table."""
    names = list(next(iter(cells.values())))
    rows = [["link", *names]]
    for link, found in cells.items():
        row = [link]
        for name in names:
            mbit, p50, p99, share = (statistics.median(values) for values in zip(*found[name], strict=True))
            row.append(f"{mbit:.1f} · {p50:.0f}/{p99:.0f} · {share:.0f} %")
        rows.append(row)
    return rows


def main() -> None:
    """Run the benchmark as the command line asks and print its results."""
    here = [name for name, one in TARGETS.items() if one.engine != "native" or has_native()]
    parser = argparse.ArgumentParser(description="Congestion control on bad links.")
    parser.add_argument("--links", nargs="+", choices=LINKS, default=list(LINKS))
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=here)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--json", type=Path, help="write every single run there")
    options = parser.parse_args()
    if lack := missing():
        parser.error(lack)
    cells: dict[str, dict[str, list[PathResult]]] = {
        link: {name: [] for name in options.targets} for link in options.links
    }
    for number in range(options.rounds):
        for link, found in cells.items():
            for name in options.targets:
                cell = measure(LINKS[link], TARGETS[name])
                found[name].append(cell)
                print(f"round {number + 1}: {link}, {name}: {cell.mbit:.1f} Mbit/s, keystroke {cell.p50_ms:.0f}/"
                      f"{cell.p99_ms:.0f} ms, share {cell.share:.0f} %", flush=True)  # fmt: skip
    print("\nMbit/s · keystroke p50/p99 ms · share beside TCP with CUBIC; medians of", options.rounds, "rounds")
    print(table(rows_of(cells), markdown=options.markdown))
    if options.json:
        options.json.write_text(json.dumps(cells, indent=1))


def has_native() -> bool:
    """Return True if the native engine is installed."""
    return importlib.util.find_spec("quictunnel_native") is not None


if __name__ == "__main__":
    main()
