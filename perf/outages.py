"""What happens to visitors of several tunnels when the network between client and edge does what networks do.

    python -m perf.outages                                  # everything that is installed; half an hour (root)
    python -m perf.outages --targets quictunnel ssh --events "black hole of 5 s" "another address"
    python -m perf.outages --markdown                       # as docs/OUTAGES.md has it

Each tunnel runs in its own lab (tests/netlab): 100 Mbit/s, 25 ms each way. One visitor downloads, one has typed
something and waits, as in an SSH session, and 25 a second come over TCP and leave again, some by a reset. Then the
event, and three questions, answered in seconds from the moment at which the network is well again:

- download: when 8 MiB more had come, which take 0.7 s at full rate, or that it broke. What was under way already,
  in buffers on the visitor's side, is not enough for that;
- session: when what is typed at that moment comes back, or that it broke;
- newcomer: when a new visitor is first served.

And how many of those who came, and had not come to leave by a reset, were not served within a minute, of how many.

``perf.lab_tunnels`` says how each of them is set up.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from perf.lab_tunnels import TARGETS, Visitors, choose_engine
from perf.tables import table
from perf.targets import Missing
from tests.load.churn import LEAST, Churn
from tests.load.plan import WAITING_RATE, Plan
from tests.netlab.lab import Lab, missing
from tests.netlab.rig import ECHO, Bulk

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

ENOUGH: Final = 60.0
"""Seconds after the network is well again for which an answer is waited for."""
MORE: Final = 8 << 20
"""Bytes that show that a download goes on; more than was under way."""


def black_hole(seconds: float) -> Callable[[Lab], None]:
    def happen(lab: Lab) -> None:
        with lab.blackout():
            time.sleep(seconds)

    return happen


def moves(lab: Lab) -> None:
    for _ in range(5):
        lab.move_client()
        time.sleep(1)


EVENTS: Final[dict[str, Callable[[Lab], None]]] = {
    "black hole of 2 s": black_hole(2),
    "black hole of 5 s": black_hole(5),
    "black hole of 20 s": black_hole(20),
    "black hole of 90 s": black_hole(90),
    "another address": lambda lab: lab.move_client(),
    "another address, five times": moves,
    "another port of the NAT": lambda lab: lab.nat_rebind(),
}


class Cell(NamedTuple):
    """Seconds, None: broken, or not within :data:`ENOUGH`; and how many of the load's newcomers failed."""

    download: float | None
    session: float | None
    newcomer: float | None
    failed: int
    came: int

    def __str__(self) -> str:
        seconds = (self.download, self.session, self.newcomer)
        answers = ["broken" if value is None else f"{value:.1f}" for value in seconds]
        return " · ".join([*answers, f"{self.failed}/{self.came}"])


def measure(target: str, event: str) -> Cell:
    with (
        tempfile.TemporaryDirectory(prefix="quictunnel-outages-") as name,
        Lab(delay_ms=25, rate_mbit=100, nat="NAT" in event) as lab,
        contextlib.ExitStack() as stack,
    ):
        address = TARGETS[target](lab, Path(name), stack)
        visitors = Visitors(lab, address)
        if visitors.wait(20) is None:
            raise Missing(f"{target} does not serve here")
        with visitors.come() as typist, Bulk(visitors.come()) as bulk, load(target, lab, address) as churn:
            typist.sendall(ECHO + b"a")
            typist.recv(1)
            bulk.wait_for(1 << 20, timeout=20)
            EVENTS[event](lab)
            with ThreadPoolExecutor() as threads:
                download = threads.submit(goes_on, bulk)
                session = threads.submit(types_on, typist)
                newcomer = visitors.wait(ENOUGH)
            came = [visit for visit in churn.finish(lambda _: True) if visit.is_newcomer]
        failed = sum(bool(visit.failure) for visit in came)
        return Cell(download.result(), session.result(), newcomer, failed, len(came))


def load(target: str, lab: Lab, address: tuple[str, int]) -> Churn:
    """Newcomers and leavers, by the count of the kernel at the edge's host. Ours are always let in there."""
    plan = Plan([("", 0, *address)], ca="", prefix=ECHO.decode(), rate=WAITING_RATE, patience=ENOUGH)

    def arrivals() -> int:
        names, values = (
            line.split()
            for line in lab.edge.run(["cat", "/proc/net/snmp"]).stdout.splitlines()
            if line.startswith("Tcp:")
        )
        return int(values[names.index("PassiveOpens")])

    return Churn(plan, lab.edge.popen, watched=arrivals, least=LEAST if target == "quictunnel" else 0)


def goes_on(bulk: Bulk) -> float | None:
    try:
        return bulk.wait_for(MORE, ENOUGH)
    except AssertionError:
        return None


def types_on(typist: socket.socket) -> float | None:
    begun = time.monotonic()
    typist.settimeout(ENOUGH)
    try:
        typist.sendall(b"b")
        echoed = typist.recv(1) == b"b"
    except OSError:
        return None
    return time.monotonic() - begun if echoed else None


def rows_of(cells: dict[str, dict[str, Cell | None]]) -> list[list[str]]:
    names = list(next(iter(cells.values())))
    rows = [["", *names]]
    rows += [[event, *(str(found[name] or "not here") for name in names)] for event, found in cells.items()]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Outages, and what several tunnels make of them.")
    parser.add_argument("--events", nargs="+", choices=EVENTS, default=list(EVENTS))
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--json", type=Path, help="write every single answer there")
    options = parser.parse_args()
    if lack := missing():
        parser.error(lack)
    choose_engine()
    cells: dict[str, dict[str, Cell | None]] = {event: {} for event in options.events}
    for name in options.targets:
        for event, found in cells.items():
            try:
                found[name] = measure(name, event)
            except Missing as lack_of:
                print(f"{name}: not here: {lack_of}")
                found[name] = None
            print(f"{event}, {name}: {found[name] or 'not here'}", flush=True)
    print("\nseconds after the network is well: download · session · newcomer; newcomers that failed / all")
    print(table(rows_of(cells), markdown=options.markdown))
    if options.json:
        options.json.write_text(json.dumps(cells, indent=1))


if __name__ == "__main__":
    main()
