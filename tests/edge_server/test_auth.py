"""Tokens."""

from __future__ import annotations

import pytest

from edge_server.auth import Identity, Tokens

GOOD = "a-token-of-this-edge"


def test_a_token_is_accepted():
    assert isinstance(Tokens(GOOD).check(GOOD), Identity)


@pytest.mark.parametrize(
    "token", ["", "x", GOOD[:-1], GOOD + "x", GOOD.upper(), GOOD + "\0", " " + GOOD, "é" * 512]
)
def test_anything_else_is_not(token):
    assert Tokens(GOOD).check(token) is None


def test_an_edge_without_tokens_accepts_nobody():
    assert Tokens().check("") is None
    assert Tokens().check(GOOD) is None


def test_an_empty_token_is_never_accepted():
    assert Tokens("").check("") is None
    assert Tokens("", GOOD).check("") is None


def test_an_identity_is_the_tokens_own_and_says_nothing_of_it():
    tokens = Tokens(GOOD, "another-token-of-this-edge")
    first, second = tokens.check(GOOD), tokens.check("another-token-of-this-edge")
    assert first is not None
    assert second is not None
    assert first != second
    assert first == Tokens(GOOD).check(GOOD)
    assert GOOD not in repr(first)
    assert len(first.key) == 12


def test_tokens_are_not_kept():
    tokens = Tokens(GOOD)
    assert GOOD not in repr(vars(tokens))
