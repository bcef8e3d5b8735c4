"""The screen that a person watches: addresses, visitors, traffic, what happened lately.

It is drawn in place, below what the terminal already shows, and only when something on it changed; nothing
blinks, scrolls or asks for attention while all is well. Text from elsewhere is never read as markup.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from quictunnel.cli.views import clock, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.cli.views import Opened
    from quictunnel.observation import ClientEvent, Snapshot

MAX_EVENTS: Final = 6
"""Recent events on the screen: with the rest, 16 rows, which fits a 24-row terminal with room above."""

_STYLES: Final = {"connected": "green", "draining": "yellow", "closed": "dim", "refused": "red", "failed": "red"}
_UNITS: Final = ("kB", "MB", "GB", "TB")


class ScreenView:
    """A :class:`~quictunnel.cli.views.View` on a terminal."""

    def __init__(self, console: Console, snapshot: Callable[[], Snapshot]) -> None:
        self._console = console
        self._snapshot = snapshot
        self._events: deque[tuple[str, str]] = deque(maxlen=MAX_EVENTS)
        self._opened: Opened | None = None
        self._live: Live | None = None
        self._drawn: tuple[Snapshot, tuple[tuple[str, str], ...]] | None = None

    def opened(self, opened: Opened) -> None:
        self._opened = opened
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False)
        self._live.start()
        self.tick()

    def event(self, event: ClientEvent) -> None:
        self._events.append((clock(event.time), printable(event.message)))
        self.tick()

    def note(self, message: str) -> None:
        self._console.print(Text(message))

    def tick(self) -> None:
        if self._live is None or self._opened is None:
            return
        state = (self._snapshot(), tuple(self._events))
        if state != self._drawn:
            self._drawn = state
            self._live.update(render(self._opened, *state), refresh=True)

    def closing(self) -> None:
        self._leave()
        self.note("Stopping; visitors under way may finish. Ctrl-C again ends at once.")

    def closed(self) -> None:
        self._leave()
        if self._opened is not None:
            self.note("Closed.")

    def _leave(self) -> None:
        """Stop drawing and give the cursor back; what was drawn stays to be read."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def render(opened: Opened, snapshot: Snapshot, events: tuple[tuple[str, str], ...]) -> Group:
    """The whole screen for one moment."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", min_width=10)
    facts.add_column(overflow="fold")
    facts.add_row("Status", _status(snapshot))
    # A terminal makes the address clickable by itself; folded and unbroken it can be copied whole.
    facts.add_row("Public", Text(opened.tunnel.url, style="bold cyan"))
    if opened.has_tcp:
        facts.add_row("TCP", Text(opened.tcp, style="bold cyan"))
    facts.add_row("Forwards", Text(f"localhost:{opened.port}"))
    facts.add_row("Visitors", Text(f"{snapshot.visitors_now} now · {snapshot.visitors_total} in total"))
    facts.add_row("Traffic", Text(f"{size(snapshot.bytes_in)} in · {size(snapshot.bytes_out)} out"))

    lines = [
        Text.assemble((when, "dim"), "  ", message, no_wrap=True, overflow="ellipsis") for when, message in events
    ]
    title = Text.assemble(("quictunnel", "bold"), ("   Ctrl-C stops it", "dim"))
    return Group(title, Text(), facts, *([Text(), *lines] if lines else []))


def size(count: int) -> str:
    """Bytes for a person: at most four digits, decimal units as networks count."""
    if count < 1000:
        return f"{count} B"
    value = count / 1000
    for unit in _UNITS:
        # 999.5 would be rounded up to a fourth digit before the point.
        if value < 999.5 or unit == _UNITS[-1]:
            return f"{value:.{0 if value >= 99.95 else 1}f} {unit}"
        value /= 1000
    raise AssertionError("the last unit takes everything")


def _status(snapshot: Snapshot) -> Text:
    style = _STYLES.get(snapshot.state, "yellow")
    rtt = "" if snapshot.rtt is None else f"{snapshot.rtt * 1000:.0f} ms"
    details = [(f" · {detail}", "dim") for detail in (rtt, snapshot.engine) if detail]
    return Text.assemble((snapshot.state, style), *details)
