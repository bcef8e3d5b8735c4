"""Standard output and error of the command-line programs: what a terminal can show, and readers that leave."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

EXIT_STATUS: Final = 141
"""Exit status that a shell reports for a program that SIGPIPE (13) ended: 128 + 13."""
FAILED: Final = 1
FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Why a file takes no more of the output: a full disk, a quota, a limit."""
DUMB: Final = ("dumb", "unknown")
"""Values of TERM for a terminal that has no cursor to move: Emacs' shell, some editors and CI systems."""


MAX_PENDING: Final = 64 * 1024
"""Characters that a :class:`SteadyOutput` keeps until a line ends."""
FULL_PIPE_WAIT: Final = 1.0
"""Seconds for the reader of a pipe that somebody made non-blocking to take a line."""


def lost_line(count: int, why: str) -> str:
    """Return the line that stands for lines which could not be written."""
    return f"[{count} lines could not be written: {why}]"


class SteadyOutput(io.TextIOBase):
    """Writes the lines of a program that goes on when they cannot be written: to a full disk, beyond a limit, to a
    terminal that is gone.

    The failure is said once on the ``other`` stream. Each line is tried, and the first that works again follows a
    line that says how many are missing. Nothing is kept meanwhile. A reader that has left still raises
    BrokenPipeError, because it ends what is shown.
    """

    def __init__(
        self,
        stream: TextIO,
        name: str,
        other: TextIO | None = None,
        lost: Callable[[int, str], str] | None = None,
    ) -> None:
        """``name`` is what the stream is called in a sentence; ``lost`` makes the line about those missing."""
        self.lost = lost or lost_line
        self._stream = stream
        self._name = name
        self._other = other
        self._descriptor = _descriptor_of(stream)
        self._pending = ""
        self._missing = 0
        self._why = ""
        self._is_torn = False
        """The last line was cut off; the next one begins on a line of its own."""

    @property
    def encoding(self) -> str:  # type: ignore[override]  # an attribute of the base class
        return self._stream.encoding or "utf-8"

    @property
    def stream(self) -> TextIO:
        """The stream that is written to."""
        return self._stream

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Take text; what ends with a line break is written at once. Raises BrokenPipeError only."""
        self._pending += text
        if "\n" in text or len(self._pending) > MAX_PENDING:
            self.flush()
        return len(text)

    def flush(self) -> None:
        text, self._pending = self._pending, ""
        if not text:
            return
        if self._missing:
            note = self.lost(self._missing, self._why) + "\n"
            text = ("\n" if self._is_torn else "") + note + text
        try:
            self._put(text)
        except BrokenPipeError:
            raise
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            self._failed(text.count("\n") - (2 if self._missing and self._is_torn else bool(self._missing)), error)
        else:
            self._missing = 0
            self._is_torn = False

    def _put(self, text: str) -> None:
        if self._descriptor is None:
            self._stream.write(text)
            self._stream.flush()
            return
        data = memoryview(text.encode(self.encoding, "replace"))
        is_begun = False
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                if not _becomes_writable(self._descriptor):
                    self._is_torn = self._is_torn or is_begun
                    raise
            except OSError:
                self._is_torn = self._is_torn or is_begun
                raise
            is_begun = True

    def _failed(self, lines: int, error: OSError | ValueError) -> None:
        is_first = not self._missing
        self._missing += max(1, lines)
        self._why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        if is_first and self._other is not None:
            with contextlib.suppress(OSError, ValueError):  # there is nobody else to tell
                print(f"quictunnel: {self._name} cannot be written ({self._why}); this program goes on without it",
                      file=self._other, flush=True)  # fmt: skip


def _descriptor_of(stream: Any) -> int | None:
    """Return the descriptor of a stream on a file, which is written to past its buffer: a buffer keeps what a full
    disk does not take, and raises for it again and again."""
    if not (isinstance(stream, io.TextIOWrapper) and isinstance(getattr(stream.buffer, "raw", None), io.FileIO)):
        return None
    return stream.fileno()


def _becomes_writable(descriptor: int) -> bool:
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(FULL_PIPE_WAIT * 1000))


def visible(line: str) -> str:
    """Return a line in which whatever a terminal would obey, or not show, stands as Python would write it."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def open_descriptors() -> None:
    """Let descriptors 0, 1 and 2 lead nowhere where the process was started without them: a socket that got one of
    the numbers would be written to by whatever writes to standard output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def standard_output() -> TextIO:
    """Return what a program that serves writes its lines to: stdout, or stderr if it was started without one."""
    if sys.stdout is None:
        return sys.stderr
    return cast("TextIO", SteadyOutput(sys.stdout, "standard output", sys.stderr))


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - it stays open as long as the process


@contextlib.contextmanager
def _steady_errors() -> Iterator[None]:
    """Have what is written to stderr never raise, except for a reader that has left."""
    before = sys.stderr
    stream = _nowhere() if before is None else before
    # A line about stderr that cannot be written could only go to stdout, which is for other things.
    sys.stderr = cast("TextIO", SteadyOutput(stream, "standard error"))
    try:
        yield
    finally:
        sys.stderr = before


def run(program: Callable[[], int]) -> int:
    """Run a program and return its exit status, or 141 if the reader of its output has left.

    Python ignores SIGPIPE. Without this a BrokenPipeError would end the program with a traceback, or the
    interpreter would print one when it flushes stdout at exit. Everything else that the program raises, a
    BrokenPipeError of one of its connections included, passes through.

    A character that the encoding of the output lacks is shown as a question mark (``PYTHONIOENCODING=ascii``).
    """
    open_descriptors()
    for stream in _outputs():
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        try:
            with _steady_errors():
                return program()
        finally:
            for stream in _outputs():
                stream.flush()
    except BrokenPipeError:
        unread = [stream for stream in _outputs() if is_unread(stream)]
        if not unread:
            raise
        for stream in unread:
            discard(stream)
        return EXIT_STATUS
    except OSError as error:
        if error.errno not in FULL or sys.stdout is None:
            raise
        discard(sys.stdout)
        print(f"error: the output cannot be written: {error.strerror}", file=sys.stderr)  # noqa: T201 - for a person
        return FAILED


def has_cursor(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Return True if a stream is a terminal on which lines can be drawn again in place.

    A terminal of a CI system is not: what it shows is kept as a log.
    """
    return stream.isatty() and not _is_dumb(environ) and not environ.get("CI")


def has_colour(stream: TextIO | None, environ: Mapping[str, str]) -> bool:
    """Return True if a stream is a terminal with colours and its user wants them (https://no-color.org)."""
    return stream is not None and stream.isatty() and not _is_dumb(environ) and not environ.get("NO_COLOR")


def is_unread(stream: TextIO) -> bool:
    """Return True if a stream leads to a pipe or socket whose other end is closed."""
    if not hasattr(select, "poll"):  # Windows cannot tell
        return True
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # a stream in memory, or one that is closed
        return False
    poll = select.poll()
    poll.register(descriptor, 0)  # errors and hang-ups are reported without being asked for
    return bool(poll.poll(0))


def discard(stream: TextIO) -> None:
    """Let a stream lead nowhere. What is still buffered would raise again when the interpreter exits."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _outputs() -> list[TextIO]:
    """Return stdout and stderr, without those that the process was started without."""
    return [stream for stream in (sys.stdout, sys.stderr) if stream is not None]


def _is_dumb(environ: Mapping[str, str]) -> bool:
    term = environ.get("TERM", "")
    # Terminals of Windows have no such variable.
    return term in DUMB or (not term and os.name == "posix")
