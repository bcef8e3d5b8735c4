"""Tunnels in a lab of two network namespaces with a WAN between them (tests/netlab).

Each tunnel's server runs in the edge's host, its client and an origin in the client's host. All end with the lab.
``frp`` (frps and frpc) and ``chisel`` are found on the PATH. A client that ends with its connection, such as
``ssh``, is restarted at once, as is usual in practice.
"""

from __future__ import annotations

import getpass
import os
import shlex
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from perf.targets import need
from tests.harness import engine_pairing
from tests.netlab.rig import ECHO, Origin, Tunnelled

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable

    from tests.netlab.lab import Lab

PUBLIC_PORT: Final = 20022
"""Port of the edge's host for visitors."""
CONTROL_PORT: Final = 7000
"""Port of the edge's host for clients."""
TIMEOUT: Final = 300.0
"""Seconds without a byte after which visitors and the origin give up: longer than every outage."""
ATTEMPT_TIMEOUT: Final = 2.0
"""Seconds for one attempt of a new visitor."""
RESTART_LOOP: Final = "while :; do {}; sleep 1; done"


def choose_engine() -> None:
    """Run quictunnel on the engine that the environment selects, on both sides."""
    engine = os.environ.get(engine_pairing.VARIABLE) or "auto"
    engine_pairing.in_force = engine_pairing.Pairing(engine, engine)
    os.environ[engine_pairing.VARIABLE] = engine


def quictunnel(lab: Lab, directory: Path, stack: contextlib.ExitStack) -> tuple[str, int]:
    """Start quictunnel. Return the public address."""
    tunnel = stack.enter_context(Tunnelled(lab, directory, patience=TIMEOUT))
    host, port = tunnel.ready["tcp_socket"]
    return host, port


_SSHD: Final = """\
Port {control}
ListenAddress {address}
HostKey {base}/host_key
AuthorizedKeysFile {base}/key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
GatewayPorts yes
ClientAliveInterval 5
ClientAliveCountMax 3
LogLevel FATAL
"""


def ssh(lab: Lab, directory: Path, stack: contextlib.ExitStack) -> tuple[str, int]:
    """Start OpenSSH with keep-alives on both sides, so that it detects outages. Return the public address."""
    origin = stack.enter_context(Origin(lab, patience=TIMEOUT))
    sshd, client, keygen = need("sshd"), need("ssh"), need("ssh-keygen")
    for name in ("host_key", "key"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    config = directory / "sshd_config"
    config.write_text(_SSHD.format(control=CONTROL_PORT, address=lab.edge.address, base=directory))
    lab.edge.popen([sshd, "-D", "-f", config])
    options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
    options += ["ExitOnForwardFailure=yes", "ServerAliveInterval=5", "ServerAliveCountMax=3"]
    words = [client, "-F", "none", *(part for option in options for part in ("-o", option))]
    words += [
        "-i",
        str(directory / "key"),
        "-p",
        str(CONTROL_PORT),
        "-N",
        "-R",
        f"0.0.0.0:{PUBLIC_PORT}:127.0.0.1:{origin.port}",
    ]
    words.append(f"{getpass.getuser()}@{lab.edge.address}")
    run_forever(lab, words)
    return lab.edge.address, PUBLIC_PORT


def frp(protocol: str) -> Callable[[Lab, Path, contextlib.ExitStack], tuple[str, int]]:
    """Return a function that starts frp over ``protocol``."""

    def start(lab: Lab, directory: Path, stack: contextlib.ExitStack) -> tuple[str, int]:
        origin = stack.enter_context(Origin(lab, patience=TIMEOUT))
        server, client = directory / "frps.toml", directory / "frpc.toml"
        server.write_text(f'bindPort = {CONTROL_PORT}\nquicBindPort = {CONTROL_PORT}\nlog.level = "error"\n')
        client.write_text(
            f'serverAddr = "{lab.edge.address}"\nserverPort = {CONTROL_PORT}\n'
            'loginFailExit = false\nlog.level = "error"\n'
            f'transport.protocol = "{protocol}"\n[[proxies]]\nname = "p"\ntype = "tcp"\n'
            f'localIP = "127.0.0.1"\nlocalPort = {origin.port}\nremotePort = {PUBLIC_PORT}\n'
        )
        lab.edge.popen([need("frps"), "-c", server], stdout=subprocess.DEVNULL)
        run_forever(lab, [need("frpc"), "-c", str(client)])
        return lab.edge.address, PUBLIC_PORT

    return start


def chisel(lab: Lab, directory: Path, stack: contextlib.ExitStack) -> tuple[str, int]:
    """Start chisel. Return the public address."""
    del directory
    origin = stack.enter_context(Origin(lab, patience=TIMEOUT))
    program = need("chisel")
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    lab.edge.popen([program, "server", "--reverse", "--port", str(CONTROL_PORT)], **quiet)
    run_forever(
        lab,
        [
            program,
            "client",
            f"http://{lab.edge.address}:{CONTROL_PORT}",
            f"R:{PUBLIC_PORT}:127.0.0.1:{origin.port}",
        ],
    )
    return lab.edge.address, PUBLIC_PORT


TARGETS: Final = {
    "quictunnel": quictunnel,
    "ssh": ssh,
    "frp": frp("tcp"),
    "frp, QUIC": frp("quic"),
    "chisel": chisel,
}


def run_forever(lab: Lab, words: list[str]) -> None:
    """Run a client in the client's host, and restart it whenever it ends."""
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    lab.client.popen(["sh", "-c", RESTART_LOOP.format(shlex.join(words))], **quiet)


class Visitors:
    """Makes connections to the public address of a tunnel."""

    def __init__(self, lab: Lab, address: tuple[str, int]) -> None:
        self._lab = lab
        self._address = address

    def connect(self, patience: float = TIMEOUT) -> socket.socket:
        """Open a connection. Raises OSError."""
        sock = self._lab.edge.socket(kind=socket.SOCK_STREAM)
        sock.settimeout(patience)
        try:
            sock.connect(self._address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            sock.close()
            raise
        return sock

    def is_served(self) -> bool:
        """Return True if a new connection echoes a byte."""
        try:
            with self.connect(ATTEMPT_TIMEOUT) as sock:
                sock.sendall(ECHO + b"?")
                return sock.recv(1) == b"?"
        except OSError:
            return False

    def wait(self, seconds: float) -> float | None:
        """Return the seconds until a new visitor is served, or None if that takes longer than ``seconds``."""
        begun = time.monotonic()
        while time.monotonic() < begun + seconds:
            if self.is_served():
                return time.monotonic() - begun
            time.sleep(0.1)
        return None
