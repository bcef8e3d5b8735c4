"""HTTP/2 from end to end, for tunnels that ask for it and no others."""

import asyncio
import concurrent.futures
import hashlib
import json
import ssl
import subprocess
import threading

import grpc
import h2.config
import h2.connection
import h2.events
import httpx
import pytest

import quictunnel
from tests.harness.programs import free_port, need, random_file
from tests.harness.visitors import curl, shown, tls_connect, was_reset

DOWN = 10 * 1024 * 1024


class H2Origin(asyncio.Protocol):
    """An HTTP/2 server without TLS: GET /bytes/N answers N bytes, anything else the digest of what was sent.

    Nothing but HTTP/2 is understood: whatever begins differently ends the connection."""

    def __init__(self) -> None:
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self._bodies: dict[int, object] = {}
        self._paths: dict[int, str] = {}
        self._waiting: dict[int, bytes] = {}

    def connection_made(self, transport):
        self._transport = transport
        self._h2.initiate_connection()
        transport.write(self._h2.data_to_send())

    def data_received(self, data):
        for event in self._h2.receive_data(data):
            match event:
                case h2.events.RequestReceived():
                    self._paths[event.stream_id] = dict(event.headers)[b":path"].decode()
                    self._bodies[event.stream_id] = hashlib.sha256()
                case h2.events.DataReceived():
                    self._bodies[event.stream_id].update(event.data)
                    self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case h2.events.StreamEnded():
                    self._answer(event.stream_id)
        self._push()

    def _answer(self, stream):
        path, body = self._paths.pop(stream), self._bodies.pop(stream)
        if path.startswith("/bytes/"):
            answer = bytes(int(path.removeprefix("/bytes/")))
        else:
            answer = json.dumps({"path": path, "sha256": body.hexdigest()}).encode()
        self._h2.send_headers(stream, [(":status", "200"), ("content-length", str(len(answer)))])
        self._waiting[stream] = answer

    def _push(self):
        for stream, answer in list(self._waiting.items()):
            rest = answer
            while rest and (room := self._h2.local_flow_control_window(stream)) > 0:
                size = min(room, self._h2.max_outbound_frame_size, len(rest))
                self._h2.send_data(stream, rest[:size])
                rest = rest[size:]
            if rest:
                self._waiting[stream] = rest
            else:
                self._h2.end_stream(stream)
                del self._waiting[stream]
        self._transport.write(self._h2.data_to_send())


@pytest.fixture
def h2_port():
    """The port of an HTTP/2 origin that runs on a thread of its own."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(H2Origin, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield server.sockets[0].getsockname()[1]

    async def close():
        server.close()
        await asyncio.sleep(0)

    asyncio.run_coroutine_threadsafe(close(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def tunnel(h2_port, client):
    with quictunnel.forward(h2_port, h2_enabled=True, client=client) as tunnel:
        yield tunnel


def names(visitor: ssl.SSLSocket) -> tuple:
    return visitor.getpeercert()["subjectAltName"]


def test_curl_speaks_h2(edge, tunnel, tmp_path):
    body = random_file(tmp_path / "body", 10)
    form = ("--write-out", "\n%{http_version} %{http_code}")
    done = curl(edge, "--http2", *form, "--data-binary", f"@{body}", f"{tunnel.url}/up")
    answer, _, versions = done.stdout.decode().rpartition("\n")
    assert (done.returncode, versions) == (0, "2 200"), done.stderr
    assert json.loads(answer) == {"path": "/up", "sha256": hashlib.sha256(body.read_bytes()).hexdigest()}

    done = curl(
        edge,
        "--http2",
        "--output",
        "/dev/null",
        *form,
        "--write-out",
        "%{size_download}",
        f"{tunnel.url}/bytes/{DOWN}",
    )
    assert (done.returncode, done.stdout.decode()) == (0, str(DOWN)), done.stderr


def test_a_browser_speaks_h2(edge, tunnel, tmp_path):
    """The origin understands nothing else."""
    assert '{"path": "/a/page", ' in shown(edge, tunnel, tmp_path, "/a/page")


async def test_httpx_sends_many_requests_over_one_connection(edge, tunnel):
    context = ssl.create_default_context(cafile=str(edge.ca))
    limits = httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(
        http2=True, http1=False, verify=context, limits=limits, trust_env=False
    ) as visitor:

        async def fetch(number: int):
            # The system's resolver need not know *.localhost: the address is given, the name only proved.
            answer = await visitor.post(
                f"https://127.0.0.1:{tunnel.port}/{number}",
                content=bytes((number,)) * number * 1000,
                headers={"Host": tunnel.host},
                extensions={"sni_hostname": tunnel.host},
            )
            assert answer.http_version == "HTTP/2"
            return answer.json()

        answers = await asyncio.gather(*(fetch(number) for number in range(50)))
    assert answers == [
        {"path": f"/{n}", "sha256": hashlib.sha256(bytes((n,)) * n * 1000).hexdigest()} for n in range(50)
    ]


def test_h2load_reports_no_error(edge, tunnel):
    done = subprocess.run(
        [
            *(need("h2load"), "--requests=600", "--clients=6", "--max-concurrent-streams=20"),
            *(f"--connect-to=127.0.0.1:{tunnel.port}", f"{tunnel.url}/bytes/2000"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "Application protocol: h2" in done.stdout
    assert "600 succeeded, 0 failed, 0 errored, 0 timeout" in done.stdout


def test_the_certificate_covers_that_name_alone(edge, client, h2_port):
    """A browser sends requests for all names of a certificate down one h2 connection: here there is but one."""
    with (
        quictunnel.forward(h2_port, h2_enabled=True, client=client) as tunnel,
        quictunnel.forward(free_port(), h2_enabled=True, client=client) as other,
        tls_connect(edge, tunnel, ["h2", "http/1.1"]) as visitor,
        tls_connect(edge, other, ["h2", "http/1.1"]) as neighbour,
    ):
        assert visitor.selected_alpn_protocol() == neighbour.selected_alpn_protocol() == "h2"
        assert names(visitor) == (("DNS", tunnel.host),)
        assert names(neighbour) == (("DNS", other.host),)
        assert visitor.getpeercert()["serialNumber"] != neighbour.getpeercert()["serialNumber"]


def test_a_visitor_of_an_h2_tunnel_may_speak_http_1(edge, tunnel):
    with tls_connect(edge, tunnel, ["http/1.1"]) as visitor:
        assert visitor.selected_alpn_protocol() == "http/1.1"
        assert names(visitor) == (("DNS", tunnel.host),)


@pytest.mark.parametrize("offer", [["h2", "http/1.1"], ["http/1.1", "h2"], ["h2"], None])
def test_a_tunnel_that_did_not_ask_never_negotiates_h2(edge, client, offer):
    with quictunnel.forward(free_port(), client=client) as tunnel:
        try:
            visitor = tls_connect(edge, tunnel, offer)
        except ssl.SSLError as error:
            # One of the two ways to say no (RFC 7301 section 3.2).
            if offer != ["h2"] or "NO_APPLICATION_PROTOCOL" not in str(error):
                raise
        else:
            with visitor:
                expected = "http/1.1" if offer and "http/1.1" in offer else None
                assert visitor.selected_alpn_protocol() == expected


def test_no_502_is_written_into_an_h2_connection(edge, client):
    with (
        quictunnel.forward(free_port(), h2_enabled=True, client=client) as tunnel,
        tls_connect(edge, tunnel, ["h2"]) as visitor,
    ):
        visitor.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert was_reset(visitor)


@pytest.fixture
def grpc_port():
    """A gRPC server without TLS. Its messages are plain bytes, so no code has to be generated."""

    def reverse(request, _context):
        return request[::-1]

    def count(request, _context):
        for number in range(int(request)):
            yield str(number).encode()

    def echo(requests, _context):
        yield from requests

    methods = {
        "Reverse": grpc.unary_unary_rpc_method_handler(reverse),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Echo": grpc.stream_stream_rpc_method_handler(echo),
    }
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Words", methods)])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield port
        server.stop(None).wait()


def test_grpc(edge, client, grpc_port):
    with quictunnel.forward(grpc_port, h2_enabled=True, client=client) as tunnel:
        credentials = grpc.ssl_channel_credentials(edge.ca.read_bytes())
        # The address is given, the name only proved: the system's resolver need not know *.localhost.
        options = [("grpc.ssl_target_name_override", tunnel.host), ("grpc.enable_http_proxy", 0)]
        with grpc.secure_channel(f"127.0.0.1:{tunnel.port}", credentials, options) as channel:
            reverse = channel.unary_unary("/test.Words/Reverse")
            assert reverse(b"stressed", timeout=30) == b"desserts"
            big = bytes(range(256)) * 8192
            assert reverse(big, timeout=30) == big[::-1]
            count = channel.unary_stream("/test.Words/Count")
            assert list(count(b"500", timeout=30)) == [str(n).encode() for n in range(500)]
            echo = channel.stream_stream("/test.Words/Echo")
            words = [f"word {n}".encode() for n in range(200)]
            assert list(echo(iter(words), timeout=30)) == words
            calls = [reverse.future(word, timeout=30) for word in words]
            assert [call.result() for call in calls] == [word[::-1] for word in words]
