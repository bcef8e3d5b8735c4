"""An edge is stopped, or killed, and started again: whoever comes before the clients are back waits for them."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

import quictunnel
from edge_server.handoff.snapshot_store import FILE
from tests.harness.constant_load import RATE, WORKERS, ConstantLoad
from tests.harness.echo_origin import EchoOrigin, assert_closed, is_served, serves
from tests.harness.edge_process import EdgeProcess, children_environment, start_edge
from tests.harness.visitors import tls_connect
from tests.harness.waiting import eventually
from tests.load.background import arrivals_at, churn_beside, nothing_left

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Self

PATIENCE = 30


@pytest.fixture
def origin() -> Iterator[EchoOrigin]:
    with EchoOrigin() as origin:
        yield origin


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_no_request_is_refused(manager, nginx, tmp_path, engines, number):
    """Sockets stay open during the restart, as under systemd. Visitors in flight at a kill are lost."""
    (nginx.root / "word").write_text("hello")
    edge = manager.start(tmp_path / "state")
    with edge.client() as client, quictunnel.forward(nginx.port, client=client) as tunnel:
        with (
            ConstantLoad(edge, tunnel) as requests,
            churn_beside(
                edge, tunnel, conversation="http", others=lambda: requests.ended, in_flight=WORKERS
            ) as churn,
        ):
            eventually(lambda: requests.count > 2 * RATE, timeout=PATIENCE)
            churn.edge_leaves()
            begun = time.monotonic()
            assert edge.stop(number) == (0 if number == signal.SIGTERM else -number)
            over = time.monotonic()
            edge = manager.start(tmp_path / "state")
            started = time.monotonic()
            before = requests.ended
            churn.edge_follows(arrivals_at(edge, lambda: requests.ended - before))
            eventually(lambda: client.snapshot().reconnected == 1, timeout=PATIENCE)
            back = time.monotonic()
            count = requests.count
            eventually(lambda: requests.count > count + RATE, timeout=PATIENCE)
            spared = over if number == signal.SIGKILL else begun
            churn.finish(lambda visit: visit.began < spared and number == signal.SIGKILL)
        nothing_left(edge, client)
        print(
            f"down for {started - over:.1f} s, the client back after {back - started:.2f} s; {requests.count} "
            f"requests, the longest {requests.longest:.1f} s, {len(requests.failures)} failed"
        )
        for failure in requests.failures:
            print(f"begun {failure.begun - over:+.2f} s, failed {failure.ended - over:+.2f} s: {failure.error}")
        assert [failure for failure in requests.failures if failure.begun >= spared] == []
        if number == signal.SIGTERM:
            assert requests.failures == []
    assert edge.stop() == 0


class ClientProcess:
    """A client in a process of its own, which can be kept from coming back."""

    def __init__(self, edge: EdgeProcess, port: int) -> None:
        command = [sys.executable, "-m", "quictunnel", "tcp", str(port), "--json"]
        self.process = subprocess.Popen(
            command, env=children_environment(edge), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        said = json.loads(self.process.stdout.readline())
        self.tunnel = quictunnel.Tunnel(*said["tls_socket"], *said["tcp_socket"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.communicate(timeout=PATIENCE)


class Ports:
    """Addresses of an edge, so that the next one starts on the same ports without a service manager."""

    def __init__(self, edge: EdgeProcess, tunnel: quictunnel.Tunnel) -> None:
        self._options = "--quic", edge.environ["QUICTUNNEL_EDGE"], "--https", f"127.0.0.1:{tunnel.port}"
        self._directory = edge.state_dir

    def start(self) -> EdgeProcess:
        return start_edge(self._directory, *self._options)


def names_written(edge: EdgeProcess) -> int:
    """Return the number of names in the edge's table of held names; -1 before it is written."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{edge.state_dir / FILE}?mode=ro", uri=True)) as database:
            (runs,) = database.execute("SELECT count(*) FROM run").fetchone()
            return database.execute("SELECT count(*) FROM held").fetchone()[0] if runs else -1
    except sqlite3.OperationalError:
        return -1


@pytest.fixture
def edge(tmp_path: Path, engines: object) -> EdgeProcess:
    edge = start_edge(tmp_path / "state")
    eventually(lambda: names_written(edge) == 0, timeout=PATIENCE)
    return edge


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_client_that_is_late_is_waited_for_at_its_name_and_its_port(edge, origin, number):
    with ClientProcess(edge, origin.port) as client:
        tunnel, ports = client.tunnel, Ports(edge, client.tunnel)
        assert serves(edge, tunnel)
        eventually(lambda: names_written(edge) == 1, timeout=PATIENCE)
        client.process.send_signal(signal.SIGSTOP)
        edge.stop(number)
        edge = ports.start()
        # Where it came from, at once: nobody has bound anything here yet.
        with (
            tls_connect(edge, tunnel) as over_tls,
            socket.create_connection(tunnel.tcp_socket, PATIENCE) as over_tcp,
            churn_beside(edge, tunnel) as churn,
        ):
            over_tls.sendall(b"hello")
            over_tcp.sendall(b"hello")
            client.process.send_signal(signal.SIGCONT)
            assert over_tls.recv(100) == over_tcp.recv(100) == b"hello"
            churn.wait_for(20)
            churn.finish()
        nothing_left(edge)
    assert edge.stop() == 0


def test_released_name_is_not_held_for_its_client(edge, origin):
    with edge.client() as client:
        with quictunnel.forward(origin.port, client=client, unencrypted=True) as tunnel:
            assert serves(edge, tunnel)
        ports = Ports(edge, tunnel)
        assert edge.stop() == 0
        edge = ports.start()
        assert_closed(edge, tunnel)
    assert edge.stop() == 0


def test_name_released_during_the_drain_is_not_held(edge, origin):
    with edge.client() as other, quictunnel.forward(origin.port, client=other, unencrypted=True) as kept:
        ports = Ports(edge, kept)
        with (
            socket.create_server(("127.0.0.1", 0)) as silent,
            edge.client() as client,
            quictunnel.forward(silent.getsockname()[1], client=client, unencrypted=True) as tunnel,
            tls_connect(edge, tunnel) as visitor,
        ):
            visitor.sendall(b"are you there?")  # the edge lets it wait for an answer
            with silent.accept()[0] as served:
                assert served.recv(100) == b"are you there?"
                edge.process.send_signal(signal.SIGTERM)
                eventually(lambda: is_refused(tunnel), timeout=PATIENCE)
                client.close()
        # Asked to hurry at the very end, when nobody handles signals any more, it would end by them.
        assert edge.process.wait(PATIENCE) == 0
        assert edge.stop() == 0
        edge = ports.start()
        assert_closed(edge, tunnel)
        assert serves(edge, kept)
    assert edge.stop() == 0


def is_refused(tunnel: quictunnel.Tunnel) -> bool:
    try:
        socket.create_connection(tunnel.tcp_socket, PATIENCE).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("damage", ["cut off", "a changed row", "another version"])
def test_a_damaged_table_is_not_used_and_does_no_harm(edge, origin, damage):
    with ClientProcess(edge, origin.port) as client:
        tunnel, ports = client.tunnel, Ports(edge, client.tunnel)
        client.process.send_signal(signal.SIGSTOP)
        assert edge.stop() == 0
        path = edge.state_dir / FILE
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        content = path.read_bytes()
        assert tunnel.host.partition(".")[0].encode() not in content  # a name is a secret
        if damage == "cut off":
            path.write_bytes(content[:-5000])
        else:
            change = "UPDATE held SET sealed = x'00'" if damage == "a changed row" else "PRAGMA user_version = 2"
            with contextlib.closing(sqlite3.connect(path)) as database, database:
                database.execute(change)
        edge = ports.start()
        assert_closed(edge, tunnel)
        log = edge.state_dir.with_suffix(".log").read_text()
        assert log.count(f"{path} ") == 1
        assert "Traceback" not in log
        client.process.send_signal(signal.SIGCONT)
        eventually(lambda: is_served(edge, tunnel), timeout=PATIENCE)
    assert edge.stop() == 0
