"""Reporters print what happens to an open tunnel: their interface, and the reporter for plain text.

There are three reporters: plain lines for a pipe or a log file (here), JSON lines for programs (``json_reporter``)
and a live display for a terminal (``live_reporter``). All methods are called on one thread.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TextIO

from quictunnel.cli.request_lines import WIDTH_FOR_TIME, request_line, skipped_line
from quictunnel.events import LOST

if TYPE_CHECKING:
    from quictunnel.cli.outage import Outage
    from quictunnel.cli.request_lines import RequestBatch
    from quictunnel.events import ClientEvent
    from quictunnel.tunnel import Tunnel

FINAL_EVENTS: Final = frozenset(("failed", "refused", LOST))
"""Kinds of the events after which the command ends with an error."""
MAX_MESSAGE: Final = 200
"""Characters of a message to show. The message may quote a peer, which must not be able to fill the terminal."""
STOPPING: Final = "Stopping; open connections of visitors may finish. Press Ctrl-C again to stop at once."


@dataclass(frozen=True, slots=True)
class OpenedTunnel:
    """Tunnel that was opened, with what a reporter shows of it."""

    tunnel: Tunnel
    port: int | str
    """First argument of ``forward()``."""
    has_tcp: bool

    @property
    def target(self) -> str:
        """Address of the local service, such as ``localhost:8000``."""
        return self.tunnel.target or f"localhost:{self.port}"

    @property
    def tcp(self) -> str:
        """Plain TCP address as ``host:port``; empty without one."""
        return "{}:{}".format(*self.tunnel.tcp_socket) if self.has_tcp else ""


class Reporter(Protocol):
    """Interface of a reporter. The calls come in this order: opened, event and tick, closing, closed."""

    def opened(self, opened: OpenedTunnel) -> None:
        """Show the public addresses of the open tunnel."""

    def event(self, event: ClientEvent) -> None:
        """Show an event of the client."""

    def requests(self, batch: RequestBatch) -> None:
        """Show finished requests; called before :meth:`tick`."""

    def note(self, message: str) -> None:
        """Show a message of the command itself."""

    def tick(self) -> None:
        """Update the numbers; called a few times a second."""

    def closing(self) -> None:
        """Show that the drain begins: no new visitors, open streams may finish."""

    def closed(self) -> None:
        """Show the end. Also called without ``closing`` if the tunnel failed, and alone if it never opened."""


class TextReporter:
    """:class:`Reporter` with one line for each event and no cursor movement, for pipes and log files."""

    def __init__(self, out: TextIO, outage: Outage | None = None, width: int | None = None) -> None:
        """Create a reporter.

        Args:
            out: the output.
            outage: source of sentences about a lost connection; None: print the client's events as they are.
            width: columns of the terminal to which requests are cut; None: the output is not a terminal.
        """
        self._out = out
        self._outage = outage
        self._width = width
        self._was_open = False

    def opened(self, opened: OpenedTunnel) -> None:
        """Print the public addresses."""
        self._was_open = True
        self._line(f"Public address: {opened.tunnel.url}")
        if opened.has_tcp:
            self._line(f"TCP address:    {opened.tcp}")
        self._line(f"Forwards to:    {opened.target}")
        if opened.tunnel.inspector_url:
            self._line(f"Inspector:      {opened.tunnel.inspector_url}")
        self._line("Press Ctrl-C to stop.")

    def event(self, event: ClientEvent) -> None:
        """Print an event with its time, unless an error follows that says the same."""
        if event.kind in FINAL_EVENTS:
            return
        message = event.message if self._outage is None else self._outage.message(event)
        if message is not None:
            self._line(f"{time_of_day(event.time)}  {one_line(message)}")

    def requests(self, batch: RequestBatch) -> None:
        """Print a line for each request, with the time."""
        has_time = self._width is None or self._width >= WIDTH_FOR_TIME
        when = f"{time_of_day(time.time())}  " if has_time else ""
        width = None if self._width is None else self._width - len(when)
        lines = [request_line(summary).text(width) for summary in batch.shown]
        if batch.skipped:
            lines.append(skipped_line(batch.skipped))
        if lines:
            self._line("\n".join(when + line for line in lines))

    def note(self, message: str) -> None:
        """Print a message."""
        self._line(message)

    def tick(self) -> None:
        """Print a line each minute while the connection is lost. Changing numbers would fill a log."""
        if self._outage is not None and (message := self._outage.reminder()):
            self._line(f"{time_of_day(time.time())}  {message}")

    def closing(self) -> None:
        """Print that the drain begins."""
        self._line(STOPPING)

    def closed(self) -> None:
        """Print the end of a tunnel that was open."""
        if self._was_open:
            self._line("Closed.")

    def _line(self, text: str) -> None:
        print(text, file=self._out, flush=True)


def one_line(text: str, length: int = MAX_MESSAGE) -> str:
    """Return one line of at most ``length`` characters, with unprintable characters replaced by spaces."""
    line = "".join(character if character.isprintable() else " " for character in text[: length + 1])
    return line if len(line) <= length else line[: length - 1] + "…"


def time_of_day(seconds: float) -> str:
    """Return the local time of day of a time in seconds since the epoch."""
    return time.strftime("%H:%M:%S", time.localtime(seconds))
