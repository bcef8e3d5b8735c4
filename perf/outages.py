"""The effects of network failures between client and edge on visitors of several tunnels.

    python -m perf.outages                                  # everything that is installed; half an hour (root)
    python -m perf.outages --targets quictunnel ssh --events "black hole of 5 s" "another address"
    python -m perf.outages --markdown                       # as docs/OUTAGES.md has it

Each tunnel runs in a lab of its own (tests/netlab): 100 Mbit/s, 25 ms each way. One visitor downloads, one has an
idle session as in SSH, and 25 per second connect over TCP and leave, some by a reset. Then the event occurs. Three
values are measured, in seconds from the moment at which the network works again:

- download: until 8 MiB more have arrived, which takes 0.7 s at the full rate, or that it broke. Data that was in
  buffers on the visitor's side is not enough for that;
- session: until a byte sent at that moment is echoed, or that it broke;
- new visitor: until a new visitor is served.

The fourth value is the number of new visitors, without those that reset, that were not served within a minute, and
the number of all of them. ``perf.lab_tunnels`` has the settings of each tunnel.
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

MAX_WAIT: Final = 60.0
"""Seconds after the network works again after which a wait ends."""
DOWNLOAD_BYTES: Final = 8 << 20
"""Bytes that prove that a download continues; more than was in flight."""


def black_hole(seconds: float) -> Callable[[Lab], None]:
    """Return an event: no packet passes for ``seconds``."""

    def happen(lab: Lab) -> None:
        with lab.blackout():
            time.sleep(seconds)

    return happen


def change_address_repeatedly(lab: Lab) -> None:
    """Change the client's address five times, once a second."""
    for _ in range(5):
        lab.move_client()
        time.sleep(1)


EVENTS: Final[dict[str, Callable[[Lab], None]]] = {
    "black hole of 2 s": black_hole(2),
    "black hole of 5 s": black_hole(5),
    "black hole of 20 s": black_hole(20),
    "black hole of 90 s": black_hole(90),
    "another address": lambda lab: lab.move_client(),
    "another address, five times": change_address_repeatedly,
    "another port of the NAT": lambda lab: lab.nat_rebind(),
}


class OutageResult(NamedTuple):
    """Seconds (None: broken, or longer than :data:`MAX_WAIT`), and the failed new visitors of all."""

    download: float | None
    session: float | None
    new_visitor: float | None
    failed: int
    attempts: int

    def __str__(self) -> str:
        seconds = (self.download, self.session, self.new_visitor)
        answers = ["broken" if value is None else f"{value:.1f}" for value in seconds]
        return " · ".join([*answers, f"{self.failed}/{self.attempts}"])


def measure(target: str, event: str) -> OutageResult:
    """Run one tunnel through one event. Raises Missing."""
    with (
        tempfile.TemporaryDirectory(prefix="quictunnel-outages-") as name,
        Lab(delay_ms=25, rate_mbit=100, nat="NAT" in event) as lab,
        contextlib.ExitStack() as stack,
    ):
        address = TARGETS[target](lab, Path(name), stack)
        visitors = Visitors(lab, address)
        if visitors.wait(20) is None:
            raise Missing(f"{target} does not serve here")
        with (
            visitors.connect() as echo_visitor,
            Bulk(visitors.connect()) as bulk,
            load(target, lab, address) as churn,
        ):
            echo_visitor.sendall(ECHO + b"a")
            echo_visitor.recv(1)
            bulk.wait_for(1 << 20, timeout=20)
            EVENTS[event](lab)
            with ThreadPoolExecutor() as threads:
                download = threads.submit(time_download, bulk)
                session = threads.submit(time_echo, echo_visitor)
                new_visitor = visitors.wait(MAX_WAIT)
            attempts = [visit for visit in churn.finish(lambda _: True) if visit.is_newcomer]
        failed = sum(bool(visit.failure) for visit in attempts)
        return OutageResult(download.result(), session.result(), new_visitor, failed, len(attempts))


def load(target: str, lab: Lab, address: tuple[str, int]) -> Churn:
    """Start visitors that connect and leave. They are counted by the kernel at the edge's host; quictunnel admits
    all of them there."""
    plan = Plan([("", 0, *address)], ca="", prefix=ECHO.decode(), rate=WAITING_RATE, patience=MAX_WAIT)

    def arrivals() -> int:
        names, values = (
            line.split()
            for line in lab.edge.run(["cat", "/proc/net/snmp"]).stdout.splitlines()
            if line.startswith("Tcp:")
        )
        return int(values[names.index("PassiveOpens")])

    return Churn(plan, lab.edge.popen, watched=arrivals, least=LEAST if target == "quictunnel" else 0)


def time_download(bulk: Bulk) -> float | None:
    """Return the seconds until :data:`DOWNLOAD_BYTES` more have arrived, or None."""
    try:
        return bulk.wait_for(DOWNLOAD_BYTES, MAX_WAIT)
    except AssertionError:
        return None


def time_echo(echo_visitor: socket.socket) -> float | None:
    """Return the seconds until a byte is echoed, or None."""
    begun = time.monotonic()
    echo_visitor.settimeout(MAX_WAIT)
    try:
        echo_visitor.sendall(b"b")
        echoed = echo_visitor.recv(1) == b"b"
    except OSError:
        return None
    return time.monotonic() - begun if echoed else None


def rows_of(cells: dict[str, dict[str, OutageResult | None]]) -> list[list[str]]:
    """Return the rows of the table."""
    names = list(next(iter(cells.values())))
    rows = [["", *names]]
    rows += [[event, *(str(found[name] or "not installed") for name in names)] for event, found in cells.items()]
    return rows


def main() -> None:
    """Run the benchmark as the command line asks and print its results."""
    parser = argparse.ArgumentParser(description="Measure the effects of outages on visitors of several tunnels.")
    parser.add_argument("--events", nargs="+", choices=EVENTS, default=list(EVENTS))
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--json", type=Path, help="write every single result there")
    options = parser.parse_args()
    if lack := missing():
        parser.error(lack)
    choose_engine()
    cells: dict[str, dict[str, OutageResult | None]] = {event: {} for event in options.events}
    for name in options.targets:
        for event, found in cells.items():
            try:
                found[name] = measure(name, event)
            except Missing as lack_of:
                print(f"{name}: not installed: {lack_of}")
                found[name] = None
            print(f"{event}, {name}: {found[name] or 'not installed'}", flush=True)
    print("\nseconds after the network works again: download · session · new visitor; failed new visitors / all")
    print(table(rows_of(cells), markdown=options.markdown))
    if options.json:
        options.json.write_text(json.dumps(cells, indent=1))


if __name__ == "__main__":
    main()
