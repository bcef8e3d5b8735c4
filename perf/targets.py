"""The targets of a comparison. Each is started by a context manager and ends with its ``with`` block.

    with baseline(origin_port, directory) as target:
        ...                                       # target.host, target.port lead to the origin

:class:`Missing` is raised with the name of a program that is not installed.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perf.iperf import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

REPOSITORY = Path(__file__).parents[1]
START_SECONDS = 20.0
STOP_SECONDS = 15.0
SBIN = "/usr/sbin:/sbin:/usr/local/sbin"


class Missing(Exception):  # noqa: N818  not an error: the other targets are still measured
    """A program that a target needs is not installed."""


@dataclass(frozen=True, slots=True)
class Target:
    """A running tunnel to the origin, or the direct connection."""

    name: str
    host: str
    port: int
    edge: int | None = None
    """Process at the visitors' side; its descendants count as part of it."""
    client: int | None = None
    """Process at the origin's side."""
    tls_host: str = ""
    """Server name for TLS at ``port``, if visitors use HTTPS."""
    ca: Path | None = None


def need(program: str) -> str:
    """Return the path of a program. Raises Missing."""
    path = shutil.which(program) or shutil.which(program, path=SBIN)
    if path is None:
        raise Missing(program)
    return path


@contextlib.contextmanager
def running(command: Sequence[str | Path], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a program during a ``with`` block."""
    process = subprocess.Popen(list(map(str, command)), text=True, cwd=REPOSITORY, **options)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def line_of(process: subprocess.Popen[str], beginning: str) -> str:
    """Read the output of a program up to a line with this beginning. Raises RuntimeError."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(beginning):
            return line
    raise RuntimeError(f"{process.args} ended before it printed {beginning!r}")


def wait_for_port(port: int, host: str = "127.0.0.1") -> None:
    """Wait until a TCP port accepts connections. Raises OSError after :data:`START_SECONDS`."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


@contextlib.contextmanager
def direct(origin: int, directory: Path) -> Iterator[Target]:  # noqa: ARG001  all targets are called alike
    """Connect without a tunnel, to measure loopback TCP."""
    yield Target("direct", "127.0.0.1", origin)


_SSHD = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {base}/host_key
AuthorizedKeysFile {base}/key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
AllowTcpForwarding yes
LogLevel FATAL
"""


@contextlib.contextmanager
def ssh(origin: int, directory: Path) -> Iterator[Target]:
    """Run ``ssh -R`` with OpenSSH's default ciphers."""
    programs = {name: need(name) for name in ("sshd", "ssh", "ssh-keygen")}
    base = directory / "ssh"
    base.mkdir()
    for name in ("host_key", "key"):
        command = [programs["ssh-keygen"], "-q", "-t", "ed25519", "-N", "", "-f", str(base / name)]
        subprocess.run(command, check=True)
    port, public = free_port(), free_port()
    (base / "sshd_config").write_text(_SSHD.format(base=base, port=port))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd requires it, but only as root
    options = ["BatchMode=yes", "StrictHostKeyChecking=no", f"UserKnownHostsFile={base}/known"]
    options += ["ExitOnForwardFailure=yes", "IdentitiesOnly=yes", "LogLevel=ERROR"]
    flags = [part for option in options for part in ("-o", option)]
    forward = f"127.0.0.1:{public}:127.0.0.1:{origin}"
    target = ["-i", base / "key", "-p", str(port), "-N", "-R", forward, f"{getpass.getuser()}@127.0.0.1"]
    with running([programs["sshd"], "-D", "-e", "-f", base / "sshd_config"]) as server:
        wait_for_port(port)
        with running([programs["ssh"], "-F", "none", *flags, *target]) as client:
            wait_for_port(public)
            yield Target("ssh -R", "127.0.0.1", public, server.pid, client.pid)


@contextlib.contextmanager
def baseline(origin: int, directory: Path) -> Iterator[Target]:
    """Run copy loops over plain ``aioquic.asyncio`` streams (``perf/baseline.py``)."""
    quic, public = free_port(), free_port()
    base = directory / "baseline"
    base.mkdir()
    common = ["--dir", base, "--quic", str(quic)]
    module = [sys.executable, "-m", "perf.baseline"]
    with running([*module, "edge", *common, "--public", str(public)], stdout=subprocess.PIPE) as edge:
        line_of(edge, "edge ready")
        with running([*module, "client", *common, "--origin", str(origin)], stdout=subprocess.PIPE) as client:
            line_of(client, "client ready")
            line_of(edge, "client joined")
            yield Target("baseline", "127.0.0.1", public, edge.pid, client.pid)


@contextlib.contextmanager
def ours(
    origin: int,
    directory: Path,
    *,
    tls: bool = False,
    name: str = "quictunnel",
    engine: str = "",
    through: tuple[str, ...] = (),
    more: tuple[str, ...] = (),
    log: tuple[str, ...] = ("--log-level", "warning"),
) -> Iterator[Target]:
    """Run the edge and the client as programs.

    Args:
        origin: port of the local service.
        directory: parent of the state directory.
        tls: visitors use HTTPS, instead of the plain TCP port.
        name: name of the target.
        engine: QUIC engine of both; empty: QUICTUNNEL_ENGINE decides.
        through: module that runs them, such as ``perf.no_resume``.
        more: more options of the client.
        log: the edge's log options; the log is a file.
    """
    base = directory / (f"{name}-https" if tls else name)
    program = [sys.executable, "-m", *through]
    environment = os.environ | ({"QUICTUNNEL_ENGINE": engine} if engine else {})
    with _edge([*program, "edge_server"], base, environment, log) as edge:
        lines = (base / "client.env").read_text().splitlines()
        environment |= dict(line.split("=", 1) for line in lines)
        command = [*program, "quictunnel", "http" if tls else "tcp", str(origin), "--json", *more]
        with running(command, stdout=subprocess.PIPE, env=environment) as client:
            ready = json.loads(line_of(client, "{"))
            if tls:
                host, port = ready["tls_socket"]
                yield Target(name, "127.0.0.1", port, edge.pid, client.pid, host, base / "ca.pem")
            else:
                yield Target(name, *ready["tcp_socket"], edge.pid, client.pid)


@contextlib.contextmanager
def start_edge(base: Path) -> Iterator[dict[str, str]]:
    """Run an edge as a program; yield the environment of its clients."""
    base = base / "edge"
    with _edge([sys.executable, "-m", "edge_server"], base, dict(os.environ), ("--log-level", "warning")):
        lines = (base / "client.env").read_text().splitlines()
        yield os.environ | dict(line.split("=", 1) for line in lines)


@contextlib.contextmanager
def _edge(
    program: Sequence[str], base: Path, environment: dict[str, str], log: Sequence[str]
) -> Iterator[subprocess.Popen[str]]:
    command = [*program, "--state-dir", base, "--quic", "127.0.0.1:0", "--https", "127.0.0.1:0", *log]
    with (
        base.with_suffix(".log").open("w") as file,
        running(command, stdout=subprocess.PIPE, stderr=file, env=environment) as edge,
    ):
        line_of(edge, "Try:")
        yield edge


def no_resume(origin: int, directory: Path) -> AbstractContextManager[Target]:
    """Run quictunnel without the buffers that let streams outlive their connection (``perf/no_resume.py``)."""
    return ours(origin, directory, name="no-resume", through=("perf.no_resume",))


def family(pid: int | None) -> list[int]:
    """Return a process and all of its descendants."""
    if pid is None:
        return []
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            # The process may end after the listing.
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(") ")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for member in found:  # grows while it is walked
        found += children.get(member, [])
    return found
