"""Lines at the bottom of a terminal's output that are redrawn in place.

No alternate screen: what was printed before stays above, and the last lines stay when the program ends. The cursor
is hidden, and is below the last line, so that ``^C`` and typed characters appear there.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import threading
from typing import TYPE_CHECKING, Final, TextIO, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

HIDE_CURSOR: Final = "\x1b[?25l"
SHOW_CURSOR: Final = "\x1b[?25h"
CLEAR_LINE: Final = "\x1b[2K"
CLEAR_BELOW: Final = "\x1b[J"
CLEAR_ALL: Final = "\x1b[H\x1b[2J"
MAX_LINE: Final = 4096
"""Characters of an unfinished line on stderr to keep."""


class Screen:
    """Block of lines that is redrawn. May be used from any thread."""

    def __init__(self, out: TextIO, size: Callable[[], os.terminal_size]) -> None:
        """Create a block that is not drawn yet.

        Args:
            out: the terminal.
            size: function that returns its size.
        """
        self._out = out
        self._size = size
        self._lock = threading.RLock()
        self._lines: tuple[str, ...] = ()
        self._drawn_rows = 0
        """Rows of the block on the terminal; 0 if it is not there."""
        self._columns = 0
        self._is_hidden = False
        """True if the cursor is hidden."""
        self._stderr: TextIO | None = None

    def start(self) -> None:
        """Print what other code writes to stderr above the block, if it is the same terminal."""
        if sys.stderr is not None and sys.stderr.isatty():
            self._stderr = sys.stderr
            sys.stderr = cast("TextIO", _LinesAbove(sys.stderr, self))

    def draw(self, lines: Sequence[str]) -> None:
        """Draw lines, each of which fits the terminal's width. Those that do not fit its height are left out."""
        with self._lock:
            if is_in_background(self._out):
                return  # the terminal belongs to another program now
            columns, rows = self._size()
            is_narrower = columns < self._columns
            is_new = not self._drawn_rows
            shown = tuple(lines[: max(1, rows - 1)])
            if shown == self._lines and columns == self._columns and not is_new:
                return
            self._lines, self._columns = shown, columns
            # On a narrower terminal the old lines may have been wrapped, in a way that is not known.
            frame = CLEAR_ALL if is_narrower and not is_new else self._to_top(rows)
            self._write(("" if self._is_hidden else HIDE_CURSOR) + frame + self._block())
            self._is_hidden = True

    def print_above(self, text: str, out: TextIO | None = None) -> None:
        """Print whole lines above the block, to another stream on the same terminal if one is given."""
        with self._lock:
            is_drawn = self._drawn_rows > 0
            if is_drawn:
                self._write(self._to_top(self._size().lines) + CLEAR_BELOW)
                self._drawn_rows = 0
            target = out or self._out
            target.write(text)
            target.flush()
            if is_drawn:
                self._write(self._block())

    def leave(self) -> None:
        """Show the cursor, and leave the block as it is. The next :meth:`draw` draws it again, below."""
        with self._lock:
            if self._is_hidden:
                self._write(SHOW_CURSOR)
            self._is_hidden = False
            self._drawn_rows = 0
            self._columns = 0

    def stop(self) -> None:
        """Leave the block, and give stderr back."""
        self.leave()
        if self._stderr is not None:
            sys.stderr.flush()
            sys.stderr, self._stderr = self._stderr, None

    def _to_top(self, rows: int) -> str:
        """Return the control sequence for the block's first line. On a terminal that became lower, it is the first
        row."""
        up = min(self._drawn_rows, rows - 1)
        return f"\r\x1b[{up}A" if up > 0 else "\r"

    def _block(self) -> str:
        self._drawn_rows = len(self._lines)
        # Each line is cleared before it is written: afterwards, one of full width would lose its last column.
        return "".join(f"{CLEAR_LINE}{line}\n" for line in self._lines) + CLEAR_BELOW

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


class _LinesAbove(io.TextIOBase):
    """Stream whose lines are printed above a block."""

    def __init__(self, stream: TextIO, screen: Screen) -> None:
        self._stream = stream
        self._screen = screen
        self._pending = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]  # an attribute of the base class
        """The stream's encoding."""
        return self._stream.encoding

    def isatty(self) -> bool:
        """Return True: the stream is a terminal."""
        return True

    def fileno(self) -> int:
        """Return the stream's descriptor."""
        return self._stream.fileno()

    def writable(self) -> bool:
        """Return True: the stream accepts text."""
        return True

    def write(self, text: str) -> int:
        """Print the lines that are complete."""
        lines, end, rest = (self._pending + text).rpartition("\n")
        self._pending = rest
        if end or len(rest) > MAX_LINE:
            complete = lines + end if end else self._take_rest()
            self._screen.print_above(complete, self._stream)
        return len(text)

    def flush(self) -> None:
        """Print what is left, as a line."""
        if self._pending:
            self._screen.print_above(self._take_rest(), self._stream)

    def _take_rest(self) -> str:
        rest, self._pending = self._pending, ""
        return rest + "\n"


def terminal_size(stream: TextIO, fallback: tuple[int, int] = (80, 24)) -> os.terminal_size:
    """Return the size of a stream's terminal. COLUMNS and LINES, which do not follow a change, count only if the
    terminal does not know its size."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: a stream in memory
        size = os.get_terminal_size(stream.fileno())
        if size.columns > 0 and size.lines > 0:
            return size
    return shutil.get_terminal_size(fallback)


def is_in_background(stream: TextIO) -> bool:
    """Return True if the stream's terminal belongs to another process group, as after ``bg``."""
    if not hasattr(os, "tcgetpgrp"):
        return False
    try:
        return os.tcgetpgrp(stream.fileno()) != os.getpgrp()
    except (OSError, ValueError):  # not this process's terminal, or none
        return False


def plain_lines(lines: Iterable[str]) -> str:
    """Return lines as one text, each with its end."""
    return "".join(f"{line}\n" for line in lines)
