"""The demo: its app, its fetch with a verified certificate, its endings.

Here the edge is a TLS socket of the standard library in front of the demo's app, so what is tested is the
demo. That the real edge carries it is tested end to end, below, as a user would run it.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self
from unittest.mock import patch

import pytest
import trustme

from quictunnel.cli.demo import MAX_BODY, fetch
from quictunnel.cli.demo_app import sample_app
from quictunnel.config.client_config import ClientConfig, Secret
from quictunnel.tunnel import Tunnel

from .fake_client import HOST, FakeApi, run_with

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


@contextmanager
def tls_in_front(port: int, certificate: trustme.LeafCert) -> Iterator[int]:
    """Answer TLS visitors one after the other with what the local port answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                visitor, _ = listener.accept()
                with visitor:
                    if not visitor.recv(1, socket.MSG_PEEK):
                        return  # the test is over
                    try:
                        one_visitor(context.wrap_socket(visitor, server_side=True), port)
                    except ssl.SSLError:
                        continue  # a visitor who trusts us not

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            socket.create_connection(listener.getsockname()).close()
            thread.join()


def one_visitor(secure: ssl.SSLSocket, port: int) -> None:
    with secure, socket.create_connection(("127.0.0.1", port)) as origin:
        origin.sendall(secure.recv(65536))
        while chunk := origin.recv(65536):
            secure.sendall(chunk)


class TlsApi(FakeApi):
    def __init__(self, certificate: trustme.LeafCert) -> None:
        super().__init__()
        self.certificate = certificate

    @contextmanager
    def forward(self, port: int, **more: object) -> Iterator[Tunnel]:
        with tls_in_front(port, self.certificate) as public:
            yield Tunnel(HOST, public)


class FakeEdge:
    def __init__(self, ca: Path) -> None:
        self.ca = ca
        self.stopped = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped += 1

    @property
    def client_config(self) -> ClientConfig:
        return ClientConfig(edge="127.0.0.1:4433", token=Secret("tok_demo"), ca=self.ca)


def run_demo(api: FakeApi, edge: FakeEdge, *options: str) -> int:
    with patch("edge_server.embedded.EmbeddedEdge", return_value=edge):
        return run_with(api, "demo", *options)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


def test_once_in_plain_lines(authority: trustme.CA, ca: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edge = FakeEdge(ca)
    assert run_demo(TlsApi(authority.issue_cert("*.tunnel.localhost")), edge, "--once") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"Public address: https://{HOST}:" in out
    assert f"\nFetched https://{HOST}:" in out
    assert "certificate verified for *.tunnel.localhost" in out
    assert "  | GET / HTTP/1.1" in out
    assert out.endswith("Closed.\n")
    assert edge.stopped == 1


def test_once_in_json(authority: trustme.CA, ca: Path, capsys: pytest.CaptureFixture[str]) -> None:
    api = TlsApi(authority.issue_cert("*.tunnel.localhost"))
    assert run_demo(api, FakeEdge(ca), "--once", "--json") == 0
    ready, fetched, closed = map(json.loads, capsys.readouterr().out.splitlines())
    assert ready["event"] == "ready"
    assert (fetched["event"], fetched["status"], fetched["verified"]) == ("fetched", 200, True)
    assert "User-Agent: quictunnel-demo" in fetched["body"]
    assert closed == {"event": "closed"}


@pytest.mark.parametrize("name", ["other.example.com", None], ids=["wrong name", "wrong authority"])
def test_a_certificate_that_does_not_verify_fails_it(
    name: str | None, authority: trustme.CA, ca: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate = authority.issue_cert(name) if name else trustme.CA().issue_cert("*.tunnel.localhost")
    edge = FakeEdge(ca)
    assert run_demo(TlsApi(certificate), edge) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"quictunnel: error: fetching https://{HOST}:")
    assert "certificate verify failed" in err
    assert edge.stopped == 1


def test_fetch_reads_a_bounded_answer(authority: trustme.CA, ca: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY + 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            visitor, _ = listener.accept()
            with visitor:
                visitor.recv(65536)
                visitor.sendall(head + b"x" * (MAX_BODY + 1))

        thread = threading.Thread(target=serve)
        thread.start()
        with tls_in_front(listener.getsockname()[1], authority.issue_cert("*.tunnel.localhost")) as public:
            response = fetch(Tunnel(HOST, public), ca)
        thread.join()
    assert len(response.body) == MAX_BODY


def get(port: int, path: str, accept: str = "*/*") -> tuple[str, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept, "X-Odd": "<b>"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.headers["Content-Type"], response.read().decode()


def test_the_sample_app() -> None:
    with sample_app() as port:
        assert get(port, "/health") == ("text/plain; charset=utf-8", "ok\n")
        kind, page = get(port, "/some?x=%3Cscript%3E", "text/html")
        assert kind == "text/html; charset=utf-8"
        assert "GET /some?x=%3Cscript%3E HTTP/1.1" in page
        assert "X-Odd: &lt;b&gt;" in page
        assert "<b>" not in page
        assert "X-Odd: <b>" in get(port, "/")[1]
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=10)


needs_edge = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("edge_server.embedded", "quictunnel.client", "quictunnel.forwarding"))),
    reason="the embedded edge or the client is not there",
)


@needs_edge
def test_the_demo_as_a_user_runs_it(clean_environ: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "quictunnel", "demo", "--once"],
        env=clean_environ,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "certificate verified" in done.stdout


@needs_edge
def test_demo_runs_until_it_is_stopped(clean_environ: dict[str, str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "quictunnel", "demo", "--json"],
        env=clean_environ,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            assert json.loads(process.stdout.readline())["event"] == "ready"
            assert json.loads(process.stdout.readline())["event"] == "fetched"
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, err) == (0, "")
    assert json.loads(out.splitlines()[-1]) == {"event": "closed"}
