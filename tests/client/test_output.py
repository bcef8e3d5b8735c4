"""What a stream can show, and a reader that has left, on real terminals, pipes and sockets."""

from __future__ import annotations

import io
import os
import pty
import socket

import pytest

from quictunnel import output


@pytest.mark.parametrize(
    ("environ", "has_cursor", "has_colour"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True, True),
        ({"TERM": "xterm", "CI": "true"}, False, True),
        ({"TERM": "dumb"}, False, False),
        ({}, False, False),
    ],
)
def test_what_a_terminal_can_show(environ: dict[str, str], has_cursor: bool, has_colour: bool) -> None:
    master, slave = pty.openpty()
    with os.fdopen(master), os.fdopen(slave, "w") as terminal:
        assert output.has_cursor(terminal, environ) == has_cursor
        assert output.has_colour(terminal, environ) == has_colour
    assert not output.has_cursor(io.StringIO(), environ)
    assert not output.has_colour(io.StringIO(), environ)


def test_a_reader_that_has_left_is_told_from_one_that_is_slow() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        assert not output.is_unread(stream)
        os.close(reader)
        assert output.is_unread(stream)
    here, there = socket.socketpair()
    with here, here.makefile("w") as stream:
        assert not output.is_unread(stream)
        there.close()
        assert output.is_unread(stream)
    assert not output.is_unread(io.StringIO())


def test_another_broken_pipe_is_not_hidden() -> None:
    """A connection of the program's own that was cut is a fault to be told."""

    def program() -> int:
        here, there = socket.socketpair()
        with here:
            there.close()
            here.send(b"anybody?")
        return 0

    with pytest.raises(BrokenPipeError):
        output.run(program)
