"""Packet protection of 1-RTT packets (RFC 9001 section 5) and its key phases (section 6).

aioquic derives the next phase's keys for every packet whose phase bit is flipped, authentic or not, and forgets
the previous phase at once. Here the next keys are derived once and the previous ones are kept for packets that
were overtaken, so neither a forger nor a reordering network costs more than one decryption.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from aioquic._crypto import CryptoError
from aioquic.quic.connection import QuicConnectionError
from aioquic.quic.crypto import CryptoContext, CryptoPair, KeyUnavailableError, next_key_phase
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, decode_packet_number
from cryptography.exceptions import InvalidTag

if TYPE_CHECKING:
    from collections.abc import Callable

# RFC 9001 section 6.6: AEAD_CHACHA20_POLY1305 allows 2**36 forgeries, the AES modes far more.
MAX_FORGERIES = 1 << 36
TAG_SIZE = 16
# Bytes that header protection samples, beginning four bytes after the start of the packet number.
SAMPLE_SIZE = 16
_BYTES = [bytes((value,)) for value in range(256)]


class DecryptedPacket(NamedTuple):
    """A 1-RTT packet without its protection."""

    first: int
    number: int
    payload: bytes


class OneRttKeys(CryptoPair):
    """Keys of both directions in the current phase, and the receiving keys of the phases before and after."""

    def __init__(self) -> None:
        super().__init__()
        self.forgeries = 0
        self.updates = 0
        self.first_sent = 0
        """The first packet number sent in the current phase."""
        self.sent = 0
        """Packets sent in the current phase."""
        self._previous: CryptoContext | None = None
        self._next: CryptoContext | None = None
        self._phase_start = 0
        """The first packet number received in the current phase; -1 while there is none."""

    def open(self, packet: bytes, offset: int, expected: int) -> DecryptedPacket:
        """Remove header and payload protection. Raises CryptoError for a packet that is not authentic."""
        recv = self.recv
        protection = recv.hp
        if protection is None or recv.aead is None:
            raise KeyUnavailableError("Decryption key is not available")
        sample = packet[offset + 4 : offset + 4 + SAMPLE_SIZE]
        if len(sample) < SAMPLE_SIZE:
            raise CryptoError("Packet is too short to sample")
        mask = protection._mask(sample)
        first = packet[0] ^ (mask[0] & 0x1F)
        length = (first & 3) + 1
        end = offset + length
        truncated = int.from_bytes(packet[offset:end], "big") ^ int.from_bytes(mask[1 : 1 + length], "big")
        header = _BYTES[first] + packet[1:offset] + truncated.to_bytes(length, "big")
        number = decode_packet_number(truncated, length * 8, expected)
        if (first >> 2) & 1 == recv.key_phase:
            aead = recv.aead
        else:
            return self._open_other_phase(first, number, packet[end:], header)
        try:
            payload = aead._aead.decrypt((aead._iv ^ number).to_bytes(12, "big"), packet[end:], header)
        except InvalidTag:
            raise self._forged() from None
        if self._phase_start < 0:
            self._phase_start = number
        return DecryptedPacket(first, number, payload)

    def _forged(self) -> Exception:
        self.forgeries += 1
        if self.forgeries > MAX_FORGERIES:
            return QuicConnectionError(
                QuicErrorCode.AEAD_LIMIT_REACHED, QuicFrameType.PADDING, "Too many forged packets"
            )
        return CryptoError("Packet is not authentic")

    def _open_other_phase(self, first: int, number: int, sealed: bytes, header: bytes) -> DecryptedPacket:
        # Until the peer answers an update of ours, its packets are of the phase before, whatever their number.
        overtaken = self._previous is not None and (self._phase_start < 0 or number < self._phase_start)
        if overtaken:
            context = self._previous
        else:
            if self._next is None:
                self._next = next_key_phase(self.recv)
            context = self._next
        if context is None or context.aead is None:
            raise self._forged()
        try:
            payload = context.aead.decrypt(sealed, header, number)
        except CryptoError:
            raise self._forged() from None
        if not overtaken:
            # Two updates without a packet of ours between them cannot have been confirmed (RFC 9001 6.2).
            if self.updates and not self.sent:
                raise QuicConnectionError(
                    QuicErrorCode.KEY_UPDATE_ERROR, QuicFrameType.PADDING, "Key update was not awaited"
                )
            self._update_key("remote_update")
            self._phase_start = number
        return DecryptedPacket(first, number, payload)

    def decrypt_packet(
        self, packet: bytes, encrypted_offset: int, expected_packet_number: int
    ) -> tuple[bytes, bytes, int]:
        """Decrypt a packet (aioquic's interface)."""
        opened = self.open(packet, encrypted_offset, expected_packet_number)
        return _BYTES[opened.first], opened.payload, opened.number

    def encrypt_packet(self, plain_header: bytes, plain_payload: bytes, packet_number: int) -> bytes:
        """Encrypt a packet (aioquic's interface)."""
        if self._update_key_requested:
            self._update_key("local_update")
        self.sent += 1
        return self.send.encrypt_packet(plain_header, plain_payload, packet_number)

    def update_now(self) -> None:
        """Begin the next key phase."""
        self._update_key("local_update")

    def _update_key(self, trigger: str) -> None:
        previous = CryptoContext(key_phase=self.recv.key_phase)
        previous.aead = self.recv.aead
        super()._update_key(trigger)
        self._previous = previous
        self._next = None
        self._phase_start = -1
        self.updates += 1
        self.sent = 0

    def sealer(self, cid: bytes) -> Callable[[int, int, bytes], bytes]:
        """Return a function ``(number, number_length, payload) -> datagram`` for packets of the current phase."""
        send = self.send
        if send.aead is None or send.hp is None:
            raise KeyUnavailableError("Encryption key is not available")
        encrypt, iv, mask_of = send.aead._aead.encrypt, send.aead._iv, send.hp._mask
        base = 0x40 | (send.key_phase << 2)

        def seal(number: int, length: int, payload: bytes) -> bytes:
            first = base | (length - 1)
            truncated = number & ((1 << (8 * length)) - 1)
            header = _BYTES[first] + cid + truncated.to_bytes(length, "big")
            sealed = encrypt((iv ^ number).to_bytes(12, "big"), payload, header)
            start = 4 - length
            mask = mask_of(sealed[start : start + SAMPLE_SIZE])
            hidden = truncated ^ int.from_bytes(mask[1 : 1 + length], "big")
            return b"".join((_BYTES[first ^ (mask[0] & 0x1F)], cid, hidden.to_bytes(length, "big"), sealed))

        return seal
