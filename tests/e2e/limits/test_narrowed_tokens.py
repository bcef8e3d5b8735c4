"""Tokens whose permissions are narrowed while their tunnels are open, with a real edge and real visitors."""

from __future__ import annotations

import select
import socket
import time
from typing import TYPE_CHECKING

import pytest

import quictunnel
from quictunnel.events import LOST
from tests.harness.edge_process import EdgeProcess, start_edge
from tests.harness.sockets import SOCKET_TIMEOUT
from tests.harness.token_commands import client_of, command, new_token
from tests.harness.visitors import tls_connect, was_reset
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PORTS = range(18_900, 18_950)


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory, engines: object) -> Iterator[EdgeProcess]:
    edge = start_edge(tmp_path_factory.mktemp("edge") / "state", "--tcp-ports", f"{PORTS.start}-{PORTS.stop - 1}")
    yield edge
    assert edge.stop() == 0
    assert "Traceback" not in edge.state_dir.with_suffix(".log").read_text()


def change(edge: EdgeProcess, token: str, *options: str) -> float:
    """Change a token, and return the time at which that was done (time.monotonic)."""
    command(edge, "token", "change", token.split(".")[1], *options)
    return time.monotonic()


def is_lost(tunnel: quictunnel.Tunnel) -> bool:
    return tunnel.stats.state == LOST


def test_forbidden_name_ends_with_its_visitor_within_a_second(edge: EdgeProcess, origin: int):
    token = new_token(edge)
    with (
        client_of(edge, token) as client,
        quictunnel.forward(origin, name="keepme", client=client) as forbidden,
        quictunnel.forward(1, name="web-1", client=client) as allowed,
        tls_connect(edge, forbidden) as visitor,
    ):
        assert visitor.recv(5) == b"hello"
        changed = change(edge, token, "--names", "web-*")
        assert was_reset(visitor)
        assert time.monotonic() - changed < 1
        eventually(lambda: is_lost(forbidden), "the client was not told")
        assert client.failure is None, "its clients stay connected"
        assert not is_lost(allowed)
        with tls_connect(edge, forbidden) as late:
            late.sendall(b"GET / HTTP/1.1\r\nHost: keepme\r\n\r\n")
            assert late.recv(100).startswith(b"HTTP/1.1 404")


def test_forbidden_port_ends_with_its_visitor(edge: EdgeProcess, origin: int):
    token = new_token(edge)
    with (
        client_of(edge, token) as client,
        quictunnel.forward(origin, tcp_port=PORTS.start, unencrypted=True, client=client) as tunnel,
        socket.create_connection(tunnel.tcp_socket, SOCKET_TIMEOUT) as visitor,
    ):
        assert visitor.recv(5) == b"hello"
        change(edge, token, "--tcp-ports", "none")
        assert was_reset(visitor)
        eventually(lambda: is_lost(tunnel), "the client was not told")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(tunnel.tcp_socket, SOCKET_TIMEOUT)


def test_forbidden_domain_ends(edge: EdgeProcess):
    token = new_token(edge, "--domains", "*.example.org")
    with (
        client_of(edge, token) as client,
        quictunnel.forward(1, domain="app.example.org", tls="passthrough", client=client) as tunnel,
    ):
        assert tunnel.host == "app.example.org"
        change(edge, token, "--domains", "none")
        eventually(lambda: is_lost(tunnel), "the client was not told")


def test_newest_client_of_a_pool_ends_with_its_own_visitors(edge: EdgeProcess, origin: int):
    token = new_token(edge)
    with (
        client_of(edge, token) as one,
        client_of(edge, token) as other,
        quictunnel.forward(origin, name="pool", pool=True, client=one) as older,
        tls_connect(edge, older) as stays,
    ):
        assert stays.recv(5) == b"hello"
        with (
            quictunnel.forward(origin, name="pool", pool=True, client=other) as newer,
            tls_connect(edge, newer) as ends,  # the least loaded client gets it
        ):
            assert ends.recv(5) == b"hello"
            change(edge, token, "--tunnels", "1")
            assert was_reset(ends)
            eventually(lambda: is_lost(newer), "the client was not told")
        assert not is_lost(older)
        with tls_connect(edge, older) as late:
            assert late.recv(5) == b"hello"
        assert not select.select([stays], [], [], 0)[0], "the visitor of the older client has ended"


def test_token_that_is_narrowed_while_its_edge_is_down(tmp_path: Path):
    """Its client binds the name in a new session."""
    edge = start_edge(tmp_path / "state")
    token = new_token(edge)
    with client_of(edge, token) as client, quictunnel.forward(1, name="keepme", client=client) as tunnel:
        address = ("--quic", edge.environ["QUICTUNNEL_EDGE"], "--https", f"127.0.0.1:{tunnel.port}")
        assert edge.stop() == 0
        change(edge, token, "--names", "none")
        edge = start_edge(edge.state_dir, *address)
        eventually(lambda: is_lost(tunnel), "the client was not told")
        assert client.failure is None
    assert edge.stop() == 0


def test_token_that_is_narrowed_after_a_hot_restart(tmp_path: Path, origin: int):
    """The visitor is still served by the predecessor, and the client has moved to the successor."""
    old = start_edge(tmp_path / "state", "--grace", "60")
    token = new_token(old)
    with (
        client_of(old, token) as client,
        quictunnel.forward(origin, name="keepme", client=client) as tunnel,
        tls_connect(old, tunnel) as visitor,
    ):
        assert visitor.recv(5) == b"hello"
        new = start_edge(old.state_dir, "--takeover")
        eventually(lambda: client.snapshot().reconnected == 1, "the client stays at the predecessor", timeout=30)
        assert not is_lost(tunnel)
        change(new, token, "--names", "none")
        assert was_reset(visitor)
        eventually(lambda: is_lost(tunnel), "the client was not told")
    assert (old.stop(), new.stop()) == (0, 0)


def test_wider_permissions_end_nothing(edge: EdgeProcess, origin: int):
    token = new_token(edge, "--tunnels", "1", "--names", "wide-*")
    with (
        client_of(edge, token) as client,
        quictunnel.forward(origin, name="wide-1", client=client) as tunnel,
        tls_connect(edge, tunnel) as visitor,
    ):
        assert visitor.recv(5) == b"hello"
        change(edge, token, "--tunnels", "2", "--names", "all")
        eventually(lambda: can_open(client), "the limit is the old one")
        assert not is_lost(tunnel)
        with tls_connect(edge, tunnel) as late:
            assert late.recv(5) == b"hello"


def can_open(client: quictunnel.Client) -> bool:
    try:
        with quictunnel.forward(1, client=client):
            return True
    except quictunnel.Error:
        return False
