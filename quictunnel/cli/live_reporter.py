"""Live screen for a terminal: addresses, visitors, traffic, recent events and requests.

It is redrawn in place, below the terminal's earlier output, and only when it changed. Text from peers is escaped
and cut, so that it never moves the cursor or fills a second line.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple, TextIO

from quictunnel.cli.formatting import milliseconds, rate, size
from quictunnel.cli.outage import Outage
from quictunnel.cli.reporter import FINAL_EVENTS, STOPPING, one_line, time_of_day
from quictunnel.cli.request_lines import WIDTH_FOR_TIME, cells, cut, request_line, skipped_line
from quictunnel.cli.screen import Screen, terminal_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from quictunnel.cli.reporter import OpenedTunnel
    from quictunnel.cli.request_lines import RequestBatch, RequestLine
    from quictunnel.events import ClientEvent, Snapshot

MAX_EVENTS: Final = 6
"""Recent events to keep."""
MAX_EVENTS_BESIDE: Final = 3
"""Recent events on the screen if there are requests, which get the other rows."""
MAX_REQUESTS: Final = 100
"""Recent requests to keep: more than the rows of most terminals."""
MIN_WIDTH: Final = 30
"""Columns that the screen needs for the labels and a folded address. Narrower terminals get plain lines."""
MIN_HEIGHT: Final = 10
"""Rows that the screen needs for the facts. Lower terminals get plain lines."""
LABEL: Final = 12
"""Columns of a label and the space behind it."""
REDRAW_INTERVAL: Final = 0.1
"""Seconds between two drawings because of events; their number is not limited."""
RATE_WINDOW: Final = 2.0
"""Seconds over which a rate is averaged: long enough to be readable."""
MAX_SAMPLES: Final = 64
"""Samples of the byte counters to keep. The window has eight; bursts of events add more."""

_BOLD, _DIM, _RED, _GREEN, _YELLOW, _CYAN = "1", "2", "31", "32", "33", "36"
_STATE_STYLES: Final = {"connected": _GREEN, "closed": _DIM, "refused": _RED, "failed": _RED}
"""Styles of the states; all others are yellow."""
_STATUS_STYLES: Final = {1: _CYAN, 2: _GREEN, 3: _CYAN, 4: _YELLOW, 5: _RED}
"""Styles of a response by the first digit of its status."""
_LABEL_STYLE: Final = _DIM


class Timed(NamedTuple):
    """Event or request with the local time of day."""

    when: str
    text: str | RequestLine


class Palette:
    """Styles of text; none on a terminal without colours."""

    def __init__(self, *, has_colour: bool) -> None:
        self._has_colour = has_colour

    def __call__(self, text: str, style: str) -> str:
        """Return text in a style."""
        return f"\x1b[{style}m{text}\x1b[0m" if self._has_colour and style and text else text


class LiveReporter:
    """:class:`~quictunnel.cli.reporter.Reporter` that draws on a terminal."""

    def __init__(
        self,
        out: TextIO,
        snapshot: Callable[[], Snapshot],
        *,
        has_colour: bool = True,
        terminal: Callable[[], os.terminal_size] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create a reporter.

        Args:
            out: the terminal.
            snapshot: function that returns the figures of the client.
            has_colour: False for a terminal without colours.
            terminal: function that returns the size of the terminal, by default that of ``out``.
            clock: the monotonic clock.
        """
        self._out = out
        self._snapshot = snapshot
        self._now = clock
        self._size = terminal or (lambda: terminal_size(out))
        self._screen = Screen(out, self._size)
        self._outage = Outage(snapshot, clock)
        self._palette = Palette(has_colour=has_colour)
        self._events: deque[Timed] = deque(maxlen=MAX_EVENTS)
        self._requests: deque[Timed] = deque(maxlen=MAX_REQUESTS)
        self._opened: OpenedTunnel | None = None
        self._is_live = False
        self._is_drawing = False
        self._is_suspend_due = False
        self._drawn_at = float("-inf")
        self._samples: deque[tuple[float, int, int]] = deque(maxlen=MAX_SAMPLES)
        self._restore = contextlib.ExitStack()

    def opened(self, opened: OpenedTunnel) -> None:
        """Draw the screen for the first time."""
        self._opened = opened
        self._is_live = True
        self._screen.start()
        self._restore.enter_context(self._suspending())
        self.tick()

    def event(self, event: ClientEvent) -> None:
        """Add an event and redraw. An event is not shown if an error follows that says the same."""
        message = self._outage.message(event)
        if message is not None and event.kind not in FINAL_EVENTS:
            self._events.append(Timed(time_of_day(event.time), one_line(message)))
        if self._now() >= self._drawn_at + REDRAW_INTERVAL:
            self.tick()

    def requests(self, batch: RequestBatch) -> None:
        """Add requests, which the next :meth:`tick` draws."""
        when = time_of_day(time.time())
        self._requests.extend(Timed(when, request_line(each)) for each in batch.shown)
        if batch.skipped:
            self._requests.append(Timed(when, skipped_line(batch.skipped)))

    def note(self, message: str) -> None:
        """Print a line above the screen."""
        self._screen.print_above(f"{message}\n")

    def tick(self) -> None:
        """Redraw the screen if it changed."""
        if not self._is_live or self._opened is None:
            return
        self._is_drawing = True
        try:
            self._drawn_at = self._now()
            snapshot, terminal = self._snapshot(), self._size()
            lines = facts(
                self._opened,
                snapshot,
                self._rates(snapshot),
                outage=self._outage.status(),
                width=terminal.columns,
                palette=self._palette,
            )
            lines += self._recent(terminal.columns, terminal.lines - 1 - len(lines))
            self._screen.draw(lines)
        finally:
            self._is_drawing = False
        if self._is_suspend_due:
            self._suspend()

    def closing(self) -> None:
        """Stop drawing and print that the drain begins."""
        self._stop_drawing()
        self.note(STOPPING)

    def closed(self) -> None:
        """Stop drawing."""
        self._stop_drawing()
        if self._opened is not None:
            self.note("Closed.")

    def _recent(self, width: int, rows: int) -> list[str]:
        """Return the last events and requests that fit into a number of rows."""
        limit = MAX_EVENTS_BESIDE if self._requests else MAX_EVENTS
        events = list(self._events)[-max(0, min(limit, rows - 1)) :] if rows > 1 else []
        rows -= len(events) + 1 if events else 0
        requests = list(self._requests)[-(rows - 1) :] if rows > 1 else []
        lines = ["", *(event_text(each, width, self._palette) for each in events)] if events else []
        return lines + (["", *request_texts(requests, width, self._palette)] if requests else [])

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

    def _stop_drawing(self) -> None:
        """Draw what came last, and restore the terminal. The last screen stays visible."""
        if self._is_live:
            self._drawn_at = float("-inf")
            self.tick()
            self._is_live = False
            self._restore.close()
            self._screen.stop()

    # Ctrl-Z.

    @contextlib.contextmanager
    def _suspending(self) -> Iterator[None]:
        """Restore the terminal before Ctrl-Z stops this process, and draw again when it continues."""
        number = getattr(signal, "SIGTSTP", None)
        if number is None or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(number)
        if before is not signal.SIG_DFL:  # ignored by a parent without job control
            yield
            return
        signal.signal(number, self._on_stop_signal)
        try:
            yield
        finally:
            signal.signal(number, before)

    def _on_stop_signal(self, _number: int, _frame: object) -> None:
        if self._is_drawing:
            self._is_suspend_due = True  # half a line may be written: tick() goes on first
        else:
            self._suspend()

    def _suspend(self) -> None:
        """Stop this process as Ctrl-Z does. Return when it continues."""
        self._is_suspend_due = False
        self._screen.leave()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._on_stop_signal)
        self._samples.clear()
        self.tick()


def facts(
    opened: OpenedTunnel,
    snapshot: Snapshot,
    rates: tuple[str, str],
    *,
    outage: str,
    width: int,
    palette: Palette,
) -> list[str]:
    """Return the lines about the tunnel as a whole.

    Args:
        opened: the tunnel.
        snapshot: the figures of the client.
        rates: inbound and outbound rate; each may be empty.
        outage: sentence about a connection that is lost, or empty.
        width: columns of the terminal.
        palette: the styles.
    """
    inward, outward = (f" at {shown}" if shown else "" for shown in rates)
    counts = f"{snapshot.visitors_now} now · {snapshot.visitors_total} in total"
    rows = [
        ("Status", outage or _state(snapshot), _STATE_STYLES.get(snapshot.state, _YELLOW)),
        ("Public", opened.tunnel.url, f"{_BOLD};{_CYAN}"),
        ("TCP", opened.tcp, f"{_BOLD};{_CYAN}"),
        ("Forwards", opened.target, ""),
        ("Inspector", opened.tunnel.inspector_url, _CYAN),
        ("Visitors", counts, ""),
        ("Traffic", f"{size(snapshot.bytes_in)} in{inward} · {size(snapshot.bytes_out)} out{outward}", ""),
        ("Link", _reconnect_counts(snapshot), ""),
    ]
    title = palette("quictunnel", _BOLD) + palette("   Press Ctrl-C to stop", _DIM)
    lines = [title if width >= 34 else palette("quictunnel", _BOLD), ""]
    for label, text, style in rows:
        # A terminal makes an address clickable by itself; folded without a break it can be copied whole.
        for number, part in enumerate(fold(one_line(text, width * 8), width - LABEL) if text else ()):
            begin = palette(f"{'' if number else label:<{LABEL}}", _LABEL_STYLE)
            lines.append(begin + palette(part, style))
    return lines


def event_text(event: Timed, width: int, palette: Palette) -> str:
    """Return the line of an event."""
    assert isinstance(event.text, str), "an event is a sentence"
    return palette(event.when, _DIM) + "  " + cut(event.text, width - len(event.when) - 2)


def request_texts(requests: Sequence[Timed], width: int, palette: Palette) -> Iterable[str]:
    """Yield the lines of requests, with their paths in one column."""
    has_time = width >= WIDTH_FOR_TIME
    lines = [each.text for each in requests if not isinstance(each.text, str)]
    longest = min(max((cells(line.path) for line in lines), default=0), width // 2)
    for when, line in requests:
        begin = f"{when}  " if has_time else ""
        if isinstance(line, str):
            yield palette(begin + line, _DIM)
            continue
        method, path, result, rest = line.fit(width - len(begin), longest if line.path else 0)
        style = _STATUS_STYLES.get(line.status // 100, "")
        shown = (method, path, palette(result, style), palette(rest, _DIM))
        yield palette(begin, _DIM) + " ".join(part for part in shown if part)


def fold(text: str, width: int) -> Iterator[str]:
    """Yield text in pieces of at most ``width`` columns."""
    piece = ""
    for each in text:
        if piece and cells(piece + each) > width:
            yield piece
            piece = ""
        piece += each
    yield piece


def _reconnect_counts(snapshot: Snapshot) -> str:
    """Return the counts of resumes, migrations and reconnects as text; empty if all are zero."""
    counts = (
        ("resumed", snapshot.resumed),
        ("moved to another network", snapshot.migrated),
        ("reconnected", snapshot.reconnected),
    )
    return " · ".join(f"{what} {count} times" if count > 1 else f"{what} once" for what, count in counts if count)


def _state(snapshot: Snapshot) -> str:
    rtt = "" if snapshot.rtt is None else milliseconds(snapshot.rtt)
    return " · ".join(part for part in (snapshot.state, rtt, snapshot.engine) if part)
