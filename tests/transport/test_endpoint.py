"""The endpoint, driven by an engine that does as the test says."""

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from quictunnel.transport.endpoint import BATCHES_PER_TURN, FAULT_LOG_INTERVAL, GRANULARITY, Traffic
from quictunnel.transport.engine import (
    CloseCause,
    Closed,
    Connected,
    Data,
    Reset,
    Stopped,
    StreamsAvailable,
    Transmit,
    Writable,
)
from quictunnel.transport.udp import MAX_SEGMENTS, RECEIVE_DATAGRAMS
from quictunnel.wire.codes import SessionCode
from tests.simnet.socket import Network, SimSocket
from tests.transport.endpoint_rig import Bed, ScriptedConnection, Sink, datagrams

HERE, THERE, ELSEWHERE = ("10.0.0.1", 1), ("10.0.0.2", 2), ("10.0.0.3", 3)


@pytest.fixture
async def bed(network: Network) -> Bed:
    made = Bed(network)
    yield made
    made.endpoint.abort()
    made.peer.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    left = [handle for handle in network.loop._scheduled if not handle.cancelled()]
    assert left == []


async def test_batches_go_in_with_the_time_and_one_transmit_follows(bed: Bed) -> None:
    bed.engine.outbox = [Transmit([b"answer"], 1200, THERE)]
    bed.peer.send([datagrams(3)])
    await asyncio.sleep(0.1)
    (batch,) = bed.engine.batches
    assert [(len(one.payload), one.segment, one.address) for one in batch] == [(300, 100, THERE)]
    assert [one.payload for one in bed.peer.receive()] == [b"answer"]
    assert len(bed.engine.transmitted_at) == 1


async def test_writes_of_one_turn_leave_together(bed: Bed) -> None:
    def write() -> None:
        bed.engine.outbox.append(Transmit([b"x"], 1200, THERE))
        bed.endpoint.schedule_transmit()

    for _ in range(10):
        bed.loop.call_soon(write)
    await asyncio.sleep(0.1)
    assert len(bed.engine.transmitted_at) == 1
    assert bed.peer.receive()[0].payload == b"x" * 10


async def test_events_reach_their_handlers_in_order(bed: Bed) -> None:
    one, other = ScriptedConnection(THERE, is_client=False), ScriptedConnection(ELSEWHERE, is_client=False)
    bed.engine.events = [
        (one, Connected()),
        (other, Connected()),
        (one, Data(0, [b"a", b"b"], False)),
        (one, Data(0, [], True)),
        (other, Reset(4, 7)),
        (one, Stopped(4, 8)),
        (one, Writable(4)),
        (one, StreamsAvailable()),
        (other, Closed(CloseCause.PEER, 9, "bye")),
        (other, Writable(4)),
    ]
    bed.peer.send([datagrams(1)])
    await bed.turn()
    assert bed.sinks[0].told == [
        ("connected",),
        ("data", 0, [b"a", b"b"], False),
        ("data", 0, [], True),
        ("stopped", 4, 8),
        ("writable", 4),
        ("streams_available",),
        ("batch_ended",),
    ]
    assert bed.sinks[1].told == [("connected",), ("reset", 4, 7), ("closed", CloseCause.PEER, 9, "bye")]


async def test_connect_reports_to_its_sink(bed: Bed) -> None:
    sink = Sink()
    connection = bed.endpoint.connect(THERE, "edge.test", sink)
    await bed.turn()
    assert len(bed.engine.transmitted_at) == 1  # the first flight
    bed.engine.events = [(connection, Connected())]
    bed.nudge()
    assert sink.told == [("connected",), ("batch_ended",)]
    assert bed.sinks == []


async def test_addresses_of_the_other_family_are_refused(bed: Bed) -> None:
    with pytest.raises(ValueError, match="cannot reach ::1"):
        bed.endpoint.connect(("::1", 1, 0, 0), "edge.test", Sink())
    other = bed.network.socket(("::1", 1, 0, 0))
    with pytest.raises(ValueError, match="between IPv4 and IPv6"):
        bed.endpoint.rebind(other)
    other.close()


async def test_events_of_a_flush_are_reported_in_the_same_turn(bed: Bed) -> None:
    """Closing one's own connection needs no datagram to be heard of."""
    connection, sink = bed.accepted()
    bed.engine.events = [(connection, Closed(CloseCause.LOCAL, 0, ""))]
    bed.endpoint.schedule_transmit()
    await bed.turn()
    assert sink.told[-1] == ("closed", CloseCause.LOCAL, 0, "")


# Timers.


async def test_the_timer_fires_on_the_next_millisecond(bed: Bed) -> None:
    start = bed.loop.time()
    bed.engine.deadline = start + 0.0333
    bed.endpoint.schedule_transmit()
    await asyncio.sleep(1)
    (fired,) = bed.engine.expired_at
    assert 0.0333 <= fired - start <= 0.0333 + GRANULARITY + 1e-9
    assert len(bed.engine.transmitted_at) == 2  # the wake, and what the timer may have made


async def test_only_an_earlier_deadline_moves_the_timer(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []
    original = bed.loop.call_at

    def counting(when: float, callback: Callable[..., object], *args: object, **kw: object) -> asyncio.TimerHandle:
        if callback == bed.endpoint._timer_fired:
            calls.append(when)
        return original(when, callback, *args, **kw)

    monkeypatch.setattr(bed.loop, "call_at", counting)
    start = bed.loop.time()
    for deadline in (1.0, 1.5, 2.0, 1.2):  # each packet puts the idle time-out off
        bed.engine.deadline = start + deadline
        bed.endpoint.schedule_transmit()
        await bed.turn()
    assert len(calls) == 1
    bed.engine.deadline = start + 0.5
    bed.endpoint.schedule_transmit()
    await bed.turn()
    assert len(calls) == 2
    bed.engine.deadline = start + 3.0
    await asyncio.sleep(4)
    assert len(calls) == 3  # the one at 0.5 s fired for nothing and went to 3 s
    assert [round(at - start, 6) for at in bed.engine.expired_at] == [3.0]
    assert bed.endpoint.faults == 0  # the engine minds being called too early


async def test_a_deadline_that_stays_in_the_past_does_not_spin(bed: Bed) -> None:
    def stuck() -> None:
        bed.engine.deadline = bed.loop.time() - 1

    bed.engine.on_expire = stuck
    stuck()
    bed.endpoint.schedule_transmit()
    await asyncio.sleep(0.1)
    assert 50 <= len(bed.engine.expired_at) <= 101


# Floods.


async def test_a_flood_leaves_turns_for_others(bed: Bed) -> None:
    bed.peer.send([datagrams(10_000)])
    batches_a_turn: Counter[int] = Counter()
    turn = 0
    while sum(len(one.payload) // 100 for batch in bed.engine.batches for one in batch) < 10_000:
        before = len(bed.engine.batches)
        await asyncio.sleep(0)
        batches_a_turn[turn] = len(bed.engine.batches) - before
        turn += 1
        assert turn < 1000
    assert max(batches_a_turn.values()) == BATCHES_PER_TURN
    assert turn >= 10_000 / (BATCHES_PER_TURN * (RECEIVE_DATAGRAMS + MAX_SEGMENTS))
    assert max(sum(len(one.payload) // 100 for one in batch) for batch in bed.engine.batches) < (
        RECEIVE_DATAGRAMS + MAX_SEGMENTS
    )


# Faults.


@pytest.mark.parametrize("fault", ["connected", "data", "batch_ended"])
async def test_a_handlers_fault_costs_its_own_connection(
    bed: Bed, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    good, good_sink = bed.accepted()
    bad, bad_sink = bed.accepted(fault)
    bed.engine.events = [
        (bad, Data(0, [b"x"], False)),
        (good, Data(0, [b"y"], False)),
        (bad, Data(0, [b"z"], False)),
    ]
    bed.nudge()
    assert bad.closed_with == [SessionCode.INTERNAL]
    assert bad_sink.told[-1] == ("closed", CloseCause.INTERNAL, SessionCode.INTERNAL, "")
    assert [what for what, *_ in bad_sink.told].count("closed") == 1
    assert good.closed_with == []
    assert good_sink.told[-2:] == [("data", 0, [b"y"], False), ("batch_ended",)]
    (record,) = caplog.records
    assert record.exc_info is not None
    assert "10.0.0.2" in record.getMessage()
    told = len(bad_sink.told)
    bed.engine.events = [(bad, Closed(CloseCause.LOCAL, SessionCode.INTERNAL, ""))]
    bed.nudge()
    assert len(bad_sink.told) == told


async def test_a_fault_while_closing_is_contained(bed: Bed, caplog: pytest.LogCaptureFixture) -> None:
    connection, _ = bed.accepted("closed")
    bed.engine.events = [(connection, Closed(CloseCause.PEER, 0, ""))]
    bed.nudge()
    assert len(caplog.records) == 1
    assert bed.endpoint.faults == 1


async def test_error_while_accepting_closes_the_connection(bed: Bed, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(connection: ScriptedConnection) -> Sink:
        raise RuntimeError("no room")

    bed.endpoint._on_connection = refuse
    connection = ScriptedConnection(THERE, is_client=False)
    bed.engine.events = [(connection, Connected()), (connection, Data(0, [b"x"], False))]
    bed.nudge()
    assert connection.closed_with == [SessionCode.INTERNAL]
    assert len(caplog.records) == 1


async def test_an_engines_faults_are_contained_and_fill_no_disk(
    bed: Bed, caplog: pytest.LogCaptureFixture
) -> None:
    bed.engine.fault = KeyError("surprise")
    start = bed.loop.time()
    for _ in range(100):
        bed.peer.send([datagrams(1)])
        await asyncio.sleep(0.03)
    assert bed.endpoint.faults == 100
    assert 1 <= len(caplog.records) <= (bed.loop.time() - start) / FAULT_LOG_INTERVAL + 1
    assert caplog.records[0].exc_info is not None
    bed.engine.fault = None
    bed.engine.outbox = [Transmit([b"alive"], 1200, THERE)]
    bed.peer.send([datagrams(1)])
    await asyncio.sleep(0.1)
    assert bed.peer.receive()[0].payload == b"alive"


# Moving.


async def test_rebinding_migrates_what_this_side_began(bed: Bed) -> None:
    ours = bed.endpoint.connect(THERE, "edge.test", Sink())
    theirs, _ = bed.accepted()
    await bed.turn()
    bed.peer.send([datagrams(1)])  # already in the old socket's buffer
    old = bed.endpoint.socket
    bed.engine.outbox = [Transmit([b"from here"], 1200, THERE)]
    bed.endpoint.rebind(bed.network.socket(ELSEWHERE))
    await asyncio.sleep(0.1)
    assert (ours.migrations, theirs.migrations) == (1, 0)
    assert len(bed.engine.batches) == 1
    assert [one.address for one in bed.peer.receive()] == [ELSEWHERE]
    assert bed.endpoint.local_address == ELSEWHERE
    assert isinstance(old, SimSocket)
    assert not old.is_attached
    assert old not in bed.network.sockets
    bed.peer.send([Transmit([b"y"], 1200, ELSEWHERE)])
    await asyncio.sleep(0.1)
    assert len(bed.engine.batches) == 2


# Ending.


async def test_close_waits_until_connection_close_is_sent(bed: Bed) -> None:
    connection, sink = bed.accepted()
    bed.engine.alive = True
    bed.engine.events = [(connection, Closed(CloseCause.LOCAL, 0, ""))]
    bed.engine.outbox = [Transmit([b"goodbye"], 1200, THERE)]
    start = bed.loop.time()
    bed.engine.deadline = start + 0.3
    bed.engine.on_expire = lambda: setattr(bed.engine, "alive", False)
    await bed.endpoint.close(5, SessionCode.GOING_AWAY)
    assert bed.loop.time() - start == pytest.approx(0.3, abs=2 * GRANULARITY)
    assert connection.closed_with == [SessionCode.GOING_AWAY]
    assert sink.told[-1] == ("closed", CloseCause.LOCAL, 0, "")
    assert bed.peer.receive()[0].payload == b"goodbye"
    assert bed.network.sockets == [bed.peer]


async def test_close_is_bounded_and_tells_the_remaining_handlers(bed: Bed) -> None:
    _, sink = bed.accepted()
    bed.engine.alive = True
    start = bed.loop.time()
    await bed.endpoint.close(1.5)
    assert bed.loop.time() - start == pytest.approx(1.5)
    assert sink.told[-1][0] == "closed"
    assert bed.endpoint.is_closed
    await bed.endpoint.close(1.5)  # again, at once


async def test_a_cancelled_close_aborts(bed: Bed) -> None:
    bed.engine.alive = True
    closing = asyncio.create_task(bed.endpoint.close(60))
    await bed.turn()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert bed.endpoint.is_closed


async def test_closing_endpoint_accepts_no_connection(bed: Bed) -> None:
    bed.engine.alive = True
    closing = asyncio.create_task(bed.endpoint.close(1))
    await bed.turn()
    late = ScriptedConnection(ELSEWHERE, is_client=False)
    bed.engine.events = [(late, Connected())]
    bed.peer.send([datagrams(1)])
    await closing
    assert late.closed_with == [SessionCode.GOING_AWAY]
    assert bed.sinks == []
    with pytest.raises(RuntimeError, match="closed"):
        bed.endpoint.connect(THERE, "edge.test", Sink())


async def test_abort_ends_everything_at_once_also_from_within_a_sink(bed: Bed) -> None:
    _, sink = bed.accepted()
    bad, _ = bed.accepted()
    bed.endpoint._handlers[bad].writable = lambda stream: bed.endpoint.abort()
    bed.engine.deadline = bed.loop.time() + 5
    bed.engine.events = [(bad, Writable(0)), (bad, Data(0, [b"x"], False))]
    bed.peer.send([datagrams(1)])
    await asyncio.sleep(1)
    assert sink.told[-1] == ("closed", CloseCause.LOCAL, SessionCode.DONE, "")
    bed.endpoint.schedule_transmit()
    bed.endpoint.abort()
    await bed.turn()
    assert bed.engine.transmitted_at == []
    spare = bed.network.socket(ELSEWHERE)
    bed.endpoint.rebind(spare)
    assert bed.network.sockets == [bed.peer]


async def test_counters_include_ended_connections(bed: Bed) -> None:
    one, _ = bed.accepted()
    _other, _ = bed.accepted()
    assert (bed.endpoint.traffic().bytes_sent, len(bed.endpoint.connections)) == (200, 2)
    bed.engine.events.append((one, Closed(CloseCause.PEER, 0, "")))
    bed.nudge()
    assert len(bed.endpoint.connections) == 1
    assert bed.endpoint.traffic() == Traffic(200, 400, 6, 8, 2)


async def test_counters_include_connections_whose_sink_failed(bed: Bed) -> None:
    connection, _ = bed.accepted("data")
    bed.engine.events.append((connection, Data(0, [b"a"], False)))
    bed.nudge()
    assert bed.endpoint.connections == ()
    assert bed.endpoint.traffic().packets_lost == 1
