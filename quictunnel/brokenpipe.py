"""The end of a command-line program whose output nobody reads any more, as in ``quictunnel doctor | head``."""

from __future__ import annotations

import os
import select
import sys
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

EXIT_STATUS: Final = 141
"""Exit status that a shell reports for a program that SIGPIPE (13) ended: 128 + 13."""


def run(program: Callable[[], int]) -> int:
    """Run a program and return its exit status, or 141 if the reader of its output has left.

    Python ignores SIGPIPE. Without this a BrokenPipeError would end the program with a traceback, or the
    interpreter would print one when it flushes stdout at exit. Everything else that the program raises, a
    BrokenPipeError of one of its connections included, passes through.
    """
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
    # They are None then, which typeshed does not say.
    return [stream for stream in (sys.stdout, sys.stderr) if stream is not None]
