"""Everything beside everybody, in one run: every peer that is here, in turns, several rounds.

    python -m perf.compare                                    # as root; about a quarter of an hour
    python -m perf.compare --markdown --json result.json --plot result.png
    python -m perf.compare --only "ssh -R" quictunnel --measures "1 stream down" "64 keep-alive, HTTPS"

All share the machine and take turns within each round, so that whatever else it does meets them all; trust the
ratios. Peers are looked for on the PATH; those that are not there are named at the end. Visitors of HTTPS are
served by nginx behind us, who end TLS; behind tunnels of bytes it ends TLS itself; behind "frp, https2http" frp's
client does.
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
from perf.machine import Machine, own_loopback
from perf.results import OURS, Sample
from perf.tables import table
from perf.targets import Missing, Target, family

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from perf.iperf import Direction

BASELINE: Final = "baseline"
NO_RESUME: Final = "no-resume"
"""What keeping costs, and no tunnel that anybody uses: only when asked for."""
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
"""Tunnels of bytes, by name."""
HTTPS: Final[dict[str, Callable[[int, Path], AbstractContextManager[Target]]]] = {
    "frp, https2http": peers.frp("tcp", tls=True, ends_tls=True),
    "aioquic": functools.partial(targets.ours, name="aioquic", engine="aioquic", tls=True),
    OURS: functools.partial(targets.ours, tls=True),
}
"""Those that end TLS."""


class Taken(NamedTuple):
    """What one turn gave."""

    values: dict[str, float]
    """By what is to be added to the measure's name."""
    amount: float
    """See ``Sample``."""


Take = Callable[[Target, Path, int], Taken]
SECONDS: Final = 3
ROUNDS: Final = 5
SETTLE_SECONDS: Final = 30.0
QUIET_SECONDS: Final = 0.1
"""Without a tick of CPU time (10 ms), after which a tunnel counts as idle."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One way of looking at a tunnel, before one kind of origin."""

    name: str
    unit: str
    """In milliseconds less is better, in everything else more."""
    origin: str
    take: Take
    includes_baseline: bool = False
    """True if the baseline takes part. It needs minutes for many streams, because it buffers all that they offer,
    and it spins after connections that come and go."""


def _stream(direction: Direction, streams: int) -> Take:
    def take(way: Target, directory: Path, seconds: int) -> Taken:
        del directory
        result = iperf.run(way.host, way.port, seconds=seconds, direction=direction, streams=streams)
        return Taken({"": result.mb_per_second}, result.mb_per_second * result.seconds / 1000)

    return take


def _crowd(way: Target, directory: Path, seconds: int) -> web.Crowd:
    return web.Crowd(way.tls_host or "localhost", way.host, way.port, seconds, directory)


def _pages(direction: Direction, streams: int) -> Take:
    def take(way: Target, directory: Path, seconds: int) -> Taken:
        speed = _crowd(way, directory, seconds).mb_per_second(direction, streams)
        return Taken({"": speed}, speed * seconds / 1000)

    return take


def _requests(*, tls: bool, fresh: bool) -> Take:
    def take(way: Target, directory: Path, seconds: int) -> Taken:
        rate = _crowd(way, directory, seconds).requests_per_second(tls=tls, fresh=fresh)
        return Taken({"": rate}, rate * seconds / 1000)

    return take


def _delays(way: Target, directory: Path, seconds: int) -> Taken:
    del directory
    delays = echo.ask(way.host, way.port, seconds=seconds)
    return Taken({", p50": delays.p50, ", p99": delays.p99, ", p99.9": delays.p999}, 0.0)


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


class Arena:
    """The origins, and a tunnel of each target before each of them."""

    def __init__(self, names: Sequence[str], measures: Sequence[Measure], stack: contextlib.ExitStack) -> None:
        self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quictunnel-perf-")))
        self.missing: list[str] = []
        self.failed: list[str] = []
        self.ways: dict[tuple[str, str], Target] = {}
        """By origin and name."""
        self._stack = stack
        for origin in dict.fromkeys(measure.origin for measure in measures):
            with self._noted(f"the measures with {origin}"):
                plain, ending = self._begin(origin)
                for name in names:
                    if origin == "iperf":  # serves one at a time, and a tunnel may be slow to let go
                        plain = self._stack.enter_context(iperf.server())
                    with self._noted(name):
                        self._join(origin, name, plain, ending)

    def _begin(self, origin: str) -> tuple[int, int]:
        """Its port for tunnels of bytes, and for those who end TLS."""
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
        directory = self.directory / origin / "ways"
        directory.mkdir(parents=True, exist_ok=True)
        if ending and name in HTTPS:
            self.ways[origin, name] = self._stack.enter_context(HTTPS[name](ending, directory))
        elif name in TCP:
            self.ways[origin, name] = self._stack.enter_context(TCP[name](plain, directory))

    @contextlib.contextmanager
    def _noted(self, what: str) -> Iterator[None]:
        try:
            yield
        except Missing as lack:
            self.missing.append(f"{what} (no {lack})")


def turn(arena: Arena, measure: Measure, way: Target, seconds: int, number: int) -> list[Sample]:
    sides = [family(way.edge), family(way.client)]
    before = [sum(map(iperf.cpu_seconds, side)) for side in sides]
    where = f"round {number + 1}: {measure.name}, {way.name}"
    try:
        taken = measure.take(way, arena.directory, seconds)
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
        arena.failed.append(f"{where}: {error}")
        print(arena.failed[-1], file=sys.stderr)
        return []
    print(f"{where}: {', '.join(f'{value:.2f}' for value in taken.values.values())}", file=sys.stderr)
    spent = [sum(map(iperf.cpu_seconds, side)) - began for side, began in zip(sides, before, strict=True)]
    return [
        Sample(measure.name + part, measure.unit, way.name, number, value, taken.amount, *spent)
        for part, value in taken.values.items()
    ]


def settle(way: Target) -> bool:
    """Wait until a tunnel has worked off what it took in, or it would still be at it in the next one's turn.
    False: it is still at it."""
    pids = [*family(way.edge), *family(way.client)]
    deadline = time.monotonic() + SETTLE_SECONDS
    before = -1.0
    while before != (now := sum(map(iperf.cpu_seconds, pids))):
        if time.monotonic() > deadline:
            return False
        before = now
        time.sleep(QUIET_SECONDS)
    return True


def run(
    arena: Arena, measures: Sequence[Measure], names: Sequence[str], *, seconds: int, rounds: int
) -> Iterator[Sample]:
    for number in range(rounds):
        order = [*names[number % len(names) :], *names[: number % len(names)]]
        for measure in measures:
            for name in order:
                way = arena.ways.get((measure.origin, name))
                if way is not None and (measure.includes_baseline or name != BASELINE):
                    yield from turn(arena, measure, way, seconds, number)
                    if not settle(way):
                        arena.failed.append(f"{name} does not come to rest and takes part no more")
                        del arena.ways[measure.origin, name]


def main() -> None:
    parser = argparse.ArgumentParser(description="Everything beside everybody.")
    everybody = [*dict.fromkeys([*TCP, *HTTPS])]
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=int, default=SECONDS, help="of each turn")
    usual = [name for name in everybody if name != NO_RESUME]
    parser.add_argument("--only", nargs="+", choices=everybody, default=usual, metavar="NAME")
    parser.add_argument(
        "--measures", nargs="+", choices=[m.name for m in MEASURES], default=[m.name for m in MEASURES]
    )
    parser.add_argument("--mtu", type=int, help="of the loopback that all share (default: this machine's, 65536)")
    parser.add_argument("--markdown", action="store_true", help="the table as the documentation has it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it (needs matplotlib)")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mtu and not options.inside:
        own_loopback("perf.compare", options.mtu)
    measures = [measure for measure in MEASURES if measure.name in options.measures]
    names = [name for name in everybody if name in options.only]
    # Ends like Ctrl-C, so that everything that was started here ends with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    machine = Machine()
    with contextlib.ExitStack() as stack:
        arena = Arena(names, measures, stack)
        samples = list(run(arena, measures, names, seconds=options.seconds, rounds=options.rounds))
        missing, failed = list(dict.fromkeys(arena.missing)), arena.failed
    facts = machine.facts() | {"mtu": options.mtu or "loopback's own"}
    for rows in (results.rows, results.standing, results.costs):
        print(table(rows(samples, names), markdown=options.markdown), "\n")
    print(f"medians (and extremes) of {options.rounds} rounds of {options.seconds} s; ratios are medians of each "
          "round's; visitors, origin and tunnel share the machine")  # fmt: skip
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    print(f"missing: {', '.join(missing) or 'nothing'}")
    print("failed:", "; ".join(failed) or "nothing")
    if options.json:
        result = {
            "machine": facts,
            "missing": missing,
            "failed": failed,
            "samples": [asdict(sample) for sample in samples],
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    if options.plot:
        from perf import plots  # noqa: PLC0415 - the one place that needs matplotlib

        plots.draw(options.plot, samples, names)


if __name__ == "__main__":
    main()
