"""The header that tells an origin who its visitor is: PROXY protocol, versions 1 and 2.

https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, sections 2.1 and 2.2. What is in it is what this edge
saw; nothing of what a visitor sends gets into it but the protocol that both agreed on (ALPN) and the name that led
here (SNI).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from edge_server.resources.peer_network import parsed

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
VERSION_2_PROXY: Final = 0x21
"""Version 2, command PROXY."""
UNSPECIFIED: Final = 0x00
TCP_OVER_IPV4: Final = 0x11
TCP_OVER_IPV6: Final = 0x21

TYPE_ALPN: Final = 0x01
TYPE_AUTHORITY: Final = 0x02
TYPE_SSL: Final = 0x20
SUBTYPE_SSL_VERSION: Final = 0x21
SUBTYPE_SSL_CIPHER: Final = 0x23
CLIENT_SSL: Final = 0x01
"""The client came over TLS."""
NOT_VERIFIED: Final = 1
"""It showed no certificate that was verified: this edge asks for none."""


@dataclass(frozen=True, slots=True)
class Tls:
    """What is known of a visitor's TLS, which ended at this edge or passed through it."""

    authority: str
    version: str = ""
    """As OpenSSL says it, such as ``TLSv1.3``; empty when TLS did not end here."""
    cipher: str = ""
    alpn: str = ""


Address = tuple[str, int]


def header(version: int, source: Address, destination: Address, tls: Tls | None = None) -> bytes:
    """The first bytes for an origin, of version 1 or 2. ``tls`` is left out of version 1, which has no place for
    it, and is None for visitors of the plain TCP port."""
    ends = parsed(source[0]), parsed(destination[0])
    if version == 1:
        return _version_1(ends, source[1], destination[1])
    return _version_2(ends, source[1], destination[1], b"" if tls is None else _described(tls))


_Ends = tuple[IPv4Address | IPv6Address | None, IPv4Address | IPv6Address | None]


def _same_family(ends: _Ends) -> int:
    """4 or 6, the version of IP; 0 when either end has no address, or they are of two families."""
    source, destination = ends
    if source is None or destination is None or source.version != destination.version:
        return 0
    return source.version


def _version_1(ends: _Ends, source_port: int, destination_port: int) -> bytes:
    family = _same_family(ends)
    if not family:
        return b"PROXY UNKNOWN\r\n"
    return f"PROXY TCP{family} {ends[0]} {ends[1]} {source_port} {destination_port}\r\n".encode()


def _version_2(ends: _Ends, source_port: int, destination_port: int, described: bytes) -> bytes:
    kind, addresses = UNSPECIFIED, b""
    if family := _same_family(ends):
        kind = {4: TCP_OVER_IPV4, 6: TCP_OVER_IPV6}[family]
        addresses = b"".join(end.packed for end in ends if end is not None)
        addresses += struct.pack("!HH", source_port, destination_port)
    payload = addresses + described
    return SIGNATURE + struct.pack("!BBH", VERSION_2_PROXY, kind, len(payload)) + payload


def _described(tls: Tls) -> bytes:
    found = _tlv(TYPE_AUTHORITY, tls.authority)
    if tls.alpn:
        found += _tlv(TYPE_ALPN, tls.alpn)
    details = struct.pack("!BI", CLIENT_SSL, NOT_VERIFIED)
    if tls.version:
        details += _tlv(SUBTYPE_SSL_VERSION, tls.version) + _tlv(SUBTYPE_SSL_CIPHER, tls.cipher)
    return found + struct.pack("!BH", TYPE_SSL, len(details)) + details


def _tlv(kind: int, value: str) -> bytes:
    encoded = value.encode("ascii", "replace")
    return struct.pack("!BH", kind, len(encoded)) + encoded
