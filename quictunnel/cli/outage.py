"""Sentences about a lost connection to the edge: how long it lasts, who waits, and who was lost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from quictunnel.cli.formatting import count_of, span

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.events import ClientEvent, Snapshot

REMINDER_INTERVAL: Final = 60.0
"""Seconds between lines about an outage that lasts, in an output that is not redrawn."""
_SUSPECT: Final = "suspect"
_DOWN: Final = frozenset({_SUSPECT, "away", "reconnecting", "resuming"})
"""States without a usable connection. ``suspect`` is one of them, because visitors wait in it as well."""
_REPLACED: Final = frozenset({"away", "reconnecting", "resuming", "resumed"})
"""Events within an outage that its own sentences replace."""


class Outage:
    """Observer of a client's connection. All methods are called on one thread."""

    def __init__(self, snapshot: Callable[[], Snapshot], clock: Callable[[], float] = time.monotonic) -> None:
        self._snapshot = snapshot
        self._now = clock
        self._began: float | None = None
        self._lost_before = 0
        self._was_down = False
        """True if the connection was really lost: not only suspect."""
        self._reminded = 0.0

    def message(self, event: ClientEvent) -> str | None:
        """Return what to show for an event: its message, a sentence about the outage, or None for nothing."""
        if event.kind in _DOWN and self._began is None:
            self._began = self._reminded = self._now()
            self._lost_before = self._snapshot().visitors_lost
            self._was_down = False
        if self._began is None:
            return event.message
        if event.kind == "connected":
            return self._end()
        is_first = not self._was_down
        self._was_down = self._was_down or event.kind in _REPLACED
        if event.kind in _REPLACED:
            return self.status() if is_first else None
        return self.status() if event.kind == _SUSPECT else event.message

    def reminder(self) -> str | None:
        """Return a sentence about an outage that has lasted for another minute, or None."""
        if self._began is None or self._now() < self._reminded + REMINDER_INTERVAL:
            return None
        self._reminded = self._now()
        return self.status()

    def status(self) -> str:
        """Return a sentence about the current outage, or an empty string if the connection is usable."""
        if self._began is None:
            return ""
        snapshot = self._snapshot()
        seconds = self._now() - self._began
        since = f" ({span(seconds)})" if seconds >= 1 else ""
        what = "Connection lost, reconnecting" if self._was_down else "The edge does not answer, dialling again"
        waiting, lost = snapshot.visitors_now, snapshot.visitors_lost - self._lost_before
        parts = [f"{what}{since}"]
        if waiting:
            parts.append(f"{count_of(waiting, 'visitor')} {'waits' if waiting == 1 else 'wait'}")
        if lost:
            parts.append(_lost(lost))
        return "; ".join(parts)

    def _end(self) -> str:
        assert self._began is not None, "an outage has begun"
        seconds, self._began = self._now() - self._began, None
        lost = self._snapshot().visitors_lost - self._lost_before
        what = "Connected again" if self._was_down else "The edge answers again"
        return f"{what} after {span(seconds)}; {_lost(lost)}"


def _lost(count: int) -> str:
    """Return how many visitors were lost. Those that could not connect meanwhile are not counted, nor known."""
    if not count:
        return "no open connection of a visitor was lost"
    return f"{count_of(count, 'visitor')} {'was' if count == 1 else 'were'} lost"
