"""Tests of a token's permissions and of its revocation, with a real edge and real visitors."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import random
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
import trustme
from cryptography import x509

import quictunnel
from quictunnel.wire.codes import SessionCode
from tests.harness.edge_process import EdgeProcess, start_edge
from tests.harness.metrics_reader import WITH_METRICS, MetricIncrease
from tests.harness.sockets import SOCKET_TIMEOUT
from tests.harness.token_commands import client_of, command, new_token
from tests.harness.visitors import tls_connect, was_reset
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory, engines: object) -> Iterator[EdgeProcess]:
    edge = start_edge(tmp_path_factory.mktemp("rights") / "state", "--tcp-ports", "19000-19999", *WITH_METRICS)
    yield edge
    assert edge.stop() == 0
    log = edge.state_dir.with_suffix(".log").read_text()
    assert "Traceback" not in log
    assert "qt1." not in log


@pytest.fixture
def token(edge: EdgeProcess, request: pytest.FixtureRequest) -> str:
    """A new token; the test's parameter is what it is limited to."""
    return new_token(edge, *getattr(request, "param", ()))


def test_a_token_works_as_soon_as_it_is_made(tmp_path: Path, origin: int):
    edge = start_edge(tmp_path / "state")
    try:
        for _ in range(8):  # more than an address may guess: none of them was a guess
            token = command(edge, "token", "create", "--token-only")
            with client_of(edge, token) as client, quictunnel.forward(origin, client=client) as tunnel:
                assert tunnel.host
    finally:
        assert edge.stop() == 0


def test_a_revoked_token_ends_sessions_and_visitors_within_a_second(edge: EdgeProcess, token: str, origin: int):
    key = token.split(".")[1]
    with client_of(edge, token) as client, quictunnel.forward(origin, unencrypted=True, client=client) as tunnel:
        visitor = socket.create_connection(tunnel.tcp_socket, SOCKET_TIMEOUT)
        over_tls = tls_connect(edge, tunnel)
        with visitor, over_tls:
            assert visitor.recv(5) == b"hello"
            assert over_tls.recv(5) == b"hello"
            command(edge, "token", "revoke", key)
            began = time.monotonic()
            assert was_reset(visitor)
            assert was_reset(over_tls)
            assert time.monotonic() - began < 1
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(tunnel.tcp_socket, SOCKET_TIMEOUT)
    with client_of(edge, token) as client, pytest.raises(quictunnel.AuthError):
        quictunnel.forward(origin, client=client).__enter__()


@pytest.mark.parametrize("token", [("--tunnels", "2")], indirect=True)
def test_tunnels_of_all_clients_of_a_token_together(edge: EdgeProcess, token: str, origin: int):
    with client_of(edge, token) as one, client_of(edge, token) as other, contextlib.ExitStack() as stack:
        stack.enter_context(quictunnel.forward(origin, client=one))
        second = stack.enter_context(contextlib.ExitStack())
        second.enter_context(quictunnel.forward(origin, client=other))
        with pytest.raises(quictunnel.Error, match=r"tunnels? at once, and has as many"):
            quictunnel.forward(1, client=one).__enter__()
        second.close()
        stack.enter_context(quictunnel.forward(1, client=one))


def has_room(tunnel: quictunnel.Tunnel) -> bool:
    """Return True if a visitor is admitted; a rejected one is reset, perhaps before connect() has returned."""
    try:
        with socket.create_connection(tunnel.tcp_socket, SOCKET_TIMEOUT) as visitor:
            return visitor.recv(5) == b"hello"
    except ConnectionResetError:
        return False


@pytest.mark.parametrize("token", [("--visitors", "2")], indirect=True)
def test_visitors_of_all_tunnels_of_a_token_together(edge: EdgeProcess, token: str, origin: int):
    with (
        client_of(edge, token) as client,
        quictunnel.forward(origin, unencrypted=True, client=client) as tunnel,
        socket.create_connection(tunnel.tcp_socket, SOCKET_TIMEOUT) as first,
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
        with pytest.raises(quictunnel.Error, match=r"the token (does not allow|allows no)"):
            quictunnel.forward(origin, unencrypted=True, client=client).__enter__()
        with quictunnel.forward(origin, client=client) as tunnel, tls_connect(edge, tunnel) as visitor:
            assert visitor.recv(5) == b"hello"


@pytest.mark.parametrize("token", [("--tcp-ports", "19990-19991")], indirect=True)
def test_tcp_ports_of_ones_own(edge: EdgeProcess, token: str, origin: int):
    with client_of(edge, token) as client, contextlib.ExitStack() as stack:
        ports = {
            stack.enter_context(quictunnel.forward(port, unencrypted=True, client=client)).unencrypted_port
            for port in (origin, 1)
        }
        assert ports == {19990, 19991}
        with pytest.raises(quictunnel.Error, match="is free for the token"):
            quictunnel.forward(2, unencrypted=True, client=client).__enter__()


def test_client_is_served_while_its_address_guesses_tokens(edge: EdgeProcess, token: str, origin: int):
    """From the same address: with tokens that there are not, and with the key of another."""
    key = command(edge, "token", "create", "--token-only").split(".")[1]
    guesses = ["guess", f"qt1.{key}.{'x' * 43}"]
    arrivals = MetricIncrease(edge)
    for guess in guesses * 6:
        with client_of(edge, guess) as client, pytest.raises(quictunnel.AuthError):
            quictunnel.forward(origin, client=client).__enter__()
    assert arrivals("tokens_refused_total", "wrong") + arrivals("tokens_refused_total", "ignored") == 12
    log = edge.state_dir.with_suffix(".log").read_text()
    assert log.count("too many wrong tokens") >= 2
    with (
        client_of(edge, token) as client,
        quictunnel.forward(origin, client=client) as tunnel,
        tls_connect(edge, tunnel) as visitor,
    ):
        assert visitor.recv(5) == b"hello"
    entry = json.loads(command(edge, "token", "show", key, "--json"))
    assert entry["state"] == "good"


@pytest.mark.slow
def test_a_thousand_wrong_tokens(tmp_path: Path, origin: int):
    """Half without a key that exists, half with one: five of each are looked at. All are refused alike, whoever
    has that key works on, and no guess is in the log."""
    edge = start_edge(tmp_path / "state", *WITH_METRICS)
    guessed = new_token(edge)
    arrivals = MetricIncrease(edge)
    host, _, port = edge.environ["QUICTUNNEL_EDGE"].rpartition(":")
    known = len(edge.state_dir.with_suffix(".log").read_text())
    with client_of(edge, guessed) as client, quictunnel.forward(origin, client=client) as tunnel:
        words = ["guesses", host, port, str(edge.ca), guessed.split(".")[1], "1000"]
        guesser = [sys.executable, "-m", "tests.harness.attacker", *words]
        done = json.loads(subprocess.run(guesser, capture_output=True, text=True, check=True, timeout=100).stdout)
        with tls_connect(edge, tunnel) as visitor:
            assert visitor.recv(5) == b"hello"
    assert arrivals("tokens_refused_total", "wrong") + arrivals("tokens_refused_total", "ignored") == 1000
    assert done["refusals"] == {f"PEER {SessionCode.UNAUTHORIZED.value}": 1000}
    assert edge.stop() == 0
    log = edge.state_dir.with_suffix(".log").read_text()[known:]
    minutes = 1 + int(done["seconds"] // 60)
    assert log.count("refused: wrong token") <= 10 * minutes
    assert log.count("too many wrong tokens") == 1000 - log.count("refused: wrong token")
    assert "0000000" not in log


def test_revoked_under_load(edge: EdgeProcess, token: str):
    """A hundred visitors, all of whom download: none gets another byte a second later."""

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):  # the visitor is gone in the end
            while True:
                connection.sendall(bytes(65536))

    with (
        serving(serve) as port,
        client_of(edge, token) as client,
        quictunnel.forward(port, unencrypted=True, client=client) as tunnel,
        contextlib.ExitStack() as stack,
    ):
        visitors = [
            stack.enter_context(
                socket.create_connection(tunnel.tcp_socket, SOCKET_TIMEOUT)
                if number % 2
                else tls_connect(edge, tunnel)
            )
            for number in range(100)
        ]
        last = [0.0] * len(visitors)

        def read(number: int) -> None:
            with contextlib.suppress(OSError):
                while visitors[number].recv(65536):
                    last[number] = time.monotonic()

        threads = [threading.Thread(target=read, args=[number]) for number in range(len(visitors))]
        for thread in threads:
            thread.start()
        eventually(lambda: all(last), "not everybody is served", timeout=30)
        command(edge, "token", "revoke", token.split(".")[1])
        began = time.monotonic()
        for thread in threads:
            thread.join(SOCKET_TIMEOUT)
        assert max(last) - began < 1


def test_a_certificate_is_replaced_while_visitors_are_in(tmp_path: Path):
    """Fifty stay, newcomers meet the new one within a second."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def issue() -> int:
        issued = authority.issue_cert("*.tunnel.localhost", "tunnel.localhost")
        issued.private_key_pem.write_to_path(str(key))
        cert.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        return x509.load_pem_x509_certificate(cert.read_bytes()).serial_number

    def echo(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(4096):
                connection.sendall(data)

    first = issue()
    edge = start_edge(tmp_path / "state", "--cert", str(cert), "--key", str(key))
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))

    with serving(echo) as port, edge.client() as client, quictunnel.forward(port, client=client) as tunnel:

        def enter() -> ssl.SSLSocket:
            raw = socket.create_connection(("127.0.0.1", tunnel.port), SOCKET_TIMEOUT)
            return context.wrap_socket(raw, server_hostname=tunnel.host)

        def serial(visitor: ssl.SSLSocket) -> int:
            return x509.load_der_x509_certificate(visitor.getpeercert(binary_form=True) or b"").serial_number

        def serial_of_visitor() -> int:
            with enter() as visitor:
                return serial(visitor)

        with contextlib.ExitStack() as stack:
            visitors = [stack.enter_context(enter()) for _ in range(50)]
            assert {serial(visitor) for visitor in visitors} == {first}
            second = issue()
            began = time.monotonic()
            eventually(lambda: serial_of_visitor() == second, "the new certificate is not used", timeout=5)
            assert time.monotonic() - began < 1.5
            for visitor in visitors:
                visitor.sendall(b"still here")
                assert read_exactly(visitor, 10) == b"still here"
    assert edge.stop() == 0
    assert "a new certificate for" in edge.state_dir.with_suffix(".log").read_text()


@pytest.mark.parametrize("token", [("--bandwidth", "1M")], indirect=True)
@pytest.mark.parametrize(("tls", "up"), [(False, False), (True, True)], ids=["tcp, down", "tls, up"])
def test_bandwidth_of_all_visitors_together(edge: EdgeProcess, token: str, tls: bool, up: bool):
    """Three megabytes for two visitors take three seconds at a megabyte a second, and nothing of them is lost."""
    size = 1_500_000

    def serve(connection: socket.socket) -> None:
        with connection:
            if up:
                received = read_exactly(connection, size)
                connection.sendall(hashlib.sha256(received).digest())
            else:
                connection.sendall(payload)

    payload = random.Random(7).randbytes(size)
    with (
        serving(serve) as port,
        client_of(edge, token) as client,
        quictunnel.forward(port, unencrypted=True, client=client) as tunnel,
        contextlib.ExitStack() as stack,
        concurrent.futures.ThreadPoolExecutor() as threads,
    ):

        def visit() -> bytes:
            visitor = (
                tls_connect(edge, tunnel) if tls else socket.create_connection(tunnel.tcp_socket, SOCKET_TIMEOUT)
            )
            with visitor:
                if up:
                    visitor.sendall(payload)
                    return read_exactly(visitor, 32)
                return read_exactly(visitor, size)

        stack.callback(threads.shutdown)
        began = time.monotonic()
        visits = [threads.submit(visit) for _ in range(2)]
        expected = hashlib.sha256(payload).digest() if up else payload
        assert all(visit.result(SOCKET_TIMEOUT) == expected for visit in visits)
        # What sockets and first windows take in at once is ahead of its time.
        assert 2.3 < time.monotonic() - began < 6


@contextlib.contextmanager
def serving(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):  # the listener is closed in the end
                while True:
                    threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]


def read_exactly(sock: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size and (chunk := sock.recv(65536)):
        received += chunk
    return bytes(received)
