"""Compare quictunnel with all other tunnels that are installed, in one run of several rounds.

    python -m perf.compare                                    # as root; about a quarter of an hour
    python -m perf.compare --markdown --json result.json --plot result.png
    python -m perf.compare --only "ssh -R" quictunnel --measures "1 stream down" "64 keep-alive, HTTPS"

All tunnels share the machine and take turns within each round, so that other load affects all of them alike: the
ratios are reliable. The programs are found on the PATH; missing ones are named at the end. With quictunnel, nginx
is the origin and TLS ends at the edge. Behind tunnels that forward bytes, TLS ends at nginx; with "frp,
https2http",
at frp's client.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from perf import echo, iperf, peers, results, targets, web
from perf.machine import MachineLoad, own_loopback
from perf.results import OURS, Sample
from perf.tables import table
from perf.targets import Missing, Target, family

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from perf.iperf import Direction

BASELINE: Final = "baseline"
NO_RESUME: Final = "no-resume"
"""Measures the cost of buffers for resumption; only if it is selected."""
TCP: Final[dict[str, Callable[[int, Path], AbstractContextManager[Target]]]] = {
    "direct": targets.direct,
    "ssh -R": targets.ssh,
    "frp, TCP": peers.frp("tcp", tls=False),
    "frp, TCP, TLS": peers.frp("tcp", tls=True),
    "frp, QUIC": peers.frp("quic", tls=True),
    "rathole": peers.rathole("tcp"),
    "rathole, Noise": peers.rathole("noise"),
    "chisel": peers.chisel,
    "bore": peers.bore,
    BASELINE: targets.baseline,
    "aioquic": functools.partial(targets.ours, name="aioquic", engine="aioquic"),
    OURS: targets.ours,
    NO_RESUME: targets.no_resume,
}
"""Tunnels that forward bytes, by name."""
HTTPS: Final[dict[str, Callable[[int, Path], AbstractContextManager[Target]]]] = {
    "frp, https2http": peers.frp("tcp", tls=True, ends_tls=True),
    "aioquic": functools.partial(targets.ours, name="aioquic", engine="aioquic", tls=True),
    OURS: functools.partial(targets.ours, tls=True),
}
"""Tunnels that terminate TLS, by name."""


class TurnResult(NamedTuple):
    """The result of one turn."""

    values: dict[str, float]
    """Values by the suffix of the measure's name."""
    amount: float
    """See ``Sample``."""


Measurement = Callable[[Target, Path, int], TurnResult]
SECONDS: Final = 3
ROUNDS: Final = 5
SETTLE_SECONDS: Final = 30.0
QUIET_SECONDS: Final = 0.1
"""Seconds without a tick of CPU time (10 ms) after which a tunnel counts as idle."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A measurement of a tunnel with one kind of origin."""

    name: str
    unit: str
    """In milliseconds lower is better, otherwise higher."""
    origin: str
    take: Measurement
    includes_baseline: bool = False
    """True if the baseline takes part. With many streams it needs minutes, because it buffers all of their
    data, and after short connections it uses CPU without end."""


def _stream(direction: Direction, streams: int) -> Measurement:
    def take(tunnel: Target, directory: Path, seconds: int) -> TurnResult:
        del directory
        result = iperf.run(tunnel.host, tunnel.port, seconds=seconds, direction=direction, streams=streams)
        return TurnResult({"": result.mb_per_second}, result.mb_per_second * result.seconds / 1000)

    return take


def _web_load(tunnel: Target, directory: Path, seconds: int) -> web.WebLoad:
    return web.WebLoad(tunnel.tls_host or "localhost", tunnel.host, tunnel.port, seconds, directory)


def _pages(direction: Direction, streams: int) -> Measurement:
    def take(tunnel: Target, directory: Path, seconds: int) -> TurnResult:
        speed = _web_load(tunnel, directory, seconds).mb_per_second(direction, streams)
        return TurnResult({"": speed}, speed * seconds / 1000)

    return take


def _requests(*, tls: bool, fresh: bool) -> Measurement:
    def take(tunnel: Target, directory: Path, seconds: int) -> TurnResult:
        rate = _web_load(tunnel, directory, seconds).requests_per_second(tls=tls, fresh=fresh)
        return TurnResult({"": rate}, rate * seconds / 1000)

    return take


def _delays(tunnel: Target, directory: Path, seconds: int) -> TurnResult:
    del directory
    delays = echo.measure_delays(tunnel.host, tunnel.port, seconds=seconds)
    return TurnResult({", p50": delays.p50, ", p99": delays.p99, ", p99.9": delays.p999}, 0.0)


MEASURES: Final = (
    Measure("1 stream down", "MB/s", "iperf", _stream("down", 1), includes_baseline=True),
    Measure("1 stream up", "MB/s", "iperf", _stream("up", 1), includes_baseline=True),
    Measure("32 streams down", "MB/s", "iperf", _stream("down", 32)),
    Measure("32 streams up", "MB/s", "iperf", _stream("up", 32)),
    Measure("1 stream down, HTTPS", "MB/s", "https", _pages("down", 1)),
    Measure("1 stream up, HTTPS", "MB/s", "https", _pages("up", 1)),
    Measure("32 streams down, HTTPS", "MB/s", "https", _pages("down", 32)),
    Measure("32 streams up, HTTPS", "MB/s", "https", _pages("up", 32)),
    Measure("64 keep-alive, HTTPS", "requests/s", "https", _requests(tls=True, fresh=False)),
    Measure("new connections, HTTPS", "requests/s", "https", _requests(tls=True, fresh=True)),
    Measure("64 keep-alive, HTTP through TCP", "requests/s", "http", _requests(tls=False, fresh=False)),
    Measure("delay", "ms", "echo", _delays),
)


class Benchmark:
    """The origins, and a tunnel of each target to each of them."""

    def __init__(self, names: Sequence[str], measures: Sequence[Measure], stack: contextlib.ExitStack) -> None:
        self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quictunnel-perf-")))
        self.missing: list[str] = []
        self.failed: list[str] = []
        self.tunnels: dict[tuple[str, str], Target] = {}
        """Running tunnels by origin and name."""
        self._stack = stack
        for origin in dict.fromkeys(measure.origin for measure in measures):
            with self._noting(f"the measures with {origin}"):
                plain, ending = self._begin(origin)
                for name in names:
                    if origin == "iperf":  # serves one test at a time, and a tunnel may be slow to close
                        plain = self._stack.enter_context(iperf.server())
                    with self._noting(name):
                        self._join(origin, name, plain, ending)

    def _begin(self, origin: str) -> tuple[int, int]:
        """Start an origin. Return its port for tunnels that forward bytes, and its port for tunnels that terminate
        TLS."""
        if origin == "iperf":
            targets.need("iperf3")
            return 0, 0
        if origin == "echo":
            port = iperf.free_port()
            command = [sys.executable, "-m", "perf.echo", str(port)]
            targets.line_of(
                self._stack.enter_context(targets.running(command, stdout=subprocess.PIPE)), "echo ready"
            )
            return port, 0
        page = self._stack.enter_context(web.origin(self.directory / origin))
        return (page.https, page.http) if origin == "https" else (page.http, 0)

    def _join(self, origin: str, name: str, plain: int, ending: int) -> None:
        directory = self.directory / origin / "tunnels"
        directory.mkdir(parents=True, exist_ok=True)
        if ending and name in HTTPS:
            self.tunnels[origin, name] = self._stack.enter_context(HTTPS[name](ending, directory))
        elif name in TCP:
            self.tunnels[origin, name] = self._stack.enter_context(TCP[name](plain, directory))

    @contextlib.contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        try:
            yield
        except Missing as lack:
            self.missing.append(f"{what} (no {lack})")


def turn(benchmark: Benchmark, measure: Measure, tunnel: Target, seconds: int, number: int) -> list[Sample]:
    """Measure one tunnel once. Return its samples; none if it failed."""
    sides = [family(tunnel.edge), family(tunnel.client)]
    before = [sum(map(iperf.cpu_seconds, side)) for side in sides]
    where = f"round {number + 1}: {measure.name}, {tunnel.name}"
    try:
        taken = measure.take(tunnel, benchmark.directory, seconds)
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
        benchmark.failed.append(f"{where}: {error}")
        print(benchmark.failed[-1], file=sys.stderr)
        return []
    print(f"{where}: {', '.join(f'{value:.2f}' for value in taken.values.values())}", file=sys.stderr)
    spent = [sum(map(iperf.cpu_seconds, side)) - began for side, began in zip(sides, before, strict=True)]
    return [
        Sample(measure.name + part, measure.unit, tunnel.name, number, value, taken.amount, *spent)
        for part, value in taken.values.items()
    ]


def settle(tunnel: Target) -> bool:
    """Wait until a tunnel is idle, so that it does not disturb the next turn. Return False if it is still busy."""
    pids = [*family(tunnel.edge), *family(tunnel.client)]
    deadline = time.monotonic() + SETTLE_SECONDS
    before = -1.0
    while before != (now := sum(map(iperf.cpu_seconds, pids))):
        if time.monotonic() > deadline:
            return False
        before = now
        time.sleep(QUIET_SECONDS)
    return True


def run(
    benchmark: Benchmark, measures: Sequence[Measure], names: Sequence[str], *, seconds: int, rounds: int
) -> Iterator[Sample]:
    """Yield the samples of all rounds."""
    for number in range(rounds):
        order = [*names[number % len(names) :], *names[: number % len(names)]]
        for measure in measures:
            for name in order:
                tunnel = benchmark.tunnels.get((measure.origin, name))
                if tunnel is not None and (measure.includes_baseline or name != BASELINE):
                    yield from turn(benchmark, measure, tunnel, seconds, number)
                    if not settle(tunnel):
                        benchmark.failed.append(f"{name} does not become idle and is left out from now on")
                        del benchmark.tunnels[measure.origin, name]


def _arguments(all_names: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare quictunnel with other tunnels.")
    measures = [measure.name for measure in MEASURES]
    usual = [name for name in all_names if name != NO_RESUME]
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=int, default=SECONDS, help="of each turn")
    parser.add_argument("--only", nargs="+", choices=all_names, default=usual, metavar="NAME")
    parser.add_argument("--measures", nargs="+", choices=measures, default=measures)
    parser.add_argument("--mtu", type=int, help="of loopback (default: this machine's, 65536)")
    parser.add_argument("--markdown", action="store_true", help="print tables as Markdown")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it (needs matplotlib)")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run the benchmark as the command line asks and print its results."""
    all_names = [*dict.fromkeys([*TCP, *HTTPS])]
    options = _arguments(all_names)
    if options.mtu and not options.inside:
        own_loopback("perf.compare", options.mtu)
    measures = [measure for measure in MEASURES if measure.name in options.measures]
    names = [name for name in all_names if name in options.only]
    # Ends like Ctrl-C, so that everything that was started here ends with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    machine = MachineLoad()
    with contextlib.ExitStack() as stack:
        benchmark = Benchmark(names, measures, stack)
        samples = list(run(benchmark, measures, names, seconds=options.seconds, rounds=options.rounds))
    facts = machine.facts() | {"mtu": options.mtu or "loopback's own"}
    problems = {"missing": list(dict.fromkeys(benchmark.missing)), "failed": benchmark.failed}
    for rows in (results.rows, results.ratios, results.costs):
        print(table(rows(samples, names), markdown=options.markdown), "\n")
    print(f"medians (and extremes) of {options.rounds} rounds of {options.seconds} s; ratios are medians of each "
          "round's; visitors, origin and tunnel share the machine")  # fmt: skip
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    for what, which in problems.items():
        print(f"{what}: {'; '.join(which) or 'nothing'}")
    if options.json:
        result = {"machine": facts, **problems, "samples": [asdict(sample) for sample in samples]}
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    if options.plot:
        from perf import plots  # noqa: PLC0415 - the one place that needs matplotlib

        plots.draw(options.plot, samples, names)


if __name__ == "__main__":
    main()
