"""A terminal for programs under test: a pseudo terminal with a shell that has job control, and what it displays.

The emulator knows the few control sequences that quictunnel writes, and fails on any other. Like xterm it wraps
nothing again when its size changes: a narrower terminal cuts lines off.
"""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from typing import TYPE_CHECKING, Self

from tests.harness.programs import need
from tests.harness.waiting import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SEQUENCE = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])")
PROMPT = "$ "


class Display:
    """Content of a terminal: rows, cursor, and the rows that were scrolled off."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.lines = [""] * rows
        self.history: list[str] = []
        self.row = self.column = 0
        self.has_cursor = True
        self.has_colour = False
        self._pending = ""

    @property
    def text(self) -> str:
        """All rows, without spaces at their ends."""
        return "\n".join(line.rstrip() for line in self.lines)

    def resize(self, columns: int, rows: int) -> None:
        """Change the size. Rows that do not fit are scrolled off above the cursor."""
        self.columns = columns
        self.lines = [line[:columns] for line in self.lines]
        while len(self.lines) > rows:
            if self.row < rows:
                self.lines.pop()
            else:
                self.history.append(self.lines.pop(0))
                self.row -= 1
        self.lines += [""] * (rows - len(self.lines))
        self.rows = rows
        self.column = min(self.column, columns)

    def feed(self, text: str) -> None:
        """Display output."""
        text, self._pending = self._pending + text, ""
        at = 0
        while at < len(text):
            if text[at] != "\x1b":
                self._put(text[at])
                at += 1
                continue
            match = SEQUENCE.match(text, at)
            if match is None:
                assert len(text) - at < 16, f"unknown sequence {text[at : at + 16]!r}"
                self._pending = text[at:]
                return
            self._control(*match.groups())
            at = match.end()

    def _put(self, character: str) -> None:
        if character == "\n":
            self.row += 1
        elif character == "\r":
            self.column = 0
        elif character == "\b":
            self.column = max(0, self.column - 1)
        elif character != "\a":
            assert character.isprintable(), f"control character {character!r}"
            if self.column >= self.columns:
                self.row, self.column = self.row + 1, 0
                self._scroll()
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
            self.column += 1
        self._scroll()

    def _scroll(self) -> None:
        while self.row >= self.rows:
            self.history.append(self.lines.pop(0))
            self.lines.append("")
            self.row -= 1

    def _control(self, private: str, numbers: str, final: str) -> None:
        number = int(numbers.partition(";")[0] or "0")
        if private:
            assert numbers in ("25", "2004"), f"mode {numbers}"  # the cursor; bracketed paste, of the shell
            if numbers == "25":
                self.has_cursor = final == "h"
        elif final == "A":
            self.row = max(0, self.row - max(1, number))
        elif final == "H":
            self.row = self.column = 0
        elif final == "K":
            self.lines[self.row] = "" if number == 2 else self.lines[self.row][: self.column]
        elif final == "J":
            if number == 2:
                self.lines = [""] * self.rows
            else:
                self.lines[self.row] = self.lines[self.row][: self.column]
                self.lines[self.row + 1 :] = [""] * (self.rows - self.row - 1)
        elif final == "m":
            self.has_colour = self.has_colour or number != 0
        else:
            raise AssertionError(f"unknown sequence {numbers}{final}")


class Terminal:
    """Interactive shell on a pseudo terminal, during a ``with`` block."""

    def __init__(self, environ: Mapping[str, str], columns: int = 80, rows: int = 24) -> None:
        self.display = Display(columns, rows)
        self.raw = ""
        """Everything that was written to the terminal."""
        self._environ = {"TERM": "xterm", "PS1": PROMPT, "LANG": "C.UTF-8", **environ}
        for name in ("COLUMNS", "LINES", "CI", "PROMPT_COMMAND"):
            self._environ.pop(name, None)
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def __enter__(self) -> Self:
        self._master, slave = pty.openpty()
        self._set_size()
        self._shell = subprocess.Popen(
            [need("setsid"), "--ctty", need("bash"), "--norc", "--noprofile", "--noediting", "-i"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=self._environ,
        )
        os.close(slave)
        self.wait_for(PROMPT.strip())
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            # Of the session: the shell, and a program in the foreground or stopped.
            for group in {self._shell.pid, os.tcgetpgrp(self._master)}:
                os.killpg(group, signal.SIGCONT)
                os.killpg(group, signal.SIGKILL)
        self._shell.wait(10)
        os.close(self._master)

    def run(self, *words: str) -> None:
        """Type a command line."""
        self.type(" ".join(words) + "\n")

    def type(self, text: str) -> None:
        """Type text; ``\\x1a`` is Ctrl-Z."""
        os.write(self._master, text.encode())

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the window, as its user does."""
        self.display.resize(columns, rows)
        self._set_size()

    def wait_for(self, *texts: str, gone: Sequence[str] = (), timeout: float = TIMEOUT) -> str:
        """Return what is displayed when it contains all texts and nothing that should be gone."""
        deadline = time.monotonic() + timeout
        while True:
            self._read()
            shown = self.display.text
            if all(text in shown for text in texts) and not any(text in shown for text in gone):
                return shown
            assert time.monotonic() < deadline, f"{texts} without {gone}, but:\n{shown}"

    def wait_for_program(self) -> None:
        """Wait until the shell has given the terminal to a program: it shows the command line before that."""
        deadline = time.monotonic() + TIMEOUT
        while os.tcgetpgrp(self._master) == self._shell.pid:
            assert time.monotonic() < deadline, "the shell keeps the terminal"
            self._read()

    def _read(self) -> None:
        readable, _, _ = select.select([self._master], [], [], 0.05)
        if readable:
            text = self._decoder.decode(os.read(self._master, 65536))
            self.raw += text
            self.display.feed(text)

    def _set_size(self) -> None:
        size = struct.pack("HHHH", self.display.rows, self.display.columns, 0, 0)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)
