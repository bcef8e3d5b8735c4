"""Standard output and error of the command-line programs: what a terminal can show, and readers that leave."""

from __future__ import annotations

import io
import os
import select
import sys
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

EXIT_STATUS: Final = 141
"""Exit status that a shell reports for a program that SIGPIPE (13) ended: 128 + 13."""
DUMB: Final = ("dumb", "unknown")
"""Values of TERM for a terminal that has no cursor to move: Emacs' shell, some editors and CI systems."""


def run(program: Callable[[], int]) -> int:
    """Run a program and return its exit status, or 141 if the reader of its output has left.

    Python ignores SIGPIPE. Without this a BrokenPipeError would end the program with a traceback, or the
    interpreter would print one when it flushes stdout at exit. Everything else that the program raises, a
    BrokenPipeError of one of its connections included, passes through.

    A character that the encoding of the output lacks is shown as a question mark (``PYTHONIOENCODING=ascii``).
    """
    for stream in _outputs():
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        try:
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


def has_cursor(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Return True if a stream is a terminal on which lines can be drawn again in place.

    A terminal of a CI system is not: what it shows is kept as a log.
    """
    return stream.isatty() and not _is_dumb(environ) and not environ.get("CI")


def has_colour(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Return True if a stream is a terminal with colours and its user wants them (https://no-color.org)."""
    return stream.isatty() and not _is_dumb(environ) and not environ.get("NO_COLOR")


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
