"""What a token allows, and its end, with a real edge and real visitors."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import quictunnel
from tests.e2e.conftest import EdgeProcess, start_edge, tls_connect, was_reset
from tests.e2e.ends import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory, engines: object) -> Iterator[EdgeProcess]:
    edge = start_edge(tmp_path_factory.mktemp("rights") / "state")
    yield edge
    assert edge.stop() == 0
    log = edge.state_dir.with_suffix(".log").read_text()
    assert "Traceback" not in log
    assert "qt1." not in log


def command(edge: EdgeProcess, *words: str) -> str:
    run = [sys.executable, "-m", "edge_server", "token", *words, "--state-dir", str(edge.state_dir)]
    root = Path(__file__).parents[2]
    return subprocess.run(run, capture_output=True, text=True, check=True, cwd=root).stdout.strip()


def client_of(edge: EdgeProcess, token: str) -> quictunnel.Client:
    return quictunnel.Client(edge.config.edge, token=token, ca=edge.ca)


@pytest.fixture
def token(edge: EdgeProcess, request: pytest.FixtureRequest) -> str:
    """A new token; the test's parameter is what it is limited to. A running edge takes it within a second."""
    made = command(edge, "create", *getattr(request, "param", ()))

    def is_taken() -> bool:
        with client_of(edge, made) as client:
            try:
                with quictunnel.forward(9, client=client):
                    return True
            except quictunnel.AuthError:
                return False

    began = time.monotonic()
    eventually(is_taken, "the edge does not know the token", timeout=3)
    assert time.monotonic() - began < 2
    return made


@pytest.fixture
def origin() -> Iterator[int]:
    """Says hello to everybody and keeps the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as kept:

        def serve() -> None:
            with contextlib.suppress(OSError):  # the listener is closed in the end
                while True:
                    visitor = kept.enter_context(listener.accept()[0])
                    visitor.sendall(b"hello")

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]


def test_a_revoked_token_ends_sessions_and_visitors_within_a_second(edge: EdgeProcess, token: str, origin: int):
    key = token.split(".")[1]
    with client_of(edge, token) as client, quictunnel.forward(origin, unencrypted=True, client=client) as tunnel:
        visitor = socket.create_connection(tunnel.tcp_socket, PATIENCE)
        over_tls = tls_connect(edge, tunnel)
        with visitor, over_tls:
            assert visitor.recv(5) == b"hello"
            assert over_tls.recv(5) == b"hello"
            command(edge, "revoke", key)
            began = time.monotonic()
            assert was_reset(visitor)
            assert was_reset(over_tls)
            assert time.monotonic() - began < 1
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(tunnel.tcp_socket, PATIENCE)
    with client_of(edge, token) as client, pytest.raises(quictunnel.AuthError):
        quictunnel.forward(origin, client=client).__enter__()


@pytest.mark.parametrize("token", [("--tunnels", "2")], indirect=True)
def test_tunnels_of_all_clients_of_a_token_together(edge: EdgeProcess, token: str, origin: int):
    with client_of(edge, token) as one, client_of(edge, token) as other, contextlib.ExitStack() as stack:
        stack.enter_context(quictunnel.forward(origin, client=one))
        second = stack.enter_context(contextlib.ExitStack())
        second.enter_context(quictunnel.forward(origin, client=other))
        with pytest.raises(quictunnel.Error, match="as many tunnels already"):
            quictunnel.forward(1, client=one).__enter__()
        second.close()
        stack.enter_context(quictunnel.forward(1, client=one))


def has_room(tunnel: quictunnel.Tunnel) -> bool:
    """Whether a visitor is let in; one who is not is reset, perhaps before connect() has returned."""
    try:
        with socket.create_connection(tunnel.tcp_socket, PATIENCE) as visitor:
            return visitor.recv(5) == b"hello"
    except ConnectionResetError:
        return False


@pytest.mark.parametrize("token", [("--visitors", "2")], indirect=True)
def test_visitors_of_all_tunnels_of_a_token_together(edge: EdgeProcess, token: str, origin: int):
    with (
        client_of(edge, token) as client,
        quictunnel.forward(origin, unencrypted=True, client=client) as tunnel,
        socket.create_connection(tunnel.tcp_socket, PATIENCE) as first,
    ):
        assert first.recv(5) == b"hello"
        with tls_connect(edge, tunnel) as second:
            assert second.recv(5) == b"hello"
            assert not has_room(tunnel)
            second.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # leaves by a reset
        eventually(lambda: has_room(tunnel), "a visitor left and there is no room")


@pytest.mark.parametrize("token", [("--tcp-ports", "none")], indirect=True)
def test_no_tcp_port(edge: EdgeProcess, token: str, origin: int):
    with client_of(edge, token) as client:
        with pytest.raises(quictunnel.Error, match="The token does not allow"):
            quictunnel.forward(origin, unencrypted=True, client=client).__enter__()
        with quictunnel.forward(origin, client=client) as tunnel, tls_connect(edge, tunnel) as visitor:
            assert visitor.recv(5) == b"hello"


@pytest.mark.parametrize("token", [("--tcp-ports", "29990-29991")], indirect=True)
def test_tcp_ports_of_ones_own(edge: EdgeProcess, token: str, origin: int):
    with client_of(edge, token) as client, contextlib.ExitStack() as stack:
        ports = {
            stack.enter_context(quictunnel.forward(port, unencrypted=True, client=client)).unencrypted_port
            for port in (origin, 1)
        }
        assert ports == {29990, 29991}
        with pytest.raises(quictunnel.Error, match="no free TCP port"):
            quictunnel.forward(2, unencrypted=True, client=client).__enter__()


def test_a_good_client_is_served_while_somebody_guesses(edge: EdgeProcess, token: str, origin: int):
    """From the same address: with tokens that there are not, and with the key of another."""
    key = command(edge, "create").split(".")[1]
    guesses = ["guess", f"qt1.{key}.{'x' * 43}"]
    for guess in guesses * 6:
        with client_of(edge, guess) as client, pytest.raises(quictunnel.AuthError):
            quictunnel.forward(origin, client=client).__enter__()
    log = edge.state_dir.with_suffix(".log").read_text()
    assert log.count("too many wrong tokens") >= 2
    with (
        client_of(edge, token) as client,
        quictunnel.forward(origin, client=client) as tunnel,
        tls_connect(edge, tunnel) as visitor,
    ):
        assert visitor.recv(5) == b"hello"
    entry = json.loads(command(edge, "show", key, "--json"))
    assert entry["state"] == "good"
