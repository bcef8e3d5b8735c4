"""Tickets: what a client holds to get its name and TCP port again, sealed by the edge's key.

The edge keeps no table of them. Whoever has the key can read a ticket, nobody else can read or make one, so an
edge that was restarted honours the tickets it gave before.
"""

from __future__ import annotations

import os
from typing import Annotated, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from quictunnel.wire.messages import MAX_HOST, MAX_TICKET

NONCE: Final = 12
"""Bytes, random: AES-GCM with 96-bit nonces is sound for 2**32 tickets of one key (NIST SP 800-38D)."""


MAX_GENERATION: Final = (1 << 32) - 1


class Ticket(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The content of a ticket."""

    name: Annotated[str, msgspec.Meta(max_length=MAX_HOST)]
    """The label below the edge's domain, or a whole domain."""
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)]
    """The TCP port; 0 when none was leased."""
    owner: Annotated[str, msgspec.Meta(max_length=64)]
    """The identity it was given to; of no use to any other."""
    generation: Annotated[int, msgspec.Meta(ge=0, le=MAX_GENERATION)]
    """Rises with every ticket for the same name, so that an older holder does not take it from a newer one."""


class TicketSealer:
    """Seals and opens tickets for one domain."""

    def __init__(self, key: bytes, domain: str) -> None:
        self._cipher = AESGCM(key)
        self._context = b"quictunnel ticket 1 " + domain.encode()

    def seal(self, ticket: Ticket) -> bytes:
        """Return the sealed form of a ticket."""
        nonce = os.urandom(NONCE)
        sealed = nonce + self._cipher.encrypt(nonce, msgspec.msgpack.encode(ticket), self._context)
        assert len(sealed) <= MAX_TICKET
        return sealed

    def open(self, sealed: bytes, owner: str) -> Ticket | None:
        """Return the content of a ticket; None for anything that this edge did not seal for this owner."""
        try:
            plain = self._cipher.decrypt(sealed[:NONCE], sealed[NONCE:], self._context)
            ticket = msgspec.msgpack.decode(plain, type=Ticket)
        except (InvalidTag, ValueError, msgspec.MsgspecError):
            # ValueError: too short for a nonce. All of these are one answer: not ours.
            return None
        return ticket if ticket.owner == owner else None
