"""TLS that the edge carries without ending it: the certificate lives with the origin."""

from __future__ import annotations

import socket
import ssl
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
import trustme

import quictunnel
from tests.harness.nginx import start_nginx
from tests.harness.programs import need, random_file, sha256
from tests.harness.sockets import SOCKET_TIMEOUT
from tests.harness.visitors import tls_connect
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.harness.edge_process import EdgeProcess

NAME = "private"
HOST = f"{NAME}.tunnel.localhost"

_SERVER = """\
        ssl_certificate {base}/own.pem;
        ssl_certificate_key {base}/own.pem;
        ssl_protocols TLSv1.2 TLSv1.3;
        location /who {{ return 200 "$proxy_protocol_addr $proxy_protocol_port $ssl_protocol $server_protocol"; }}
"""


class Site:
    """nginx with a certificate of its own, of an authority that the edge has never heard of."""

    def __init__(self, base: Path, running: Callable[..., subprocess.Popen[bytes]]) -> None:
        self.root = base / "root"
        self.ca = base / "ca.pem"
        self._base = base
        self._running = running
        self.root.mkdir(parents=True)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca))
        authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(str(base / "own.pem"))

    def start(self, listen: str = "ssl http2") -> int:
        """With these words behind ``listen``; its port."""
        return start_nginx(self._running, self._base, listen, _SERVER.format(base=self._base)).port


@pytest.fixture
def site(tmp_path: Path, running: Callable[..., subprocess.Popen[bytes]]) -> Site:
    return Site(tmp_path / "nginx", running)


def curl(site: Site, *words: str) -> subprocess.CompletedProcess[bytes]:
    command = [need("curl"), "--silent", "--show-error", "--fail", "--cacert", str(site.ca),
               "--noproxy", "*", *words]  # fmt: skip
    return subprocess.run(command, capture_output=True, check=False, timeout=100)


def test_curl_speaks_with_the_origins_own_certificate(site: Site, client: quictunnel.Client, tmp_path: Path):
    original = random_file(site.root / "bulk", 100)
    with quictunnel.forward(site.start(), name=NAME, tls="passthrough", client=client) as tunnel:
        for protocol, version in (("--http1.1", b"HTTP/1.1"), ("--http2", b"HTTP/2.0")):
            said = curl(site, protocol, f"{tunnel.url}/who")
            assert said.returncode == 0, said.stderr
            assert said.stdout.split()[-2:] == [b"TLSv1.3", version]
        assert curl(site, "--output", str(tmp_path / "down"), f"{tunnel.url}/bulk").returncode == 0
        assert sha256(tmp_path / "down") == sha256(original)
        put = curl(site, "--upload-file", str(original), f"{tunnel.url}/up/bulk")
        assert put.returncode == 0, put.stderr
        assert sha256(site.root / "up" / "bulk") == sha256(original)


def test_the_edges_certificate_is_not_shown(site: Site, edge: EdgeProcess, client: quictunnel.Client):
    with (
        quictunnel.forward(site.start(), name=NAME, tls="passthrough", client=client) as tunnel,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        tls_connect(edge, tunnel)


@pytest.mark.parametrize("pieces", [1, 7, 100])
def test_the_origin_gets_every_byte_as_it_was_sent(client: quictunnel.Client, pieces: int):
    """A ClientHello in pieces, and what follows it at once."""
    bios = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    tls = context.wrap_bio(*bios, server_hostname=HOST)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = bios[1].read()
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        quictunnel.forward(listener.getsockname()[1], name=NAME, tls="passthrough", client=client) as tunnel,
        socket.create_connection(("127.0.0.1", tunnel.port), SOCKET_TIMEOUT) as visitor,
    ):
        visitor.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        size = -(-len(hello) // pieces)
        for start in range(0, len(hello), size):
            visitor.sendall(hello[start : start + size])
            time.sleep(0.001)  # so that they arrive one by one; right or wrong does not hang on it
        visitor.sendall(b"early bytes" * 10_000)
        visitor.shutdown(socket.SHUT_WR)
        origin, _ = listener.accept()
        with origin:
            received = bytearray()
            while chunk := origin.recv(65536):
                received += chunk
            assert received == hello + b"early bytes" * 10_000
            origin.sendall(b"an answer")
            origin.shutdown(socket.SHUT_WR)
            assert visitor.recv(100) == b"an answer"
            assert visitor.recv(100) == b""


def test_many_visitors_at_once(site: Site, client: quictunnel.Client):
    (site.root / "page").write_bytes(b"x" * 50_000)
    with quictunnel.forward(site.start(), name=NAME, tls="passthrough", client=client) as tunnel:
        load = [need("h2load"), "--h1", "--requests=2000", "--clients=50", f"--connect-to=127.0.0.1:{tunnel.port}",
                f"{tunnel.url}/page"]  # fmt: skip
        said = subprocess.run(load, capture_output=True, text=True, check=True, timeout=100).stdout
        assert "2000 succeeded, 0 failed, 0 errored" in said, said


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("way", ["tls", "tcp", "passthrough"])
def test_nginx_gets_the_visitors_address(
    site: Site, edge: EdgeProcess, client: quictunnel.Client, version: str, way: str
):
    passes = way == "passthrough"
    port = site.start("ssl proxy_protocol" if passes else "proxy_protocol")
    options = {"tls": "passthrough"} if passes else {"unencrypted": way == "tcp"}
    with quictunnel.forward(port, name=NAME, proxy_protocol=version, client=client, **options) as tunnel:
        url = tunnel.url if way != "tcp" else "http://{}:{}".format(*tunnel.tcp_socket)
        ca = site.ca if passes else edge.ca
        command = [need("curl"), "--silent", "--show-error", "--cacert", ca, "--noproxy", "*",
                   "--interface", "127.0.0.7", "--write-out", " %{local_port}", f"{url}/who"]  # fmt: skip
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split()
        assert said[0] == "127.0.0.7"
        assert said[1] == said[-1]
        assert said[2:-1] == (["TLSv1.3", "HTTP/1.1"] if passes else ["HTTP/1.1"])


@pytest.mark.parametrize("way", ["tls", "tcp", "passthrough"])
def test_visitors_outside_the_filter_are_refused(
    site: Site, edge: EdgeProcess, client: quictunnel.Client, way: str
):
    """A rejected visitor cannot tell the name from one that does not exist."""
    options = {"tls": "passthrough"} if way == "passthrough" else {"unencrypted": way == "tcp"}
    limits = {"allow": ["127.0.0.0/8"], "deny": ["127.0.0.8/29"]}
    (site.root / "page").write_bytes(b"x" * 100)

    def refusal(source: str, host: str, port: int) -> str:
        context = ssl.create_default_context(cafile=str(edge.ca))
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            with socket.create_connection(("127.0.0.1", port), SOCKET_TIMEOUT, (source, 0)) as raw:
                if host:
                    with context.wrap_socket(raw, server_hostname=host) as visitor:
                        visitor.sendall(b"GET / HTTP/1.0\r\n\r\n")
                        answer = visitor.recv(4096)
                        return "no tunnel" if b"no open tunnel" in answer else ""
                else:
                    raw.sendall(b"x")
                    raw.recv(1)
        except OSError as error:
            return f"{type(error).__name__} {error}"
        return ""

    with quictunnel.forward(site.start(), name=NAME, client=client, **options, **limits) as tunnel:
        host, port = ("", tunnel.unencrypted_port) if way == "tcp" else (tunnel.host, tunnel.port)
        assert refusal("127.0.0.1", host, port) == ""
        found = refusal("127.0.0.9", host, port)
        assert found
        if way == "tcp":
            assert "ConnectionResetError" in found
        else:
            assert found == refusal("127.0.0.1", "nobody.tunnel.localhost", port)
    eventually(lambda: client.snapshot().visitors_now == 0, "visitors are left")
