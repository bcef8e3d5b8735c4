"""The ClientHello reader against hellos that OpenSSL and a browser make, and against everything else."""

from __future__ import annotations

import itertools
import ssl
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_server.ingress.client_hello import (
    MAX_CLIENT_HELLO,
    Alert,
    ClientHello,
    ClientHelloReader,
    HelloError,
    PlainHttp,
)
from tests.fuzz.seeds import RECORDED_NAME, recorded_hellos

NAME = "q7k2.tunnel.localhost"


def openssl_hello(
    name: str | None = NAME, *, alpn: tuple[str, ...] = (), top: str = "", low: bool = False
) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if top:
        context.set_ciphers(top)
    if low:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


BROWSERS = recorded_hellos()
SEGMENT = 1448
"""Payload of a TCP segment over Ethernet."""
HELLOS = [
    openssl_hello(),
    openssl_hello(low=True),
    openssl_hello(alpn=("h2", "http/1.1")),
    openssl_hello(None),
    openssl_hello("a." * 120 + "localhost", alpn=("x" * 255,)),
    openssl_hello(top="ECDHE+AESGCM", alpn=("acme-tls/1",)),
    *BROWSERS.values(),
]
every_hello = pytest.mark.parametrize("hello", HELLOS, ids=lambda hello: f"{len(hello)} bytes")


def extension(kind: int, body: bytes) -> bytes:
    return struct.pack("!HH", kind, len(body)) + body


def sni(*names: bytes, kind: int = 0) -> bytes:
    entries = b"".join(struct.pack("!BH", kind, len(name)) + name for name in names)
    return extension(0, struct.pack("!H", len(entries)) + entries)


def message(*extensions: bytes, version: int = 0x0303, session: bytes = b"", rest: bytes = b"") -> bytes:
    joined = b"".join(extensions)
    body = struct.pack("!H", version) + bytes(32) + bytes((len(session),)) + session
    body += b"\0\2\x13\x01" + b"\1\0" + struct.pack("!H", len(joined)) + joined + rest
    return b"\1" + len(body).to_bytes(3) + body


def records(payload: bytes, size: int = 1 << 14) -> bytes:
    cuts = [payload[start : start + size] for start in range(0, len(payload), size)]
    return b"".join(b"\x16\x03\x01" + struct.pack("!H", len(cut)) + cut for cut in cuts)


def verdict(*pieces: bytes) -> object:
    """Return the reader's result or error in a form that can be compared."""
    reader = ClientHelloReader()
    for piece in pieces:
        try:
            outcome = reader.feed(piece)
        except HelloError as error:
            return error.alert, error.reason
        if outcome is not None:
            return outcome
    return None


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


def test_openssl_hellos_are_read() -> None:
    assert verdict(HELLOS[0]) == ClientHello(NAME, (), len(HELLOS[0]))
    assert verdict(HELLOS[1]) == ClientHello(NAME, (), len(HELLOS[1]))
    assert verdict(HELLOS[2]) == ClientHello(NAME, ("h2", "http/1.1"), len(HELLOS[2]))
    assert verdict(HELLOS[3]) == ClientHello(None, (), len(HELLOS[3]))
    assert verdict(HELLOS[4]) == ClientHello("a." * 120 + "localhost", ("x" * 255,), len(HELLOS[4]))


@pytest.mark.parametrize("name", BROWSERS)
def test_browser_hello_is_read(name: str) -> None:
    """Of any length, with whatever else it holds, and in the segments that it comes in."""
    said = BROWSERS[name]
    alpn = ("http/1.1",) if "websocket" in name else ("h2", "http/1.1")
    assert verdict(said) == ClientHello(RECORDED_NAME, alpn, len(said))
    assert verdict(said[:SEGMENT], said[SEGMENT:]) == verdict(said)


def test_most_of_what_browsers_say_does_not_fit_a_segment() -> None:
    assert sum(len(said) > SEGMENT for said in BROWSERS.values()) >= 4


@every_hello
def test_cut_at_every_byte_it_is_neither_complete_nor_wrong(hello: bytes) -> None:
    for end in range(len(hello)):
        assert verdict(hello[:end]) is None
        assert verdict(hello[:end], hello[end:]) == verdict(hello)


@every_hello
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 100])
def test_records_of_any_size(hello: bytes, size: int) -> None:
    cut = records(hello[5:], size)
    whole = verdict(hello)
    assert isinstance(whole, ClientHello)
    assert verdict(cut) == ClientHello(whole.server_name, whole.alpn, len(cut))
    assert verdict(*(bytes((byte,)) for byte in cut)) == verdict(cut)


def test_data_after_the_hello_is_kept_unread() -> None:
    reader = ClientHelloReader()
    hello = reader.feed(HELLOS[0] + b"\xff\xff\xff")
    assert isinstance(hello, ClientHello)
    assert hello.length == len(HELLOS[0])
    assert bytes(reader.received) == HELLOS[0] + b"\xff\xff\xff"


@given(st.sampled_from(HELLOS), st.lists(st.integers(0, 4000), max_size=20), st.integers(1, 600))
def test_any_split_reads_like_the_whole(hello: bytes, cuts: list[int], size: int) -> None:
    data = records(hello[5:], size)
    assert verdict(*split(data, cuts)) == verdict(data)


@settings(max_examples=500)
@given(st.sampled_from(HELLOS), st.data())
def test_mutated_hellos_raise_only_hello_errors_in_any_split(hello: bytes, data: st.DataObject) -> None:
    changed = bytearray(hello)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(changed) - 1))
        match data.draw(st.integers(0, 2)):
            case 0:
                changed[place] = data.draw(st.integers(0, 255))
            case 1:
                del changed[place : place + data.draw(st.integers(1, 8))]
            case 2:
                changed[place:place] = data.draw(st.binary(min_size=1, max_size=8))
    cuts = data.draw(st.lists(st.integers(0, 4000), max_size=10))
    assert verdict(*split(bytes(changed), cuts)) == verdict(bytes(changed))


@settings(max_examples=500)
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\x16\x03\x01", b"\x16\x03\x01\x00\x80\x01\x00\x00\x7c\x03\x03", b"P"]),
)
def test_random_bytes_raise_only_hello_errors(data: bytes, start: bytes) -> None:
    whole = start + data
    assert verdict(*(bytes((byte,)) for byte in whole)) == verdict(whole)


@given(st.binary(max_size=200))
def test_random_extensions_raise_only_hello_errors(body: bytes) -> None:
    verdict(records(message(extension(0, body))))
    verdict(records(message(extension(16, body))))
    verdict(records(message(body)))


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        (b"A.Example.COM", "a.example.com"),
        (b"a.example.", "a.example"),
        (b"localhost", "localhost"),
        (b"xn--bcher-kva.example", "xn--bcher-kva.example"),
        (b"a" * 63 + b".x", "a" * 63 + ".x"),
        (b"1.2.3.4.example", "1.2.3.4.example"),
        ((b"a" * 49 + b".") * 5 + b"abc", "a" * 49 + ("." + "a" * 49) * 4 + ".abc"),
        ((b"a" * 49 + b".") * 5 + b"abc.", "a" * 49 + ("." + "a" * 49) * 4 + ".abc"),
    ],
)
def test_names_are_normalised(raw: bytes, read: str) -> None:
    assert len(read) <= 253
    hello = verdict(records(message(sni(raw))))
    assert isinstance(hello, ClientHello)
    assert hello.server_name == read


@pytest.mark.parametrize(
    "raw",
    [
        b".", b"..", b"a..b", b".a", b"a..", b"a" * 64, b"-a.b", b"a-.b", b"a_b.c", b"a b", b"a\0.b",
        b"a\n", b"a/b", b"*.b", b"1.2.3.4", b"127.1", b"0x7f.0x1", b"2130706433", b"::1", b"[::1]",
        b"b\xc3\xbccher.example", b"\xff", b"a:443", (b"a" * 49 + b".") * 5 + b"abcd", b"a." * 200 + b"b",
    ],
)  # fmt: skip
def test_impossible_names_are_refused(raw: bytes) -> None:
    alert, _reason = verdict(records(message(sni(raw))))
    assert alert is Alert.UNRECOGNIZED_NAME


ODD = extension(0x0A0A, b"") + extension(0xFE0D, bytes(200)) + extension(0xEEEE, b"x" * 9)


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        (records(message(ODD, sni(b"a.b"), extension(0xFAFA, b"\0"))), "a.b"),
        (records(message(sni(b"a.b"), session=bytes(32))), "a.b"),
        (records(message()[:4].replace(b"\0\0\x2b", b"\0\0\x29") + message()[4:-2]), None),
    ],
)
def test_unknown_extensions_and_old_hellos_are_fine(wire: bytes, expected: str | None) -> None:
    hello = verdict(wire)
    assert isinstance(hello, ClientHello)
    assert hello.server_name == expected


@pytest.mark.parametrize(
    ("wire", "alert"),
    [
        (records(message(sni(b"a"), sni(b"a"))), Alert.ILLEGAL_PARAMETER),
        (records(message(sni(b"a", b"b"))), Alert.ILLEGAL_PARAMETER),
        (records(message(extension(7, b""), extension(7, b""))), Alert.ILLEGAL_PARAMETER),
        (records(message(sni(b"a", kind=1))), Alert.UNRECOGNIZED_NAME),
        (records(message(sni(b""))), Alert.DECODE_ERROR),
        (records(message(sni())), Alert.DECODE_ERROR),
        (records(message(extension(0, b""))), Alert.DECODE_ERROR),
        (records(message(extension(0, b"\0\4\0\0\1a!"))), Alert.DECODE_ERROR),
        (records(message(extension(0, b"\0\4\0\0\2a"))), Alert.DECODE_ERROR),
        (records(message(extension(16, b"\0\1\0"))), Alert.DECODE_ERROR),
        (records(message(extension(16, b"\0\3\2h2!"))), Alert.DECODE_ERROR),
        (records(message(extension(16, b"\0\2\0\0"))), Alert.DECODE_ERROR),
        (records(message(b"\0\0\0")), Alert.DECODE_ERROR),
        (records(message(rest=b"\0")), Alert.DECODE_ERROR),
        (records(message(session=bytes(33))), Alert.DECODE_ERROR),
        (records(message(version=0x0203)), Alert.PROTOCOL_VERSION),
        (records(message().replace(b"\1\0\0\0", b"\1\1\0\0")), Alert.ILLEGAL_PARAMETER),
        (records(message().replace(b"\0\2\x13\x01", b"\0\3\x13\x01")), Alert.DECODE_ERROR),
        (records(b"\2\0\0\0"), Alert.UNEXPECTED_MESSAGE),
        (records(message() + b"\1"), Alert.UNEXPECTED_MESSAGE),
        (b"\x16\x03\x01\x40\x01", Alert.RECORD_OVERFLOW),
        (b"\x16\x03\x01\x00\x00", Alert.DECODE_ERROR),
        (b"\x16\x03\x01\x00\x01\x01\x15\x03\x03\x00\x02\x02\x00", Alert.UNEXPECTED_MESSAGE),
        (b"\x16\x03\x01\x00\x04\x01\x00\x40\x00", Alert.DECODE_ERROR),
        (b"\x16\x02\x01\x00\x04", None),
        (b"\x80\x2e\x01\x00\x02", None),
        (b"\x00", None),
        (b"SSH-2.0-OpenSSH_9.2\r\n", None),
        (b"GETX / HTTP/1.1", None),
        (b"get / ", None),
    ],
)
def test_refusals(wire: bytes, alert: Alert | None) -> None:
    refused = verdict(wire)
    assert isinstance(refused, tuple)
    assert refused[0] is alert
    assert verdict(*(bytes((byte,)) for byte in wire)) == refused


def test_a_hello_of_64_kib_is_refused_at_its_bound() -> None:
    huge = records(message(extension(0xFE0D, bytes(60_000))), 4000)
    alert, reason = verdict(huge)
    assert alert is Alert.DECODE_ERROR
    assert "16 KiB" in reason
    # Also where the message does not admit its size, and in records of one byte.
    reader = ClientHelloReader()
    drip = records(b"\1\0\x3f\0" + bytes(17_000), 1)
    with pytest.raises(HelloError):
        all(reader.feed(bytes((byte,))) is None for byte in drip)
    assert len(reader.received) <= MAX_CLIENT_HELLO + 5


def test_the_largest_hello_is_read() -> None:
    room = MAX_CLIENT_HELLO - 5 - len(message(sni(b"a.b"), extension(0xFE0D, b"")))
    wire = records(message(sni(b"a.b"), extension(0xFE0D, bytes(room))))
    assert len(wire) == MAX_CLIENT_HELLO
    assert verdict(wire) == ClientHello("a.b", (), MAX_CLIENT_HELLO)
    assert isinstance(verdict(records(message(sni(b"a.b"), extension(0xFE0D, bytes(room + 1))))), tuple)


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "PATCH", "PRI"]
)
def test_plain_http_is_recognised(method: str) -> None:
    request = f"{method} / HTTP/1.1\r\n".encode()
    assert verdict(request) == PlainHttp()
    assert verdict(*(bytes((byte,)) for byte in request)) == PlainHttp()
    assert verdict(request[: len(method)]) is None
