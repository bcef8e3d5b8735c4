"""Tickets, with which a client gets the same name and TCP port again.

Tickets are encrypted and authenticated with a key of the edge. The edge stores no tickets: it accepts those of
earlier runs, because the key persists.
"""

from __future__ import annotations

import os
from typing import Annotated, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from quictunnel.wire.messages import MAX_HOST, MAX_TICKET

NONCE: Final = 12
"""Random bytes: with 96-bit nonces, AES-GCM is safe for 2**32 tickets of one key (NIST SP 800-38D)."""


MAX_GENERATION: Final = (1 << 32) - 1


class Ticket(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The content of a ticket."""

    name: Annotated[str, msgspec.Meta(max_length=MAX_HOST)]
    """The label below the edge's domain, or a custom domain."""
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)]
    """The TCP port; 0 for none."""
    owner: Annotated[str, msgspec.Meta(max_length=64)]
    """The identity that it was issued to, the only one that may use it."""
    generation: Annotated[int, msgspec.Meta(ge=0, le=MAX_GENERATION)]
    """Number that increases with every ticket of a name, so that an old ticket does not take it from a newer
    one."""


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
            # ValueError: too short for a nonce. The caller need not distinguish these cases.
            return None
        return ticket if ticket.owner == owner else None
