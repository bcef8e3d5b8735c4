"""An edge on sockets that somebody else opened: both families, through a restart, and as systemd passes them."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

import quictunnel
from tests.edge_server.certificates.acme import pebble as authorities
from tests.harness.echo_origin import EchoOrigin, echoes, is_served
from tests.harness.edge_process import EdgeProcess
from tests.harness.programs import free_port, need
from tests.harness.service_manager import successors
from tests.harness.waiting import eventually
from tests.load.background import arrivals_at, churn_beside, nothing_left
from tests.load.leftovers import arrivals, dump_of

PATIENCE = 30


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
                        assert echoes(visitor)
    finally:
        assert edge.stop() == 0


def test_visitor_waits_while_the_edge_restarts(manager, tmp_path, engines):
    edge = manager.start(tmp_path / "state")
    with (
        edge.client() as client,
        EchoOrigin() as origin,
        quictunnel.forward(origin.port, client=client) as tunnel,
        churn_beside(edge, tunnel) as churn,
    ):
        churn.edge_leaves()
        assert edge.stop() == 0
        # The sockets are open still: nobody is refused.
        raw = socket.create_connection(("127.0.0.1", tunnel.port), timeout=PATIENCE)
        edge = manager.start(tmp_path / "state")
        churn.edge_follows(arrivals_at(edge))
        with ssl.create_default_context(cafile=str(edge.ca)).wrap_socket(
            raw, server_hostname=tunnel.host
        ) as visitor:
            assert echoes(visitor)
        churn.wait_for(5)
        churn.finish()
        nothing_left(edge, client)
    assert edge.stop() == 0


def test_a_successor_takes_them_over(manager, tmp_path, engines):
    """The successor is a child process and must not believe that systemd passed the sockets to it."""
    edge = manager.start(tmp_path / "state")
    with (
        edge.client() as client,
        EchoOrigin() as origin,
        quictunnel.forward(origin.port, client=client) as tunnel,
        churn_beside(edge, tunnel) as churn,
    ):
        with visit(edge, tunnel, "127.0.0.1") as visitor:
            assert echoes(visitor)
            churn.edge_leaves()
            edge.process.send_signal(signal.SIGUSR2)
            eventually(lambda: client.snapshot().reconnected == 1, timeout=PATIENCE)
            (process,) = successors(edge)

            def watched() -> int:
                return arrivals(dump_of(process, edge.state_dir))

            churn.edge_follows(watched, came_before=watched())
            assert echoes(visitor)
        assert edge.process.wait(PATIENCE) == 0
        churn.wait_for(5)
        churn.finish()
        stop_successor(edge)


def stop_successor(edge: EdgeProcess) -> None:
    """Of an edge that has ended."""
    (process,) = successors(edge)
    os.kill(process, signal.SIGTERM)
    eventually(lambda: not (edge.state_dir / "client.env").exists(), timeout=PATIENCE)
    assert edge.process.stdout is not None
    edge.process.stdout.close()


def test_acme_socket_is_passed_on_to_a_successor(manager, tmp_path, engines):
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
                    return echoes(visitor)
            except OSError:
                return False

        with edge.client() as client, EchoOrigin() as origin:
            with quictunnel.forward(origin.port, name="one", client=client) as tunnel:
                eventually(lambda: is_met(tunnel), timeout=PATIENCE)
            edge.process.send_signal(signal.SIGUSR2)
            assert edge.process.wait(PATIENCE) == 0
            with quictunnel.forward(origin.port, name="two", client=client) as tunnel:
                eventually(lambda: is_met(tunnel), timeout=PATIENCE)
            stop_successor(edge)


def test_unrequested_acme_socket_is_reported(manager, tmp_path, engines):
    with pytest.raises(AssertionError, match="A socket called acme-http was passed, and --acme-http does not say"):
        manager.start(tmp_path / "state", names="https:quic:acme-http")


def test_as_systemd_passes_them(tmp_path, engines):
    program = need("systemd-socket-activate")
    port = free_port()
    command = [program, "--listen", f"127.0.0.1:{port}", "-E", "PATH", "-E", "HOME", "-E", "PYTHONPATH"]
    root = Path(__file__).parents[3]
    edge = subprocess.Popen(
        [*command, sys.executable, "-m", "edge_server", "--state-dir", tmp_path / "state",
         "--https", f"127.0.0.1:{port}", "--quic", "127.0.0.1:0"],
        cwd=root, env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        eventually(lambda: can_connect(port), timeout=PATIENCE)  # the first connection starts it
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
