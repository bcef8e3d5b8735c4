"""Local services that are more than a port of this machine: TLS, Unix sockets, other addresses and names."""

from __future__ import annotations

import http.server
import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
import trustme

import quictunnel
from tests.harness.edge_process import children_environment
from tests.harness.programs import random_file, sha256
from tests.harness.visitors import curl
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.harness.edge_process import EdgeProcess


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers a GET with the Host header, and a POST with the body."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._respond(f"hello {self.headers['Host']}".encode())

    def do_POST(self) -> None:
        self._respond(self.rfile.read(int(self.headers["Content-Length"])))

    def _respond(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


class TlsService:
    """A web server with a certificate for 127.0.0.2 and "localhost"; it listens on both addresses."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.ca = folder / "origin-ca.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost", "127.0.0.2").configure_cert(context)
        self.server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Handler)
        self.server.socket = context.wrap_socket(
            self.server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[TlsService]:
    service = TlsService(tmp_path)
    yield service
    service.server.shutdown()
    service.server.server_close()


def body(edge: EdgeProcess, tunnel: quictunnel.Tunnel, *arguments: str) -> bytes:
    done = curl(edge, "--fail", tunnel.url, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_verified_origin_with_tls(
    edge: EdgeProcess, client: quictunnel.Client, service: TlsService, tmp_path: Path
) -> None:
    upload = random_file(tmp_path / "upload", 5)
    for host in ("localhost", "127.0.0.2"):
        url = f"https://{host}:{service.port}"
        with quictunnel.forward(url, origin_ca=service.ca, client=client) as tunnel:
            assert tunnel.target == url
            assert body(edge, tunnel) == f"hello {tunnel.host}:{tunnel.port}".encode()
            returned = tmp_path / "returned"
            body(edge, tunnel, "--data-binary", f"@{upload}", "--output", str(returned))
            assert sha256(returned) == sha256(upload)


def test_certificates_of_an_origin_are_checked(
    edge: EdgeProcess, client: quictunnel.Client, service: TlsService
) -> None:
    events: list[str] = []
    client.subscribe(lambda event: events.append(event.message) if event.kind == "origin" else None)
    url = f"https://localhost:{service.port}"
    with quictunnel.forward(url, client=client) as tunnel:
        done = curl(edge, tunnel.url, "--write-out", "%{http_code}")
        assert done.stdout.endswith(b"502")
        assert b"certificate" in done.stdout
        assert b"localhost" not in done.stdout
    eventually(lambda: events)
    assert events[0].startswith(f"The certificate of port {service.port} was not accepted (")
    assert "--insecure-origin" in events[0]
    with quictunnel.forward(f"https://127.0.0.3:{service.port}", origin_ca=service.ca, client=client) as tunnel:
        done = curl(edge, tunnel.url, "--write-out", "%{http_code}")
        assert done.stdout.endswith(b"502")
    eventually(lambda: any("mismatch" in event for event in events))
    with quictunnel.forward(url, verify_origin=False, client=client) as tunnel:
        assert body(edge, tunnel).startswith(b"hello ")


def test_an_origin_without_tls_behind_https(edge: EdgeProcess, client: quictunnel.Client) -> None:
    events: list[str] = []
    client.subscribe(lambda event: events.append(event.message) if event.kind == "origin" else None)
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as plain:
        threading.Thread(target=plain.serve_forever, daemon=True).start()
        with quictunnel.forward(f"https://localhost:{plain.server_port}", client=client) as tunnel:
            assert curl(edge, tunnel.url, "--write-out", "%{http_code}").stdout.endswith(b"502")
        plain.shutdown()
    eventually(lambda: any("does it speak TLS?" in event for event in events))


def test_half_close_passes_through_tls(edge: EdgeProcess, client: quictunnel.Client, tmp_path: Path) -> None:
    """The visitor ends its direction; the origin reads the end, and then answers."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        raw, _ = listener.accept()
        with context.wrap_socket(raw, server_side=True) as sock:
            received = b""
            while chunk := sock.recv(65536):
                received += chunk
            sock.sendall(b"%d bytes" % len(received))
            sock.unwrap()

    serving = threading.Thread(target=serve)
    serving.start()
    url = f"https://localhost:{listener.getsockname()[1]}"
    with listener, quictunnel.forward(url, verify_origin=False, unencrypted=True, client=client) as tunnel:
        with socket.create_connection(tunnel.tcp_socket, timeout=30) as visitor:
            visitor.sendall(b"x" * 300_000)
            visitor.shutdown(socket.SHUT_WR)
            received = b""
            while chunk := visitor.recv(100):
                received += chunk
        assert received == b"300000 bytes"
    serving.join()


def test_a_unix_socket(edge: EdgeProcess, client: quictunnel.Client, tmp_path: Path, running) -> None:
    (tmp_path / "app.py").write_text(
        "async def app(scope, receive, send):\n"
        "    if scope['type'] != 'http': return\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "    await send({'type': 'http.response.body', 'body': b'from a socket'})\n"
    )
    path = tmp_path / "app.sock"
    with quictunnel.forward(f"unix:{path}", client=client) as tunnel:
        done = curl(edge, tunnel.url, "--write-out", "%{http_code}")
        assert done.stdout.endswith(b"502")  # it does not exist yet
        assert str(tmp_path).encode() not in done.stdout
        with pytest.raises(quictunnel.InvalidError, match=f"^unix:{path} is already forwarded by this client"):
            quictunnel.forward(f"unix:{path}", client=client).__enter__()
    running([sys.executable, "-m", "uvicorn", "--uds", path, "app:app"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    with quictunnel.forward(f"unix:{path}", wait=30, client=client) as tunnel:
        assert body(edge, tunnel) == b"from a socket"
        assert tunnel.target == f"unix:{path}"


def test_other_addresses_and_names(edge: EdgeProcess, client: quictunnel.Client) -> None:
    """A server that only its own address reaches, by number and by a name that the system resolves."""
    name = socket.gethostname()
    address = socket.gethostbyname(name)
    for host, bound in (("127.0.0.7", "127.0.0.7"), (name, address)):
        with http.server.HTTPServer((bound, 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            with quictunnel.forward(f"http://{host}:{server.server_port}", client=client) as tunnel:
                assert body(edge, tunnel).startswith(b"hello ")
                assert tunnel.target == f"{host}:{server.server_port}"
            server.shutdown()


def test_a_name_without_an_address(edge: EdgeProcess, client: quictunnel.Client) -> None:
    events: list[str] = []
    client.subscribe(lambda event: events.append(event.message) if event.kind == "origin" else None)
    with quictunnel.forward("nobody.invalid:8000", client=client) as tunnel:
        done = curl(edge, tunnel.url, "--write-out", "%{http_code}")
        assert done.stdout.endswith(b"502")
        assert b"invalid" not in done.stdout
    eventually(lambda: events)
    assert events[0].startswith("The name of nobody.invalid:8000 has no address")


def test_the_command_line(edge: EdgeProcess, service: TlsService, running) -> None:
    url = f"https://localhost:{service.port}"
    process = running(
        [sys.executable, "-m", "quictunnel", "http", url, "--insecure-origin", "--inspect", "--json"],
        env=children_environment(edge),
        stdout=subprocess.PIPE,
        text=True,
    )
    ready = json.loads(process.stdout.readline())
    assert ready["target"] == url
    done = curl(edge, "--fail", ready["url"])
    assert done.stdout.startswith(b"hello "), done.stderr
    status = subprocess.run(
        [sys.executable, "-m", "quictunnel", "status"],
        env=children_environment(edge),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert f"{ready['url']} -> {url}" in status.stdout
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    process.stdout.close()


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("http://localhost:3000/api", "leave out '/api'"),
        ("70000", "should be a port from 1 to 65535"),
        ("localhost", "should be a port from 1 to 65535, host:port"),
    ],
)
def test_wrong_arguments(argument: str, words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "quictunnel", "http", argument],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert words in done.stderr
