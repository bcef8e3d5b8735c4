"""What strangers, and clients that break the protocol, get of an edge: a clear refusal, and nobody else harmed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import ssl
import struct
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

import edge_server.clients.session
import quictunnel
from edge_server.ingress.tls_listener import Deadlines
from quictunnel.transport.engine import CloseCause
from quictunnel.wire.codes import PROTOCOL_VERSION, SessionCode
from quictunnel.wire.framing import frame
from quictunnel.wire.messages import (
    MAX_MESSAGE,
    MAX_NETWORKS,
    MAX_WINDOW,
    AnyMessage,
    Bind,
    BindRefused,
    Bound,
    Credits,
    GoAway,
    Hello,
    Unbind,
    Unbound,
    Welcome,
)
from tests.harness.edge_process import resident_memory
from tests.harness.hostile_peer import HUGE_FRAME, PROTOCOL, WINDOW, HostileClient
from tests.harness.metrics_reader import WITH_FIGURES, Arrivals
from tests.harness.sockets import PATIENCE, TcpEnd, TlsEnd, is_reset, receive_all, receive_exactly, verifying
from tests.harness.tunnel_fixture import EmbeddedStage, ProcessStage, nothing_left
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def shared_stage(engines):
    with EmbeddedStage() as made:
        yield made


@pytest.fixture
def stage(shared_stage: EmbeddedStage, caplog: pytest.LogCaptureFixture) -> Iterator[EmbeddedStage]:
    """An edge with a good client on it, which is as good afterwards: the same session, still serving; and an
    edge's log without a traceback or a long line."""
    session = shared_stage.client_session
    caplog.set_level(logging.INFO)
    with nothing_left(shared_stage):
        yield shared_stage
        eventually(lambda: shared_stage.edge.server.guests == 1, "a hostile client is still there")
        assert shared_stage.client_session is session
        for kind in ("tcp", "tls"):
            shared_stage.pair(kind)
    assert shared_stage.edge.server._endpoint.faults == 0
    for record in caplog.records:
        assert not record.exc_info, record
        assert len(record.getMessage()) < 500
        assert record.levelno < logging.ERROR, record


@pytest.fixture
def hostile(stage: EmbeddedStage) -> HostileClient:
    """To be entered by the test, on its own loop."""

    class Maker:
        async def __aenter__(self) -> HostileClient:
            self.client = HostileClient(stage.edge.client_config)
            return await self.client.__aenter__()

        async def __aexit__(self, *error: object) -> None:
            await self.client.__aexit__(*error)

    return Maker()  # type: ignore[return-value]


# Tokens.


@pytest.mark.parametrize("token", ["wrong", "x" * 512])
def test_a_wrong_token_is_refused(stage, token):
    config = stage.edge.client_config
    with quictunnel.Client(config.edge, token=token, ca=config.ca) as client:
        with pytest.raises(quictunnel.AuthError) as raised:
            quictunnel.forward(1234, client=client).__enter__()
        assert token not in str(raised.value)
        assert stage.edge.server.leases == 1


async def test_an_empty_token_is_refused(hostile):
    async with hostile as client:
        client.say(Hello(PROTOCOL_VERSION, "", WINDOW, "hostile/1", b""))
        assert await client.end() == (CloseCause.PEER, SessionCode.UNAUTHORIZED)


async def test_a_wrong_token_buys_nothing_that_follows_it(stage, hostile):
    async with hostile as client:
        client.say(
            Hello(PROTOCOL_VERSION, "wrong", WINDOW, "hostile/1", b""),
            Bind(1, unencrypted=True, h2=False, ticket=b""),
        )
        assert await client.end() == (CloseCause.PEER, SessionCode.PROTOCOL)
        assert client.messages.empty()
        assert stage.edge.server.leases == 1


async def test_a_version_from_before_the_first_is_refused(stage, hostile):
    async with hostile as client:
        client.say(Hello(0, client.token, WINDOW, "hostile/1", b""))
        assert await client.end() == (CloseCause.PEER, SessionCode.VERSION)


# The control stream, at the edge.

CHANCE = random.Random(4)
SAID_FIRST = {
    "random bytes": CHANCE.randbytes(3000),
    "a frame of 2 GiB": HUGE_FRAME + bytes(100),
    "an empty frame": bytes(4),
    "a frame one byte too large": (MAX_MESSAGE + 1).to_bytes(4, "big") + bytes(10),
    "an unknown message": b"\x00\x00\x00\x02\x92\x63"[:4] + b"\x91\x63",
    "a message that is no array": b"\x00\x00\x00\x01\xc0",
    "HTTP": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "nesting": (2000).to_bytes(4, "big") + b"\x91" * 2000,
    "Bind before Hello": frame(Bind(1, unencrypted=True, h2=False, ticket=b"")),
    "Unbind before Hello": frame(Unbind(1)),
    "Credits before Hello": frame(Credits([(0, 0, 1)])),
    "Welcome": frame(Welcome(1, WINDOW, 1, "", b"", False, 0, 0, 0)),
    "GoAway": frame(GoAway(1)),
}


@pytest.mark.parametrize("said", SAID_FIRST.values(), ids=SAID_FIRST.keys())
async def test_first_words_that_are_wrong_end_the_session(hostile, said):
    async with hostile as client:
        client.write(0, said)
        assert await client.end() == PROTOCOL


def _wrong_afterwards() -> dict[str, bytes]:
    def said(*messages: AnyMessage) -> bytes:
        return b"".join(map(frame, messages))

    bind = Bind(2, unencrypted=False, h2=False, ticket=b"")
    networks = ["10.0.0.0/8"] * (MAX_NETWORKS + 1)
    return {
        "random bytes": CHANCE.randbytes(100_000),
        "a frame of 2 GiB": HUGE_FRAME,
        "Hello again": said(Hello(PROTOCOL_VERSION, "x", WINDOW, "", b"")),
        "Welcome": said(Welcome(1, WINDOW, 1, "", b"", False, 0, 0, 0)),
        "Bound": said(Bound(1, "a.test", 443, "", 0, b"")),
        "BindRefused": said(BindRefused(1, 1)),  # type: ignore[arg-type]  # the same on the wire
        "Unbound": said(Unbound(1)),
        "GoAway": said(GoAway(0)),
        "one number for two leases": said(bind, bind),
        "too many networks to allow": said(replace(bind, allow=networks)),
        "too many networks to deny": said(replace(bind, deny=networks)),
        "credit for a stream that never was": said(Credits([(0, 0, WINDOW)])),
        "an oversized ticket": b"\x00\x00\x10\x09" + b"\x95\x03\x02\xc2\xc2\xc5\x10\x00" + bytes(4097 - 8 + 8),
    }


WRONG_AFTERWARDS = _wrong_afterwards()


@pytest.mark.parametrize("said", WRONG_AFTERWARDS.values(), ids=WRONG_AFTERWARDS.keys())
async def test_later_words_that_are_wrong_end_the_session(hostile, said):
    async with hostile as client:
        await client.greet()
        client.write(0, said)
        assert await client.end() == PROTOCOL


async def test_a_control_stream_that_ends_is_wrong(hostile):
    async with hostile as client:
        await client.greet()
        client.finish(0)
        assert await client.end() == PROTOCOL


async def test_a_control_stream_that_is_reset_is_wrong(hostile):
    async with hostile as client:
        await client.greet()
        client.connection.reset(0, 7)
        client.wake()
        assert await client.end() == PROTOCOL


async def test_a_control_stream_that_is_not_wanted_is_wrong(hostile):
    async with hostile as client:
        await client.greet()
        client.connection.stop(0, 7)
        client.wake()
        assert await client.end() == PROTOCOL


@pytest.mark.parametrize("greeted", [False, True])
async def test_a_client_may_open_no_second_stream(hostile, greeted):
    """QUIC's own limit refuses it (RFC 9000 section 4.6), as a transport error."""
    async with hostile as client:
        if greeted:
            await client.greet()
        client.write(client.open_beyond_limit(), b"hello")
        assert (await client.end())[0] in (CloseCause.PEER, CloseCause.PROTOCOL)


async def test_silence_after_the_handshake_has_a_deadline(hostile, monkeypatch):
    monkeypatch.setattr(edge_server.clients.session, "HELLO_TIMEOUT", 0.2)
    async with hostile as client:
        assert await client.end() == (CloseCause.PEER, SessionCode.TOO_SLOW)


async def test_a_hello_in_drops_has_the_same_deadline(hostile, monkeypatch):
    monkeypatch.setattr(edge_server.clients.session, "HELLO_TIMEOUT", 0.2)
    async with hostile as client:
        client.write(0, frame(client.good_hello)[:-1])
        assert await client.end() == (CloseCause.PEER, SessionCode.TOO_SLOW)


# Credit, at the edge.


async def visited(client: HostileClient) -> tuple[int, TcpEnd]:
    """A visitor who has said five bytes, and its stream."""
    await client.greet()
    bound = await client.lease()
    loop = asyncio.get_running_loop()
    sock = await loop.run_in_executor(
        None, socket.create_connection, (bound.unencrypted_host, bound.unencrypted_port)
    )
    visitor = TcpEnd(sock)
    visitor.send(b"hello")
    async with asyncio.timeout(PATIENCE):
        stream = await client.opened.get()
    await client.has_come(stream, b"hello")
    return stream, visitor


IMPOSSIBLE_CREDIT = {
    "for bytes never sent": [(0, 6, WINDOW)],
    "for an end never sent": [(0, 5, WINDOW), (0, 6, WINDOW)],
    "beyond the largest window": [(0, 5, 5 + MAX_WINDOW + 1)],
    "taken back": [(0, 5, WINDOW + 5), (0, 4, WINDOW + 5)],
    "limit taken back": [(0, 5, WINDOW + 5), (0, 5, WINDOW + 4)],
    "limit below the first": [(0, 0, WINDOW - 1)],
    "for the next stream": [(1, 0, WINDOW)],
    "for the last stream of all": [((1 << 62) - 1, 0, WINDOW)],
}


@pytest.mark.parametrize("entries", IMPOSSIBLE_CREDIT.values(), ids=IMPOSSIBLE_CREDIT.keys())
async def test_credit_that_cannot_be_ends_the_session(hostile, entries):
    async with hostile as client:
        _, visitor = await visited(client)
        client.say(Credits(entries))
        assert await client.end() == PROTOCOL
        assert await asyncio.to_thread(is_reset, visitor)
        visitor.sock.close()


async def test_credit_that_is_possible_is_taken(hostile):
    """So the ones above are refused for what is wrong with them."""
    async with hostile as client:
        stream, visitor = await visited(client)
        client.say(Credits([(0, 5, 5 + MAX_WINDOW)]), Credits([(0, 5, 5 + MAX_WINDOW)]))
        visitor.send(b" again")
        visitor.finish()
        client.write(stream, b"yes")
        client.finish(stream)
        assert await asyncio.to_thread(receive_all, visitor) == b"yes"
        await client.has_come(stream, b"hello again")
        assert not client.over.done()
        visitor.sock.close()


async def test_bytes_beyond_the_credit_end_the_session(hostile):
    """A client that sends and sends to a visitor who does not read."""
    async with hostile as client:
        stream, visitor = await visited(client)
        for _ in range(64):  # 64 MiB; the edge never grants so much
            client.write(stream, bytes(1 << 20))
        assert await client.end() == PROTOCOL
        assert await asyncio.to_thread(is_reset, visitor)
        visitor.sock.close()


# The TLS port.

ALERT_RECORD = b"\x15\x03\x03\x00\x02\x02"
UNRECOGNIZED_NAME, MISSING_EXTENSION, RECORD_OVERFLOW = b"\x70", b"\x6d", b"\x16"


def client_hello(name: str | None) -> bytes:
    """What OpenSSL says first."""
    context = ssl.create_default_context()
    context.check_hostname = False
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def answer_to(stage: EmbeddedStage, words: bytes, *, finish: bool = False) -> bytes:
    """Everything that the TLS port says to ``words`` before it ends the connection."""
    with socket.create_connection(("127.0.0.1", stage.tunnel.port), PATIENCE) as sock:
        answer = b""
        try:
            sock.sendall(words)
            if finish:
                sock.shutdown(socket.SHUT_WR)
            while part := sock.recv(65536):
                answer += part
        except (ConnectionResetError, BrokenPipeError):
            pass  # the end of a refusal may be a reset
        return answer


def newcomers(stage: EmbeddedStage) -> int:
    """Connections to the TLS port whose arrival the edge has seen the end of."""
    return sum(stage.edge.server._front.outcomes.values())


@pytest.mark.parametrize(
    "name", ["nobody.tunnel.localhost", "tunnel.localhost", "x.{host}", "{label}.example.com", "localhost"]
)
def test_an_unknown_name_is_told_so(stage, name):
    host = stage.tunnel.host
    name = name.format(host=host, label=host.partition(".")[0])
    assert answer_to(stage, client_hello(name)) == ALERT_RECORD + UNRECOGNIZED_NAME
    sock = socket.create_connection(("127.0.0.1", stage.tunnel.port), PATIENCE)
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        verifying(stage.ca).wrap_socket(sock, server_hostname=name)
    sock.close()


def test_no_name_is_told_so(stage):
    assert answer_to(stage, client_hello(None)) == ALERT_RECORD + MISSING_EXTENSION


def test_a_client_hello_cut_off_at_every_byte_is_let_go(stage):
    hello = client_hello(stage.tunnel.host)
    came = newcomers(stage)
    for length in range(len(hello)):
        assert answer_to(stage, hello[:length], finish=True) == b""
    assert newcomers(stage) - came == len(hello)


def test_a_client_hello_in_two_pieces_is_as_good_as_whole(stage, monkeypatch):
    front = stage.edge.server._front

    class Slowly(socket.socket):
        """Sends its first bytes in two pieces, the second when the first was read."""

        def sendall(self, data: bytes) -> None:  # type: ignore[override]
            if self.cut:
                super().sendall(data[: self.cut])
                eventually(lambda: self._read() == [self.cut], "the first piece was not read")
                data, self.cut = data[self.cut :], 0
            super().sendall(data)

        def _read(self) -> list[int]:
            return [len(newcomer._reader.received) for newcomer in tuple(front.pending)]

    for cut in range(1, len(client_hello(stage.tunnel.host)) - 1, 23):
        sock = Slowly()
        sock.cut = cut
        sock.connect(("127.0.0.1", stage.tunnel.port))
        visitor = TlsEnd(sock, verifying(stage.ca), stage.tunnel.host)
        stage.accept()
        visitor.finish()
        sock.close()


def test_half_a_client_hello_has_a_deadline(stage, monkeypatch):
    monkeypatch.setattr(stage.edge.server._front, "deadlines", Deadlines(hello=0.2))
    assert answer_to(stage, client_hello(stage.tunnel.host)[:-1]) == b""


def test_a_client_hello_of_64_kib_is_refused(stage):
    body = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00" + bytes(65_400)
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    pieces = [message[start : start + 16_000] for start in range(0, len(message), 16_000)]
    hello = b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces)
    assert len(hello) > 65_000
    answer = answer_to(stage, hello)
    assert answer.startswith(ALERT_RECORD[:5])
    assert len(answer) == 7


def test_a_record_of_64_kib_is_refused(stage):
    assert answer_to(stage, b"\x16\x03\x01\xff\xff" + bytes(65_535)) == ALERT_RECORD + RECORD_OVERFLOW


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS"])
def test_plain_http_is_told_to_use_https(stage, method):
    tunnel = stage.tunnel
    answer = answer_to(stage, f"{method} /a?b HTTP/1.1\r\nHost: {tunnel.host}\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 308 Permanent Redirect\r\n")
    assert f"\r\nLocation: https://{tunnel.host}:{tunnel.port}/a?b\r\n".encode() in head
    assert body == b""


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS"])
def test_plain_http_for_no_tunnel_is_told_no_more(stage, method):
    answer = answer_to(stage, f"{method} / HTTP/1.1\r\nHost: x{stage.tunnel.host}\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"https://" in body
    assert body.count(b"\n") == 1


@pytest.mark.parametrize("words", [b"SSH-2.0-x\r\n", bytes(100), CHANCE.randbytes(5000), b"\x16" + bytes(100)])
def test_what_is_not_tls_is_ended(stage, words):
    assert len(answer_to(stage, words)) <= 7


def test_visitors_who_only_connect_and_leave(stage):
    came, visitors = newcomers(stage), stage.edge.server.ledger.came["tcp"]
    for kind in ("tcp", "tls"):
        address = stage.tunnel.tcp_socket if kind == "tcp" else ("127.0.0.1", stage.tunnel.port)
        for _ in range(50):
            sock = socket.create_connection(address, PATIENCE)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
    # They may have gone before the edge has accepted them.
    eventually(lambda: newcomers(stage) - came == 50, "not all of those over TLS have come")
    eventually(
        lambda: stage.edge.server.ledger.came["tcp"] - visitors == 50, "not all of those over TCP have come"
    )
    eventually(
        lambda: not stage.edge.server.visitors and not stage.edge.server._front.pending, "visitors are left"
    )
    _forget_queued(stage)


def _forget_queued(stage: EmbeddedStage) -> None:
    """Take the connections of visitors long gone off the origin's listener."""
    stage.listener.settimeout(0.3)
    try:
        while True:
            stage.listener.accept()[0].close()
    except TimeoutError:
        stage.listener.settimeout(PATIENCE)


# The QUIC port.


def junk(chance: random.Random) -> bytes:
    """A datagram: of any size, or with a header that looks like QUIC's (RFC 9000 section 17.2)."""
    size = chance.choice((0, 1, 7, 20, 21, 43, 1199, 1200, 1252, 1472, 9000, 65_000, chance.randrange(1500)))
    body = chance.randbytes(size)
    match chance.randrange(4):
        case 0:
            return body
        case 1:  # a short header, for a connection that does not exist
            return bytes([0x40 | chance.randrange(0x40)]) + body
        case _:
            kind = chance.choice((0xC0, 0xC3, 0xD0, 0xE0, 0xF0))
            version = chance.choice((1, 1, 1, 1, 0, 0x6B3343CF, 0x1A2A3A4A, chance.randrange(1 << 32)))
            ids = b"".join(bytes([n]) + chance.randbytes(n) for n in (chance.choice((8, 8, 20, 0, 21, 255)), 8))
            token = chance.choice((b"\x00", b"\x10" + chance.randbytes(16), b"\x40\x64" + chance.randbytes(100)))
            rest = max(0, 1200 - len(ids) - len(token) - 7)
            length = (0x4000 | rest).to_bytes(2, "big")
            return bytes([kind]) + version.to_bytes(4, "big") + ids + token + length + chance.randbytes(rest)


def test_ten_thousand_random_datagrams_harm_nobody(tmp_path):
    """The tunnel that is there goes on all the while; memory stays flat; the log stays short."""
    chance = random.Random(6)
    with ProcessStage(tmp_path, *WITH_FIGURES) as stage:
        visitor, origin = stage.pair("tcp")
        arrivals = Arrivals(stage.edge)
        host, _, port = stage.edge.environ["QUICTUNNEL_EDGE"].rpartition(":")
        log = stage.edge.state_dir.with_suffix(".log")
        with contextlib.ExitStack() as stack:
            strangers = [stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(20)]

            def flood(count: int) -> None:
                for number in range(count):
                    datagram = junk(chance)
                    chance.choice(strangers).sendto(datagram, (host, int(port)))
                    if number % 50 == 0:  # also gives the edge the time to read what came
                        visitor.send(b"still")
                        assert receive_exactly(origin, 5) == b"still"
                        origin.send(b"there")
                        assert receive_exactly(visitor, 5) == b"there"

            flood(2000)  # what is allocated once has then been
            before = resident_memory(stage.edge.pid)
            flood(10_000)
            grown = resident_memory(stage.edge.pid) - before
        answered = arrivals("quic_answers_total", "retry") + arrivals("quic_answers_total", "version_negotiation")
        # Empty ones are not told apart from none.
        assert answered + arrivals("udp_datagrams_dropped_total", "unroutable") > 0.9 * 12_000
        assert grown < 4 * 1024 * 1024, f"{grown} bytes"
        visitor.sock.close()
        stage.close_ends()
        stage.pair("tls")  # a newcomer is served as well
        assert "Traceback" not in log.read_text()
        assert log.stat().st_size < 4096
