"""Tests of the stream numbers that a client has met and of those that may still come."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quictunnel.errors import ProtocolError
from quictunnel.wire.codes import StreamCode, reset_code, reset_stream_number, stream_code
from quictunnel.wire.numbers import MAX_SKIPPED, StreamNumbers


@given(st.permutations(range(20)))
def test_numbers_in_any_order_count_once(order: list[int]) -> None:
    numbers = StreamNumbers()
    for number in order:
        assert not numbers.has_seen(number)
        assert numbers.record(number)
        assert numbers.has_seen(number)
        assert not numbers.record(number)
    assert (numbers.next, numbers.skipped) == (20, 0)


def test_numbers_that_rise_too_fast_are_refused() -> None:
    numbers = StreamNumbers()
    assert numbers.record(MAX_SKIPPED)
    assert numbers.skipped == MAX_SKIPPED
    with pytest.raises(ProtocolError):
        numbers.record(MAX_SKIPPED + 2)
    numbers.record(0)
    assert numbers.record(MAX_SKIPPED + 2)


def test_resets_without_a_number_make_room_for_as_many() -> None:
    """An older edge does not say which stream it has reset."""
    numbers = StreamNumbers()
    numbers.record(MAX_SKIPPED)
    for _ in range(3):
        numbers.record_without_number()
    assert numbers.record(MAX_SKIPPED + 4)
    assert numbers.skipped == MAX_SKIPPED
    assert numbers.has_seen(2)
    assert not numbers.has_seen(3)
    with pytest.raises(ProtocolError):
        numbers.record(MAX_SKIPPED + 6)


def test_making_room_for_many_costs_no_more_than_skipping_them() -> None:
    numbers = StreamNumbers()
    begin = time.process_time()
    numbers.record(MAX_SKIPPED)
    skipping = time.process_time() - begin
    for _ in range(MAX_SKIPPED):
        numbers.record_without_number()
    begin = time.process_time()
    numbers.record(2 * MAX_SKIPPED)
    assert time.process_time() - begin < 40 * skipping, "it looks through those that are gone each time"


def test_resume_state_says_which_numbers_may_still_come() -> None:
    numbers = StreamNumbers()
    for number in (0, 4, 7):
        numbers.record(number)
    numbers.forget_skipped(except_open={4, 5, 8, 9}, next_number=10)
    assert [number for number in range(10) if not numbers.has_seen(number)] == [5, 8, 9]
    assert numbers.next == 10


def test_resume_state_without_the_next_number_clears_lower_ones() -> None:
    numbers = StreamNumbers()
    numbers.record(5)
    numbers.forget_skipped(except_open={3, 9}, next_number=0)
    assert [number for number in range(6) if not numbers.has_seen(number)] == [3]
    assert numbers.next == 6
    assert numbers.record(9)


@given(st.sampled_from(StreamCode), st.integers(0, (1 << 53) - 1))
def test_an_error_code_names_its_stream(code: StreamCode, stream: int) -> None:
    value = reset_code(code, stream)
    assert value < 1 << 62, "a QUIC error code is a varint"
    assert (stream_code(value), reset_stream_number(value)) == (code, stream)
    assert (stream_code(code), reset_stream_number(code)) == (code, None)
