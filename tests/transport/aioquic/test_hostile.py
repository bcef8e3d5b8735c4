"""An authentic peer that says anything, in any order: nothing is raised, memory stays, others live on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from quictunnel.transport.engine import Closed, Received
from quictunnel.transport.engines.aioquic.stream_table import MAX_PIECES
from quictunnel.transport.engines.aioquic.streams import MAX_RUNS
from quictunnel.transport.engines.aioquic.varint import encode
from tests.transport.engine_pair import CLIENT, forge

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.transport.engine_pair import Pair

small = st.integers(0, 60)
numbers = st.one_of(small, st.integers(0, 1 << 22), st.integers(0, (1 << 62) - 1))
streams = st.one_of(st.sampled_from([0, 1, 4, 5, 9, 2, 3]), numbers)


class Hostile(RuleBasedStateMachine):
    """A client that is authentic and means harm, an edge, and a client that means none."""

    make_pair: Callable[..., Pair]
    caplog: pytest.LogCaptureFixture

    @initialize(admit=st.booleans())
    def begin(self, admit):
        self.caplog.clear()
        self.pair = self.make_pair()
        self.client, self.edge = self.pair.connect(admit=admit)
        self.bystander, _ = self.pair.connect()
        self.address = CLIENT
        self.over = False
        self.waited = 0.0
        if admit:
            for _ in range(3):
                self.edge.write(self.edge.open(), b"x" * 3000)

    def say(self, *frames, cid=None):
        datagram = forge(self.client, *frames, cid=cid)
        engine = self.pair.edge.engine
        engine.receive([Received(datagram, len(datagram), self.address)], self.pair.now)
        self.pair.edge.collect()
        list(engine.transmit(self.pair.now))
        self.over = any(isinstance(e, Closed) for e in self.pair.edge.events)

    @precondition(lambda self: not self.over)
    @rule(number=streams, offset=numbers, size=small, fin=st.booleans())
    def stream(self, number, offset, size, fin):
        offset = min(offset, (1 << 62) - 1)
        self.say(bytes((0x0E | fin,)), encode(number), encode(offset), encode(size), b"z" * size)

    @precondition(lambda self: not self.over)
    @rule(
        kind=st.sampled_from([0x04, 0x05, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x19]),
        a=streams,
        b=numbers,
        c=numbers,
    )
    def numbers_only(self, kind, a, b, c):
        count = {0x04: 3, 0x05: 2, 0x11: 2, 0x15: 2}.get(kind, 1)
        self.say(bytes((kind,)), *map(encode, (a, b, c)[:count]))

    @precondition(lambda self: not self.over)
    @rule(sequence=small, retire=small, length=st.sampled_from([0, 1, 8, 20, 21]))
    def new_cid(self, sequence, retire, length):
        self.say(
            b"\x18", encode(sequence), encode(retire), bytes((length,)), bytes((sequence,)) * length, bytes(16)
        )

    @precondition(lambda self: not self.over)
    @rule(
        back=st.integers(-2, 50),
        first=small,
        more=st.lists(st.tuples(small, small), max_size=6),
        delay=numbers,
    )
    def ack(self, back, first, more, delay):
        largest = max(self.edge.quic._packet_number - 1 - back, 0)
        ranges = b"".join(encode(gap) + encode(size) for gap, size in more)
        self.say(b"\x02", encode(largest), encode(delay), encode(len(more)), encode(first), ranges)

    @precondition(lambda self: not self.over)
    @rule(port=st.integers(1, 12))
    def rebind(self, port):
        self.address = (CLIENT[0], port)
        self.say(b"\x01")

    @precondition(lambda self: not self.over)
    @rule(index=st.integers(0, 5))
    def switch_cid(self, index):
        cids = self.edge.quic.own_cids()
        self.say(b"\x01", cid=cids[index % len(cids)])

    @precondition(lambda self: not self.over)
    @rule()
    def update_keys(self):
        self.client.quic.one_rtt.update_now()
        self.say(b"\x01")

    @precondition(lambda self: not self.over)
    @rule(kind=st.sampled_from([0x1A, 0x1B]), text=st.binary(min_size=8, max_size=8))
    def validate(self, kind, text):
        self.say(bytes((kind,)), text)

    @precondition(lambda self: not self.over)
    @rule(text=st.binary(min_size=1, max_size=80))
    def noise(self, text):
        self.say(text)

    @precondition(lambda self: not self.over)
    @rule(number=st.sampled_from([1, 5, 9, 0]), act=st.sampled_from(["write", "finish", "reset", "stop"]))
    def edge_acts(self, number, act):
        arguments = {"write": (b"data" * 50,), "finish": (), "reset": (1,), "stop": (2,)}[act]
        getattr(self.edge, act)(number, *arguments)
        list(self.pair.edge.engine.transmit(self.pair.now))

    @rule(seconds=st.floats(0.001, 3))
    def wait(self, seconds):
        engine = self.pair.edge.engine
        self.waited += seconds
        if self.waited > 20:  # the bystander, who says nothing meanwhile, is to live
            return
        self.pair.now += seconds
        engine.expire(self.pair.now)
        self.pair.edge.collect()
        list(engine.transmit(self.pair.now))
        self.over = any(isinstance(e, Closed) for e in self.pair.edge.events)

    @invariant()
    def holds(self):
        if not hasattr(self, "pair"):
            return
        assert not [record for record in self.caplog.records if record.levelno >= logging.ERROR]
        table = self.edge.quic.table
        assert 0 <= table._pieces <= MAX_PIECES
        assert table._pieces == sum(len(r.chunks) for s in table.streams.values() for r in s.receive.runs)
        assert all(len(s.receive.runs) <= MAX_RUNS for s in table.streams.values())
        assert table.delivered <= table.received <= table.control.max_data
        assert len(table.streams) <= 16_384 + 10
        assert len(self.edge.cids) <= 10
        assert all(self.pair.edge.engine._routes._by_cid[cid] is self.edge for cid in self.edge.cids)

    def teardown(self):
        if not hasattr(self, "pair"):
            return
        stream = self.bystander.open()
        self.bystander.write(stream, b"alive")
        self.pair.settle(0.5)
        accepted = self.pair.edge.connections[-1]
        assert stream in accepted.quic.table.streams
        self.pair.run(limit=70)
        assert not self.pair.edge.engine.has_connections()
        assert not len(self.pair.edge.engine._routes)


@pytest.mark.parametrize(
    "examples",
    [
        40,
        pytest.param(150, marks=pytest.mark.slow),
        pytest.param(1500, marks=[pytest.mark.long, pytest.mark.timeout(600)]),
    ],
)
def test_a_hostile_peer(make_pair, caplog, examples):
    run_state_machine_as_test(
        type("Machine", (Hostile,), {"make_pair": staticmethod(make_pair), "caplog": caplog}),
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
