"""How fast one visitor's bytes go, beside everything that it can be compared with, in one run.

    python -m perf.throughput                       # about two minutes
    python -m perf.throughput --mtu 1500            # with datagrams as large as on a real network (Linux, root)
    python -m perf.throughput --only forgetful quictunnel --rounds 9   # what it costs that streams can resume
    python -m perf.throughput --rounds 5 --seconds 5 --json result.json

Direct loopback, ``ssh -R``, the naive splice and we take turns within each round, so that whatever else the
machine does meets them all; trust the ratios. ``down`` is origin to visitor.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from perf import contenders, iperf
from perf.contenders import Contender, Missing, family

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from perf.iperf import Direction

DIRECTIONS: tuple[Direction, ...] = ("down", "up")
PAUSE = 0.2
"""Seconds between two runs: iperf3 serves one at a time and needs a moment."""
ALL: dict[str, Callable[[int, Path], AbstractContextManager[Contender]]] = {
    "direct": contenders.direct,
    "ssh -R": contenders.ssh,
    "naive": contenders.naive,
    "quictunnel": contenders.ours,
    "forgetful": contenders.forgetful,
}
USUAL = tuple(name for name in ALL if name != "forgetful")


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one contender."""

    name: str
    direction: Direction
    round: int
    mb_per_second: float
    edge_cpu_per_gb: float | None
    client_cpu_per_gb: float | None


def by_iperf(contender: Contender, direction: Direction, seconds: int, number: int) -> Sample:
    sides = family(contender.edge), family(contender.client)
    pids = [*sides[0], *sides[1]]
    result = iperf.run(contender.host, contender.port, seconds=seconds, direction=direction, pids=pids)
    gigabytes = result.mb_per_second * result.seconds / 1000
    costs = [sum(result.cpu_seconds[pid] for pid in side) / gigabytes if side else None for side in sides]
    return Sample(contender.name, direction, number, result.mb_per_second, *costs)


def by_curl(contender: Contender, seconds: int, number: int) -> Sample:
    """Down only: a page without end, left after ``seconds``."""
    url = f"https://{contender.tls_host}:{contender.port}/"
    command = ["curl", "--silent", "--output", os.devnull, "--max-time", str(seconds), "--noproxy", "*"]
    command += ["--cacert", str(contender.ca), "--resolve", f"{contender.tls_host}:{contender.port}:127.0.0.1"]
    command += ["--write-out", "%{size_download} %{time_starttransfer} %{time_total} %{http_code}", url]
    sides = family(contender.edge), family(contender.client)
    before = [sum(map(iperf.cpu_seconds, side)) for side in sides]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    spent = [sum(map(iperf.cpu_seconds, side)) - began for side, began in zip(sides, before, strict=True)]
    size, first, total, status = map(float, done.stdout.split())
    if status != 200 or not size:
        raise RuntimeError(f"curl failed: {done.stderr or done.stdout}")
    return Sample(
        contender.name, "down", number, size / (total - first) / iperf.MB, *(s / size * 1e9 for s in spent)
    )


@contextlib.contextmanager
def started(names: Sequence[str], missing: list[str], *, tls: bool = False) -> Iterator[list[Contender]]:
    """These contenders before one iperf3, ready; what cannot be had is added to ``missing``."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quictunnel-perf-")))
        origin = stack.enter_context(iperf.server())
        here = []
        ways = [(name, ALL[name](origin, directory)) for name in names]
        ways += [("https", contenders.https(directory))] if tls else []
        for name, way in ways:
            try:
                here.append(stack.enter_context(way))
            except Missing as lack:
                missing.append(f"{name} (no {lack})")
        yield here


def measure(here: Sequence[Contender], *, seconds: int, rounds: int, say: Callable[[str], None]) -> list[Sample]:
    """Everybody takes a turn in each direction, ``rounds`` times, each round beginning with another one."""
    samples = []
    for number in range(rounds):
        for contender in [*here[number % len(here) :], *here[: number % len(here)]]:
            for direction in DIRECTIONS:
                if not contender.tls_host:
                    sample = by_iperf(contender, direction, seconds, number)
                elif direction == "down":
                    sample = by_curl(contender, seconds, number)
                else:
                    continue
                say(f"round {number + 1}: {contender.name} {direction} {sample.mb_per_second:.1f} MB/s")
                samples.append(sample)
                time.sleep(PAUSE)
    return samples


def speeds(samples: Sequence[Sample], name: str, direction: Direction) -> list[float]:
    """MB/s of one contender, a number a round."""
    return [s.mb_per_second for s in samples if s.name == name and s.direction == direction]


def ratio(samples: Sequence[Sample], name: str, to: str, direction: Direction) -> float | None:
    """The median of what each round says about the two."""
    pairs = zip(speeds(samples, name, direction), speeds(samples, to, direction), strict=False)
    each = [ours / theirs for ours, theirs in pairs]
    return statistics.median(each) if each else None


# The machine.


def _ticks() -> tuple[int, int, int]:
    """Ticks of all cores so far: all, busy ones, and those that the host of a virtual machine took."""
    user, nice, system, idle, iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    busy = user + nice + system + irq + softirq
    return busy + idle + iowait + steal, busy, steal


class Machine:
    """What else went on, so that a number can be believed or not."""

    def __init__(self) -> None:
        all_before, busy_before, _ = _ticks()
        time.sleep(1)
        all_after, busy_after, self._steal = _ticks()
        self._all = all_after
        self.load_before = os.getloadavg()
        self.busy_before = (busy_after - busy_before) / max(1, all_after - all_before)
        """Share of all cores that others used in the second before the first run."""

    def facts(self) -> dict[str, object]:
        total, _, steal = _ticks()
        return {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "kernel": platform.release(),
            "engine": os.environ.get("QUICTUNNEL_ENGINE") or "auto",
            "busy_before": round(self.busy_before, 3),
            "stolen": round((steal - self._steal) / max(1, total - self._all), 3),
            "load_before": self.load_before,
            "load_after": os.getloadavg(),
        }


def table(samples: Sequence[Sample]) -> Iterator[str]:
    for direction in DIRECTIONS:
        rows = [name for name in dict.fromkeys(s.name for s in samples) if speeds(samples, name, direction)]
        heads = ["MB/s", "min", "max", "x naive", "x ssh -R", "CPU s/GB: edge", "client"]
        yield f"{direction:12} " + " ".join(f"{head:>8}" for head in heads)
        for name in rows:
            own = [s for s in samples if s.name == name and s.direction == direction]
            numbers = speeds(samples, name, direction)
            cells = [statistics.median(numbers), min(numbers), max(numbers)]
            cells += [ratio(samples, name, to, direction) for to in ("naive", "ssh -R")]
            costs = [[s.edge_cpu_per_gb for s in own], [s.client_cpu_per_gb for s in own]]
            cells += [statistics.median(c) if None not in c else None for c in costs]
            shown = ["-" if cell is None else f"{cell:.1f}" if cell >= 10 else f"{cell:.2f}" for cell in cells]
            yield (
                f"  {name:10} " + " ".join(f"{cell:>8}" for cell in shown[:5]) + f" {shown[5]:>14} {shown[6]:>8}"
            )


def own_loopback(module: str, mtu: int) -> NoReturn:
    """Begin anew in a network namespace of our own, whose loopback has this MTU; its settings end with it."""
    if os.geteuid() != 0 or not (shutil.which("unshare") and shutil.which("ip")):
        sys.exit("--mtu needs root, unshare (util-linux) and ip (iproute2)")
    there = f'ip link set lo mtu {mtu} up && exec "$0" "$@"'
    again = [sys.executable, "-m", module, *sys.argv[1:], "--inside"]
    os.execvp("unshare", ["unshare", "--net", "sh", "-c", there, *again])


def main() -> None:
    parser = argparse.ArgumentParser(description="One stream's speed: direct, ssh -R, the naive splice, and we.")
    parser.add_argument("--seconds", type=int, default=3, help="of each run (default: 3)")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--mtu", type=int, help="of the loopback that all share (default: this machine's, 65536)")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[*ALL, "https"],
        default=[*USUAL, "https"],
        metavar="NAME",
        help="some of: " + ", ".join([*ALL, "https"]),
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mtu and not options.inside:
        own_loopback("perf.throughput", options.mtu)
    try:
        contenders.need("iperf3")
    except Missing as lack:
        sys.exit(f"{lack} is needed and not installed")
    machine, missing = Machine(), []
    with started([name for name in ALL if name in options.only], missing, tls="https" in options.only) as here:
        samples = measure(
            here, seconds=options.seconds, rounds=options.rounds, say=lambda line: print(line, file=sys.stderr)
        )
    facts = machine.facts() | {"mtu": options.mtu or "loopback's own"}
    print("\n".join(table(samples)))
    print(f"medians of {options.rounds} rounds of {options.seconds} s; ratios are medians of each round's ratio")
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    print(f"missing: {', '.join(missing) or 'nothing'}")
    if options.json:
        result = {"machine": facts, "missing": missing, "samples": [asdict(sample) for sample in samples]}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
