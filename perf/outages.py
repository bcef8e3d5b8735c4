"""What happens to visitors of several tunnels when the network between client and edge does what networks do.

    python -m perf.outages                                  # everything that is installed; half an hour (root)
    python -m perf.outages --contenders quictunnel ssh --events "black hole of 5 s" "another address"
    python -m perf.outages --markdown                       # as docs/OUTAGES.md has it

Each tunnel runs in its own lab (tests/netlab): 100 Mbit/s, 25 ms each way. One visitor downloads, one has typed
something and waits, as in an SSH session. Then the event, and three questions, answered in seconds from the moment
at which the network is well again:

- download: when 8 MiB more had come, which take 0.7 s at full rate, or that it broke. What was under way already,
  in buffers on the visitor's side, is not enough for that;
- session: when what is typed at that moment comes back, or that it broke;
- newcomer: when a new visitor is first served.

``frp`` (frps and frpc) and ``chisel`` are looked for on the PATH. Clients that end with their connection, as
``ssh`` does, are started again at once, as everybody does who relies on them.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import os
import shlex
import socket
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from perf.contenders import Missing, need
from perf.tables import table
from tests import pairing
from tests.netlab.lab import Lab, missing
from tests.netlab.rig import ECHO, Bulk, Origin, Tunnelled

if TYPE_CHECKING:
    from collections.abc import Callable

PORT: Final = 20022
"""Where visitors come, at the edge's host."""
CONTROL: Final = 7000
"""Where clients come, at the edge's host."""
ENOUGH: Final = 60.0
"""Seconds after the network is well again for which an answer is waited for."""
PATIENCE: Final = 300.0
"""Seconds without a byte for which visitors and the origin wait: longer than every outage."""
MORE: Final = 8 << 20
"""Bytes that show that a download goes on; more than was under way."""
TRY: Final = 2.0
"""Seconds for one attempt of a newcomer."""
AGAIN: Final = "while :; do {}; sleep 1; done"


def black_hole(seconds: float) -> Callable[[Lab], None]:
    def happen(lab: Lab) -> None:
        with lab.blackout():
            time.sleep(seconds)

    return happen


def moves(lab: Lab) -> None:
    for _ in range(5):
        lab.move_client()
        time.sleep(1)


EVENTS: Final[dict[str, Callable[[Lab], None]]] = {
    "black hole of 2 s": black_hole(2),
    "black hole of 5 s": black_hole(5),
    "black hole of 20 s": black_hole(20),
    "black hole of 90 s": black_hole(90),
    "another address": lambda lab: lab.move_client(),
    "another address, five times": moves,
    "another port of the NAT": lambda lab: lab.nat_rebind(),
}


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


CONTENDERS: Final = {
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


class Cell(NamedTuple):
    """Seconds; None: broken, or not within :data:`ENOUGH`."""

    download: float | None
    session: float | None
    newcomer: float | None

    def __str__(self) -> str:
        return " · ".join("broken" if value is None else f"{value:.1f}" for value in self)


def measure(contender: str, event: str) -> Cell:
    with (
        tempfile.TemporaryDirectory(prefix="quictunnel-outages-") as name,
        Lab(delay_ms=25, rate_mbit=100, nat="NAT" in event) as lab,
        contextlib.ExitStack() as stack,
    ):
        address = CONTENDERS[contender](lab, Path(name), stack)
        visitors = Visitors(lab, address)
        if visitors.wait(20) is None:
            raise Missing(f"{contender} does not serve here")
        with visitors.come() as typist, Bulk(visitors.come()) as bulk:
            typist.sendall(ECHO + b"a")
            typist.recv(1)
            bulk.wait_for(1 << 20, timeout=20)
            EVENTS[event](lab)
            with ThreadPoolExecutor() as threads:
                download = threads.submit(goes_on, bulk)
                session = threads.submit(types_on, typist)
                newcomer = visitors.wait(ENOUGH)
        return Cell(download.result(), session.result(), newcomer)


def goes_on(bulk: Bulk) -> float | None:
    try:
        return bulk.wait_for(MORE, ENOUGH)
    except AssertionError:
        return None


def types_on(typist: socket.socket) -> float | None:
    begun = time.monotonic()
    typist.settimeout(ENOUGH)
    try:
        typist.sendall(b"b")
        echoed = typist.recv(1) == b"b"
    except OSError:
        return None
    return time.monotonic() - begun if echoed else None


def rows_of(cells: dict[str, dict[str, Cell | None]]) -> list[list[str]]:
    names = list(next(iter(cells.values())))
    rows = [["", *names]]
    rows += [[event, *(str(found[name] or "not here") for name in names)] for event, found in cells.items()]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Outages, and what several tunnels make of them.")
    parser.add_argument("--events", nargs="+", choices=EVENTS, default=list(EVENTS))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--json", type=Path, help="write every single answer there")
    options = parser.parse_args()
    if lack := missing():
        parser.error(lack)
    engine = os.environ.get(pairing.VARIABLE) or "auto"
    pairing.in_force = pairing.Pairing(engine, engine)
    os.environ[pairing.VARIABLE] = engine
    cells: dict[str, dict[str, Cell | None]] = {event: {} for event in options.events}
    for name in options.contenders:
        for event, found in cells.items():
            try:
                found[name] = measure(name, event)
            except Missing as lack_of:
                print(f"{name}: not here: {lack_of}")
                found[name] = None
            print(f"{event}, {name}: {found[name] or 'not here'}", flush=True)
    print("\nseconds after the network is well: download · session · newcomer")
    print(table(rows_of(cells), markdown=options.markdown))
    if options.json:
        options.json.write_text(json.dumps(cells, indent=1))


if __name__ == "__main__":
    main()
