"""An edge is restarted while it serves: no visitor notices, and every client is at the new one."""

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from pathlib import Path

import pytest

import quictunnel
from tests.harness.constant_load import RATE, WORKERS, ConstantLoad
from tests.harness.echo_origin import EchoOrigin, is_served, serves
from tests.harness.edge_process import EdgeProcess, children_environment, start_edge
from tests.harness.programs import need, random_file, sha256
from tests.harness.visitors import curl, tls_connect
from tests.harness.waiting import eventually
from tests.load.background import arrivals_at, churn_beside, nothing_left
from tests.load.churn import in_between

GRACE = 20
PATIENCE = 30


def successor_of(edge: EdgeProcess, *options: str) -> EdgeProcess:
    return start_edge(edge.state_dir, "--takeover", "--grace", str(GRACE), *options)


@pytest.fixture
def old(tmp_path, engines):
    edge = start_edge(tmp_path / "state", "--grace", str(GRACE))
    yield edge
    edge.stop()


@pytest.mark.alone
@pytest.mark.slow
def test_no_request_fails_and_long_downloads_finish(old, nginx, tmp_path):
    (nginx.root / "word").write_text("hello")
    large = random_file(nginx.root / "large", 40)
    with old.client() as client, quictunnel.forward(nginx.port, unencrypted=True, client=client) as tunnel:
        slow = [need("curl"), "-sS", "--limit-rate", "6M", "--noproxy", "*", "--cacert", str(old.ca)]
        targets = [f"{tunnel.url}/large", "http://{}:{}/large".format(*tunnel.tcp_socket)]
        downloads = [
            subprocess.Popen([*slow, "-o", tmp_path / f"got{number}", target])
            for number, target in enumerate(targets)
        ]
        with (
            ConstantLoad(old, tunnel) as requests,
            churn_beside(
                old, tunnel, conversation="http", others=lambda: requests.ended, in_flight=WORKERS
            ) as churn,
        ):
            eventually(lambda: requests.count > RATE, timeout=PATIENCE)
            churn.edge_leaves()
            new = successor_of(old)
            before = requests.ended
            churn.edge_follows(arrivals_at(new, lambda: requests.ended - before))
            old.process.send_signal(signal.SIGTERM)  # what a service manager does next; it is leaving already
            begun = time.monotonic()
            assert [download.wait(60) for download in downloads] == [0, 0]
            assert old.process.wait(GRACE) == 0
            print(f"the old edge was gone after {time.monotonic() - begun:.1f} s", end="; ")
            count = requests.count
            eventually(lambda: requests.count > count + RATE, timeout=PATIENCE)  # without the old one
            churn.finish()
        nothing_left(new, client)
        print(f"{requests.count} requests in {requests.seconds:.1f} s, {len(requests.failures)} failed")
        assert requests.failures == []
        assert {sha256(tmp_path / f"got{number}") for number in range(2)} == {sha256(large)}
        assert client.snapshot().reconnected == 1
        assert serves_plain(tunnel)
        assert new.environ["QUICTUNNEL_EDGE"] == client.config.edge
        assert new.stop() == 0
    assert not (new.state_dir / "client.env").exists()


def serves_plain(tunnel):
    with contextlib.closing(HTTPConnection(*tunnel.tcp_socket, timeout=PATIENCE)) as connection:
        connection.request("GET", "/word")
        return connection.getresponse().read() == b"hello"


@pytest.fixture
def origin():
    with EchoOrigin() as origin:
        yield origin


@pytest.mark.every_pairing
@pytest.mark.slow
def test_visitors_of_three_edges_at_once(old, origin):
    """After each restart one visitor of the old edge stays, whose datagrams pass through the newer edges."""
    with old.client() as client, quictunnel.forward(origin.port, client=client, unencrypted=True) as tunnel:
        edges, visitors = [old], [socket.create_connection(tunnel.tcp_socket, PATIENCE)]
        data = os.urandom(1024 * 1024)
        with churn_beside(old, tunnel) as churn:
            for number in range(2):
                assert echoes(visitors[-1], b"before")
                churn.wait_for(RATE // 4)
                churn.edge_leaves()
                edges.append(successor_of(old))
                churn.edge_follows(arrivals_at(edges[-1]))
                eventually(lambda number=number: client.snapshot().reconnected == number + 1, timeout=PATIENCE)
                visitors.append(socket.create_connection(tunnel.tcp_socket, PATIENCE))
            for visitor in visitors:
                assert exchange(visitor, data)
            churn.wait_for(RATE // 4)
            churn.finish()
        eventually(lambda: client.snapshot().visitors_now == 3, timeout=PATIENCE)
        for visitor, edge in zip(visitors, edges[:-1], strict=False):
            visitor.close()
            assert edge.process.wait(PATIENCE) == 0
            edge.stop()
        assert echoes(visitors[-1], b"after")
        visitors[-1].close()
        nothing_left(edges[-1], client)
        assert edges[-1].stop() == 0


def test_an_edge_without_visitors_stays_for_those_of_the_one_before(old, origin):
    with old.client() as client, quictunnel.forward(origin.port, client=client, unencrypted=True) as tunnel:
        visitor = socket.create_connection(tunnel.tcp_socket, PATIENCE)
        edges = [old]
        for number in range(2):
            assert echoes(visitor, b"before")
            edges.append(successor_of(old))
            eventually(lambda number=number: client.snapshot().reconnected == number + 1, timeout=PATIENCE)
        with pytest.raises(subprocess.TimeoutExpired):
            edges[1].process.wait(1)
        assert exchange(visitor, os.urandom(1024 * 1024))
        visitor.close()
        assert [edge.process.wait(PATIENCE) for edge in edges[:-1]] == [0, 0]
        for edge in edges[:-1]:
            edge.stop()
        assert edges[-1].stop() == 0


def echoes(visitor, words):
    visitor.sendall(words)
    said = b""
    while len(said) < len(words):
        piece = visitor.recv(100)
        if not piece:
            return False
        said += piece
    return said == words


def exchange(visitor, data):
    """Both ways at once."""
    sender = threading.Thread(target=visitor.sendall, args=(data,))
    sender.start()
    whole, got = hashlib.sha256(), 0
    while got < len(data):
        chunk = visitor.recv(65536)
        whole.update(chunk)
        got += len(chunk)
    sender.join()
    return whole.digest() == hashlib.sha256(data).digest()


def test_a_signal_starts_the_successor(old, origin):
    with old.client() as client, quictunnel.forward(origin.port, client=client) as tunnel:
        old.process.send_signal(signal.SIGUSR2)
        assert old.process.wait(PATIENCE) == 0
        eventually(lambda: client.snapshot().reconnected == 1, timeout=PATIENCE)
        assert serves(old, tunnel)
        (child,) = processes_with(str(old.state_dir))
        os.kill(child, signal.SIGTERM)
        eventually(lambda: not processes_with(str(old.state_dir)), timeout=PATIENCE)


def processes_with(argument):
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it has just ended
        if argument.encode() in words and b"edge_server" in words:
            found.append(int(entry.name))
    return found


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--domain", "other.example"], "which --domain contradicts"),
        (["--https", "127.0.0.1:1"], "which --https contradicts"),
        (["--cert", "nowhere", "--key", "nowhere"], "nowhere"),
    ],
)
def test_a_successor_that_cannot_start_changes_nothing(old, origin, tmp_path, options, complaint):
    with (
        old.client() as client,
        quictunnel.forward(origin.port, client=client) as tunnel,
        churn_beside(old, tunnel) as churn,
    ):
        log = tmp_path / "failed.log"
        with pytest.raises(AssertionError, match="did not start"):
            start_edge(old.state_dir, "--takeover", *options, log=log)
        assert complaint in log.read_text()
        assert "Traceback" not in log.read_text()
        assert serves(old, tunnel)
        assert client.snapshot().reconnected == 0
        churn.edge_leaves()
        # and the next one may try
        new = successor_of(old)
        churn.edge_follows(arrivals_at(new))
        assert old.process.wait(PATIENCE) == 0
        eventually(lambda: client.snapshot().reconnected == 1, timeout=PATIENCE)
        assert serves(new, tunnel)
        churn.wait_for(RATE // 4)
        churn.finish()
        nothing_left(new, client)
        assert new.stop() == 0


def test_takeover_without_a_predecessor_just_starts(tmp_path, engines):
    edge = start_edge(tmp_path / "state", "--takeover")
    assert edge.stop() == 0
    assert not (edge.state_dir / "edge.sock").exists()


def test_a_client_that_is_late_is_waited_for(old, origin):
    """The client is frozen: its visitors wait at the new edge, and are let in when it goes on."""
    command = [sys.executable, "-m", "quictunnel", "tcp", str(origin.port), "--json"]
    environment = children_environment(old)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as client:
        said = json.loads(client.stdout.readline())
        tunnel = quictunnel.Tunnel(*said["tls_socket"], *said["tcp_socket"])
        with churn_beside(old, tunnel) as churn:
            churn.wait_for(RATE // 4)
            churn.edge_leaves()
            client.send_signal(signal.SIGSTOP)
            new = successor_of(old)
            churn.edge_follows(arrivals_at(new))
            with socket.create_connection(tunnel.tcp_socket, PATIENCE) as visitor:
                visitor.sendall(b"hello")
                client.send_signal(signal.SIGCONT)
                assert visitor.recv(100) == b"hello"
            churn.wait_for(RATE // 4)
            churn.finish()
        nothing_left(new)
        client.terminate()
        client.communicate(timeout=PATIENCE)
        assert new.stop() == 0


@pytest.mark.every_pairing
async def test_client_dials_until_the_edge_is_back(old, origin):
    """A visitor finishes at the old edge, and the tunnel has its address again as soon as another edge serves."""
    port = old.environ["QUICTUNNEL_EDGE"].rpartition(":")[2]
    with old.client() as client:
        async with quictunnel.forward(origin.port, client=client) as tunnel:
            visitor = await asyncio.to_thread(tls_connect, old, tunnel)
            assert await asyncio.to_thread(echoes, visitor, b"before")
            churn = await asyncio.to_thread(churn_beside(old, tunnel).__enter__)
            await asyncio.to_thread(churn.wait_for, RATE // 4)
            await asyncio.to_thread(churn.edge_leaves)
            # The visitor has just spoken: an idle one is not waited for.
            assert await asyncio.to_thread(echoes, visitor, b"a moment ago")
            gone = time.monotonic()
            old.process.send_signal(signal.SIGTERM)
            for _ in range(5):
                assert await asyncio.to_thread(echoes, visitor, b"still here")
            visitor.close()
            assert await asyncio.to_thread(old.process.wait, PATIENCE) == 0
            options = ("--quic", f"127.0.0.1:{port}", "--https", f"127.0.0.1:{tunnel.port}")
            new = await asyncio.to_thread(start_edge, old.state_dir, *options)
            there = time.monotonic()
            await asyncio.to_thread(churn.edge_follows, arrivals_at(new))
            await asyncio.to_thread(eventually, lambda: is_served(new, tunnel), PATIENCE)
            await asyncio.to_thread(churn.wait_for, RATE // 4)
            await asyncio.to_thread(churn.finish, in_between(gone, there))
            await asyncio.to_thread(nothing_left, new, client)
    assert await asyncio.to_thread(new.stop) == 0


def test_service_manager_is_notified_of_the_successor(tmp_path, engines, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        old = start_edge(tmp_path / "state")
        assert manager.recv(100) == f"READY=1\nMAINPID={old.pid}".encode()
        new = successor_of(old)
        assert manager.recv(100) == f"READY=1\nMAINPID={new.pid}".encode()
        assert old.process.wait(PATIENCE) == 0  # says nothing: it is the main process no longer
        assert new.stop() == 0
        assert manager.recv(100) == b"STOPPING=1"
    old.stop()


def test_curl_gets_the_new_certificate(old, origin, tmp_path):
    """A new connection after a hot restart gets the new certificate."""
    with old.client() as client, quictunnel.forward(origin.port, client=client) as tunnel:
        assert serves(old, tunnel)
        new = successor_of(old, "--log-level", "debug")
        eventually(lambda: client.snapshot().reconnected == 1, timeout=PATIENCE)
        shown = curl(new, "--verbose", "--max-time", "2", "--http0.9", tunnel.url)
        assert b"SSL certificate verify ok" in shown.stderr
        assert new.stop() == 0
