"""A visitor's arrival: welcomed, refused with words it understands, or cut off in time."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from typing import TYPE_CHECKING

import pytest

from edge_server.ingress.tls_listener import OVERLOADED, Alert, Deadlines, HandshakeOutcome, TlsListener
from edge_server.resources.descriptor_budget import ShortageLog
from quictunnel.transport import lingering_close
from quictunnel.transport.lingering_close import MAX_LINGER_BYTES
from tests.edge_server.ingress.conftest import Visitor

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from tests.edge_server.ingress.conftest import ListenerRig

NAME = "a.tunnel.localhost"
TLS13 = ssl.TLSVersion.TLSv1_3


async def run(*command: str, stdin: bytes = b"") -> tuple[int, str]:
    """A real program's exit status and everything it said."""
    process = await asyncio.create_subprocess_exec(
        *command,
        # Who has nothing to say gets no pipe: some programs end before they could be told so.
        stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(20):
        said, _ = await process.communicate(stdin or None)
    assert process.returncode is not None
    return process.returncode, said.decode()


async def refusal_of(rig: ListenerRig, name: str | None, version: ssl.TLSVersion) -> str:
    visitor = await rig.visitor(version, name)
    with pytest.raises(ssl.SSLError) as caught:
        await visitor.handshake()
    assert await asyncio.get_running_loop().sock_recv(visitor.sock, 1) == b""  # a FIN, not a RST
    return caught.value.reason or ""


async def wait_for_outcome(rig: ListenerRig, outcome: HandshakeOutcome, count: int = 1) -> None:
    await rig.eventually(lambda: rig.listener.outcomes[outcome] == count)
    await rig.eventually(lambda: not rig.listener.pending)


async def test_unknown_and_missing_names_get_their_alerts(rig: ListenerRig, version: ssl.TLSVersion) -> None:
    assert "UNRECOGNIZED_NAME" in await refusal_of(rig, "b.tunnel.localhost", version)
    assert "MISSING_EXTENSION" in await refusal_of(rig, None, version)
    for sock in rig.sockets:
        sock.close()
    await wait_for_outcome(rig, HandshakeOutcome.REFUSED, 2)
    assert [hello.server_name for hello in rig.hellos] == ["b.tunnel.localhost", None]
    assert rig.hellos[0].alpn == ("h2", "http/1.1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-servername", "b.tunnel.localhost"], r"alert number 112"),
        (["-noservername"], r"alert number 109"),
        (["-servername", NAME], r"Verify return code: 0 \(ok\)"),
        (["-servername", NAME, "-tls1_2"], r"Verify return code: 0 \(ok\)"),
        (["-servername", NAME, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], r"alert number 70"),
    ],
)
async def test_openssl_understands(rig: ListenerRig, ca_file: str, arguments: list[str], words: str) -> None:
    address = f"127.0.0.1:{rig.port}"
    _, said = await run("openssl", "s_client", "-connect", address, "-CAfile", ca_file, *arguments)
    assert re.search(words, said), said
    await rig.eventually(lambda: not rig.listener.pending)


async def test_renegotiation_is_refused(rig: ListenerRig, ca_file: str) -> None:
    address = f"127.0.0.1:{rig.port}"
    command = ("openssl", "s_client", "-connect", address, "-servername", NAME, "-tls1_2", "-CAfile", ca_file)
    _, said = await run(*command, stdin=b"R\n")
    assert "RENEGOTIATING" in said
    assert "no renegotiation" in said
    await rig.apps[0].lost


async def test_curl_is_admitted(rig: ListenerRig, ca_file: str) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"

    def answering():
        app = rig.app()
        received = app.data_received

        def data_received(data: bytes) -> None:
            received(data)
            app.transport.write(answer)
            app.transport.close()

        app.data_received = data_received
        return app

    rig.make_app = answering
    url = f"https://{NAME}:{rig.port}/"
    status, said = await run("curl", "-sS", "--cacert", ca_file, "--resolve", f"{NAME}:{rig.port}:127.0.0.1", url)
    assert (status, said) == (0, "hello")
    assert rig.apps[0].data.startswith(b"GET / HTTP/1.1\r\n")
    assert await rig.apps[0].lost is None


@pytest.mark.parametrize("arguments", [[], ["-d", "x=1"], ["--http2-prior-knowledge", "--http0.9"]])
async def test_curl_without_tls_is_redirected(rig: ListenerRig, arguments: list[str]) -> None:
    _, said = await run("curl", "-sS", "-i", *arguments, f"http://127.0.0.1:{rig.port}/")
    if not arguments or arguments[0] == "-d":
        head, _, body = said.partition("\r\n\r\n")
        assert head.startswith("HTTP/1.1 400 Bad Request\r\n")
        assert "Connection: close" in head
        assert "https://" in body
        assert body.count("\n") == 1
    await wait_for_outcome(rig, HandshakeOutcome.PLAIN_HTTP)


async def test_curl_without_tls_is_sent_to_where_a_tunnel_is(rig: ListenerRig, ca_file: str) -> None:
    resolve = f"{NAME}:{rig.port}:127.0.0.1"
    url = f"http://{NAME}:{rig.port}/shelf/?page=2"
    _, said = await run("curl", "-sS", "-i", "-X", "DELETE", "--resolve", resolve, url)
    assert said.splitlines()[:2] == [
        "HTTP/1.1 308 Permanent Redirect",
        f"Location: {url.replace('http', 'https')}",
    ]
    assert rig.listener.outcomes == {HandshakeOutcome.REDIRECTED: 1}


async def test_a_large_plain_upload_still_reads_its_answer(rig: ListenerRig) -> None:
    sock = await rig.connect()
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, b"POST / HTTP/1.1\r\n\r\n" + bytes(MAX_LINGER_BYTES // 2))
    answer = b""
    while chunk := await loop.sock_recv(sock, 4096):
        answer += chunk
    assert answer.startswith(b"HTTP/1.1 400 ")
    sock.close()
    await wait_for_outcome(rig, HandshakeOutcome.PLAIN_HTTP)


async def test_an_upload_without_tls_is_sent_to_where_the_tunnel_is(rig: ListenerRig) -> None:
    """By a client that looks for the answer when it has sent everything, as http.client does."""
    sock = await rig.connect()
    loop = asyncio.get_running_loop()
    size = 8 * 1024 * 1024
    head = f"POST /shelf HTTP/1.1\r\nHost: {NAME}:{rig.port}\r\nContent-Length: {size}\r\n\r\n"
    await loop.sock_sendall(sock, head.encode() + bytes(size))
    assert (await loop.sock_recv(sock, 4096)).startswith(b"HTTP/1.1 308 ")
    sock.close()
    await wait_for_outcome(rig, HandshakeOutcome.REDIRECTED)


async def test_an_upload_without_tls_has_an_end(rig: ListenerRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering_close, "MAX_UPLOAD_BYTES", MAX_LINGER_BYTES)
    loop = asyncio.get_running_loop()
    head = f"POST /shelf HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode()
    flood = await rig.connect()
    await loop.sock_sendall(flood, head)
    with pytest.raises(ConnectionError):
        await loop.sock_sendall(flood, bytes(100 * MAX_LINGER_BYTES))
    monkeypatch.setattr(lingering_close, "UPLOAD_TIMEOUT", 0.05)
    lingering = await rig.connect()
    await loop.sock_sendall(lingering, head)
    await wait_for_outcome(rig, HandshakeOutcome.REDIRECTED, 2)


async def test_a_refused_visitor_is_not_listened_to_for_ever(
    rig: ListenerRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    flood = await rig.connect()
    await loop.sock_sendall(flood, b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(ConnectionError):
        await loop.sock_sendall(flood, bytes(100 * MAX_LINGER_BYTES))
    monkeypatch.setattr(lingering_close, "LINGER_TIMEOUT", 0.05)
    lingering = await rig.connect()
    await loop.sock_sendall(lingering, b"GET / HTTP/1.1\r\n\r\n")
    await wait_for_outcome(rig, HandshakeOutcome.PLAIN_HTTP, 2)


@pytest.mark.parametrize(
    ("first", "outcome"),
    [
        (b"SSH-2.0-x\r\n", HandshakeOutcome.NOT_TLS),
        (b"\0" * 2000, HandshakeOutcome.NOT_TLS),
        (b"\x16\x03\x01\xff\xff", HandshakeOutcome.BAD_HELLO),
        (b"", HandshakeOutcome.VISITOR_CLOSED),
        (b"\x16\x03\x01", HandshakeOutcome.VISITOR_CLOSED),
    ],
)
async def test_other_protocols_are_closed(rig: ListenerRig, first: bytes, outcome: HandshakeOutcome) -> None:
    sock = await rig.connect()
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, first)
    if outcome is HandshakeOutcome.BAD_HELLO:
        assert await loop.sock_recv(sock, 100) == b"\x15\x03\x03\x00\x02\x02\x16"
    elif outcome is HandshakeOutcome.NOT_TLS:
        with pytest.raises(ConnectionResetError):
            await loop.sock_recv(sock, 100)
    sock.close()
    await wait_for_outcome(rig, outcome)
    assert rig.hellos == []


async def test_a_visitor_that_leaves_in_its_handshake(rig: ListenerRig) -> None:
    visitor = await rig.visitor()
    with contextlib.suppress(ssl.SSLWantReadError):
        visitor.tls.do_handshake()
    await visitor.flush()
    await rig.eventually(lambda: rig.hellos != [])
    visitor.sock.close()
    await wait_for_outcome(rig, HandshakeOutcome.VISITOR_CLOSED)
    assert rig.apps == []


async def test_a_handshake_that_fails_is_no_exception(rig: ListenerRig) -> None:
    # The visitor does not trust the certificate and says so with an alert.
    visitor = await rig.visitor()
    context = ssl.create_default_context()
    distrusting = type(visitor)(visitor.sock, context, NAME)
    with pytest.raises(ssl.SSLCertVerificationError):
        await distrusting.handshake()
    await distrusting.flush()
    await wait_for_outcome(rig, HandshakeOutcome.VISITOR_CLOSED)
    assert rig.apps == []


@pytest.fixture
def hurry(rig: ListenerRig) -> Callable[..., None]:
    def set_deadlines(**seconds: float) -> None:
        rig.listener.deadlines = Deadlines(**seconds)

    return set_deadlines


async def drip(sock: socket.socket, data: bytes) -> None:
    for byte in data:
        await asyncio.get_running_loop().sock_sendall(sock, bytes((byte,)))
        await asyncio.sleep(0.01)  # the pace of the attack


async def test_a_request_without_an_end_is_cut(rig: ListenerRig, hurry: Callable[..., None]) -> None:
    hurry(hello=0.1)
    sock = await stay(rig, "half a request", "127.0.0.1")
    with pytest.raises(ConnectionResetError):
        await asyncio.get_running_loop().sock_recv(sock, 1)
    await wait_for_outcome(rig, HandshakeOutcome.TIMED_OUT)


async def test_a_dripping_hello_is_cut(rig: ListenerRig, hurry: Callable[..., None]) -> None:
    hurry(hello=0.1)
    visitor = await rig.visitor()
    with contextlib.suppress(ssl.SSLWantReadError):
        visitor.tls.do_handshake()
    with pytest.raises(ConnectionError):
        await drip(visitor.sock, visitor.outgoing.read())
    await wait_for_outcome(rig, HandshakeOutcome.TIMED_OUT)
    assert rig.hellos == []


async def test_a_stalled_handshake_is_cut(rig: ListenerRig, hurry: Callable[..., None]) -> None:
    hurry(handshake=0.1)
    visitor = await rig.visitor()
    with contextlib.suppress(ssl.SSLWantReadError):
        visitor.tls.do_handshake()
    await visitor.flush()
    await visitor.fill()  # the server's flight, which is left without an answer
    with pytest.raises(ConnectionResetError):
        await visitor.fill()
    await wait_for_outcome(rig, HandshakeOutcome.TIMED_OUT)


async def test_many_slow_handshakes_do_not_delay_another(rig: ListenerRig, hurry: Callable[..., None]) -> None:
    hurry(hello=0.3)
    loop = asyncio.get_running_loop()
    for _ in range(200):
        await loop.sock_sendall(await rig.connect(), b"\x16")
    await rig.pair()
    await wait_for_outcome(rig, HandshakeOutcome.TIMED_OUT, 200)
    assert rig.listener.outcomes[HandshakeOutcome.ACCEPTED] == 1


STATES = ("silent", "half a hello", "handshake", "refused", "half a request", "redirected", "broken")


async def stay(rig: ListenerRig, state: str, source: str) -> socket.socket:
    """A stranger who takes a place and keeps it for as long as it is let, in one of the states before its bytes
    are anybody's."""
    loop = asyncio.get_running_loop()
    sock = await rig.connect(source)
    hello = client_hello(rig, "b.tunnel.localhost" if state == "refused" else NAME)
    said = {
        "silent": b"",
        "half a hello": hello[:100],
        "half a request": b"GET / HTTP/1.1\r\nHost: ",
        "redirected": b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % NAME.encode(),
    }
    if state == "broken":
        visitor = Visitor(sock, ssl.create_default_context(cafile=rig.ca_file), NAME)
        await visitor.handshake()
        await loop.sock_sendall(sock, b"\x17\x03\x03\x00\x20" + bytes(32))  # no record of this connection's
    else:
        await loop.sock_sendall(sock, said.get(state, hello))
    return sock


async def read_to_the_end(sock: socket.socket) -> None:
    with contextlib.suppress(ConnectionResetError):
        while await asyncio.get_running_loop().sock_recv(sock, 10_000):
            pass


def client_hello(rig: ListenerRig, name: str) -> bytes:
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context(cafile=rig.ca_file)
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("state", [*STATES, "mixed"])
async def test_flood_from_one_network_keeps_no_other_out(rig: ListenerRig, state: str) -> None:
    """From all addresses of a /24, more than there are places, and then one more before each honest visitor: all
    of those are served, and so is one who has been in the middle of a handshake since before."""
    front = rig.listener
    front.pending.limit = 8
    early = await rig.visitor()
    with contextlib.suppress(ssl.SSLWantReadError):
        early.tls.do_handshake()
    await early.flush()
    await early.fill()

    async def flood(number: int) -> None:
        await stay(rig, STATES[number % len(STATES)] if state == "mixed" else state, f"127.9.9.{1 + number}")

    for number in range(24):
        await flood(number)
    await rig.eventually(lambda: front.pending.evictions >= 16)
    assert front.pending.largest_network()[0] == "127.9.9.0/24"
    for number in range(24, 34):
        await flood(number)
        visitor, _ = await rig.pair()
        visitor.sock.close()
    await early.handshake()
    assert front.pending.evictions >= 20
    assert len(front.pending) <= 8


async def test_visitor_behind_a_flooding_address_is_served(rig: ListenerRig) -> None:
    """The place that was taken first is given up first, so a handshake has the time in which the flood takes all
    of them once."""
    rig.listener.pending.limit = 8
    for _ in range(10):
        for _ in range(6):
            await stay(rig, "handshake", "127.0.0.1")
        visitor, _ = await rig.pair()
        visitor.sock.close()
    assert rig.listener.pending.evictions > 40


async def test_no_handshake_is_evicted_while_there_is_room(rig: ListenerRig) -> None:
    for _ in range(40):
        await stay(rig, "handshake", "127.0.0.1")
    await rig.pair()
    assert rig.listener.pending.evictions == rig.listener.outcomes[HandshakeOutcome.OVERLOADED] == 0


async def test_evicted_handshake_is_reset_and_counted(rig: ListenerRig) -> None:
    loop = asyncio.get_running_loop()
    rig.listener.pending.limit = 2
    first = await rig.connect()
    await rig.eventually(lambda: len(rig.listener.pending) == 1)
    others = [await rig.connect() for _ in range(2)]
    with pytest.raises(ConnectionResetError):
        await loop.sock_recv(first, 1)
    assert rig.listener.outcomes == {HandshakeOutcome.OVERLOADED: 1}
    for other in others:
        other.close()
    await wait_for_outcome(rig, HandshakeOutcome.VISITOR_CLOSED, 2)


async def test_full_table_of_many_networks_resets_newcomers(rig: ListenerRig) -> None:
    """Every network holds one place, so none is evicted until its time for a handshake is over."""
    loop = asyncio.get_running_loop()
    rig.listener.pending.limit = 2
    rig.listener.pending.patience = 0.2
    first, second = [await rig.connect(f"127.0.{number}.1") for number in range(2)]
    await rig.eventually(lambda: len(rig.listener.pending) == 2)
    third = await rig.connect("127.0.3.1")
    with pytest.raises(ConnectionResetError):
        await loop.sock_recv(third, 1)
    await asyncio.sleep(0.2)  # what is tested is time
    await rig.pair()
    with pytest.raises(ConnectionResetError):
        await loop.sock_recv(first, 1)
    second.close()
    await wait_for_outcome(rig, HandshakeOutcome.VISITOR_CLOSED)


async def test_low_number_of_places_is_logged(rig: ListenerRig, caplog: pytest.LogCaptureFixture) -> None:
    rig.listener.pending.limit = 2
    rig.listener._shortage = ShortageLog()
    for _ in range(20):
        await stay(rig, "silent", "127.9.9.9")
    await rig.eventually(lambda: rig.listener.pending.evictions == 18)
    (record,) = caplog.records
    assert record.getMessage().startswith("TLS handshake capacity is exhausted")
    assert record.getMessage().endswith("127.9.9.0/24 holds 2 of 2")


async def test_connection_over_capacity_is_reset(rig: ListenerRig) -> None:
    rig.route = lambda _hello, _host: OVERLOADED
    visitor = await rig.visitor()
    with pytest.raises(ConnectionResetError):
        await visitor.handshake()
    assert rig.listener.outcomes == {HandshakeOutcome.OVERLOADED: 1}


async def test_a_visitor_who_left_before_it_was_refused_is_no_exception(rig: ListenerRig) -> None:
    """On loopback the reset that the last words meet is there before their end is sent."""
    for _ in range(20):
        sock = await rig.connect()
        sock.send(client_hello(rig, "b.tunnel.localhost"))
        sock.close()
    await wait_for_outcome(rig, HandshakeOutcome.REFUSED, 20)


async def test_abort_closes_pending_connections(rig: ListenerRig) -> None:
    socks = [await stay(rig, state, "127.0.0.1") for state in STATES]
    await rig.eventually(lambda: len(rig.listener.pending) == len(STATES))
    rig.listener.abort()
    await rig.eventually(lambda: not rig.listener.pending)
    for sock in socks:
        await read_to_the_end(sock)


async def test_a_front_needs_no_loop_argument() -> None:
    assert TlsListener(lambda _hello: Alert.UNRECOGNIZED_NAME).loop is asyncio.get_running_loop()
