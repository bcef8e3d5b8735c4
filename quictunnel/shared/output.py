"""Standard output and error of the command-line programs: terminals, full disks, closed pipes."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

from quictunnel.errors import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

EXIT_STATUS: Final = 141
"""Exit status that a shell reports for a program that SIGPIPE (13) ended: 128 + 13."""
FAILED: Final = 1
"""Exit status when the output cannot be written."""
FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a file that takes no more output: full disk, quota, size limit."""
DUMB: Final = ("dumb", "unknown")
"""Values of TERM for a terminal without cursor movement: Emacs' shell, some editors and CI systems."""


MAX_PENDING: Final = 64 * 1024
"""Characters that a :class:`SteadyOutput` buffers until a line ends."""
FULL_PIPE_WAIT: Final = 1.0
"""Seconds to wait for the reader of a non-blocking pipe."""


def lost_line(count: int, why: str) -> str:
    """Return the line that replaces ``count`` lines which could not be written."""
    return f"[{count} lines could not be written: {why}]"


class SteadyOutput(io.TextIOBase):
    """Output stream for a program that continues when a line cannot be written: full disk, limit, lost terminal.

    The failure is reported once on the ``other`` stream. Each line is tried; before the first that succeeds again,
    a line reports how many are missing. Lines are not stored meanwhile. A closed pipe still raises
    BrokenPipeError.
    """

    def __init__(
        self,
        stream: TextIO,
        name: str,
        other: TextIO | None = None,
        lost: Callable[[int, str], str] | None = None,
        *,
        is_redacted: bool = False,
    ) -> None:
        """Wrap a stream.

        Args:
            stream: the stream to write to.
            name: name of the stream in the failure message.
            other: stream for the failure message; None to report nothing.
            lost: function that makes the line about missing lines from their count and the reason.
            is_redacted: remove tokens and credentials from the text.
        """
        self.lost = lost or lost_line
        self._stream = stream
        self._name = name
        self._other = other
        self._is_redacted = is_redacted
        self._descriptor = _descriptor_of(stream)
        self._pending = ""
        self._missing = 0
        self._why = ""
        self._is_torn = False
        """True if the last line was written in part, so that the next must begin with a line break."""

    @property
    def encoding(self) -> str:  # type: ignore[override]  # an attribute of the base class
        """The wrapped stream's encoding."""
        return self._stream.encoding or "utf-8"

    @property
    def stream(self) -> TextIO:
        """The wrapped stream."""
        return self._stream

    def isatty(self) -> bool:
        """Return True if the wrapped stream is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the wrapped stream's descriptor."""
        return self._stream.fileno()

    def writable(self) -> bool:
        """Return True: the stream accepts text."""
        return True

    def write(self, text: str) -> int:
        """Buffer text and flush it at a line break. Raises BrokenPipeError only."""
        self._pending += text
        if "\n" in text or len(self._pending) > MAX_PENDING:
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Write the buffered text. Raises BrokenPipeError only."""
        text, self._pending = self._pending, ""
        if not text:
            return
        if self._is_redacted:
            text = redact(text)
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
            with contextlib.suppress(OSError, ValueError):  # no stream is left for the message
                print(f"quictunnel: {self._name} cannot be written ({self._why}); continuing without it",
                      file=self._other, flush=True)  # fmt: skip


def _descriptor_of(stream: Any) -> int | None:
    """Return the descriptor of a stream on a file, or None. Writes to it bypass the stream's buffer, because a
    buffer keeps the bytes that a full disk does not take, and raises for them again and again."""
    if not (isinstance(stream, io.TextIOWrapper) and isinstance(getattr(stream.buffer, "raw", None), io.FileIO)):
        return None
    return stream.fileno()


def _becomes_writable(descriptor: int) -> bool:
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(FULL_PIPE_WAIT * 1000))


def escape_unprintable(line: str) -> str:
    """Return a line with unprintable characters, such as terminal control sequences, escaped as in Python."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def open_descriptors() -> None:
    """Open those of the descriptors 0, 1 and 2 that are closed, on the null device.

    Otherwise a socket could get one of these numbers, and output for stdout would go to it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


def standard_output() -> TextIO:
    """Return the stream for a server's output: stdout, or stderr if the process was started without stdout."""
    if sys.stdout is None:
        return sys.stderr
    return cast("TextIO", SteadyOutput(sys.stdout, "standard output", sys.stderr))


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - open until the process ends


@contextlib.contextmanager
def _steady_errors() -> Iterator[None]:
    """Replace stderr by a stream whose writes never raise, except BrokenPipeError.

    It is redacted: a program's secrets go to stdout, and every error message and log line passes here."""
    before = sys.stderr
    stream = _nowhere() if before is None else before
    # A failure of stderr is not reported: stdout is for the program's results.
    sys.stderr = cast("TextIO", SteadyOutput(stream, "standard error", is_redacted=True))
    try:
        yield
    finally:
        sys.stderr = before


def run(program: Callable[[], int]) -> int:
    """Run a program and return its exit status, or 141 if the reader of its output has closed the pipe.

    Python ignores SIGPIPE. Without this function a BrokenPipeError would end the program with a traceback, or the
    interpreter would print one when it flushes stdout at exit. Every other exception of the program passes
    through, also a BrokenPipeError of one of its connections.

    A character that the output's encoding lacks is written as a question mark (``PYTHONIOENCODING=ascii``).
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
        print(f"error: the output cannot be written: {error.strerror}", file=sys.stderr)  # noqa: T201 - the user's error
        return FAILED


def has_cursor(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Return True if a stream is a terminal on which lines can be redrawn in place.

    The terminal of a CI system is not one, because its output becomes a log.
    """
    return stream.isatty() and not _is_dumb(environ) and not environ.get("CI")


def has_colour(stream: TextIO | None, environ: Mapping[str, str]) -> bool:
    """Return True if a stream is a terminal with colours and NO_COLOR is not set (https://no-color.org)."""
    return stream is not None and stream.isatty() and not _is_dumb(environ) and not environ.get("NO_COLOR")


def is_unread(stream: TextIO) -> bool:
    """Return True if a stream writes to a pipe or socket whose other end is closed."""
    if not hasattr(select, "poll"):  # not available on Windows
        return True
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # a stream in memory, or one that is closed
        return False
    poll = select.poll()
    poll.register(descriptor, 0)  # poll always reports errors and hang-ups
    return bool(poll.poll(0))


def discard(stream: TextIO) -> None:
    """Redirect a stream to the null device, because its buffered bytes would raise again at the interpreter's
    exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _outputs() -> list[TextIO]:
    """Return those of stdout and stderr with which the process was started."""
    return [stream for stream in (sys.stdout, sys.stderr) if stream is not None]


def _is_dumb(environ: Mapping[str, str]) -> bool:
    term = environ.get("TERM", "")
    # Windows does not set TERM.
    return term in DUMB or (not term and os.name == "posix")
