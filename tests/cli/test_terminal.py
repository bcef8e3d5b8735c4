"""The commands on terminals of all kinds, with a real shell: sizes, colours, Ctrl-Z, streams that are closed."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.harness.terminal import Display, Terminal
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytest.importorskip("pty", reason="terminals of POSIX")

ROOT = Path(__file__).parents[2]
FAKE_CLIENT = Path(__file__).with_name("fake_client.py")
URL = "https://x7k2.tunnel.localhost:8443"
HTTP = shlex.join([sys.executable, str(FAKE_CLIENT), "serve", "http", "8000"])
LONG_PATH = "/a/long/path" * 20
REQUESTS = [
    ["GET", "/hello", 200, 0.004],
    ["POST", LONG_PATH, 404, 0.0123],
    ["GET", "/\x1b[2J\x1b]0;title\x07\u202e\r\nX", 500, 1.5],
]


@pytest.fixture
def terminal(edge_environ: dict[str, str]) -> Iterator[Callable[..., Terminal]]:
    opened = []

    def start(columns: int = 80, rows: int = 24, **environ: str) -> Terminal:
        given = {"FAKE_REQUESTS": json.dumps(REQUESTS)} | edge_environ | environ
        opened.append(Terminal(given, columns, rows).__enter__())
        opened[-1].run(f"cd {shlex.quote(str(ROOT))}; clear")
        return opened[-1]

    yield start
    for each in opened:
        each.__exit__()


def stop(shell: Terminal, status: int = 0) -> None:
    """Press Ctrl-C and check that the terminal is left as it was."""
    shell.type("\x03")
    shell.wait_for("Closed.")
    shell.run("echo status=$?")
    shell.wait_for(f"status={status}")
    assert shell.display.has_cursor


def rows_with(shown: str, words: str) -> int:
    return sum(words in line for line in shown.splitlines())


def test_the_screen_shows_requests_below_the_facts(terminal: Callable[..., Terminal]) -> None:
    shell = terminal()
    shell.run(HTTP)
    shown = shell.wait_for("Public      " + URL, "GET /hello", "404 12 ms", "500 1.5 s")
    assert shown.index("Traffic") < shown.index("/hello") < shown.index("404")
    assert re.search(r"^\d\d:\d\d:\d\d  GET /hello +200 4 ms 203\.0\.113\.9$", shown, re.MULTILINE)
    assert re.search(r"^\d\d:\d\d:\d\d  POST /a/long\S+… 404 12 ms 203\.0\.113\.9$", shown, re.MULTILINE)
    assert r"/\x1b[2J\x1b]0;title\x07\u202e" in shown
    assert not shell.display.has_cursor
    assert shell.display.has_colour
    stop(shell)
    assert rows_with(shell.display.text, "Public") == 1, "the last screen stays"


def test_40_columns(terminal: Callable[..., Terminal]) -> None:
    shell = terminal(40)
    shell.run(HTTP)
    shown = shell.wait_for("GET /hello", "404 12 ms 203.0.113.9", "500 1.5 s", "in total")
    assert "".join(line.strip() for line in shown.splitlines()).count(URL) == 1
    stop(shell)


@pytest.mark.parametrize("size", [(80, 8), (20, 24)])
def test_a_terminal_that_is_too_small_gets_lines(terminal: Callable[..., Terminal], size: tuple[int, int]) -> None:
    shell = terminal(*size)
    shell.run(HTTP)
    shell.wait_for("500 1.5 s")
    assert "\x1b[2K" not in shell.raw
    stop(shell)


def test_a_dumb_terminal_gets_lines_that_fit(terminal: Callable[..., Terminal]) -> None:
    shell = terminal(60)
    shell.run(f"TERM=dumb {HTTP}")
    shown = shell.wait_for(f"Public address: {URL}", "GET /hello 200 4 ms 203.0.113.9", "… 404 12 ms", "500 1.5 s")
    assert "\x1b[2K" not in shell.raw
    assert re.search(r"^\d\d:\d\d:\d\d  GET /hello 200 4 ms 203\.0\.113\.9$", shown, re.MULTILINE)
    assert rows_with(shown, "/long/path") == 1, "a long path takes one row"
    stop(shell)


def test_no_color(terminal: Callable[..., Terminal]) -> None:
    shell = terminal(NO_COLOR="1")
    shell.run(HTTP)
    shell.wait_for("GET /hello", "Status      connected")
    assert not shell.display.has_colour
    stop(shell)


def test_quiet(terminal: Callable[..., Terminal]) -> None:
    shell = terminal()
    shell.run(HTTP, "-q")
    shown = shell.wait_for("Public", "in total")
    assert "/hello" not in shown
    stop(shell)


def test_a_changed_size(terminal: Callable[..., Terminal]) -> None:
    shell = terminal(100, 30)
    shell.run(HTTP)
    shell.wait_for("GET /hello", "500 1.5 s")
    for columns, rows in ((50, 30), (50, 14), (120, 40), (31, 10), (80, 24)):
        shell.resize(columns, rows)
        # Once the new lines are there, no part of the old ones is left.
        shown = shell.wait_for("Status", "Traffic", "404 12 ms" if rows > 10 else "Traffic")
        assert rows_with(shown, "Public") == rows_with(shown, "Visitors") == 1, shown
        assert rows_with(shown, "/hello") <= 1, shown
    stop(shell)


def test_ctrl_z_and_fg(terminal: Callable[..., Terminal]) -> None:
    shell = terminal()
    shell.run(HTTP)
    shell.wait_for("GET /hello", "in total")
    for _ in range(2):
        shell.type("\x1a")
        shell.wait_for("Stopped")
        assert shell.display.has_cursor
        shell.run("clear; echo at the shell")
        shell.wait_for("at the shell", gone=["Public"])
        shell.run("fg")
        shown = shell.wait_for("Public", "GET /hello", "at the shell")
        assert not shell.display.has_cursor
        assert shown.index("at the shell") < shown.index("Public"), "below what the shell has shown"
    stop(shell)


def test_a_stopped_program_in_the_background_leaves_the_terminal_alone(terminal: Callable[..., Terminal]) -> None:
    shell = terminal()
    shell.run(HTTP)
    shell.wait_for("in total")
    shell.type("\x1a")
    shell.wait_for("Stopped")
    shell.run("clear; bg; sleep 0.7; echo awake")
    shell.wait_for("awake\n", gone=["Public"])
    shell.run("fg")
    shell.wait_for("Public", "in total")
    stop(shell)


def test_a_program_that_starts_in_the_background_writes_lines(terminal: Callable[..., Terminal]) -> None:
    shell = terminal()
    shell.run(HTTP, "&")
    shell.wait_for(f"Public address: {URL}", "/hello 200")
    assert "\x1b[2K" not in shell.raw
    shell.run("clear")
    shell.wait_for(gone=["Public"])
    shell.run("fg")
    shell.wait_for("fake_client.py")
    shell.wait_for_program()
    stop(shell)


def test_closed_stderr(terminal: Callable[..., Terminal]) -> None:
    shell = terminal()
    shell.run(HTTP, "2>&-")
    shell.wait_for("Public", "GET /hello")
    stop(shell)


def test_log_lines_are_above_the_screen(terminal: Callable[..., Terminal]) -> None:
    shell = terminal(FAKE_LOG="a line of the log")
    shell.run(HTTP)
    shown = shell.wait_for("a line of the log", "Public", "GET /hello")
    assert shown.index("a line of the log") < shown.index("Public")
    assert rows_with(shown, "Public") == 1
    stop(shell)


def test_stderr_in_a_file_gets_the_log(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    shell = terminal(FAKE_LOG="a line of the log")
    shell.run(HTTP, f"2>{tmp_path}/log")
    shell.wait_for("Public", "GET /hello")
    eventually(lambda: "a line of the log" in (tmp_path / "log").read_text())
    shell.wait_for("in total", gone=["a line of the log"])
    stop(shell)


def test_without_a_terminal_there_are_lines(edge_environ: dict[str, str]) -> None:
    environ = edge_environ | {"FAKE_REQUESTS": json.dumps(REQUESTS)}
    done = subprocess.run(  # noqa: PLW1510 - its status is that of `timeout`
        ["timeout", "--signal", "INT", "5", *shlex.split(HTTP)],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == f"Public address: {URL}"
    assert re.fullmatch(r"\d\d:\d\d:\d\d  GET /hello 200 4 ms 203\.0\.113\.9", lines[3])
    assert lines[4].endswith(f"  POST {LONG_PATH} 404 12 ms 203.0.113.9"), "a file has any width"
    assert r"/\x1b[2J" in lines[5]
    assert len(lines) == 9
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("command", ["http", "tcp"])
def test_head_ends_it_without_a_traceback(edge_environ: dict[str, str], command: str) -> None:
    """The requests come after the first line, which is all that is read."""
    environ = edge_environ | {"FAKE_REQUESTS": json.dumps(REQUESTS)}
    line = f"{HTTP.replace('http', command)} | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == f"Public address: {URL}\n141\n"
    assert re.fullmatch(r"\[drained \S+\]\n", done.stderr)


# The emulator, which must not hide a mistake


def test_the_display_wraps_scrolls_and_clears() -> None:
    display = Display(4, 2)
    display.feed("abcdef\r\ngh")
    assert (display.history, display.text) == (["abcd"], "ef\ngh")
    display.feed("\x1b[1A\r\x1b[2Kx")
    assert display.text == "x\ngh"
    display.feed("\x1b")
    display.feed("[J")
    assert display.text == "x\n"
    with pytest.raises(AssertionError):
        display.feed("\x1b[5q")
    with pytest.raises(AssertionError):
        display.feed("\x00")
