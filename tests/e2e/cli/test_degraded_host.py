"""Programs in poor surroundings: a full disk for their logs, no standard output, no home, PID 1."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from quictunnel.forwarding import forward
from quictunnel.tunnel import Tunnel
from tests.harness.edge_process import EdgeProcess, children_environment, start_edge
from tests.harness.programs import free_port, need
from tests.harness.visitors import read_all, tls_connect
from tests.harness.waiting import LONG_TIMEOUT, eventually

ROOM = 600
"""Bytes that the disk of a log has room for: the first lines of a tunnel, and a few visitors."""


def visit(edge, url: str) -> bytes:
    """Return the first bytes that a visitor receives; empty while there is no such tunnel."""
    where = urlsplit(url)
    try:
        with tls_connect(edge, Tunnel(str(where.hostname), where.port or 443)) as visitor:
            return visitor.recv(5)
    except OSError:
        return b""


def visit_all(edge, url: str) -> bytes:
    """Everything that a visitor gets."""
    where = urlsplit(url)
    with tls_connect(edge, Tunnel(str(where.hostname), where.port or 443)) as visitor:
        return read_all(visitor)


@pytest.fixture
def https_port(edge, client) -> int:
    """The port of the edge's tunnels."""
    with forward(9, client=client) as tunnel:
        return tunnel.port


def url_in(text: str) -> str:
    return next(word for word in text.replace('"', " ").split() if word.startswith("https://"))


class TestAClientWhoseLogCannotBeWritten:
    @pytest.mark.parametrize("form", ["text", "json"])
    def test_client_goes_on_and_reports_the_log_failure(self, edge, origin, tmp_path, running, form):
        log, errors = tmp_path / "tunnel.log", tmp_path / "errors"
        options = ["--json"] if form == "json" else []
        command = [sys.executable, "-m", "quictunnel", "http", str(origin), *options]
        limit = (ROOM, resource.RLIM_INFINITY)
        with log.open("w") as out, errors.open("w") as err:
            program = running(
                command, env=children_environment(edge), stdout=out, stderr=err,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
            )  # fmt: skip
        eventually(lambda: "https://" in log.read_text(), timeout=LONG_TIMEOUT)
        url = url_in(log.read_text())
        eventually(
            lambda: visit(edge, url) == b"hello" and "standard output cannot be written" in errors.read_text(),
            timeout=LONG_TIMEOUT,
        )
        assert visit(edge, url) == b"hello"
        assert errors.read_text().count("standard output cannot be written (File too large)") == 1
        resource.prlimit(program.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        eventually(
            lambda: visit(edge, url) == b"hello" and "could not be written" in log.read_text(),
            timeout=LONG_TIMEOUT,
        )
        program.terminate()
        assert program.wait(20) == 0
        if form == "json":
            assert json.loads(log.read_text().splitlines()[-1]) == {"event": "closed"}
        else:
            assert log.read_text().endswith("Closed.\n")

    def test_neither_output_nor_errors(self, edge, origin, running, https_port):
        """``--log-level debug`` to a full disk; the tunnel is found by its name."""
        command = [
            sys.executable,
            "-m",
            "quictunnel",
            "http",
            str(origin),
            "--name",
            "full",
            "--log-level",
            "debug",
        ]
        with Path("/dev/full").open("w") as full:
            program = running(command, env=children_environment(edge), stdout=full, stderr=full)
        eventually(
            lambda: visit(edge, f"https://full.tunnel.localhost:{https_port}") == b"hello", timeout=LONG_TIMEOUT
        )
        program.terminate()
        assert program.wait(20) == 0

    @pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
    def test_without_standard_streams(self, edge, origin, running, closed, https_port):
        command = f'exec "{sys.executable}" -m quictunnel http {origin} --name closed {closed}'
        program = running(
            ["sh", "-c", command],
            env=children_environment(edge), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        eventually(
            lambda: visit(edge, f"https://closed.tunnel.localhost:{https_port}") == b"hello", timeout=LONG_TIMEOUT
        )
        program.terminate()
        assert program.wait(20) == 0
        said = program.stderr.read()
        assert "Traceback" not in said
        assert ("Public address" in said) is (closed == ">&-"), "without a stdout it is said on stderr"
        program.stderr.close()


class TestAnEdgeWhoseLogCannotBeWritten:
    @pytest.mark.parametrize("form", ["text", "json"])
    def test_edge_serves_without_its_log(self, tmp_path, origin, running, form):
        state = tmp_path / "state"
        command = [sys.executable, "-m", "edge_server", "--state-dir", state, "--quic", "127.0.0.1:0", "--https",
                   "127.0.0.1:0", "--log-format", form, "--log-level", "debug"]  # fmt: skip
        with Path("/dev/full").open("w") as full:
            process = running(command, stdout=full, stderr=full)
        eventually((state / "client.env").exists, timeout=LONG_TIMEOUT)
        edge = EdgeProcess(process, state)
        with edge.client() as client, forward(origin, client=client) as tunnel:
            assert visit(edge, tunnel.url) == b"hello"
        process.terminate()
        assert process.wait(20) == 0


@pytest.mark.parametrize("options", [[], ["--hide-token"]])
def test_printed_command_can_be_pasted(tmp_path, options):
    """The place of a state directory on macOS has a blank in it, and a person's may have anything."""
    state = tmp_path / "Application Support; $(echo 'no')"
    edge = start_edge(state, *options, log=tmp_path / "log")
    exports = [line for line in edge.banner.splitlines() if "export" in line]
    shown = '; printf "%s\\n" "$QUICTUNNEL_EDGE" "$QUICTUNNEL_TOKEN" "$QUICTUNNEL_CA"'
    pasted = subprocess.run(["sh", "-c", "\n".join(exports) + shown], capture_output=True, text=True, check=True)
    assert pasted.stdout.splitlines() == [edge.environ[f"QUICTUNNEL_{name}"] for name in ("EDGE", "TOKEN", "CA")]
    assert edge.stop() == 0


ORPHANS = """
import os, socket, subprocess, sys
for _ in range(8):
    subprocess.run(["sh", "-c", "sleep 0.01 & exit 0"])
listener = socket.create_server(("127.0.0.1", int(sys.argv[2])))
while True:
    visitor = listener.accept()[0]
    states = [line.rpartition(")")[2].split()[:2] for line in (
        open(f"/proc/{pid}/stat").read() for pid in os.listdir("/proc") if pid.isdigit()
    )]
    visitor.sendall(b"%d zombies of 1\\n" % sum(state == ["Z", "1"] for state in states))
    visitor.close()
"""


class TestProcessOne:
    """``quictunnel run`` as a container starts it."""

    @pytest.fixture
    def container(self, edge, running, tmp_path):
        """Start it in a namespace of its own: its outer process, and the URL."""
        if os.geteuid() != 0:
            pytest.skip("a namespace of processes needs root")
        need("unshare")
        program = tmp_path / "orphans.py"
        program.write_text(ORPHANS)
        port = free_port()
        command = [sys.executable, "-m", "quictunnel", "run", "--json", "--port", port, "--"]
        process = running(
            ["unshare", "--pid", "--fork", "--mount-proc", *command, sys.executable, program, "--port", port],
            env=children_environment(edge), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        url = json.loads(process.stdout.readline())["url"]
        first = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
        yield process, url, first
        process.stdout.close()

    def test_orphans_are_reaped(self, edge, container):
        _, url, _ = container
        eventually(lambda: visit_all(edge, url) == b"0 zombies of 1\n", timeout=10)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_it_in_good_order(self, container, number):
        process, _, first = container
        os.kill(first, number)
        assert process.wait(20) == 0
        assert json.loads(process.stdout.read().splitlines()[-1]) == {"event": "closed"}
