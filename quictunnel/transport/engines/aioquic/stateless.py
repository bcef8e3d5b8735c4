"""Responses without connection state: Retry, version negotiation, refusal of a token, stateless reset.

Each response is shorter than the packet it answers, so none of them amplifies.
"""

from __future__ import annotations

import hmac
import struct
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from aioquic.quic.connection import TRANSPORT_CLOSE_FRAME_CAPACITY
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicFrameType,
    QuicPacketType,
    QuicProtocolVersion,
    encode_quic_retry,
    encode_quic_version_negotiation,
)
from aioquic.quic.packet_builder import QuicPacketBuilder
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.transport.engine import Address

SMALLEST_INITIAL = 1200  # RFC 9000 section 14.1
SMALLEST_CID = 8  # minimum for a client's first packet, RFC 9000 section 7.2
LARGEST_CID = 20
TOKEN_SIZE = 16
# Seconds. A Retry comes back within a round trip; RFC 9000 section 8.1.3 requires a short lifetime.
RETRY_LIFETIME = 10.0
# Random bytes and token: like a short-header packet with an 8-byte connection ID.
RESET_SIZE = 43
SMALLEST_RESET = 21  # RFC 9000 section 10.3
# Resets a second: a thousand clients of a restarted edge get theirs within a few seconds, and a flood of junk gets
# 9 KB/s.
RESET_RATE = 200.0
RESET_BURST = 500.0


class LongHeader(NamedTuple):
    """Version-independent part of a long header (RFC 8999)."""

    version: int
    destination: bytes
    source: bytes
    is_initial: bool
    end: int


def parse_long_header(datagram: bytes) -> LongHeader | None:
    """Parse the version-independent part of a long header. Return None if it is malformed."""
    if len(datagram) < 7:
        return None
    destination_end = 6 + datagram[5]
    if destination_end >= len(datagram):
        return None
    end = destination_end + 1 + datagram[destination_end]
    if end > len(datagram):
        return None
    return LongHeader(
        version=int.from_bytes(datagram[1:5], "big"),
        destination=datagram[6:destination_end],
        source=datagram[destination_end + 1 : end],
        is_initial=datagram[0] & 0x70 == 0x40,
        end=end,
    )


class RetryTokens:
    """Sealed, short-lived tokens that bind an address to the connection IDs of its first packets."""

    def __init__(self, key: bytes, random: Callable[[int], bytes]) -> None:
        self._aead = AESGCM(hmac.digest(key, b"retry", sha256)[:16])
        self._random = random

    def seal(self, address: Address, original: bytes, retry: bytes, now: float) -> bytes:
        """Return the token of a Retry packet."""
        nonce = self._random(12)
        text = struct.pack("!dB", now, len(original)) + original + retry
        return nonce + self._aead.encrypt(nonce, text, _address_bytes(address))

    def open(self, token: bytes, address: Address, retry: bytes, now: float) -> bytes | None:
        """Return the original connection ID, or None for a token that is forged, of another address, or
        expired."""
        if len(token) < 12 + TOKEN_SIZE + 9:
            return None
        try:
            text = self._aead.decrypt(token[:12], token[12:], _address_bytes(address))
        except InvalidTag:
            return None
        issued, length = struct.unpack_from("!dB", text)
        original, bound = text[9 : 9 + length], text[9 + length :]
        if bound != retry or not 0 <= now - issued <= RETRY_LIFETIME:
            return None
        return original


def _address_bytes(address: Address) -> bytes:
    return repr(address[:2]).encode()


class ResetTokens:
    """Stateless reset tokens, computed from the connection ID and a static key (RFC 9000 section 10.3.2)."""

    def __init__(self, key: bytes, random: Callable[[int], bytes]) -> None:
        self._key = hmac.digest(key, b"stateless reset", sha256)
        self._random = random
        self._allowance = RESET_BURST
        self._at = 0.0

    def token(self, cid: bytes) -> bytes:
        """Return the reset token of a connection ID."""
        return hmac.digest(self._key, cid, sha256)[:TOKEN_SIZE]

    def answer(self, datagram: bytes, cid: bytes, now: float) -> bytes | None:
        """Return the stateless reset for a packet of an unknown connection, or None beyond the rate limit.

        It is shorter than the packet, so two endpoints without state cannot answer each other for ever.
        """
        size = min(len(datagram) - 1, RESET_SIZE)
        if size < SMALLEST_RESET:
            return None
        if now > self._at:
            self._allowance = min(RESET_BURST, self._allowance + (now - self._at) * RESET_RATE)
            self._at = now
        if self._allowance < 1:
            return None
        self._allowance -= 1
        noise = self._random(size - TOKEN_SIZE)
        return bytes((0x40 | (noise[0] & 0x3F),)) + noise[1:] + self.token(cid)


def retry_packet(header: LongHeader, retry_cid: bytes, token: bytes) -> bytes:
    """Return a Retry packet."""
    return encode_quic_retry(
        version=header.version,
        source_cid=retry_cid,
        destination_cid=header.source,
        original_destination_cid=header.destination,
        retry_token=token,
    )


def version_negotiation(header: LongHeader) -> bytes:
    """Return a Version Negotiation packet."""
    return encode_quic_version_negotiation(
        source_cid=header.destination,
        destination_cid=header.source,
        supported_versions=[QuicProtocolVersion.VERSION_1],
    )


def refuse_initial(header: LongHeader, code: QuicErrorCode) -> bytes:
    """Return an Initial packet that refuses a connection before it exists (RFC 9000 section 8.1.3)."""
    crypto = CryptoPair()
    crypto.setup_initial(cid=header.destination, is_client=False, version=header.version)
    builder = QuicPacketBuilder(
        host_cid=header.destination,
        is_client=False,
        max_datagram_size=SMALLEST_INITIAL,
        peer_cid=header.source,
        version=header.version,
    )
    builder.start_packet(QuicPacketType.INITIAL, crypto)
    buf = builder.start_frame(QuicFrameType.TRANSPORT_CLOSE, capacity=TRANSPORT_CLOSE_FRAME_CAPACITY)
    buf.push_uint_var(code)
    buf.push_uint_var(QuicFrameType.PADDING)
    buf.push_uint_var(0)
    return builder.flush()[0][0]
