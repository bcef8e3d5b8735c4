"""``quictunnel run``: a real program and its tunnel, and what is left of them after every ending."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness.edge_process import children_environment
from tests.harness.programs import free_port
from tests.harness.visitors import curl

ROOT = Path(__file__).parents[3]
RUN = (sys.executable, "-m", "quictunnel", "run")

APP = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        print("the app was asked to stop", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"from uvicorn"})
"""

FAMILY = """
import os, signal, socket, subprocess, sys, time
if STUBBORN:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    while True:
        time.sleep(100)
with socket.create_server(("127.0.0.1", int(sys.argv[2]))) as listener:
    while True:
        listener.accept()[0].close()
"""


@pytest.fixture
def start(edge, tmp_path):
    with ExitStack() as stack:

        def started(*arguments: object, launcher: tuple[str, ...] = RUN, **options) -> subprocess.Popen:
            settings = {
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                "text": True,
                "cwd": tmp_path,
                "env": children_environment(edge) | {"PYTHONPATH": str(ROOT)},
            }
            command = [*launcher, *map(str, arguments)]
            process = stack.enter_context(subprocess.Popen(command, **(settings | options)))
            stack.callback(process.kill)
            return process

        yield started


def processes_of(word: str) -> list[int]:
    """Return the running processes that have a word in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            state = (path / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if word.encode() in words and b"run" not in words and state != "Z":
            found.append(int(path.name))
    return found


def wait_until_gone(word: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while left := processes_of(word):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_uvicorn_from_start_to_stop(edge, start, tmp_path, number):
    (tmp_path / "app.py").write_text(APP)
    port = free_port()
    process = start("--json", "--", sys.executable, "-m", "uvicorn", "app:app", "--port", port)
    ready = json.loads(process.stdout.readline())
    assert ready["event"] == "ready"
    assert curl(edge, "--fail", ready["url"]).stdout == b"from uvicorn"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert json.loads(out.splitlines()[-1]) == {"event": "closed"}, "all that is on stdout are events"
    assert "the app was asked to stop" in err
    assert processes_of(str(port)) == []


def test_http_server_with_lines_for_a_person(edge, start, tmp_path):
    (tmp_path / "page").write_text("a page\n")
    port = free_port()
    process = start("--", sys.executable, "-m", "http.server", port, "--bind", "127.0.0.1")
    lines = iter(process.stdout.readline, "")
    url = next(line for line in lines if line.startswith("Public address: ")).split()[-1]
    assert curl(edge, "--fail", f"{url}/page").stdout == b"a page\n"
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out.endswith("Closed.\n")
    assert "GET /page" in err, "the program's own output is where it was"


def test_the_program_ends_by_itself(edge, start, tmp_path):
    port = free_port()
    app = tmp_path / "short.py"
    app.write_text(
        "import socket, sys\n"
        "with socket.create_server(('127.0.0.1', int(sys.argv[2]))) as listener:\n"
        "    listener.accept()[0].close()\n"  # quictunnel, to see whether it listens
        "    listener.accept()[0].close()\n"
        "sys.exit(7)\n"
    )
    process = start("--json", "--", sys.executable, app, "--port", port)
    url = json.loads(process.stdout.readline())["url"]
    curl(edge, url)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 7
    assert f"quictunnel: {Path(sys.executable).name} ended with status 7\n" in err
    assert json.loads(out.splitlines()[-1]) == {"event": "closed"}
    assert curl(edge, url).stdout.startswith(b"404 Not Found"), "the name is gone"


@pytest.mark.parametrize(
    ("program", "status", "words"),
    [
        ("raise SystemExit(3)", 3, "ended with status 3 before it listened on port"),
        ("import os; os.kill(os.getpid(), 9)", 137, "was ended by SIGKILL before it listened"),
        ("", 1, "must stay in the foreground"),
    ],
    ids=["status", "signal", "well, but too early"],
)
def test_the_program_dies_early(start, program, status, words):
    process = start("--json", "--port", free_port(), "--", sys.executable, "-c", program)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (status, "")
    assert words in err
    assert "Traceback" not in err


def test_the_program_never_listens(start):
    port = free_port()
    process = start("--wait", "0.5", "--port", port, "--", "sleep", "54321")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "")
    assert f"sleep runs, but does not listen on port {port}" in err
    assert processes_of("54321") == []


def test_ctrl_c_while_it_starts(start):
    process = start("--port", free_port(), "--", "sleep", "54322")
    while not processes_of("54322"):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0
    assert processes_of("54322") == []


EARLY = """
import os, signal, subprocess, sys
from types import SimpleNamespace
from quictunnel.cli import child
from quictunnel.cli.main import main

def popen(*arguments, **options):
    process = subprocess.Popen(*arguments, **options)
    os.kill(os.getpid(), signal.SIGINT)
    return process

child.subprocess = SimpleNamespace(Popen=popen)
sys.exit(main())
"""


def test_ctrl_c_at_the_moment_when_it_is_started(start):
    """The program is there already, and nobody knows it yet."""
    process = start("--port", free_port(), "--", "sleep", "54323", launcher=(sys.executable, "-c", EARLY, "run"))
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0
    assert processes_of("54323") == []


SHORT_GRACE = """
import sys
from quictunnel.cli import process_guard
from quictunnel.cli.main import main
process_guard.end_group.__defaults__ = (0.3,)
sys.exit(main())
"""


@pytest.mark.parametrize("stubborn", [False, True], ids=["asked", "forced"])
def test_no_orphan_when_it_is_killed(start, tmp_path, stubborn):
    """Not even of the program's own children, and not of one that ignores SIGTERM."""
    app = tmp_path / "family.py"
    app.write_text(FAMILY.replace("STUBBORN", str(stubborn)))
    port = free_port()
    process = start(
        "--json", "--", sys.executable, app, "--port", port, launcher=(sys.executable, "-c", SHORT_GRACE, "run")
    )
    assert json.loads(process.stdout.readline())["event"] == "ready"
    assert len(processes_of(str(port))) == 2
    process.kill()
    process.wait(10)
    wait_until_gone(str(port))


def test_program_gets_port_and_edge_but_no_token(edge, start, tmp_path):
    port = free_port()
    token = edge.environ["QUICTUNNEL_TOKEN"]
    show = "import os; print(sorted(os.environ.items())); raise SystemExit(5)"
    process = start("--port", port, "--", sys.executable, "-c", show)
    out, _ = process.communicate(timeout=30)
    assert f"('PORT', '{port}')" in out
    assert "QUICTUNNEL_EDGE" in out
    assert token not in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--", "uvicorn", "app:app"], "does not contain its port"),
        (["uvicorn", "app:app"], "does not contain its port"),
        (["--"], "The program is missing"),
        (["--port", "9", "--", "/nowhere/at-all"], "at-all cannot be started (No such file or directory)"),
        (["--port", "9", "--", "/"], "cannot be started (Permission denied)"),
        (["--port", "9", "--edge", "nonsense", "--", "true"], "should be host:port"),
    ],
)
def test_refusals(start, arguments, words):
    process = start(*arguments)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("quictunnel: error: ")
    assert words in err


def test_port_of_another_program_is_reported(start, origin):
    process = start("--", "sleep", "1000", "--port", origin)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert f"Port {origin} is already in use" in err


def test_signals_for_the_program_reach_it(start, tmp_path):
    port = free_port()
    app = tmp_path / "signals.py"
    app.write_text(
        "import signal, socket, sys\n"
        "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(21))\n"
        "with socket.create_server(('127.0.0.1', int(sys.argv[2]))) as listener:\n"
        "    while True: listener.accept()[0].close()\n"
    )
    process = start("--json", "--", sys.executable, app, "--port", port)
    assert json.loads(process.stdout.readline())["event"] == "ready"
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=30)
    assert process.returncode == 21


def run_at_terminal(edge, directory, port: int) -> tuple[int, int]:
    """Start the command with a terminal of its own. Return its process ID and our end of the terminal."""
    (directory / "app.py").write_text(APP)
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(directory)
        environ = children_environment(edge) | {"PYTHONPATH": str(ROOT)}
        command = [*RUN, "--", sys.executable, "-m", "uvicorn", "app:app", "--port", str(port)]
        os.execve(sys.executable, command, environ)
    return child, terminal


def test_a_terminal_that_is_closed_ends_both(edge, tmp_path):
    port = free_port()
    child, terminal = run_at_terminal(edge, tmp_path, port)
    seen = b""
    while b"Press Ctrl-C to stop." not in seen:
        seen += os.read(terminal, 65536)
    os.close(terminal)
    os.waitpid(child, 0)
    assert processes_of(str(port)) == []


def test_at_a_terminal_ctrl_c_ends_the_tunnel_before_the_program(edge, tmp_path):
    """The terminal sends SIGINT to its foreground group, in which the program is not."""
    port = free_port()
    child, terminal = run_at_terminal(edge, tmp_path, port)
    seen = b""
    try:
        while b"Press Ctrl-C to stop." not in seen:
            seen += os.read(terminal, 65536)
        os.write(terminal, b"\x03")
        while chunk := os.read(terminal, 65536):
            seen += chunk
    except OSError:
        pass  # EIO is how Linux says that the other end of a terminal is gone
    finally:
        os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, seen
    assert seen.index(b"Closed.") < seen.index(b"the app was asked to stop"), seen
    assert processes_of(str(port)) == []
