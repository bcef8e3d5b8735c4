"""Tests of the share of a finite resource that one holder may have."""

from __future__ import annotations

import random

import pytest

from edge_server.resources.memory_budget import MAX_MEMORY, MemoryBudget
from edge_server.resources.shares import DEFAULT_MAX_PER_FREE, Shares
from quictunnel.wire.credit import INITIAL_WINDOW, POOL_SIZE, WindowPool


def take_all(shares: Shares, holder: str) -> int:
    """Take one by one until no more is given; return how much that was."""
    count = 0
    while shares.may_take(holder):
        shares.take(holder)
        count += 1
    return count


def test_holder_gets_eight_ninths_of_the_rest():
    shares = Shares(9000)
    assert [take_all(shares, holder) for holder in "abc"] == [8000, 889, 99]
    assert shares.may_take("d")


def test_a_holder_that_gives_back_may_take_again():
    shares = Shares(90)
    took = take_all(shares, "a")
    shares.release("a", 10)
    assert take_all(shares, "a") == 10
    assert shares.held_by("a") == took


def test_so_many_everybody_may_have_as_long_as_there_are_any():
    shares = Shares(40, minimum=16)
    assert [take_all(shares, holder) for holder in "abc"] == [36, 4, 0]
    shares.release("a", 30)
    assert take_all(shares, "c") >= 16


def test_batch_equals_single_grants():
    chance = random.Random(15)
    for _ in range(500):
        size, always = chance.randrange(1, 200), chance.choice((0, 3, 16))
        together, single = Shares(size, minimum=always), Shares(size, minimum=always)
        for _ in range(4):
            holder = chance.choice("abc")
            amount = together.max_for(holder)
            assert together.may_take(holder, amount)
            assert not together.may_take(holder, amount + 1)
            together.take(holder, amount)
            assert take_all(single, holder) == amount


def test_grants_beyond_the_share_are_counted():
    shares = Shares(10)
    shares.take("a", 12)
    assert shares.available == -2
    assert shares.max_for("a") == shares.max_for("b") == 0
    shares.release("a", 12)
    assert shares.used == 0
    assert not shares._held


@pytest.mark.parametrize("sessions", [1, 100])
def test_token_with_many_sessions_leaves_memory_to_others(sessions: int):
    """Every session of the token asks for all that a session may have."""
    memory = MemoryBudget()
    pools = []
    for _ in range(sessions):
        pool = WindowPool(reserve=0)
        pool.memory_share = memory.share_of("a")
        for _ in range(30):
            pool.take(0, POOL_SIZE)
        pools.append(pool)
    assert memory.shares.used == sum(pool.used for pool in pools)
    assert memory.shares.used <= MAX_MEMORY * DEFAULT_MAX_PER_FREE // (DEFAULT_MAX_PER_FREE + 1) + 1
    other = WindowPool()
    other.memory_share = memory.share_of("b")
    assert other.take(0, 4 * INITIAL_WINDOW) == 4 * INITIAL_WINDOW
    other.give_back(4 * INITIAL_WINDOW)
    for pool in pools:
        pool.give_back(pool.used)
    assert memory.shares.used == 0


def test_share_shrinks_while_the_budget_is_used_up():
    memory = MemoryBudget()
    mine, other = memory.share_of("a"), memory.share_of("b")
    mine.charge(MAX_MEMORY)  # what is written is written
    assert mine.is_used_up
    assert other.is_used_up
    mine.charge(-(MAX_MEMORY // 16))
    assert mine.is_used_up
    assert not other.is_used_up
    mine.charge(-MAX_MEMORY)
    assert not mine.is_used_up
