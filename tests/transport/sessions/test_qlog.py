"""What is traced of connections, on every pairing of engines: complete, bounded, private, and nothing when off."""

from __future__ import annotations

import asyncio
import json
import re
import stat
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from quictunnel.errors import ConfigError
from quictunnel.transport.engine import Received
from quictunnel.transport.qlog import EARLY_EVENTS, MAX_EARLY, Traced, Tracer, long_header
from tests.simnet.link import Conditions
from tests.transport.sessions.pair import Pump, SessionPair, StartPair, payloads

if TYPE_CHECKING:
    from pathlib import Path

WAN = Conditions.wan(mbit=100, rtt=0.05)
SIZE = 300_000


def events(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON text sequence (RFC 7464): each begins with RS and ends with LF."""
    text = path.read_text()
    assert text.startswith("\x1e")
    assert text.endswith("\n")
    assert re.fullmatch("(\x1e[^\x1e\n]*\n)*", text)
    return [json.loads(record) for record in text.split("\x1e")[1:]]


def only_file(directory: Path) -> Path:
    (path,) = directory.iterdir()
    return path


def count(trace: list[dict[str, Any]], name: str) -> int:
    return sum(event["data"]["count"] for event in trace if event.get("name") == name)


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
        names = [event["name"] for event in trace[1:]]
        assert names[0] == "connectivity:connection_started"
        assert names.count("connectivity:connection_state_updated") == 1
        assert "connectivity:connection_closed" in names
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


async def test_connections_that_are_there_are_traced_from_then_on_and_no_longer(pair: SessionPair, tmp_path: Path):
    bare = pair.edge_endpoint.engine
    pair.edge_endpoint.trace(Tracer(tmp_path))
    assert isinstance(pair.edge_endpoint.engine, Traced)
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


@pytest.fixture
async def pair(start_pair: StartPair) -> SessionPair:
    pair = start_pair(both=WAN.copy())
    await pair.greet()
    return pair


async def test_losses_are_said(start_pair: StartPair, tmp_path: Path):
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
    assert "as many qlog files" in caplog.text
    pair.client_endpoint.trace(tracer)
    await transfer(pair)
    assert only_file(tmp_path).name.endswith("-server.sqlog")


async def test_strangers_who_become_nothing_are_forgotten(pair: SessionPair, tmp_path: Path):
    pair.edge_endpoint.trace(Tracer(tmp_path))
    traced = pair.edge_endpoint.engine
    assert isinstance(traced, Traced)
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
    monkeypatch.setattr("quictunnel.transport.qlog.PIECE", 100)
    await transfer(pair)
    monkeypatch.undo()
    pair.edge_endpoint.trace(None)
    assert pair.edge_endpoint.faults == 0
    assert only_file(tmp_path).stat().st_size == 0


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path):
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
