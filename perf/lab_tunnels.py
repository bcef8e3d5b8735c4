"""Tunnels in a lab of two network namespaces and a WAN between them (tests/netlab): each is started with its
server in the edge's host and its client, before an origin, in the client's, and ends with the lab.

``frp`` (frps and frpc) and ``chisel`` are looked for on the PATH. Clients that end with their connection, as
``ssh`` does, are started again at once, as everybody does who relies on them.
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

PORT: Final = 20022
"""Where visitors come, at the edge's host."""
CONTROL: Final = 7000
"""Where clients come, at the edge's host."""
PATIENCE: Final = 300.0
"""Seconds without a byte for which visitors and the origin wait: longer than every outage."""
TRY: Final = 2.0
"""Seconds for one attempt of a newcomer."""
AGAIN: Final = "while :; do {}; sleep 1; done"


def choose_engine() -> None:
    """We run on the engine that the environment asks for, on both sides."""
    engine = os.environ.get(engine_pairing.VARIABLE) or "auto"
    engine_pairing.in_force = engine_pairing.Pairing(engine, engine)
    os.environ[engine_pairing.VARIABLE] = engine


def quictunnel(lab: Lab, directory: Path, stack: contextlib.ExitStack) -> tuple[str, int]:
    tunnel = stack.enter_context(Tunnelled(lab, directory, patience=PATIENCE))
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
    """OpenSSH with keep-alives on both sides, so that it notices at all."""
    origin = stack.enter_context(Origin(lab, patience=PATIENCE))
    sshd, client, keygen = need("sshd"), need("ssh"), need("ssh-keygen")
    for name in ("host_key", "key"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    config = directory / "sshd_config"
    config.write_text(_SSHD.format(control=CONTROL, address=lab.edge.address, base=directory))
    lab.edge.popen([sshd, "-D", "-f", config])
    options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
    options += ["ExitOnForwardFailure=yes", "ServerAliveInterval=5", "ServerAliveCountMax=3"]
    words = [client, "-F", "none", *(part for option in options for part in ("-o", option))]
    words += [
        "-i",
        str(directory / "key"),
        "-p",
        str(CONTROL),
        "-N",
        "-R",
        f"0.0.0.0:{PORT}:127.0.0.1:{origin.port}",
    ]
    words.append(f"{getpass.getuser()}@{lab.edge.address}")
    again(lab, words)
    return lab.edge.address, PORT


def frp(protocol: str) -> Callable[[Lab, Path, contextlib.ExitStack], tuple[str, int]]:
    def start(lab: Lab, directory: Path, stack: contextlib.ExitStack) -> tuple[str, int]:
        origin = stack.enter_context(Origin(lab, patience=PATIENCE))
        server, client = directory / "frps.toml", directory / "frpc.toml"
        server.write_text(f'bindPort = {CONTROL}\nquicBindPort = {CONTROL}\nlog.level = "error"\n')
        client.write_text(
            f'serverAddr = "{lab.edge.address}"\nserverPort = {CONTROL}\n'
            'loginFailExit = false\nlog.level = "error"\n'
            f'transport.protocol = "{protocol}"\n[[proxies]]\nname = "p"\ntype = "tcp"\n'
            f'localIP = "127.0.0.1"\nlocalPort = {origin.port}\nremotePort = {PORT}\n'
        )
        lab.edge.popen([need("frps"), "-c", server], stdout=subprocess.DEVNULL)
        again(lab, [need("frpc"), "-c", str(client)])
        return lab.edge.address, PORT

    return start


def chisel(lab: Lab, directory: Path, stack: contextlib.ExitStack) -> tuple[str, int]:
    del directory
    origin = stack.enter_context(Origin(lab, patience=PATIENCE))
    program = need("chisel")
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    lab.edge.popen([program, "server", "--reverse", "--port", str(CONTROL)], **quiet)
    again(lab, [program, "client", f"http://{lab.edge.address}:{CONTROL}", f"R:{PORT}:127.0.0.1:{origin.port}"])
    return lab.edge.address, PORT


TARGETS: Final = {
    "quictunnel": quictunnel,
    "ssh": ssh,
    "frp": frp("tcp"),
    "frp, QUIC": frp("quic"),
    "chisel": chisel,
}


def again(lab: Lab, words: list[str]) -> None:
    """Run a client in the client's host, and again whenever it ends."""
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    lab.client.popen(["sh", "-c", AGAIN.format(shlex.join(words))], **quiet)


class Visitors:
    """Who comes to a tunnel."""

    def __init__(self, lab: Lab, address: tuple[str, int]) -> None:
        self._lab = lab
        self._address = address

    def come(self, patience: float = PATIENCE) -> socket.socket:
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
        try:
            with self.come(TRY) as sock:
                sock.sendall(ECHO + b"?")
                return sock.recv(1) == b"?"
        except OSError:
            return False

    def wait(self, seconds: float) -> float | None:
        """When a newcomer is served, in seconds from now."""
        begun = time.monotonic()
        while time.monotonic() < begun + seconds:
            if self.is_served():
                return time.monotonic() - begun
            time.sleep(0.1)
        return None
