"""Tests of output capabilities and of readers that have closed, on real terminals, pipes and sockets."""

from __future__ import annotations

import errno
import io
import os
import pty
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

from quictunnel.shared import output
from quictunnel.shared.output import MAX_PENDING, SteadyOutput


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
def test_terminal_capabilities_are_detected(environ: dict[str, str], has_cursor: bool, has_colour: bool) -> None:
    master, slave = pty.openpty()
    with os.fdopen(master), os.fdopen(slave, "w") as terminal:
        assert output.has_cursor(terminal, environ) == has_cursor
        assert output.has_colour(terminal, environ) == has_colour
    assert not output.has_cursor(io.StringIO(), environ)
    assert not output.has_colour(io.StringIO(), environ)


def test_closed_reader_differs_from_slow_reader() -> None:
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


class TestALineThatCannotBeWritten:
    """By a program that goes on without it."""

    @pytest.fixture
    def full(self, tmp_path, monkeypatch):
        """A file on a disk that is full until its ``is_full`` is cleared."""
        real, stream = os.write, (tmp_path / "log").open("w")
        state = SimpleNamespace(stream=stream, path=tmp_path / "log", is_full=True, room=0)

        def write(descriptor: int, data: memoryview) -> int:
            if descriptor != stream.fileno() or not state.is_full:
                return real(descriptor, data)
            if not state.room:
                raise OSError(errno.ENOSPC, "No space left on device")
            taken, state.room = data[: state.room], max(0, state.room - len(data))
            return real(descriptor, taken)

        monkeypatch.setattr(os, "write", write)
        with stream:
            yield state

    def test_dropped_lines_are_counted_when_writing_resumes(self, full):
        other = io.StringIO()
        steady = SteadyOutput(full.stream, "standard output", other)
        for number in range(3):
            print("line", number, file=steady, flush=True)
        assert other.getvalue() == (
            "quictunnel: standard output cannot be written (No space left on device); continuing without it\n"
        )
        full.is_full = False
        print("line 3", file=steady, flush=True)
        print("line 4", file=steady, flush=True)
        assert full.path.read_text() == (
            "[3 lines could not be written: No space left on device]\nline 3\nline 4\n"
        )

    def test_a_line_that_was_cut_off_is_followed_by_one_of_its_own(self, full):
        steady = SteadyOutput(full.stream, "standard output", None, lambda count, _: f"<{count}>")
        full.room = 4
        print("a long line", file=steady)
        print("another", file=steady)
        full.is_full = False
        print("well again", file=steady)
        assert full.path.read_text() == "a lo\n<2>\nwell again\n"

    def test_a_stream_that_is_closed_raises_nothing(self):
        stream, other = io.StringIO(), io.StringIO()
        steady = SteadyOutput(stream, "standard error", other)
        stream.close()
        print("nobody reads this", file=steady, flush=True)
        assert "standard error cannot be written" in other.getvalue()

    def test_a_reader_that_has_left_is_another_matter(self):
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "w") as stream:
            steady = SteadyOutput(stream, "standard output")
            with pytest.raises(BrokenPipeError):
                print("nobody reads this", file=steady)

    def test_unterminated_line_is_bounded(self, full):
        steady = SteadyOutput(full.stream, "standard output")
        for _ in range(100):
            steady.write("x" * 10_000)
        assert len(steady._pending) <= MAX_PENDING


def test_descriptors_that_were_closed_go_to_no_socket(tmp_path):
    """A socket that got number 1 would be sent what some library prints."""
    code = (
        "import os\nfor number in range(3): os.close(number)\n"
        "from quictunnel.shared import output\noutput.open_descriptors()\n"
        f"report = open({str(tmp_path / 'report')!r}, 'w')\n"
        "report.write(' '.join(os.readlink(f'/proc/self/fd/{number}') for number in range(3)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "report").read_text() == "/dev/null /dev/null /dev/null"
