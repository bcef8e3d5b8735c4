"""Malformed input at the ports for visitors and clients: each is refused clearly, and nobody else is harmed."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import struct

import pytest

from edge_server.ingress.tls_listener import Deadlines
from tests.harness.edge_process import resident_memory
from tests.harness.metrics_reader import WITH_METRICS, MetricIncrease
from tests.harness.sockets import SOCKET_TIMEOUT, TlsEnd, receive_exactly, verifying
from tests.harness.tunnel_fixture import EmbeddedTunnel, ProcessTunnel
from tests.harness.waiting import eventually

CHANCE = random.Random(4)


ALERT_RECORD = b"\x15\x03\x03\x00\x02\x02"
UNRECOGNIZED_NAME, MISSING_EXTENSION, RECORD_OVERFLOW = b"\x70", b"\x6d", b"\x16"


def client_hello(name: str | None) -> bytes:
    """Return OpenSSL's ClientHello."""
    context = ssl.create_default_context()
    context.check_hostname = False
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def answer_to(rig: EmbeddedTunnel, words: bytes, *, finish: bool = False) -> bytes:
    """Everything that the TLS port says to ``words`` before it ends the connection."""
    with socket.create_connection(("127.0.0.1", rig.tunnel.port), SOCKET_TIMEOUT) as sock:
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


def newcomers(rig: EmbeddedTunnel) -> int:
    """Connections to the TLS port whose arrival the edge has seen the end of."""
    return sum(rig.edge.server.introspection.tls_listener.outcomes.values())


@pytest.mark.parametrize(
    "name", ["nobody.tunnel.localhost", "tunnel.localhost", "x.{host}", "{label}.example.com", "localhost"]
)
def test_unknown_name_gets_an_alert_where_pages_are_off(rig, name, monkeypatch):
    monkeypatch.setattr(rig.edge.server.services.error_pages, "is_on", False)
    host = rig.tunnel.host
    name = name.format(host=host, label=host.partition(".")[0])
    assert answer_to(rig, client_hello(name)) == ALERT_RECORD + UNRECOGNIZED_NAME
    sock = socket.create_connection(("127.0.0.1", rig.tunnel.port), SOCKET_TIMEOUT)
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        verifying(rig.ca).wrap_socket(sock, server_hostname=name)
    sock.close()


def test_missing_name_gets_an_alert(rig):
    assert answer_to(rig, client_hello(None)) == ALERT_RECORD + MISSING_EXTENSION


def test_truncated_client_hello_is_closed(rig):
    hello = client_hello(rig.tunnel.host)
    came = newcomers(rig)
    for length in range(len(hello)):
        assert answer_to(rig, hello[:length], finish=True) == b""
    assert newcomers(rig) - came == len(hello)


def test_a_client_hello_in_two_pieces_is_as_good_as_whole(rig, monkeypatch):
    front = rig.edge.server.introspection.tls_listener

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

    for cut in range(1, len(client_hello(rig.tunnel.host)) - 1, 23):
        sock = Slowly()
        sock.cut = cut
        sock.connect(("127.0.0.1", rig.tunnel.port))
        visitor = TlsEnd(sock, verifying(rig.ca), rig.tunnel.host)
        rig.accept()
        visitor.finish()
        sock.close()


def test_half_a_client_hello_has_a_deadline(rig, monkeypatch):
    monkeypatch.setattr(rig.edge.server.introspection.tls_listener, "deadlines", Deadlines(hello=0.2))
    assert answer_to(rig, client_hello(rig.tunnel.host)[:-1]) == b""


def test_a_client_hello_of_64_kib_is_refused(rig):
    body = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00" + bytes(65_400)
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    pieces = [message[start : start + 16_000] for start in range(0, len(message), 16_000)]
    hello = b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces)
    assert len(hello) > 65_000
    answer = answer_to(rig, hello)
    assert answer.startswith(ALERT_RECORD[:5])
    assert len(answer) == 7


def test_a_record_of_64_kib_is_refused(rig):
    assert answer_to(rig, b"\x16\x03\x01\xff\xff" + bytes(65_535)) == ALERT_RECORD + RECORD_OVERFLOW


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS"])
def test_plain_http_is_redirected_to_https(rig, method):
    tunnel = rig.tunnel
    answer = answer_to(rig, f"{method} /a?b HTTP/1.1\r\nHost: {tunnel.host}\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 308 Permanent Redirect\r\n")
    assert f"\r\nLocation: https://{tunnel.host}:{tunnel.port}/a?b\r\n".encode() in head
    assert body == b""


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS"])
def test_plain_http_for_an_unknown_name_learns_nothing(rig, method):
    answer = answer_to(rig, f"{method} / HTTP/1.1\r\nHost: x{rig.tunnel.host}\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"https://" in body
    assert body.count(b"\n") == 1


@pytest.mark.parametrize("words", [b"SSH-2.0-x\r\n", bytes(100), CHANCE.randbytes(5000), b"\x16" + bytes(100)])
def test_other_protocols_are_closed(rig, words):
    assert len(answer_to(rig, words)) <= 7


def test_visitors_who_only_connect_and_leave(rig):
    came, visitors = newcomers(rig), rig.edge.server.visitor_log.admitted_total["tcp"]
    for kind in ("tcp", "tls"):
        address = rig.tunnel.tcp_socket if kind == "tcp" else ("127.0.0.1", rig.tunnel.port)
        for _ in range(50):
            sock = socket.create_connection(address, SOCKET_TIMEOUT)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
    # They may have gone before the edge has accepted them.
    eventually(lambda: newcomers(rig) - came == 50, "not all of those over TLS have come")
    eventually(
        lambda: rig.edge.server.visitor_log.admitted_total["tcp"] - visitors == 50,
        "not all of those over TCP have come",
    )
    eventually(
        lambda: not rig.edge.server.visitors and not rig.edge.server.introspection.tls_listener.pending,
        "visitors are left",
    )
    _forget_queued(rig)


def _forget_queued(rig: EmbeddedTunnel) -> None:
    """Take the connections of visitors long gone off the origin's listener."""
    rig.listener.settimeout(0.3)
    try:
        while True:
            rig.listener.accept()[0].close()
    except TimeoutError:
        rig.listener.settimeout(SOCKET_TIMEOUT)


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


def test_random_datagrams_do_not_disturb_the_tunnel(tmp_path):
    """The tunnel that is there goes on all the while; memory stays flat; the log stays short."""
    chance = random.Random(6)
    with ProcessTunnel(tmp_path, *WITH_METRICS) as rig:
        visitor, origin = rig.pair("tcp")
        arrivals = MetricIncrease(rig.edge)
        host, _, port = rig.edge.environ["QUICTUNNEL_EDGE"].rpartition(":")
        log = rig.edge.state_dir.with_suffix(".log")
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
            before = resident_memory(rig.edge.pid)
            flood(10_000)
            grown = resident_memory(rig.edge.pid) - before
        answered = arrivals("quic_answers_total", "retry") + arrivals("quic_answers_total", "version_negotiation")
        # Empty ones are not told apart from none.
        assert answered + arrivals("udp_datagrams_dropped_total", "unroutable") > 0.9 * 12_000
        assert grown < 4 * 1024 * 1024, f"{grown} bytes"
        visitor.sock.close()
        rig.close_ends()
        rig.pair("tls")  # a newcomer is served as well
        assert "Traceback" not in log.read_text()
        assert log.stat().st_size < 4096
