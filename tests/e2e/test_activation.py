"""An edge on sockets that somebody else opened: both families, through a restart, and as systemd passes them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import quictunnel
from tests.e2e.conftest import EdgeProcess, free_port, need, start_edge
from tests.e2e.echo import EchoOrigin, is_served, says_back, until
from tests.edge_server.acme import pebble as authorities

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 30
# Gives descriptors the numbers that sd_listen_fds(3) says, and becomes the edge.
PASS_ON = """
import os, sys
names = sys.argv[1]
count = len(names.split(":"))
given = [os.dup(int(number)) for number in sys.argv[2:2 + count]]
for number, descriptor in enumerate(given, 3):
    os.dup2(descriptor, number)
    os.set_inheritable(number, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(count), LISTEN_FDNAMES=names)
os.execv(sys.argv[2 + count], sys.argv[2 + count:])
"""


class Manager:
    """Opens the sockets, as a socket unit with ``[::]`` does, and keeps them while edges come and go."""

    def __init__(self) -> None:
        self.https = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        self.quic = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.quic.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.quic.bind(("::", 0))
        self.http = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        self.ports = self.https.getsockname()[1], self.quic.getsockname()[1]
        self.http_port = self.http.getsockname()[1]
        self._started: list[EdgeProcess] = []

    def start(self, state_dir: Path, *more: str, names: str = "https:quic") -> EdgeProcess:
        """An edge with these sockets: of ``https``, ``quic`` and ``acme-http`` those that are named."""
        known = {"https": self.https, "quic": self.quic, "acme-http": self.http}
        sockets = [known[name] for name in names.split(":")]
        options = ("--https", f"[::]:{self.ports[0]}", "--quic", f"[::]:{self.ports[1]}", "--grace", "5", *more)
        prefix = (sys.executable, "-c", PASS_ON, names, *(str(sock.fileno()) for sock in sockets))
        for sock in sockets:
            sock.set_inheritable(True)
        edge = start_edge(state_dir, *options, prefix=prefix, close_fds=False)
        self._started.append(edge)
        return edge

    def close(self) -> None:
        for edge in self._started:  # those that a test left when it failed
            if edge.process.poll() is None:
                edge.process.kill()
                edge.process.wait()
            for process in successors(edge):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    # By now the number may be somebody else's.
                    if str(edge.state_dir).encode() in Path(f"/proc/{process}/cmdline").read_bytes():
                        os.kill(process, signal.SIGKILL)
        for sock in (self.https, self.quic, self.http):
            sock.close()


@pytest.fixture
def manager() -> Iterator[Manager]:
    manager = Manager()
    yield manager
    manager.close()


def visit(edge: EdgeProcess, tunnel: quictunnel.Tunnel, host: str) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(edge.ca))
    raw = socket.create_connection((host, tunnel.port), timeout=PATIENCE)
    return context.wrap_socket(raw, server_hostname=tunnel.host)


def test_clients_and_visitors_of_both_families(manager, tmp_path, engines):
    edge = manager.start(tmp_path / "state")
    assert edge.environ["QUICTUNNEL_EDGE"] == f"127.0.0.1:{manager.ports[1]}"
    try:
        for host in ("127.0.0.1", "[::1]"):
            config = edge.config
            token = config.token.reveal()
            client = quictunnel.Client(edge=f"{host}:{manager.ports[1]}", token=token, ca=edge.ca)
            with client, EchoOrigin() as origin, quictunnel.forward(origin.port, client=client) as tunnel:
                assert tunnel.port == manager.ports[0]
                for visitor_host in ("127.0.0.1", "::1"):
                    with visit(edge, tunnel, visitor_host) as visitor:
                        assert says_back(visitor)
    finally:
        assert edge.stop() == 0


def test_who_comes_while_the_edge_is_started_again_waits(manager, tmp_path, engines):
    edge = manager.start(tmp_path / "state")
    with edge.client() as client, EchoOrigin() as origin, quictunnel.forward(origin.port, client=client) as tunnel:
        until(lambda: is_served(edge, tunnel), PATIENCE)
        assert edge.stop() == 0
        # The sockets are open still: nobody is refused.
        raw = socket.create_connection(("127.0.0.1", tunnel.port), timeout=PATIENCE)
        edge = manager.start(tmp_path / "state")
        with ssl.create_default_context(cafile=str(edge.ca)).wrap_socket(
            raw, server_hostname=tunnel.host, do_handshake_on_connect=False
        ) as visitor:
            until(lambda: is_served(edge, tunnel), PATIENCE)
            visitor.do_handshake()
            assert says_back(visitor)
    assert edge.stop() == 0


def test_a_successor_takes_them_over(manager, tmp_path, engines):
    """It is a child, and must not believe that it was passed sockets itself."""
    edge = manager.start(tmp_path / "state")
    with edge.client() as client, EchoOrigin() as origin, quictunnel.forward(origin.port, client=client) as tunnel:
        with visit(edge, tunnel, "127.0.0.1") as visitor:
            assert says_back(visitor)
            edge.process.send_signal(signal.SIGUSR2)
            until(lambda: client.snapshot().reconnected == 1, PATIENCE)
            assert says_back(visitor)
        assert edge.process.wait(PATIENCE) == 0
        until(lambda: is_served(edge, tunnel), PATIENCE)
        stop_successor(edge)


def successors(edge: EdgeProcess) -> list[int]:
    """Processes that it started, and that ended by themselves where all is well."""
    log = edge.state_dir.with_suffix(".log").read_text()
    return [int(line.split()[-5]) for line in log.splitlines() if "is to take over" in line]


def stop_successor(edge: EdgeProcess) -> None:
    """Of an edge that has ended."""
    (process,) = successors(edge)
    os.kill(process, signal.SIGTERM)
    until(lambda: not (edge.state_dir / "client.env").exists(), PATIENCE)
    assert edge.process.stdout is not None
    edge.process.stdout.close()


def test_validators_come_to_a_socket_that_was_passed_also_at_a_successor(manager, tmp_path, engines):
    """Neither could have opened it: nobody may share it."""
    with (
        authorities.names(tmp_path) as names,
        authorities.pebble(tmp_path / "pebble", dns=names.dns, http_port=manager.http_port) as authority,
    ):
        context = ssl.create_default_context(cafile=str(authority.roots(tmp_path / "roots.pem")))
        edge = manager.start(
            tmp_path / "state",
            *("--domain", "tunnel.example.com", "--acme", "you@example.com", "--acme-challenge", "http-01"),
            *("--acme-directory", authority.directory, "--acme-ca", str(authority.ca)),
            *("--acme-http", f"[::]:{manager.http_port}"),
            names="acme-http:https:quic",
        )

        def is_met(tunnel: quictunnel.Tunnel) -> bool:
            raw = socket.create_connection(("127.0.0.1", tunnel.port), timeout=PATIENCE)
            try:
                with context.wrap_socket(raw, server_hostname=tunnel.host) as visitor:
                    return says_back(visitor)
            except OSError:
                return False

        with edge.client() as client, EchoOrigin() as origin:
            with quictunnel.forward(origin.port, name="one", client=client) as tunnel:
                until(lambda: is_met(tunnel), PATIENCE)
            edge.process.send_signal(signal.SIGUSR2)
            assert edge.process.wait(PATIENCE) == 0
            with quictunnel.forward(origin.port, name="two", client=client) as tunnel:
                until(lambda: is_met(tunnel), PATIENCE)
            stop_successor(edge)


def test_a_socket_for_validators_that_nobody_asked_for(manager, tmp_path, engines):
    with pytest.raises(AssertionError, match="A socket called acme-http was passed, and --acme-http does not say"):
        manager.start(tmp_path / "state", names="https:quic:acme-http")


def test_as_systemd_passes_them(tmp_path, engines):
    program = need("systemd-socket-activate")
    port = free_port()
    command = [program, "--listen", f"127.0.0.1:{port}", "-E", "PATH", "-E", "HOME", "-E", "PYTHONPATH"]
    root = Path(__file__).parents[2]
    edge = subprocess.Popen(
        [*command, sys.executable, "-m", "edge_server", "--state-dir", tmp_path / "state",
         "--https", f"127.0.0.1:{port}", "--quic", "127.0.0.1:0"],
        cwd=root, env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        until(lambda: can_connect(port), PATIENCE)  # the first connection starts it
        assert edge.stdout is not None
        assert any(line.startswith("Try:") for line in edge.stdout)
        running = EdgeProcess(edge, tmp_path / "state")
        with (
            running.client() as client,
            EchoOrigin() as origin,
            quictunnel.forward(origin.port, client=client) as tunnel,
        ):
            assert tunnel.port == port
            assert is_served(running, tunnel)
        assert running.stop() == 0
    finally:
        if edge.poll() is None:
            edge.kill()
            edge.wait()


def can_connect(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
    except OSError:
        return False
    return True
