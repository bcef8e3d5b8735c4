"""Tickets: only what this edge sealed, for whom it sealed it."""

from __future__ import annotations

import os

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_server.tunnels.tickets import NONCE, Ticket, TicketSealer
from quictunnel.wire.messages import MAX_TICKET

KEY = bytes(range(32))
TICKET = Ticket("abcdefghijklmnop", 20001, "owner", 1)


@pytest.fixture
def sealer() -> TicketSealer:
    return TicketSealer(KEY, "tunnel.localhost")


def test_ticket_round_trip(sealer):
    sealed = sealer.seal(TICKET)
    assert len(sealed) <= MAX_TICKET
    assert sealer.open(sealed, "owner") == TICKET


def test_a_restarted_edge_honours_it(sealer):
    assert TicketSealer(KEY, "tunnel.localhost").open(sealer.seal(TICKET), "owner") == TICKET


def test_the_largest_ticket_fits(sealer):
    largest = Ticket("n" * 63, 65535, "o" * 64, 1)
    assert sealer.open(sealer.seal(largest), "o" * 64) == largest


def test_no_two_are_alike(sealer):
    assert sealer.seal(TICKET) != sealer.seal(TICKET)


def test_ticket_is_unreadable(sealer):
    assert b"abcdefgh" not in sealer.seal(TICKET)


def test_another_owner_cannot_use_it(sealer):
    assert sealer.open(sealer.seal(TICKET), "somebody else") is None


def test_a_foreign_key(sealer):
    assert TicketSealer(os.urandom(32), "tunnel.localhost").open(sealer.seal(TICKET), "owner") is None


def test_another_domain(sealer):
    assert TicketSealer(KEY, "other.localhost").open(sealer.seal(TICKET), "owner") is None


def test_truncated_anywhere(sealer):
    sealed = sealer.seal(TICKET)
    for length in range(len(sealed)):
        assert sealer.open(sealed[:length], "owner") is None


def test_changed_anywhere(sealer):
    sealed = sealer.seal(TICKET)
    for index in range(len(sealed)):
        forged = bytearray(sealed)
        forged[index] ^= 1
        assert sealer.open(bytes(forged), "owner") is None


@given(st.binary(max_size=MAX_TICKET))
def test_random_bytes(sealed):
    assert TicketSealer(KEY, "tunnel.localhost").open(sealed, "owner") is None


@pytest.mark.parametrize(
    "content", [b"", b"\xc0", msgspec.msgpack.encode(["n", 1]), msgspec.msgpack.encode(["n" * 254, 1, "owner", 1]),
                msgspec.msgpack.encode(["n", 65536, "owner", 1]), msgspec.msgpack.encode(["n", 1, "owner", 1, 1])]
)  # fmt: skip
def test_sealed_by_the_right_key_but_no_ticket(sealer, content):
    """The content is one that a later version may have sealed."""
    nonce = bytes(NONCE)
    assert sealer.open(nonce + sealer._cipher.encrypt(nonce, content, sealer._context), "owner") is None
