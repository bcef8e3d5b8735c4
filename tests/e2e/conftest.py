"""Real programs around a real edge process: what a user has."""

import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import quictunnel
from quictunnel.config import load

START_TIMEOUT = 20


def need(program: str) -> str:
    """The path of a program, or a visible skip."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@dataclass
class EdgeProcess:
    """``python -m edge_server`` as its user starts it."""

    process: subprocess.Popen
    state_dir: Path

    @property
    def ca(self) -> Path:
        return self.state_dir / "ca.pem"

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def environ(self) -> dict[str, str]:
        """What a client needs, as client.env says it."""
        lines = (self.state_dir / "client.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def client(self) -> quictunnel.Client:
        return quictunnel.Client.from_config(load(self.environ | {"HOME": str(self.state_dir)}))

    def stop(self, number: int = signal.SIGTERM, timeout: float = 40) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout)


def start_edge(state_dir: Path, *options: str, log: Path | None = None) -> EdgeProcess:
    """Start an edge on free ports and wait until it says that it serves."""
    command = [sys.executable, "-m", "edge_server", "--state-dir", str(state_dir)]
    if "--quic" not in options:
        command += ["--quic", "127.0.0.1:0"]
    if "--https" not in options:
        command += ["--https", "127.0.0.1:0"]
    output = (log or state_dir.with_suffix(".log")).open("ab")
    with output:
        process = subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, stderr=output, text=True, cwd=Path(__file__).parents[2]
        )
    assert process.stdout is not None
    for line in process.stdout:  # the banner comes when it serves; the end of the output when it failed
        if line.startswith("Try:"):
            return EdgeProcess(process, state_dir)
    process.wait(START_TIMEOUT)
    raise AssertionError(f"the edge did not start: {(log or state_dir.with_suffix('.log')).read_text()}")


@pytest.fixture(scope="session")
def shared_edge(tmp_path_factory):
    """One edge for all tests that do not disturb it."""
    edge = start_edge(tmp_path_factory.mktemp("edge") / "state")
    yield edge
    assert edge.stop() == 0
    assert not (edge.state_dir / "client.env").exists()


@pytest.fixture
def edge(shared_edge):
    assert shared_edge.process.poll() is None
    return shared_edge


@pytest.fixture
def client(edge):
    with edge.client() as client:
        yield client


@pytest.fixture
def running():
    """Start a program that ends with the test: ``running(["nginx", ...])``."""
    with contextlib.ExitStack() as stack:

        def start(command, **options):
            process = subprocess.Popen([str(part) for part in command], **options)

            def end():
                if process.poll() is None:
                    process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

            stack.callback(end)
            return process

        yield start


def wait_for_port(port: int, host: str = "127.0.0.1", timeout: float = 20) -> None:
    """Until somebody listens there."""
    import time

    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def curl(edge: EdgeProcess, *arguments: str, **options) -> subprocess.CompletedProcess:
    """curl, verifying the certificate."""
    command = [need("curl"), "--silent", "--show-error", "--cacert", str(edge.ca), "--noproxy", "*", *arguments]
    return subprocess.run(command, capture_output=True, check=False, timeout=100, **options)


def tls_connect(edge: EdgeProcess, tunnel: quictunnel.Tunnel, alpn: list[str] | None = None) -> ssl.SSLSocket:
    """A verified TLS connection to the tunnel; ``*.localhost`` is not resolved by glibc, so by hand."""
    context = ssl.create_default_context(cafile=str(edge.ca))
    if alpn:
        context.set_alpn_protocols(alpn)
    raw = socket.create_connection(("127.0.0.1", tunnel.port), timeout=30)
    return context.wrap_socket(raw, server_hostname=tunnel.host)


def resident_memory(pid: int) -> int:
    """Bytes of memory that a process has."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def children_environment(edge: EdgeProcess) -> dict[str, str]:
    """The environment for a program that uses quictunnel."""
    return os.environ | edge.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1"}
