"""Live screen for a terminal: addresses, visitors, traffic, recent events.

It is redrawn in place, below the terminal's earlier output, and only when it changed. Text from peers is never
read as markup.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Final

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from quictunnel.cli.formatting import milliseconds, rate, size
from quictunnel.cli.reporter import STOPPING, one_line, time_of_day

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.cli.reporter import OpenedTunnel
    from quictunnel.events import ClientEvent, Snapshot

MAX_EVENTS: Final = 6
"""Recent events on the screen; the whole screen then has 17 rows and fits a terminal of 24."""
MIN_WIDTH: Final = 30
"""Columns that the screen needs for the labels and a folded address. Narrower terminals get plain lines."""
RATE_WINDOW: Final = 2.0
"""Seconds over which a rate is averaged: long enough to be readable."""
MAX_SAMPLES: Final = 64
"""Samples of the byte counters to keep. The window has eight; bursts of events add more."""

_STYLES: Final = {"connected": "green", "closed": "dim", "refused": "red", "failed": "red"}
"""Styles of the states; all others are yellow."""


class LiveReporter:
    """:class:`~quictunnel.cli.reporter.Reporter` that draws on a terminal."""

    def __init__(
        self, console: Console, snapshot: Callable[[], Snapshot], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._snapshot = snapshot
        self._events: deque[tuple[str, str]] = deque(maxlen=MAX_EVENTS)
        self._opened: OpenedTunnel | None = None
        self._live: Live | None = None
        self._drawn: tuple[Snapshot, tuple[tuple[str, str], ...], tuple[str, str]] | None = None
        self._now = clock
        self._samples: deque[tuple[float, int, int]] = deque(maxlen=MAX_SAMPLES)

    def opened(self, opened: OpenedTunnel) -> None:
        """Draw the screen for the first time."""
        self._opened = opened
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False)
        self._live.start()
        self.tick()

    def event(self, event: ClientEvent) -> None:
        """Add an event and redraw."""
        self._events.append((time_of_day(event.time), one_line(event.message)))
        self.tick()

    def note(self, message: str) -> None:
        """Print a line above the screen."""
        self._console.print(Text(message))

    def tick(self) -> None:
        """Redraw the screen if it changed."""
        if self._live is None or self._opened is None:
            return
        snapshot = self._snapshot()
        state = (snapshot, tuple(self._events), self._rates(snapshot))
        if state != self._drawn:
            self._drawn = state
            self._live.update(render(self._opened, *state), refresh=True)

    def _rates(self, snapshot: Snapshot) -> tuple[str, str]:
        """Return the recent inbound and outbound rates as text; empty for zero."""
        now, samples = self._now(), self._samples
        samples.append((now, snapshot.bytes_in, snapshot.bytes_out))
        while len(samples) > 2 and now - samples[1][0] >= RATE_WINDOW:
            samples.popleft()
        begun, bytes_in, bytes_out = samples[0]
        seconds = max(now - begun, RATE_WINDOW)  # a burst shorter than the window is no rate yet
        passed = (snapshot.bytes_in - bytes_in, snapshot.bytes_out - bytes_out)
        inward, outward = (rate(count / seconds) if count > 0 else "" for count in passed)
        return inward, outward

    def closing(self) -> None:
        """Stop drawing and print that the drain begins."""
        self._stop_drawing()
        self.note(STOPPING)

    def closed(self) -> None:
        """Stop drawing."""
        self._stop_drawing()
        if self._opened is not None:
            self.note("Closed.")

    def _stop_drawing(self) -> None:
        """Stop drawing and restore the cursor. The last screen stays visible."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def render(
    opened: OpenedTunnel,
    snapshot: Snapshot,
    events: tuple[tuple[str, str], ...],
    rates: tuple[str, str] = ("", ""),
) -> Group:
    """Return the whole screen for one snapshot."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", min_width=10)
    facts.add_column(overflow="fold")
    facts.add_row("Status", _status(snapshot))
    # A terminal makes the address clickable by itself; folded and unbroken it can be copied whole.
    facts.add_row("Public", Text(opened.tunnel.url, style="bold cyan"))
    if opened.has_tcp:
        facts.add_row("TCP", Text(opened.tcp, style="bold cyan"))
    facts.add_row("Forwards", Text(opened.target))
    if opened.tunnel.inspector_url:
        facts.add_row("Inspector", Text(opened.tunnel.inspector_url, style="cyan"))
    facts.add_row("Visitors", Text(f"{snapshot.visitors_now} now · {snapshot.visitors_total} in total"))
    inward, outward = (f" at {shown}" if shown else "" for shown in rates)
    facts.add_row(
        "Traffic", Text(f"{size(snapshot.bytes_in)} in{inward} · {size(snapshot.bytes_out)} out{outward}")
    )
    if counts := _reconnect_counts(snapshot):
        facts.add_row("Link", Text(counts))

    lines = [
        Text.assemble((when, "dim"), "  ", message, no_wrap=True, overflow="ellipsis") for when, message in events
    ]
    title = Text.assemble(("quictunnel", "bold"), ("   Press Ctrl-C to stop", "dim"))
    return Group(title, Text(), facts, *([Text(), *lines] if lines else []))


def _reconnect_counts(snapshot: Snapshot) -> str:
    """Return the counts of resumes, migrations and reconnects as text; empty if all are zero."""
    counts = (
        ("resumed", snapshot.resumed),
        ("moved to another network", snapshot.migrated),
        ("reconnected", snapshot.reconnected),
    )
    return " · ".join(f"{what} {count} times" if count > 1 else f"{what} once" for what, count in counts if count)


def _status(snapshot: Snapshot) -> Text:
    style = _STYLES.get(snapshot.state, "yellow")
    rtt = "" if snapshot.rtt is None else milliseconds(snapshot.rtt)
    details = [(f" · {detail}", "dim") for detail in (rtt, snapshot.engine) if detail]
    return Text.assemble((snapshot.state, style), *details)
