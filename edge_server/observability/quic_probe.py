"""Whether a QUIC server answers: one datagram there, one back, no state on either side.

A packet with a long header and a version that nobody speaks has to be answered with those that are spoken (Version
Negotiation, RFC 9000 section 6). So the answer comes from the engine itself: the socket is bound, the loop reads
it, and what the engine says gets out.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from quictunnel.transport.engine import Address

UNKNOWN_VERSION: Final = 0x1A2A3A4A
"""Of those that are reserved to be unknown (RFC 9000 section 15)."""
QUIC_V1: Final = 1
ID: Final = 8
"""Bytes of either connection ID."""
SIZE: Final = 1200
"""Smaller packets are not answered (RFC 9000 section 14.1)."""
TRIES: Final = 3
WAIT: Final = 0.5
"""Seconds for each try: on a path to oneself an answer takes a millisecond, and a loop that is later than this
is in trouble."""


def question() -> tuple[bytes, bytes]:
    """A packet, and how its answer has to begin."""
    ours, theirs = secrets.token_bytes(ID), secrets.token_bytes(ID)
    version = UNKNOWN_VERSION.to_bytes(4)
    # A long header that looks like an Initial's (RFC 9000 section 17.2), so that it may begin a connection.
    head = b"\xc0" + version + bytes((ID,)) + theirs + bytes((ID,)) + ours
    # RFC 9000 section 17.2.1: version 0, and the two IDs the other way round.
    return head.ljust(SIZE, b"\0"), bytes(4) + bytes((ID,)) + ours + bytes((ID,)) + theirs


def is_answer(datagram: bytes, beginning: bytes) -> bool:
    """Whether that is the answer, and offers what is spoken here."""
    versions = datagram[1 + len(beginning) :]
    return (
        len(datagram) > 0
        and bool(datagram[0] & 0x80)
        and datagram[1:].startswith(beginning)
        and QUIC_V1.to_bytes(4) in {versions[at : at + 4] for at in range(0, len(versions), 4)}
    )


class _Asking(asyncio.DatagramProtocol):
    def __init__(self, beginning: bytes) -> None:
        self._beginning = beginning
        self.done = asyncio.Event()
        self.error = ""

    def datagram_received(self, data: bytes, _addr: object) -> None:
        if is_answer(data, self._beginning):
            self.done.set()

    def error_received(self, exc: Exception) -> None:
        # The system knows that nobody is there (ICMP): no use in asking again.
        self.error = str(exc) or type(exc).__name__
        self.done.set()


async def objection(address: Address) -> str:
    """Why nobody answers there, or an empty text. Takes a millisecond when somebody does, at most
    1.5 seconds."""
    packet, beginning = question()
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        transport, asking = await loop.create_datagram_endpoint(
            lambda: _Asking(beginning), remote_addr=address[:2], family=family
        )
    except OSError as error:
        return f"no datagram can be sent to {address[0]} port {address[1]}: {error.strerror or error}"
    try:
        for _ in range(TRIES):
            transport.sendto(packet)
            try:
                await asyncio.wait_for(asking.done.wait(), WAIT)
            except TimeoutError:
                continue
            return asking.error and f"nobody is at UDP {address[0]} port {address[1]}: {asking.error}"
    finally:
        transport.close()
    return f"nothing answers at UDP {address[0]} port {address[1]}"
