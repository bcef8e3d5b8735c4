"""A probe for a QUIC server: one datagram there and one back, without state on either side.

A server has to answer a packet with a long header and an unknown version with the versions that it supports
(Version Negotiation, RFC 9000 section 6). The response comes from the engine itself: it proves that the socket is
bound, that the loop reads it, and that the engine's packets are sent.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from quictunnel.transport.engine import Address

UNKNOWN_VERSION: Final = 0x1A2A3A4A
"""A version that is reserved to be unknown (RFC 9000 section 15)."""
QUIC_V1: Final = 1
CONNECTION_ID_SIZE: Final = 8
"""Bytes of either connection ID."""
PACKET_SIZE: Final = 1200
"""Bytes of the packet; smaller ones are not answered (RFC 9000 section 14.1)."""
MAX_TRIES: Final = 3
RESPONSE_TIMEOUT: Final = 0.5
"""Seconds for each try. To the same machine a response takes a millisecond; a loop that needs longer than this is
overloaded."""


def probe_packet() -> tuple[bytes, bytes]:
    """Return a packet, and the expected beginning of its response."""
    ours, theirs = secrets.token_bytes(CONNECTION_ID_SIZE), secrets.token_bytes(CONNECTION_ID_SIZE)
    version, size = UNKNOWN_VERSION.to_bytes(4), bytes((CONNECTION_ID_SIZE,))
    # A long header like an Initial packet's (RFC 9000 section 17.2), which could start a connection.
    head = b"\xc0" + version + size + theirs + size + ours
    # RFC 9000 section 17.2.1: version 0, and the two IDs the other way round.
    return head.ljust(PACKET_SIZE, b"\0"), bytes(4) + size + ours + size + theirs


def is_response(datagram: bytes, beginning: bytes) -> bool:
    """Return True if ``datagram`` is the response and offers QUIC version 1."""
    versions = datagram[1 + len(beginning) :]
    return (
        len(datagram) > 0
        and bool(datagram[0] & 0x80)
        and datagram[1:].startswith(beginning)
        and QUIC_V1.to_bytes(4) in {versions[at : at + 4] for at in range(0, len(versions), 4)}
    )


class _ProbeProtocol(asyncio.DatagramProtocol):
    """Waits for the response."""

    def __init__(self, beginning: bytes) -> None:
        self._beginning = beginning
        self.done = asyncio.Event()
        self.error = ""

    def datagram_received(self, data: bytes, _addr: object) -> None:
        """Accept the expected response, ignore all others."""
        if is_response(data, self._beginning):
            self.done.set()

    def error_received(self, exc: Exception) -> None:
        """Stop on an ICMP error: the port is closed, so further tries are useless."""
        # ICMP reports that nothing listens there.
        self.error = str(exc) or type(exc).__name__
        self.done.set()


async def probe_error(address: Address) -> str:
    """Return why the server does not respond, or an empty text. Takes a millisecond if it does, at most 1.5
    seconds."""
    packet, beginning = probe_packet()
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        transport, asking = await loop.create_datagram_endpoint(
            lambda: _ProbeProtocol(beginning), remote_addr=address[:2], family=family
        )
    except OSError as error:
        return f"no datagram can be sent to {address[0]} port {address[1]}: {error.strerror or error}"
    try:
        for _ in range(MAX_TRIES):
            transport.sendto(packet)
            try:
                await asyncio.wait_for(asking.done.wait(), RESPONSE_TIMEOUT)
            except TimeoutError:
                continue
            return asking.error and f"nothing listens at UDP {address[0]} port {address[1]}: {asking.error}"
    finally:
        transport.close()
    return f"no response from UDP {address[0]} port {address[1]}"
