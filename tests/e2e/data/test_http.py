"""HTTP by real programs: nginx behind the tunnel, curl in front of it."""

import concurrent.futures
import socket

import pytest

import quictunnel
from tests.harness.programs import free_port, random_file, sha256
from tests.harness.visitors import curl, read_all, tls_connect, was_reset

pytestmark = pytest.mark.smoke

BULK = 200
"""MiB of the large transfers: many times every window, buffer and key-update interval on the way."""


@pytest.fixture
def site(nginx, client):
    """nginx, and the tunnel to it."""
    with quictunnel.forward(nginx.port, client=client) as tunnel:
        yield nginx, tunnel


@pytest.mark.slow
def test_200_mib_down_and_up_are_equal(edge, site, tmp_path):
    nginx, tunnel = site
    original = random_file(nginx.root / "bulk", BULK)
    expected = sha256(original)

    down = tmp_path / "down"
    done = curl(edge, "--fail", "--output", str(down), f"{tunnel.url}/bulk")
    assert done.returncode == 0, done.stderr
    assert sha256(down) == expected

    done = curl(edge, "--fail", "--upload-file", str(down), f"{tunnel.url}/up/bulk")
    assert done.returncode == 0, done.stderr
    assert sha256(nginx.root / "up" / "bulk") == expected
    for path in (down, original, nginx.root / "up" / "bulk"):
        path.unlink()  # pytest keeps the directories of the last runs


def test_the_certificate_is_verified(edge, site, tmp_path):
    _, tunnel = site
    other = tmp_path / "nobody.pem"
    other.write_text("")
    done = curl(edge, "--cacert", str(other), tunnel.url)
    assert done.returncode in (60, 77)  # not trusted; no authorities to trust


def test_keep_alive_connection_carries_many_requests(edge, site):
    nginx, tunnel = site
    (nginx.root / "page").write_text("page\n")
    urls = [f"{tunnel.url}/page"] * 5
    done = curl(edge, "--fail", "--write-out", "%{num_connects} %{http_version}\n", *urls)
    assert done.stdout.decode().split() == ["page", "1", "1.1", *["page", "0", "1.1"] * 4]


def test_concurrent_requests(edge, site, tmp_path):
    nginx, tunnel = site
    sizes = [(n * 7919) % 300_000 for n in range(60)]
    for n, size in enumerate(sizes):
        (nginx.root / f"file{n}").write_bytes(bytes((n,)) * size)
    options = ["--parallel", "--parallel-immediate", "--parallel-max", "30", "--fail"]
    done = curl(edge, *options, "--output", f"{tmp_path}/got#1", f"{tunnel.url}/file[0-{len(sizes) - 1}]")
    assert done.returncode == 0, done.stderr
    for n, size in enumerate(sizes):
        got = tmp_path / f"got{n}"
        assert (got.read_bytes() if got.exists() else b"") == bytes((n,)) * size


def test_http_1_0_ends_by_closing(edge, site):
    nginx, tunnel = site
    (nginx.root / "page").write_bytes(b"x" * 100_000)
    with tls_connect(edge, tunnel) as visitor:
        visitor.sendall(b"GET /page HTTP/1.0\r\n\r\n")
        head, _, body = read_all(visitor).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"Connection: close" in head
    assert body == b"x" * 100_000
    done = curl(edge, "--http1.0", "--fail", f"{tunnel.url}/page")
    assert done.stdout == b"x" * 100_000


def test_request_bytes_are_unchanged(edge, client):
    """The origin receives exactly the bytes that the visitor sent."""
    request = b"GET /a?b HTTP/1.1\r\nHost: Something Odd\r\nx-Mixed-CASE:  kept \r\n\r\n"
    with (
        socket.create_server(("127.0.0.1", 0)) as origin,
        quictunnel.forward(origin.getsockname()[1], client=client) as tunnel,
        tls_connect(edge, tunnel) as visitor,
    ):
        visitor.sendall(request)
        connection, _ = origin.accept()
        with connection:
            connection.settimeout(30)
            received = b""
            while len(received) < len(request):
                received += connection.recv(65536)
            assert received == request
            connection.sendall(b"HTTP/1.1 204 No Content\r\nOdd:   one\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            assert read_all(visitor) == b"HTTP/1.1 204 No Content\r\nOdd:   one\r\n\r\n"


class TestNobodyListens:
    @pytest.fixture
    def closed_port(self, client):
        """A tunnel to a port where nobody listens."""
        port = free_port()
        with quictunnel.forward(port, unencrypted=True, client=client) as tunnel:
            yield port, tunnel

    @pytest.mark.parametrize(
        "request_bytes",
        [
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET / HTTP/1.0\r\n\r\n",
            b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
            b"POST /form HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"b" * 1_000_000,
            b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n",
        ],
        ids=["get", "1.0", "options", "post with a body", "two in one"],
    )
    def test_http_visitor_gets_a_502_that_names_the_port(self, edge, closed_port, request_bytes):
        port, tunnel = closed_port
        with tls_connect(edge, tunnel) as visitor:
            visitor.sendall(request_bytes)
            answer = read_all(visitor)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
        assert answer.count(b"HTTP/1.1") == 1
        assert b"Connection: close" in head
        assert f"Content-Length: {len(body)}".encode() in head
        assert f"port {port} ".encode() in body

    def test_head_has_no_body(self, edge, closed_port):
        _, tunnel = closed_port
        with tls_connect(edge, tunnel) as visitor:
            visitor.sendall(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = read_all(visitor)
        assert answer.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
        assert answer.endswith(b"\r\n\r\n")
        assert answer.count(b"\r\n\r\n") == 1

    def test_curl_understands_it(self, edge, closed_port, tmp_path):
        port, tunnel = closed_port
        body = random_file(tmp_path / "body", 2)
        for options in ([], ["--head"], ["--data-binary", f"@{body}"], ["--upload-file", str(body)]):
            done = curl(edge, "--include", *options, tunnel.url)
            assert done.returncode == 0, (options, done.stderr)
            assert b" 502 " in done.stdout
            assert (f"port {port} ".encode() in done.stdout) is (options != ["--head"])

    def test_a_browser_gets_a_page(self, edge, closed_port):
        port, tunnel = closed_port
        done = curl(edge, "--include", "--header", "Accept: text/html,*/*;q=0.8", tunnel.url + "/<b>path</b>")
        head, _, body = done.stdout.decode().partition("\r\n\r\n")
        assert head.startswith("HTTP/1.1 502 Bad Gateway\r\n")
        assert "Content-Type: text/html" in head
        assert "Content-Security-Policy: default-src 'none';" in head
        assert f"port {port} " in body
        assert "path" not in body

    def test_a_request_without_an_end_gets_a_line(self, edge, closed_port):
        _, tunnel = closed_port
        with tls_connect(edge, tunnel) as visitor:
            visitor.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
            assert read_all(visitor).startswith(b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain")

    def test_a_request_in_single_bytes(self, edge, closed_port):
        _, tunnel = closed_port
        with tls_connect(edge, tunnel) as visitor:
            for byte in b"GET / HTTP/1.1\r\nHost: x\r\n\r\n":
                visitor.sendall(bytes((byte,)))
            assert read_all(visitor).count(b"HTTP/1.1 502") == 1

    def test_other_protocols_are_reset(self, edge, closed_port):
        _, tunnel = closed_port
        with tls_connect(edge, tunnel) as visitor:
            visitor.sendall(b"\x00\x01 this is no request")
            assert was_reset(visitor)

    def test_a_raw_tcp_visitor_is_reset(self, closed_port):
        _, tunnel = closed_port
        with socket.create_connection(tunnel.tcp_socket, timeout=30) as visitor:
            assert was_reset(visitor)

    def test_tunnel_works_as_soon_as_the_origin_listens(self, edge, client):
        port = free_port()
        events = []
        unsubscribe = client.subscribe(events.append)
        with quictunnel.forward(port, client=client) as tunnel:
            assert b" 502 " in curl(edge, "--include", tunnel.url).stdout
            assert [e.message for e in events if e.kind == "origin"] == [
                f"Nobody listens on port {port}; visitors are refused."
            ]
            with (
                socket.create_server(("127.0.0.1", port)) as origin,
                concurrent.futures.ThreadPoolExecutor(1) as pool,
            ):
                fetched = pool.submit(curl, edge, "--fail", tunnel.url)
                connection, _ = origin.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nyes")
                assert fetched.result().stdout == b"yes"
        unsubscribe()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_origin_may_listen_on_either_loopback(edge, client, host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        origin = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    with (
        origin,
        quictunnel.forward(origin.getsockname()[1], client=client) as tunnel,
        tls_connect(edge, tunnel) as visitor,
    ):
        visitor.sendall(b"ping")
        connection, _ = origin.accept()
        with connection:
            assert connection.recv(4) == b"ping"
            connection.sendall(b"pong")
        assert read_all(visitor) == b"pong"
