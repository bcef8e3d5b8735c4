"""The ways to one origin that are compared: each is started here, and gone when its ``with`` block ends.

    with baseline(origin_port, directory) as target:
        ...                                       # target.host, target.port lead to the origin

What a machine lacks raises :class:`Missing`, with the name of what it is.
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


class Missing(Exception):  # noqa: N818  it is no error: the rest is measured without it
    """A program that a target needs is not here."""


@dataclass(frozen=True, slots=True)
class Target:
    """A way to the origin."""

    name: str
    host: str
    port: int
    edge: int | None = None
    """Process at the visitors' side; what it started counts as part of it."""
    client: int | None = None
    """Process at the origin's side."""
    tls_host: str = ""
    """Name of the same thing over TLS at ``port``, if that is what was asked for."""
    ca: Path | None = None


def need(program: str) -> str:
    path = shutil.which(program) or shutil.which(program, path=SBIN)
    if path is None:
        raise Missing(program)
    return path


@contextlib.contextmanager
def running(command: Sequence[str | Path], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A program for the length of a ``with`` block."""
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
    """Read what a program says until a line with this beginning."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(beginning):
            return line
    raise RuntimeError(f"{process.args} ended before it said {beginning!r}")


def wait_for_port(port: int, host: str = "127.0.0.1") -> None:
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
    """No tunnel: what loopback TCP can do."""
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
    """``ssh -R`` with OpenSSH's own choice of ciphers."""
    programs = {name: need(name) for name in ("sshd", "ssh", "ssh-keygen")}
    base = directory / "ssh"
    base.mkdir()
    for name in ("host_key", "key"):
        command = [programs["ssh-keygen"], "-q", "-t", "ed25519", "-N", "", "-f", str(base / name)]
        subprocess.run(command, check=True)
    port, public = free_port(), free_port()
    (base / "sshd_config").write_text(_SSHD.format(base=base, port=port))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd does not start without it, and only root's asks
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
    """Copy loops over plain ``aioquic.asyncio`` streams (``perf/baseline.py``), as they come."""
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
    """The real programs with this engine, else with QUICTUNNEL_ENGINE as it is set; ``through`` is what runs them,
    if not Python; ``more`` are options of the client, ``log`` the edge's about its log, which is a file."""
    base = directory / (f"{name}-https" if tls else name)
    chosen = {"QUICTUNNEL_ENGINE": engine} if engine else {}
    run = [sys.executable, "-m", *through]
    command = [*run, "edge_server", "--state-dir", base]
    command += ["--quic", "127.0.0.1:0", "--https", "127.0.0.1:0", *log]
    with (
        base.with_suffix(".log").open("w") as file,
        running(command, stdout=subprocess.PIPE, stderr=file, env=os.environ | chosen) as edge,
    ):
        line_of(edge, "Try:")
        lines = (base / "client.env").read_text().splitlines()
        environment = os.environ | chosen | dict(line.split("=", 1) for line in lines)
        client_command = [*run, "quictunnel", "http" if tls else "tcp", str(origin), "--json", *more]
        with running(client_command, stdout=subprocess.PIPE, env=environment) as client:
            ready = json.loads(line_of(client, "{"))
            if tls:
                host, port = ready["tls_socket"]
                yield Target(name, "127.0.0.1", port, edge.pid, client.pid, host, base / "ca.pem")
            else:
                yield Target(name, *ready["tcp_socket"], edge.pid, client.pid)


def no_resume(origin: int, directory: Path) -> AbstractContextManager[Target]:
    """Ours without what lets streams outlive their connection (``perf/no_resume.py``)."""
    return ours(origin, directory, name="no-resume", through=("perf.no_resume",))


def family(pid: int | None) -> list[int]:
    """A process and everything below it, now."""
    if pid is None:
        return []
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            # It may end between the listing and the look.
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(") ")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for member in found:  # grows while it is walked
        found += children.get(member, [])
    return found
