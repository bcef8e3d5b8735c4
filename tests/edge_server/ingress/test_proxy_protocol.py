"""The PROXY protocol's header, by the letter and as another implementation's parser reads it."""

from __future__ import annotations

import struct

import pytest

from edge_server.ingress.proxy_protocol import SIGNATURE, Tls, header

V4 = ("203.0.113.9", 51000), ("198.51.100.1", 443)
V6 = ("2001:db8::9", 51000), ("2001:db8::1", 443)
MAPPED = ("::ffff:203.0.113.9", 51000), ("::ffff:198.51.100.1", 443)


@pytest.mark.parametrize(
    ("ends", "line"),
    [
        (V4, b"PROXY TCP4 203.0.113.9 198.51.100.1 51000 443\r\n"),
        (MAPPED, b"PROXY TCP4 203.0.113.9 198.51.100.1 51000 443\r\n"),
        (V6, b"PROXY TCP6 2001:db8::9 2001:db8::1 51000 443\r\n"),
        ((V4[0], V6[1]), b"PROXY UNKNOWN\r\n"),
        ((("", 0), V4[1]), b"PROXY UNKNOWN\r\n"),
        ((("evil\r\nGET /", 0), V4[1]), b"PROXY UNKNOWN\r\n"),
    ],
)
def test_version_1(ends, line: bytes):
    made = header(1, *ends, Tls("app.example.com", "TLSv1.3", "TLS_AES_128_GCM_SHA256", "h2"))
    assert made == line
    assert len(made) <= 107  # section 2.1: the longest line


def test_version_2_with_ipv4_alone():
    assert header(2, *V4) == SIGNATURE + bytes.fromhex("21 11 000c cb007109 c6336401 c738 01bb")


def read(data: bytes) -> tuple[int, bytes, dict[int, bytes]]:
    """Family, addresses, and what was said beside them."""
    assert data[:12] == b"\r\n\r\n\x00\r\nQUIT\n"
    assert data[12] == 0x21
    (length,) = struct.unpack_from("!H", data, 14)
    assert len(data) == 16 + length
    size = {0x00: 0, 0x11: 12, 0x21: 36}[data[13]]
    return data[13], data[16 : 16 + size], tlvs_of(data[16 + size :])


def tlvs_of(data: bytes) -> dict[int, bytes]:
    found = {}
    while data:
        kind, length = struct.unpack_from("!BH", data)
        found[kind] = data[3 : 3 + length]
        data = data[3 + length :]
    return found


def test_version_2_says_what_is_known_of_tls():
    made = header(2, *V6, Tls("app.example.com", "TLSv1.3", "TLS_AES_128_GCM_SHA256", "h2"))
    family, addresses, rest = read(made)
    assert family == 0x21
    assert addresses[32:] == struct.pack("!HH", 51000, 443)
    assert rest[0x01] == b"h2"
    assert rest[0x02] == b"app.example.com"
    client, verify = struct.unpack_from("!BI", rest[0x20])
    assert client == 0x01
    assert verify != 0
    assert tlvs_of(rest[0x20][5:]) == {0x21: b"TLSv1.3", 0x23: b"TLS_AES_128_GCM_SHA256"}


def test_tls_that_passed_through_is_known_by_its_name_alone():
    _, _, rest = read(header(2, *V4, Tls("app.example.com")))
    assert rest == {0x02: b"app.example.com", 0x20: struct.pack("!BI", 0x01, 1)}


def test_version_2_of_an_end_without_an_address():
    assert read(header(2, ("", 0), V4[1])) == (0x00, b"", {})
