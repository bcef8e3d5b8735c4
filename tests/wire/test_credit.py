"""Window arithmetic, as sender and receiver do it against each other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from quictunnel.errors import ProtocolError
from quictunnel.wire.credit import (
    GROWTH_SECONDS,
    INITIAL_WINDOW,
    POOL_RESERVE,
    POOL_SIZE,
    PROVEN_BYTES,
    ReceiveWindow,
    SendWindow,
    WindowPool,
)
from quictunnel.wire.messages import MAX_WINDOW

KIB = 1024


def receiver(pool: WindowPool | None = None, initial: int = INITIAL_WINDOW) -> ReceiveWindow:
    return ReceiveWindow(initial, pool or WindowPool(), 0.0)


class TestSendWindow:
    def test_room_shrinks_with_writes_and_grows_with_credit(self):
        window = SendWindow(100)
        window.written += 60
        assert window.room == 40
        window.apply_credit(50, 150, sent=60)
        assert window.room == 90

    def test_writing_beyond_the_limit_leaves_no_room_rather_than_a_debt(self):
        window = SendWindow(100)
        window.written += 130
        assert window.room == 0

    @pytest.mark.parametrize(
        ("consumed", "limit", "why"),
        [
            (61, 200, "never sent"),
            (9, 200, "taken back"),
            (50, 99, "taken back"),
            (50, 50 + MAX_WINDOW + 1, "largest window"),
        ],
    )
    def test_dishonest_credit_is_refused(self, consumed, limit, why):
        window = SendWindow(100)
        window.written += 60
        window.apply_credit(10, 100, sent=60)
        with pytest.raises(ProtocolError, match=why):
            window.apply_credit(consumed, limit, sent=60)

    def test_the_end_counts_as_one_byte_once_it_was_sent(self):
        window = SendWindow(100)
        window.written += 60
        with pytest.raises(ProtocolError, match="never sent"):
            window.apply_credit(61, 200, sent=60)
        window.apply_credit(61, 200, sent=61)


class TestReceiveWindow:
    def test_bytes_beyond_the_credit_are_refused(self):
        window = receiver(initial=100)
        window.arrived(100)
        with pytest.raises(ProtocolError, match="beyond the credit"):
            window.arrived(1)

    def test_credit_is_due_at_a_quarter_of_the_window(self):
        window = receiver(initial=100)
        window.arrived(100)
        window.consume(24)
        assert window.has_uncredited_bytes
        assert not window.is_credit_due
        window.consume(1)
        assert window.is_credit_due
        assert window.next_credit(0.0, 0.1) == (25, 125)
        assert not window.has_uncredited_bytes

    def test_a_fast_path_doubles_the_window_as_far_as_the_pool_goes(self):
        window = receiver()
        now = 0.0
        for _ in range(200):
            size = window.limit - window.received
            window.arrived(size)
            window.consume(size)
            now += 0.05
            window.next_credit(now, 0.05)
        assert POOL_SIZE // 4 <= window.window <= MAX_WINDOW

    def test_a_slow_reader_keeps_the_window_small(self):
        window = receiver()
        now = 0.0
        for _ in range(200):
            size = window.limit - window.received
            window.arrived(size)
            window.consume(size)
            now += 1.0
            window.next_credit(now, 0.05)
        assert window.window == INITIAL_WINDOW

    def test_window_that_never_consumes_is_never_credited(self):
        window = receiver()
        window.arrived(INITIAL_WINDOW)
        assert not window.has_uncredited_bytes
        assert window.limit == INITIAL_WINDOW

    def test_closing_gives_the_pool_its_bytes_back(self):
        pool = WindowPool()
        window = receiver(pool)
        for step in range(20):
            size = window.limit - window.received
            window.arrived(size)
            window.consume(size)
            window.next_credit(step * 0.01, 0.05)
        assert pool.used > 0
        window.close()
        window.close()
        assert pool.used == 0


class TestWindowPool:
    def test_greedy_streams_stay_within_the_pool_and_leave_a_share(self):
        pool = WindowPool()
        held = [0] * 100
        for _ in range(20):
            for index in range(100):
                held[index] += pool.take(held[index], max(64 * KIB, held[index]))
        assert pool.used == sum(held) <= POOL_SIZE
        # One that comes late gets its share as well, to the grain of doubling.
        late = 0
        for _ in range(20):
            late += pool.take(late, max(64 * KIB, late))
        assert late >= max(held) / 4
        assert late >= 90 * KIB

    def test_stalling_streams_leave_a_share_to_an_active_one(self):
        pool = WindowPool()
        for _ in range(100):
            held = 0
            for _ in range(20):
                held += pool.take(held, max(64 * KIB, held))
        assert pool.used <= POOL_SIZE - POOL_RESERVE
        late = 0
        for _ in range(20):
            late += pool.take(late, max(64 * KIB, late), proven=True)
        assert late >= POOL_RESERVE // 4
        assert pool.used <= POOL_SIZE

    @pytest.mark.parametrize(("seconds", "grows"), [(0.9 * GROWTH_SECONDS, True), (1.1 * GROWTH_SECONDS, False)])
    def test_a_short_path_does_not_keep_a_busy_window_small(self, seconds: float, grows: bool):
        """Used up in so many seconds, where a round trip takes a ten-thousandth of one."""
        window = receiver(WindowPool())
        window.arrived(INITIAL_WINDOW)
        window.consume(INITIAL_WINDOW)
        window.next_credit(seconds, 0.0001)
        assert (window.window > INITIAL_WINDOW) is grows

    def test_a_window_may_grow_from_the_reserve_when_it_is_proven(self):
        pool = WindowPool()
        pool.used = POOL_SIZE - POOL_RESERVE  # by others who stalled
        window = receiver(pool)
        now = 0.0
        while window.consumed < PROVEN_BYTES + 4 * INITIAL_WINDOW:
            if window.consumed < PROVEN_BYTES:
                assert window.window == INITIAL_WINDOW
            size = window.limit - window.received
            window.arrived(size)
            window.consume(size)
            now += 0.05
            window.next_credit(now, 0.05)
        assert window.window > INITIAL_WINDOW

    @pytest.mark.parametrize(
        ("proven", "least"), [(False, (POOL_SIZE - POOL_RESERVE) // 4), (True, POOL_SIZE // 4)]
    )
    def test_a_lone_stream_gets_a_large_window(self, proven: bool, least: int):
        pool = WindowPool()
        held = 0
        for _ in range(20):
            held += pool.take(held, max(64 * KIB, held), proven=proven)
        assert held >= least


@given(st.lists(st.integers(1, 70_000), max_size=30))
def test_a_pair_never_disagrees(sizes):
    """Sender and receiver always agree on the credit."""
    sender, window = SendWindow(INITIAL_WINDOW), receiver()
    for index, size in enumerate(sizes):
        part = min(size, sender.room)
        sender.written += part
        window.arrived(part)
        window.consume(part)
        consumed, limit = window.next_credit(index * 0.01, 0.05)
        sender.apply_credit(consumed, limit, sent=sender.written)
        assert sender.limit == window.limit


class PairMachine(RuleBasedStateMachine):
    """A sender and a receiver with credit in flight between them, in any interleaving."""

    def __init__(self):
        super().__init__()
        self.pool = WindowPool()
        self.sender, self.window = SendWindow(INITIAL_WINDOW), receiver(self.pool)
        self.flying: list[tuple[int, int]] = []
        self.wire = 0
        self.now = 0.0

    @rule(size=st.integers(1, 1 << 20))
    def write(self, size):
        size = min(size, self.sender.room)
        self.sender.written += size
        self.wire += size

    @precondition(lambda self: self.wire)
    @rule(data=st.data())
    def arrive(self, data):
        size = data.draw(st.integers(1, self.wire))
        self.wire -= size
        self.window.arrived(size)

    @precondition(lambda self: self.window.received > self.window.consumed)
    @rule(data=st.data(), pause=st.floats(0, 0.2))
    def consume(self, data, pause):
        self.now += pause
        self.window.consume(data.draw(st.integers(1, self.window.received - self.window.consumed)))
        if self.window.is_credit_due:
            self.flying.append(self.window.next_credit(self.now, 0.05))

    @precondition(lambda self: self.flying)
    @rule()
    def credit_lands(self):
        self.sender.apply_credit(*self.flying.pop(0), sent=self.sender.written)

    @invariant()
    def never_beyond(self):
        assert self.sender.limit <= self.window.limit
        assert self.window.received - self.window.consumed <= MAX_WINDOW
        assert self.pool.used <= self.pool.size


TestPairMachine = PairMachine.TestCase
