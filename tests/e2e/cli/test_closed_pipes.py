"""Programs whose output nobody reads any more, as in ``quictunnel doctor | head``: no traceback, and they end."""

import os
import subprocess
import sys
from itertools import chain

import pytest

from edge_server.cli.commands import COMMANDS as EDGE_COMMANDS
from quictunnel.cli.main import COMMANDS
from quictunnel.shared.output import EXIT_STATUS
from tests.harness.edge_process import children_environment
from tests.harness.programs import free_port

SERVER = "import os, socket; socket.create_server(('127.0.0.1', int(os.environ['PORT']))).accept()"
"""Listens and says nothing, since its own output goes to the closed pipe as well."""
CLIENT = {
    "http": ["http PORT", "http PORT --json"],
    "tcp": ["tcp PORT"],
    "run": ["run --port PORT -- PYTHON -c SERVER"],
    "status": ["status"],
    "doctor": ["doctor", "doctor --json", "doctor PORT"],
    "demo": ["demo --once"],
    "login": ["login --help"],
    "logout": ["logout --help"],
    "profiles": ["profiles", "profiles --json"],
    "completion": ["completion bash"],
    "help": ["help", "help run"],
    "version": ["version"],
}
EDGE = {
    "token": ["token create", "token list", "token list --json"],
    "name": ["name list --json", "name history"],
    "admin": ["admin --help", "admin url"],
    "health": ["health"],
    "backup": ["backup -"],
    "help": ["help", "help token"],
    "version": ["version"],
}
LINES = {
    "quictunnel": ["", "--help", "--version", "run --help", *chain(*CLIENT.values())],
    "edge_server": [
        "--help",
        "--version",
        "--check-config",
        "--state-dir NEW --quic 127.0.0.1:0 --https 127.0.0.1:0",
        *chain(*EDGE.values()),
    ],
    "certs": ["--help", "--out NEW"],
}
WITHOUT_STDERR = ("doctor PORT", "status", "token list --json", "admin url")
"""Commands whose stderr is tried with the closed pipe as well, as in ``... 2>&1 | head``."""
SILENT = ("status", "admin url")
"""Commands that write only to stderr here: no process has a tunnel to report, and no edge with a page runs."""


def test_all_commands_are_tested():
    assert set(CLIENT) == set(COMMANDS)
    assert set(EDGE) == set(EDGE_COMMANDS)


@pytest.mark.parametrize("program", LINES)
def test_no_command_complains_about_a_closed_pipe(edge, running, tmp_path, program):
    environ = children_environment(edge) | {
        "QUICTUNNEL_EDGE_SERVER_STATE_DIR": str(edge.state_dir),
        "QUICTUNNEL_STATUS": "off",
        "HOME": str(tmp_path),
        "XDG_RUNTIME_DIR": str(tmp_path),
    }
    del environ["PYTHONUNBUFFERED"]  # as users have it: what is buffered fails at the end
    # The end of a pipe that has no reader from the start: what is written first fails, whenever that is.
    reader, writer = os.pipe()
    os.close(reader)
    processes = {}
    for number, line in enumerate(LINES[program]):
        values = {"PORT": str(free_port()), "NEW": str(tmp_path / str(number)), "PYTHON": sys.executable}
        values["SERVER"] = SERVER
        words = [values.get(word, word) for word in line.split()]
        processes[line] = running(
            [sys.executable, "-m", program, *words],
            env=environ,
            stdout=writer,
            stderr=writer if line.startswith(WITHOUT_STDERR) else subprocess.PIPE,
            text=True,
        )
    os.close(writer)
    for line, process in processes.items():
        _, said = process.communicate(timeout=60)
        assert process.returncode in (int(line.startswith(SILENT)), EXIT_STATUS), f"{line}: {said}"
        for word in ("Traceback", "BrokenPipe", "Broken pipe", "ignored"):
            assert word not in (said or ""), f"{line}: {said}"


@pytest.mark.parametrize("stdout", ["full", "none"])
def test_no_command_ends_in_a_traceback_where_nothing_can_be_written(edge, running, tmp_path, stdout):
    """A full disk, and a process that was started without a stdout."""
    environ = children_environment(edge)
    del environ["PYTHONUNBUFFERED"]
    certs = f"certs --out {tmp_path / 'certs'}"
    lines = (
        "quictunnel --version",
        "quictunnel doctor",
        "edge_server --check-config",
        certs,
    )
    shell = 'exec "$@" > /dev/full' if stdout == "full" else 'exec "$@" >&-'
    processes = {
        line: running(
            ["sh", "-c", shell, "sh", sys.executable, "-m", *line.split()],
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for line in lines
    }
    for line, process in processes.items():
        _, said = process.communicate(timeout=60)
        told = "error: the output cannot be written: No space left on device\n" if stdout == "full" else ""
        assert (process.returncode, said) == (int(stdout == "full"), told), line
