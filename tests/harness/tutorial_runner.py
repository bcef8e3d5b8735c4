"""A tutorial, done as its reader does it: terminals, what is typed in them, what they then show.

In a page, ``sh`` blocks with a title are typed in the terminal of that name, other blocks with a title are files,
and a ``text`` block is what the terminal shows after the ``sh`` block before it, ``...`` standing for anything.
Comments before a block, which readers do not see, say what is different about it:

    <!-- until: TEXT -->         it goes on running; the next block is for when TEXT was shown
    <!-- fails -->               it ends with another status than 0
    <!-- press Ctrl-C: NAME -->  before it, in the terminal of that name
    <!-- run instead: COMMAND -->  what the reader's machine has and this one has not
    <!-- also: ARGUMENTS -->       and more at its end, for the same reason
    <!-- not run: REASON -->
    <!-- each: REASON -->        its lines are run by the test, one by one
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

PATIENCE = 60.0
"""Seconds that a step may take, on a machine that is busy with something else."""
BLOCK = re.compile(
    r"((?:^<!-- [^\n]* -->\n)*)^```(\w*)(?: title=\"([^\"]*)\")?[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|[=>])")


@dataclass(frozen=True)
class Step:
    """A block of a page."""

    kind: str
    title: str
    text: str
    notes: Mapping[str, str]


def steps_of(page: str) -> list[Step]:
    """The blocks of a page in order."""
    steps = []
    for comments, kind, title, text in BLOCK.findall(page):
        said = [note.partition(": ") for note in re.findall("<!-- (.*?) -->", comments)]
        notes = {what: value for what, _, value in said}
        steps.append(Step(kind, title, text, notes))
    return steps


class Terminal:
    """A shell that somebody types in."""

    def __init__(self, enter: Sequence[str], directory: Path, environ: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        self._seen = ""
        self._mark = 0
        self._count = 0
        self._is_busy = False
        directory.mkdir(exist_ok=True)
        self._process = subprocess.Popen(
            # In our group, so that setsid makes no child, and the session has the number of the process.
            [*enter, "setsid", "--ctty", "bash", "--norc", "--noprofile", "-i"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=directory,
            env={**environ, "PS1": "", "PS2": "", "TERM": "xterm", "HISTFILE": ""},
        )
        os.close(slave)
        # Also where a mount namespace was entered, in which the directory is another one.
        self._type(f"cd {shlex.quote(str(directory))}")
        self._type("stty -echo rows 40 cols 200; bind 'set enable-bracketed-paste off'; trap 'wrong=$?' ERR")
        self.status()

    def type(self, command: str) -> None:
        """Type a command and Enter."""
        self._mark = len(self._seen)
        self._is_busy = True
        self._type(command.rstrip("\n"))

    def press_ctrl_c(self) -> None:
        """End what runs, and wait until it has ended."""
        os.write(self._master, b"\x03")
        self.status()

    def status(self) -> int:
        """Return the exit status of what was typed last, when it has ended: of the last line that failed, or 0."""
        self._count += 1
        self._type(f'echo "status" ${{wrong:-0}} "of {self._count}"; wrong=0')
        found = self._wait(rf"status (\d+) of {self._count}\r?\n")
        self._is_busy = False
        self._seen = self._seen[: found.start()] + self._seen[found.end() :]
        return int(found[1])

    def wait_for(self, text: str) -> None:
        """Wait until the last command has shown a line with a text, and all of the line."""
        self._wait(re.escape(text) + r"[^\n]*\n")

    @property
    def shown(self) -> str:
        """By the last command."""
        return self._seen[self._mark :]

    def close(self) -> None:
        """End what runs as its user would, then whatever is left, the shell first, so that it starts no more."""
        if self._is_busy:
            with contextlib.suppress(AssertionError):
                self.press_ctrl_c()
        session = self._process.pid
        while members := subprocess.run(
            ["ps", "-o", "pid=", "--sid", str(session)], capture_output=True, text=True, check=False
        ).stdout.split():
            for pid in sorted(members, key=int):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            self._process.wait(PATIENCE)
        os.close(self._master)
        # In another process namespace the shell's session has another number: closing the terminal ends it.
        self._process.wait(PATIENCE)

    def _type(self, line: str) -> None:
        os.write(self._master, line.encode() + b"\n")

    def _wait(self, pattern: str) -> re.Match[str]:
        deadline = time.monotonic() + PATIENCE
        while (found := re.compile(pattern).search(self._seen, self._mark)) is None:
            readable = select.select([self._master], [], [], max(0, deadline - time.monotonic()))[0]
            assert readable, f"nobody showed {pattern!r} but: {self.shown}"
            try:
                chunk = os.read(self._master, 65536)
            except OSError:
                chunk = b""
            assert chunk, f"the terminal ended: {self.shown}"
            self._seen += ESCAPES.sub("", chunk.decode("utf-8", "replace"))
        return found


class Reader:
    """Does what a page says. ``directories``: where the terminals of these names are; others are in one of all.
    Files with absolute paths are below ``root``; without it there are none."""

    def __init__(
        self,
        enter: Sequence[str],
        base: Path,
        environ: Mapping[str, str],
        directories: Mapping[str, str],
        root: Path | None = None,
    ) -> None:
        self._enter = enter
        self._base = base
        self._environ = environ
        self._directories = directories
        self._root = root
        self._terminals: dict[str, Terminal] = {}
        self._last: Terminal | None = None
        self.typed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for terminal in reversed(self._terminals.values()):
            terminal.close()

    @property
    def shown(self) -> str:
        """By the last command."""
        assert self._last is not None
        return self._last.shown

    def do(self, step: Step) -> None:
        """Run one block of a page."""
        if "not run" in step.notes:
            return
        if step.kind == "text":
            self._compare(step.text)
        elif step.kind == "sh":
            assert step.title, f"in which terminal? {step.text}"
            self._type(step)
        elif step.title:
            path = self._base / step.title
            if step.title.startswith("/"):
                assert self._root is not None, f"{step.title} would be written on this machine"
                path = self._root / step.title.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step.text)

    def _type(self, step: Step) -> None:
        if (name := step.notes.get("press Ctrl-C")) is not None:
            self._terminals[name].press_ctrl_c()
        terminal = self._terminal(step.title)
        command = step.notes.get("run instead", step.text)
        if (more := step.notes.get("also")) is not None:
            command = f"{command.rstrip()} {more}"
        terminal.type(command)
        self.typed += 1
        if (text := step.notes.get("until")) is not None:
            terminal.wait_for(text)
        else:
            status = terminal.status()
            assert (status != 0) == ("fails" in step.notes), f"status {status} of {command}: {terminal.shown}"
        self._last = terminal

    def _compare(self, text: str) -> None:
        shown = " ".join(self.shown.split())
        for line in text.splitlines():
            wanted = ".*".join(re.escape(" ".join(part.split())) for part in line.split("..."))
            assert re.search(wanted, shown), f"{line!r} is not in {shown!r}"

    def _terminal(self, name: str) -> Terminal:
        if name not in self._terminals:
            directory = self._base / self._directories.get(name, ".")
            self._terminals[name] = Terminal(self._enter, directory, self._environ)
        return self._terminals[name]
