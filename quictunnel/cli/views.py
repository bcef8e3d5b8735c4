"""How a running tunnel is shown: the face that all views share, and the plainest of them.

Three views exist: lines for a pipe or a log file (here), JSON lines for programs (``events``) and a screen
for a terminal (``screen``). All are called from one thread.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TextIO

if TYPE_CHECKING:
    from quictunnel.events import ClientEvent
    from quictunnel.tunnel import Tunnel

MAX_MESSAGE: Final = 200
"""Characters of a message that are shown. It may quote a peer, who must not be able to fill a terminal."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What a view is told when the tunnel is open."""

    tunnel: Tunnel
    port: int
    has_tcp: bool

    @property
    def tcp(self) -> str:
        return "{}:{}".format(*self.tunnel.tcp_socket) if self.has_tcp else ""


class View(Protocol):
    """One way of showing. Calls come in this order: opened, then event and tick, closing, closed."""

    def opened(self, opened: Opened) -> None: ...

    def event(self, event: ClientEvent) -> None: ...

    def note(self, message: str) -> None:
        """A sentence of the command line's own."""

    def tick(self) -> None:
        """A moment has passed; numbers may have changed."""

    def closing(self) -> None:
        """Stopping begins: no new visitors, those under way may finish."""

    def closed(self) -> None:
        """Over. Also called without ``closing`` when the tunnel failed, and alone when it never opened."""


class PlainView:
    """One line for each thing worth knowing; no cursor movement, so a log file stays readable."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._was_open = False

    def opened(self, opened: Opened) -> None:
        self._was_open = True
        self._line(f"Public address: {opened.tunnel.url}")
        if opened.has_tcp:
            self._line(f"TCP address:    {opened.tcp}")
        self._line(f"Forwards to:    localhost:{opened.port}")
        if opened.tunnel.inspector_url:
            self._line(f"Inspector:      {opened.tunnel.inspector_url}")
        self._line("Ctrl-C stops it.")

    def event(self, event: ClientEvent) -> None:
        self._line(f"{clock(event.time)}  {printable(event.message)}")

    def note(self, message: str) -> None:
        self._line(message)

    def tick(self) -> None:
        """Numbers that change would only be noise in lines."""

    def closing(self) -> None:
        self._line("Stopping; visitors under way may finish. Ctrl-C again ends at once.")

    def closed(self) -> None:
        if self._was_open:
            self._line("Closed.")

    def _line(self, text: str) -> None:
        print(text, file=self._out, flush=True)


def printable(text: str) -> str:
    """One bounded line without anything that a terminal would obey."""
    line = "".join(character if character.isprintable() else " " for character in text[: MAX_MESSAGE + 1])
    return line if len(line) <= MAX_MESSAGE else line[: MAX_MESSAGE - 1] + "…"


def clock(seconds: float) -> str:
    """Local time of day, as a person compares it with a watch."""
    return time.strftime("%H:%M:%S", time.localtime(seconds))
