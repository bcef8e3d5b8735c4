"""The PROXY protocol header, versions 1 and 2, which tells an origin the address of its visitor.

https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, sections 2.1 and 2.2. The header contains what this
edge observed. Of the visitor's own input it contains only the negotiated protocol (ALPN) and the server name (SNI)
that was routed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from edge_server.resources.peer_network import parse_peer
from quictunnel.shared.proxy_header import SIGNATURE

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
"""The client connected over TLS."""
NOT_VERIFIED: Final = 1
"""The client showed no verified certificate: this edge asks for none."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Properties of a visitor's TLS connection, terminated at this edge or passed through."""

    authority: str
    version: str = ""
    """OpenSSL's name of the version, such as ``TLSv1.3``; empty when TLS is passed through."""
    cipher: str = ""
    alpn: str = ""


Address = tuple[str, int]


def header(version: int, source: Address, destination: Address, tls: Tls | None = None) -> bytes:
    """Return the header of version 1 or 2 that precedes the visitor's bytes.

    Args:
        version: 1 or 2.
        source: address and port of the visitor.
        destination: address and port at which it connected.
        tls: None for visitors of the plain TCP port; not sent in version 1, which has no field for it.
    """
    ends = parse_peer(source[0]), parse_peer(destination[0])
    if version == 1:
        return _version_1(ends, source[1], destination[1])
    return _version_2(ends, source[1], destination[1], b"" if tls is None else _tls_fields(tls))


_Ends = tuple[IPv4Address | IPv6Address | None, IPv4Address | IPv6Address | None]


def _same_family(ends: _Ends) -> int:
    """Return the common IP version of both ends, 4 or 6; 0 if an address is missing or the versions differ."""
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


def _tls_fields(tls: Tls) -> bytes:
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
