"""Runs of the commands: exit statuses, signals, terminals, output that nobody reads."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import queue
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quictunnel.cli import tunnel_runner
from quictunnel.cli.main import COMMANDS
from quictunnel.cli.reporter import OpenedTunnel, TextReporter
from quictunnel.cli.tunnel_runner import MAX_PENDING, MAX_PENDING_STATES, Inbox, Interrupts
from quictunnel.errors import AuthError, ConfigError, Error, ProtocolError
from quictunnel.events import VISITOR, WARNING, ClientEvent
from quictunnel.tunnel import Tunnel

from .fake_client import HOST, FakeApi, run_with

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
FAKE_CLIENT = Path(__file__).with_name("fake_client.py")
READY = json.dumps(
    {
        "event": "ready",
        "url": f"https://{HOST}:8443",
        "tls_socket": [HOST, 8443],
        "tcp_socket": None,
        "target": "localhost:8000",
    }
)


def call(*argv: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *argv], env=environ, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


# Programs that end by themselves


@pytest.mark.parametrize("module", ["quictunnel", "quictunnel.cli.main"])
def test_version_names_the_engine(module: str, clean_environ: dict[str, str]) -> None:
    done = call("-m", module, "--version", environ={**clean_environ, "QUICTUNNEL_ENGINE": "aioquic"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("quictunnel ")
    assert "engine aioquic 1." in done.stdout


def test_version_refuses_an_unknown_engine(clean_environ: dict[str, str]) -> None:
    done = call("-m", "quictunnel", "--version", environ={**clean_environ, "QUICTUNNEL_ENGINE": "quinn"})
    assert done.returncode == 2
    assert "QUICTUNNEL_ENGINE" in done.stderr


def test_run_without_configuration_fails(clean_environ: dict[str, str]) -> None:
    done = call("-m", "quictunnel", "http", "8000", "--json", environ=clean_environ)
    assert done.returncode == 2
    assert json.loads(done.stdout)["kind"] == "config"
    first, hint = done.stderr.splitlines()
    assert first.startswith("quictunnel: error: No edge is configured. Run `quictunnel login`")
    assert "quictunnel-edge" in first
    assert "quictunnel demo" in hint


@pytest.mark.parametrize(
    "line",
    ["", "--help", "completion bash", *(f"{name} --help" for name in COMMANDS), "COMPLETE http --", "COMPLETE "],
)
def test_help_and_completion_load_no_quic_library(line: str, clean_environ: dict[str, str]) -> None:
    program = (
        f"import sys; from quictunnel.cli.main import main; main({line.removeprefix('COMPLETE ').split()});"
        "sys.exit(sorted(name for name in sys.modules if name.split('.')[0] in {'aioquic', 'asyncio', 'rich'}))"
    )
    environ = clean_environ
    if line.startswith("COMPLETE "):
        words = "quictunnel " + line.removeprefix("COMPLETE ")
        environ |= {
            "_QUICTUNNEL_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
        }
    done = call("-c", program, environ=environ)
    assert done.stdout
    assert (done.returncode, done.stderr) == (1, "[]\n")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ("ConfigError", 2),
        ("AuthError", 2),
        ("InvalidError", 2),
        ("EdgeUnavailableError", 3),
        ("OriginUnavailableError", 1),
        ("ProtocolError", 1),
    ],
)
@pytest.mark.usefixtures("edge_configured")
def test_exit_statuses(error: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    api = FakeApi(error)
    assert run_with(api, "http", "8000", "--json") == status
    out, err = capsys.readouterr()
    event = json.loads(out)
    assert (event["event"], event["exit_status"]) == ("error", status), "instead of ready"
    assert err.splitlines()[0] == f"quictunnel: error: A {error}. On two lines."
    assert len(err.splitlines()) == (1 if error == "InvalidError" else 2)
    assert [client.closed for client in api.clients] == [1]


@pytest.mark.usefixtures("edge_configured")
def test_options_reach_forward(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    api = FakeApi(events=(("failed", "over"),))
    token = tmp_path / "token"
    token.write_text("from-a-file\n")
    run_with(api, "http", "8000", "--h2", "--edge", "other:1", "--token-file", str(token))
    run_with(api, "tcp", "22")
    assert api.forwarded == [
        {"port": 8000, "unencrypted": False, "h2_enabled": True},
        {"port": 22, "unencrypted": True, "h2_enabled": False},
    ]
    assert [client.config for client in api.clients] == [
        ("other:1", "from-a-file", None),
        ("127.0.0.1:4433", "tok_0123456789", None),
    ]
    assert "TCP address:    edge.example.com:20001" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("state", "failure", "status", "hint"),
    [
        ("refused", AuthError("the token was withdrawn"), 2, "QUICTUNNEL_TOKEN"),
        ("refused", AuthError("the token was withdrawn", advice="Get a new one."), 2, "Get a new one."),
        ("failed", ConfigError("the token was withdrawn"), 2, "quictunnel doctor"),
        ("failed", ProtocolError("the token was withdrawn"), 1, "different versions"),
        ("failed", Error("the token was withdrawn"), 1, ""),
    ],
)
@pytest.mark.usefixtures("edge_configured")
def test_a_client_that_gave_up_ends_it(
    state: str, failure: Error, status: int, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit status is that of the same error at the start."""
    api = FakeApi(events=(("reconnecting", "the edge went away"), (state, str(failure))), failure=failure)
    assert run_with(api, "tcp", "22", "--json") == status
    out, err = capsys.readouterr()
    events = [json.loads(line) for line in out.splitlines()]
    assert [(event["event"], event.get("state")) for event in events] == [
        ("ready", None),
        ("state", "reconnecting"),
        ("state", state),
        ("state", "draining"),
        ("closed", None),
        ("error", None),
    ]
    text, _, shown_hint = err.partition("quictunnel: error: ")[2].partition("\n")
    assert text == "The tunnel has ended: the token was withdrawn"
    assert hint in shown_hint
    assert bool(hint) == bool(shown_hint)
    assert "UDP" not in err, "the edge was reached"
    assert api.clients[0].subscribers == []
    assert api.clients[0].closed == 1


# Terminals


def on_a_terminal(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the output on a terminal for a tunnel that is lost after an event."""
    for name in ("TERM", "CI", "NO_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    master, slave = pty.openpty()
    api = FakeApi(events=(("warning", "the edge — went away"), ("failed", "over")))
    with os.fdopen(slave, "w", encoding=environ.get("PYTHONIOENCODING", "utf-8")) as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        run_with(api, "http", "8000")
    seen = b""
    with contextlib.suppress(OSError), os.fdopen(master, "rb", buffering=0) as screen:
        while more := screen.read(65536):  # EIO is its end
            seen += more
    return seen.decode()


@pytest.mark.parametrize(
    "environ",
    [
        {"TERM": "dumb"},
        {"TERM": "unknown"},
        {"TERM": ""},
        {},
        {"TERM": "xterm", "CI": "1"},
        {"TERM": "xterm", "COLUMNS": "20"},
    ],
)
@pytest.mark.usefixtures("edge_configured")
def test_a_terminal_that_cannot_draw_gets_plain_lines(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = on_a_terminal(environ, monkeypatch)
    lines = seen.splitlines()
    assert lines[0] == f"Public address: https://{HOST}:8443"
    assert lines[3].endswith("  the edge — went away"), "at once, and not in the end"
    assert "\x1b" not in seen


@pytest.mark.parametrize("environ", [{}, {"NO_COLOR": "1"}, {"LANG": "C"}, {"PYTHONIOENCODING": "ascii"}])
@pytest.mark.usefixtures("edge_configured")
def test_other_terminals_get_the_screen(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = on_a_terminal({"TERM": "xterm"} | {"COLUMNS": "80"} | environ, monkeypatch)
    assert f"https://{HOST}:8443" in seen
    assert "\x1b[?25l" in seen, "it hides the cursor while it draws"
    assert ("the edge ? went away" in seen) == ("PYTHONIOENCODING" in environ)
    colours = re.findall(r"\x1b\[(?:[0-9]+;)*(3[0-7])m", seen)
    assert bool(colours) == ("NO_COLOR" not in environ)


# Signals, to a real process


@pytest.fixture
def started(edge_environ: dict[str, str]) -> Iterator[list[subprocess.Popen[str]]]:
    running: list[subprocess.Popen[str]] = []
    yield running
    for process in running:
        process.kill()
        process.communicate()


def start(started: list[subprocess.Popen[str]], environ: dict[str, str], *argv: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, str(FAKE_CLIENT), *argv],
        env=environ,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    started.append(process)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_while_serving_ends_it_with_0_after_the_drain(
    number: signal.Signals, edge_environ: dict[str, str], started: list[subprocess.Popen[str]]
) -> None:
    process = start(started, edge_environ, "serve", "http", "8000", "--json")
    assert process.stdout is not None
    assert process.stdout.readline() == READY + "\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert [json.loads(line)["event"] for line in out.splitlines()] == ["state", "closed"]
    assert err.startswith("[drained ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_while_connecting_ends_it_with_0(
    number: signal.Signals, edge_environ: dict[str, str], started: list[subprocess.Popen[str]]
) -> None:
    process = start(started, edge_environ, "hang", "http", "8000", "--json")
    assert process.stderr is not None
    assert process.stderr.readline().startswith("[opening ")
    process.send_signal(number)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0


def test_a_second_signal_ends_it_at_once(
    edge_environ: dict[str, str], started: list[subprocess.Popen[str]]
) -> None:
    process = start(started, edge_environ, "stuck", "http", "8000")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == f"Public address: https://{HOST}:8443\n"
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline().startswith("[draining ")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT
    assert (
        out.splitlines()[-1]
        == "Stopping; open connections of visitors may finish. Press Ctrl-C again to stop at once."
    )


def test_a_reader_that_left_ends_it_in_good_order(
    edge_environ: dict[str, str], started: list[subprocess.Popen[str]]
) -> None:
    process = start(started, edge_environ, "serve", "http", "8000", "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == READY + "\n"
    process.stdout.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    err = process.stderr.read()
    assert err.startswith("[drained ")
    assert err.count("\n") == 1, "no traceback, and no complaint of the interpreter at exit"


# The pieces


def test_the_inbox_is_bounded_and_says_what_it_dropped() -> None:
    inbox = Inbox()
    for number in range(MAX_PENDING + 7):
        inbox.put(ClientEvent(VISITOR, str(number), 0.0))
    for number in range(MAX_PENDING_STATES):
        inbox.put(ClientEvent(WARNING, str(number), 0.0))
    rest = inbox.remaining()
    assert len(rest) == MAX_PENDING_STATES + 1
    assert rest[-1].message == f"{7 + MAX_PENDING} events are not shown: the output was not read in time"
    assert inbox.remaining() == []


def test_the_inbox_tells_of_drops_when_it_has_caught_up() -> None:
    inbox = Inbox()
    for _ in range(MAX_PENDING + 1):
        inbox.put(ClientEvent(VISITOR, "", 0.0))
    inbox.stop()
    for _ in range(MAX_PENDING):
        event = inbox.get(0)
        assert event is not None
        assert event.kind == VISITOR
    assert inbox.get(0) is None
    told = inbox.get(0)
    assert told is not None
    assert told.message.startswith("1 events")
    with pytest.raises(queue.Empty):
        inbox.get(0)


def test_interrupts_outside_the_main_thread_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    interrupts = Interrupts(Inbox())
    with interrupts.installed():
        assert signal.getsignal(signal.SIGTERM) is interrupts
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_second_interrupt_leaves_at_once() -> None:
    left: list[int] = []
    inbox = Inbox()
    interrupts = Interrupts(inbox, left.append)
    with pytest.raises(KeyboardInterrupt):
        interrupts(signal.SIGINT)
    assert left == []
    interrupts.is_serving = True
    interrupts(signal.SIGTERM)
    assert left == [143]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no such signal")
def test_hang_ups_of_a_closed_terminal_never_leave_at_once() -> None:
    """The kernel and the shell may both send one, and systemd sends SIGTERM with it."""
    left: list[int] = []
    inbox = Inbox()
    interrupts = Interrupts(inbox, left.append)
    interrupts.is_serving = True
    for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
        interrupts(number)
    assert left == []
    assert inbox.get(0) is None
    with pytest.raises(queue.Empty):
        inbox.get(0)
    interrupts(signal.SIGTERM)
    assert left == [143]


def test_plain_lines() -> None:
    out = io.StringIO()
    reporter = TextReporter(out)
    reporter.opened(OpenedTunnel(Tunnel(HOST, 443, "e", 20001), 22, has_tcp=True))
    reporter.event(ClientEvent(WARNING, "two\nlines", 0.0))
    reporter.tick()
    reporter.closing()
    reporter.closed()
    assert out.getvalue().splitlines() == [
        f"Public address: https://{HOST}",
        "TCP address:    e:20001",
        "Forwards to:    localhost:22",
        "Press Ctrl-C to stop.",
        f"{time.strftime('%H:%M:%S', time.localtime(0))}  two lines",
        "Stopping; open connections of visitors may finish. Press Ctrl-C again to stop at once.",
        "Closed.",
    ]
    assert tunnel_runner.TICK_INTERVAL < 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_live_screen_restores_the_terminal(
    edge_environ: dict[str, str], started: list[subprocess.Popen[str]]
) -> None:
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(FAKE_CLIENT), "serve", "http", "8000"],
        env={**edge_environ, "TERM": "xterm-256color", "CI": ""},
        cwd=ROOT,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    started.append(process)
    os.close(theirs)
    shown = b""
    while b"4.5 MB out" not in shown:
        shown += os.read(ours, 65536)
    process.send_signal(signal.SIGINT)
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:
        pass  # EIO is how Linux says that the other end of a terminal is gone
    os.close(ours)
    assert process.wait(timeout=30) == 0
    assert f"https://{HOST}:8443".encode() in shown
    assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h") == 1
    assert shown.rstrip().endswith(b"Closed.")
