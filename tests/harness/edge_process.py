"""An edge in a process of its own, or embedded in this one."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import quictunnel
from edge_server.embedded import EmbeddedEdge
from quictunnel.config.client_config import ClientConfig, load
from tests.harness import engine_pairing

START_TIMEOUT = 20


@dataclass
class EdgeProcess:
    """A running ``python -m edge_server``."""

    process: subprocess.Popen
    state_dir: Path
    banner: str = ""
    """Lines that the edge printed when it was ready."""

    @property
    def ca(self) -> Path:
        return self.state_dir / "ca.pem"

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def environ(self) -> dict[str, str]:
        """Return the variables of client.env, which a client needs."""
        lines = (self.state_dir / "client.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    @property
    def config(self) -> ClientConfig:
        """The client configuration for this edge."""
        more = {"HOME": str(self.state_dir), engine_pairing.VARIABLE: os.environ[engine_pairing.VARIABLE]}
        return load(self.environ | more)

    def client(self) -> quictunnel.Client:
        """Return a new client of this edge."""
        return quictunnel.Client.from_config(self.config)

    def stop(self, number: int = signal.SIGTERM, timeout: float = 40) -> int:
        """Send a signal, wait for the end, and return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(timeout)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return status


def start_edge(
    state_dir: Path,
    *options: str,
    log: Path | None = None,
    prefix: tuple[str, ...] = (),
    close_fds: bool = True,
) -> EdgeProcess:
    """Start an edge on free ports and wait until it serves.

    ``prefix`` is a command that runs it, such as one that enters a network namespace.
    """
    command = [*prefix, sys.executable, "-m", "edge_server", "--state-dir", str(state_dir)]
    if "--quic" not in options:
        command += ["--quic", "127.0.0.1:0"]
    if "--https" not in options:
        command += ["--https", "127.0.0.1:0"]
    output = (log or state_dir.with_suffix(".log")).open("ab")
    with output:
        process = subprocess.Popen(
            [*command, *options],
            env=os.environ | {engine_pairing.VARIABLE: engine_pairing.edge_engine()},
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            cwd=Path(__file__).parents[2],
            close_fds=close_fds,
        )
    assert process.stdout is not None
    banner = ""
    for line in process.stdout:  # the banner comes when it serves; the end of the output when it failed
        banner += line
        if line.startswith("Try:"):
            return EdgeProcess(process, state_dir, banner)
    process.stdout.close()
    process.wait(START_TIMEOUT)
    raise AssertionError(f"the edge did not start: {(log or state_dir.with_suffix('.log')).read_text()}")


def embedded_edge(*, admin: bool = False) -> EmbeddedEdge:
    """Return an edge to run in this process."""
    return EmbeddedEdge(engine=engine_pairing.edge_engine(), admin=admin)


def resident_memory(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def children_environment(edge: EdgeProcess) -> dict[str, str]:
    """Return the environment for a program that uses quictunnel."""
    return os.environ | edge.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1"}
