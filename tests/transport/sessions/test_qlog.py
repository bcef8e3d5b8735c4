"""Tests of connection traces on every pairing of engines: complete, bounded, private, and nothing when off."""

from __future__ import annotations

import asyncio
import copy
import stat
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from quictunnel.errors import ConfigError
from quictunnel.transport.endpoint import Endpoint
from quictunnel.transport.engine import CloseCause, Closed, Received, StreamsAvailable
from quictunnel.transport.qlog import NotTracedError, Tracer, tracer_of
from quictunnel.transport.session import Session
from quictunnel.transport.tracing_engine import EARLY_EVENTS, MAX_EARLY, TracingEngine, long_header
from quictunnel.wire.control_state import Side
from tests.harness.qlog_reader import count, events, names, only_file
from tests.simnet.link import Conditions
from tests.transport.sessions.session_pair import WAN, Half, Pump, SessionPair, StartPair, payloads

if TYPE_CHECKING:
    from pathlib import Path

    from tests.simnet.socket import Network

SIZE = 300_000


async def transfer(pair: SessionPair) -> None:
    """A visitor who is answered."""
    question, answer = payloads(1, 2, SIZE)
    arrival = asyncio.get_running_loop().create_future()
    pair.client_half.on_stream = arrival.set_result
    ends = [Pump(pair.open(), question), Pump(await arrival, answer)]
    for end in ends:
        await end.done.wait()
    await pair.settled()


async def test_both_sides_say_the_same(start_pair: StartPair, tmp_path: Path):
    pair = start_pair(both=WAN.copy())
    for endpoint, side in ((pair.edge_endpoint, "server"), (pair.client_endpoint, "client")):
        endpoint.trace(Tracer(tmp_path / side))
    await pair.greet()
    await transfer(pair)
    await pair.close()
    client, edge = (events(only_file(tmp_path / side)) for side in ("client", "server"))
    for trace, side in ((client, "client"), (edge, "server")):
        head = trace[0]
        assert (head["qlog_version"], head["qlog_format"]) == ("0.3", "JSON-SEQ")
        assert head["trace"]["vantage_point"]["type"] == side
        said = names(trace)
        assert said[0] == "connectivity:connection_started"
        assert said.count("connectivity:connection_state_updated") == 1
        assert "connectivity:connection_closed" in said
        assert len([event for event in trace if event.get("name") == "recovery:metrics_updated"]) > 10
    # Nothing is lost on this network, and nothing between the two.
    assert count(edge, "transport:datagrams_received") >= SIZE // 1500
    for sent, received in ((client, edge), (edge, client)):
        missing = count(sent, "transport:datagrams_sent") - count(received, "transport:datagrams_received")
        assert 0 <= missing <= 2, "the last goodbyes come when the other side has gone"
    moved = Counter()
    for event in client:
        if event.get("name") == "transport:data_moved":
            moved[event["data"]["stream_id"]] += event["data"]["length"]
    assert SIZE < max(moved.values()) < SIZE + 200, "a payload and its preface"
    types = {
        event["data"]["header"]["packet_type"] for event in edge if event.get("name") == "transport:packet_sent"
    }
    assert types >= {"retry", "initial"} or types >= {"retry", "handshake"}


async def test_existing_connections_are_traced_from_the_start_on(pair: SessionPair, tmp_path: Path):
    bare = pair.edge_endpoint.engine
    pair.edge_endpoint.trace(Tracer(tmp_path))
    assert isinstance(pair.edge_endpoint.engine, TracingEngine)
    await transfer(pair)
    pair.edge_endpoint.trace(None)
    assert pair.edge_endpoint.engine is bare
    trace = events(only_file(tmp_path))
    assert count(trace, "transport:datagrams_sent") > 100
    assert trace[1]["name"] == "connectivity:connection_started"
    assert "connectivity:connection_closed" not in {event.get("name") for event in trace}
    size = only_file(tmp_path).stat().st_size
    await transfer(pair)
    assert only_file(tmp_path).stat().st_size == size


async def test_losses_are_traced(start_pair: StartPair, tmp_path: Path):
    pair = start_pair(both=Conditions.wan(mbit=100, rtt=0.05, loss=0.02))
    pair.edge_endpoint.trace(Tracer(tmp_path))
    await pair.greet()
    await transfer(pair)
    lost = pair.edge.stats().packets_lost
    pair.edge_endpoint.trace(None)
    assert lost > 0
    assert count(events(only_file(tmp_path)), "quictunnel:packets_lost") == lost


async def test_a_file_has_a_bound_and_an_owner(pair: SessionPair, tmp_path: Path):
    directory = tmp_path / "made" / "here"
    pair.edge_endpoint.trace(Tracer(directory, max_bytes=20_000))
    for _ in range(3):
        await transfer(pair)
    path = only_file(directory)
    assert 15_000 < path.stat().st_size <= 20_000
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert events(path)[-1]["name"] == "quictunnel:trace_is_full"
    assert pair.edge_endpoint.faults == 0


async def test_there_are_so_many_files_and_no_more(pair: SessionPair, tmp_path: Path, caplog):
    tracer = Tracer(tmp_path, max_files=1)
    pair.edge_endpoint.trace(tracer)
    assert "the limit of qlog files" in caplog.text
    pair.client_endpoint.trace(tracer)
    await transfer(pair)
    assert only_file(tmp_path).name.endswith("-server.sqlog")


async def test_files_that_were_removed_make_room(pair: SessionPair, tmp_path: Path):
    tracer, endpoint, connection = Tracer(tmp_path, max_files=2), pair.edge_endpoint, pair.edge.link.connection
    bare = endpoint.engine
    removed = []
    for _ in range(2):
        removed.append(endpoint.trace_one(connection, tracer).path)
        endpoint.untrace_one(connection)
    with pytest.raises(NotTracedError, match="There are 2 qlog files"):
        endpoint.trace_one(connection, tracer)
    assert endpoint.engine is bare, "nothing stands before it for nothing"
    removed[0].unlink()
    gone = endpoint.trace_one(connection, tracer).path
    gone.unlink()
    with pytest.raises(NotTracedError):  # it is being written all the same
        tracer.begin(connection, "", 0.0)
    endpoint.untrace_one(connection)
    assert tracer.has_room


def test_a_process_has_one_count_for_a_directory(tmp_path: Path):
    tracer = tracer_of(tmp_path / "here")
    (tmp_path / "here").rmdir()
    assert tracer_of(tmp_path / "here") is tracer
    assert (tmp_path / "here").is_dir(), "made again"
    assert tracer_of(tmp_path / "there") is not tracer


async def beside(pair: SessionPair, network: Network) -> SessionPair:
    """Another client of the same edge, and its session there."""
    other = copy.copy(pair)
    other.client_half, other.edge_half = Half(Side.CLIENT), Half(Side.EDGE)
    mine, pair.edge_half = pair.edge_half, other.edge_half  # whom the edge takes the newcomer for
    other.client_endpoint = Endpoint(pair._engine(), network.socket(("10.0.3.1", 7000), both=WAN.copy()))
    other.client = other.client_half.session = Session(
        Side.CLIENT, other.client_half, other.client_endpoint.schedule_transmit
    )
    address, link = pair.edge_endpoint.local_address, other.client.link
    link.attach(other.client_endpoint.connect(address, "edge.test", link))
    await other.greet()
    pair.edge_half = mine
    return other


@pytest.mark.parametrize("comes", ["before", "after"])
async def test_of_two_connections_one_is_traced(network: Network, pair: SessionPair, tmp_path: Path, comes: str):
    endpoint = pair.edge_endpoint
    bare = endpoint.engine
    other = await beside(pair, network) if comes == "before" else None
    trace = endpoint.trace_one(pair.edge.link.connection, Tracer(tmp_path))
    assert endpoint.trace_of(pair.edge.link.connection) is trace
    assert isinstance(endpoint.engine, TracingEngine)
    if other is None:
        other = await beside(pair, network)
    assert endpoint.trace_of(other.edge.link.connection) is None
    await transfer(other)
    assert endpoint.trace_one(pair.edge.link.connection, Tracer(tmp_path)) is trace, "asked again, it is the same"
    endpoint.engine.receive([Received(b"\x40" + bytes(30), 31, ("10.9.0.1", 1))], endpoint._now())
    assert not endpoint.engine._early, "unadmitted connections are not traced"
    await other.client_endpoint.close(0.5)
    before = pair.edge.stats()
    await transfer(pair)
    await pair.settled()
    endpoint.untrace_one(pair.edge.link.connection)
    assert endpoint.engine is bare
    assert endpoint.trace_of(pair.edge.link.connection) is None
    found = events(only_file(tmp_path))
    received = sum(
        raw["length"]
        for event in found
        if event.get("name") == "transport:datagrams_received"
        for raw in event["data"]["raw"]
    )
    assert SIZE < pair.edge.stats().bytes_received - before.bytes_received <= received < 1.5 * SIZE, (
        "its own alone"
    )
    assert found[1]["data"]["dst_ip"] == pair.edge.link.connection.address[0]


async def test_a_trace_of_one_ends_with_it(pair: SessionPair, tmp_path: Path):
    bare = pair.edge_endpoint.engine
    pair.edge_endpoint.trace_one(pair.edge.link.connection, Tracer(tmp_path))
    pair.client.close(0)
    await pair.edge_half.is_down.wait()
    assert pair.edge_endpoint.engine is bare
    assert names(events(only_file(tmp_path)))[-1] == "connectivity:connection_closed"


async def test_a_trace_of_one_ends_at_its_bound(pair: SessionPair, tmp_path: Path):
    bare, tracer = pair.edge_endpoint.engine, Tracer(tmp_path, max_bytes=20_000)
    trace = pair.edge_endpoint.trace_one(pair.edge.link.connection, tracer)
    await transfer(pair)
    assert pair.edge_endpoint.engine is bare
    assert trace.is_cut
    assert names(events(only_file(tmp_path)))[-1] == "quictunnel:trace_is_full"
    another = pair.edge_endpoint.trace_one(pair.edge.link.connection, tracer)
    assert another.path != trace.path, "whoever asks again has another file"
    while another.is_open:
        another.note(0.0, "quictunnel:test", {})
    assert pair.edge_endpoint.trace_of(pair.edge.link.connection) is None
    third = pair.edge_endpoint.trace_one(pair.edge.link.connection, tracer)
    assert third.is_open, "also in the turn in which it became full"
    pair.edge_endpoint.untrace_one(pair.edge.link.connection)
    assert not third.is_cut


async def test_a_trace_of_one_goes_on_where_the_connection_goes(
    network: Network, pair: SessionPair, tmp_path: Path
):
    trace = pair.edge_endpoint.trace_one(pair.edge.link.connection, Tracer(tmp_path))
    await transfer(pair)
    pair.client_endpoint.rebind(network.socket(("10.0.4.1", 7001), both=WAN.copy()))
    await transfer(pair)
    assert pair.edge.link.connection.address[0] == "10.0.4.1"
    pair.edge_endpoint.untrace_one(pair.edge.link.connection)
    assert not trace.is_cut
    assert count(events(only_file(tmp_path)), "transport:datagrams_received") > 2 * SIZE // 1500


async def test_traces_of_all_and_of_one_are_independent(network: Network, pair: SessionPair, tmp_path: Path):
    """Tracing of all connections does not disturb the trace of one, and the other way round: that one has a
    single file for all of it."""
    endpoint, connection = pair.edge_endpoint, pair.edge.link.connection
    bare = endpoint.engine
    other = await beside(pair, network)
    mine, theirs = Tracer(tmp_path / "mine"), Tracer(tmp_path / "theirs")
    trace = endpoint.trace_one(connection, mine)
    await transfer(pair)
    endpoint.trace(theirs)
    await transfer(pair)
    (of_other,) = theirs.directory.iterdir()
    endpoint.trace(None)
    assert endpoint.trace_of(connection) is trace
    assert endpoint.trace_of(other.edge.link.connection) is None
    await transfer(pair)
    endpoint.untrace_one(connection)
    assert endpoint.engine is bare
    assert count(events(only_file(mine.directory)), "transport:datagrams_received") > 3 * SIZE // 1500
    assert events(of_other)[1]["data"]["dst_ip"] == "10.0.3.1"
    # The other way round.
    endpoint.trace(theirs)
    trace = endpoint.trace_of(connection)
    assert trace is not None
    assert endpoint.trace_one(connection, mine) is trace
    endpoint.untrace_one(connection)
    assert endpoint.trace_of(connection) is trace, "it is traced as all are"
    endpoint.trace_one(connection, mine)
    endpoint.trace(None)
    assert endpoint.trace_of(connection) is trace, "and now for its own sake"
    endpoint.untrace_one(connection)
    assert endpoint.engine is bare
    assert not trace.is_open
    assert len(list(theirs.directory.iterdir())) == 3
    assert len(list(mine.directory.iterdir())) == 1
    await other.client_endpoint.close(0.5)


async def test_a_trace_that_begins_too_late_ends_at_once(pair: SessionPair, tmp_path: Path, monkeypatch):
    """The engine has said already that the connection is over, and others are still told of what came before."""
    endpoint, connection = pair.edge_endpoint, pair.edge.link.connection
    bare = endpoint.engine
    said = [(connection, StreamsAvailable()), (connection, Closed(CloseCause.PEER, 0, ""))]
    begun = []
    late = lambda: begun.append(endpoint.trace_one(connection, Tracer(tmp_path)))  # noqa: E731 - in one line
    monkeypatch.setattr(pair.edge.link, "streams_available", late)
    monkeypatch.setattr(bare, "poll", lambda: iter(said))
    endpoint._dispatch()
    monkeypatch.undo()
    assert endpoint.engine is bare
    assert [trace.is_open for trace in begun] == [False]


async def test_failed_handshakes_leave_no_trace_state(pair: SessionPair, tmp_path: Path):
    pair.edge_endpoint.trace(Tracer(tmp_path))
    traced = pair.edge_endpoint.engine
    assert isinstance(traced, TracingEngine)
    for number in range(3 * MAX_EARLY):
        for _ in range(3 * EARLY_EVENTS):
            traced.receive([Received(b"\x40" + bytes(30), 31, ("10.9.0.1", number + 1))], 1000.0)
    assert len(traced._early) == MAX_EARLY
    assert {len(early) for early in traced._early.values()} == {EARLY_EVENTS}
    pair.edge_endpoint.trace(None)


async def test_a_disk_that_is_full_costs_the_trace_and_no_more(pair: SessionPair, tmp_path: Path, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    pair.edge_endpoint.trace(Tracer(tmp_path))
    monkeypatch.setattr("quictunnel.transport.qlog.os.write", full)
    monkeypatch.setattr("quictunnel.transport.qlog.BLOCK", 100)
    await transfer(pair)
    monkeypatch.undo()
    pair.edge_endpoint.trace(None)
    assert pair.edge_endpoint.faults == 0
    assert only_file(tmp_path).stat().st_size == 0


def test_unwritable_directory_is_reported(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made: Not a directory"):
        Tracer(tmp_path / "file" / "below")


def test_a_long_header_is_read_as_far_as_it_goes():
    initial = b"\xc0\x00\x00\x00\x01\x02ab\x03cde" + bytes(20)
    assert long_header(initial) == {
        "packet_type": "initial",
        "version": "00000001",
        "dcid": b"ab".hex(),
        "scid": b"cde".hex(),
    }
    assert long_header(b"\x40" + initial[1:]) is None
    assert long_header(b"\xc0\x00") is None
    answer = long_header(b"\x80\x00\x00\x00\x00\x02ab\x03cde")
    assert answer is not None
    assert answer["packet_type"] == "version_negotiation"
    for size in range(7, len(initial)):
        long_header(initial[:size])
