"""From the tunnel's thread to the inspector's: nothing changes on the way, nothing raises, nothing grows."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quictunnel.inspect import limits
from quictunnel.inspect.connection_parser import ConnectionParser
from quictunnel.inspect.exchange_store import ExchangeKind, ExchangeState, ExchangeStore, Watcher
from quictunnel.inspect.recorder import FAILED, Recorder, Tap
from quictunnel.inspect.tap import TappedTcpSplice
from quictunnel.origin.dial import Origin
from quictunnel.transport.splice import TcpSplice
from quictunnel.wire.codes import StreamCode
from tests.inspect.recorded_connection import IN, OUT, Recording

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
FRAGMENTS = [
    GET,
    OK,
    b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n",
    b"PUT /p HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
    b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"hello",
    b"\x81\x85abcd\x00\x00\x00\x00\x00",
    b"\xc1\x07\xf2H\xcd\xc9\xc9\x07\x00",
    b"\x88\x00",
    b"\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 5 6\r\n",
    b"\x16\x03\x01",
]
SOUP = st.lists(
    st.tuples(
        st.sampled_from(
            ["in", "in", "out", "out", "in end", "out end", "lost", "gone", "unseen in", "unseen out"]
        ),
        st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=40)),
        st.integers(1, 60),
    ),
    max_size=25,
)


class CallRecorder:
    """Stands for a stream or a TCP transport, and writes down what it is told."""

    room = 1 << 20
    is_over = False
    receive_done = False

    def __init__(self, log: list[Any], name: str) -> None:
        self._log = log
        self._name = name

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, _: str) -> None:
        return None

    def __getattr__(self, method: str) -> Any:
        def called(*arguments: Any) -> None:
            self._log.append((self._name, method, *arguments))

        return called


def log_of(splice: TcpSplice, soup: list[tuple[str, bytes, int]]) -> list[Any]:
    """Return the log of what a splice passes on when it receives these pieces."""
    log: list[Any] = []
    splice._stream, splice._transport = CallRecorder(log, "stream"), CallRecorder(log, "tcp")  # type: ignore[assignment]
    splice._poll_later = lambda: None  # type: ignore[method-assign]
    for what, data, step in soup:
        pieces = [data[at : at + step] for at in range(0, len(data), step)]
        match what:
            case "in":
                splice.stream_data(pieces, len(data))
            case "out":
                for piece in pieces:
                    splice.received(piece)
            case "in end":
                splice.stream_end()
            case "out end":
                splice.eof_received()
            case "lost":
                splice.stream_lost(StreamCode.CLOSING, None)
                return log
            case "gone":
                splice.connection_lost(None)
                return log
    splice.connection_lost(OSError())
    return log


def make_splice(tap: Tap | None) -> TcpSplice:
    """``__slots__`` of its own class keep a splice from being told to keep still; a subclass is not."""
    base = TcpSplice if tap is None else TappedTcpSplice

    class Still(base):  # type: ignore[misc, valid-type]
        pass

    return Still(lambda _: None) if tap is None else Still(lambda _: None, tap)


@settings(max_examples=200, deadline=None)
@given(SOUP, st.booleans())
def test_bytes_pass_unchanged_and_the_inspector_keeps_to_its_bounds(
    soup: list[tuple[str, bytes, int]], keeps_up: bool
) -> None:
    """Any bytes in any split, both ways, with ends and resets at any point; with an inspector that looks at each
    piece, or at all in the end."""
    recording = Recording()
    if keeps_up:
        recording.recorder._wake = lambda: None
        put = recording.recorder.put

        def put_and_look(*arguments: Any) -> None:
            put(*arguments)
            recording.drain()

        recording.recorder.put = put_and_look  # type: ignore[method-assign]
    assert log_of(make_splice(recording.tap), soup) == log_of(make_splice(None), soup)
    recording.drain()
    assert recording.recorder.head_budget.used == 0
    assert recording.recorder.connections == 0
    assert recording.recorder.waiting == 0
    assert all(each.state is not ExchangeState.OPEN for each in recording.store)


@settings(max_examples=200, deadline=None)
@given(SOUP)
def test_unseen_bytes_anywhere(soup: list[tuple[str, bytes, int]]) -> None:
    recording = Recording()
    for what, data, step in soup:
        direction = IN if "in" in what else OUT
        if what.startswith("unseen"):
            recording.unseen(direction, step)
        elif what.endswith("end"):
            recording.ended(direction)
        elif what in ("in", "out"):
            recording.pass_bytes(direction, *(data[at : at + step] for at in range(0, len(data), step)))
    recording.closed("over")
    assert recording.recorder.head_budget.used == 0
    assert recording.recorder.connections == 0


def test_a_fault_of_the_inspector_stays_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    recording = Recording()
    recording.visitor_sends(GET)
    monkeypatch.setattr(ConnectionParser, "data", broken)
    for _ in range(3):
        recording.tap.tapped(OUT).passed(OK, len(OK))
        other = recording.recorder.tap("other")
        other.tapped(IN).passed(GET, len(GET))
        other.tapped(IN).passed(GET, len(GET))
    with caplog.at_level(logging.ERROR):
        while recording.recorder.drain():
            pass
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert recording.recorder.connections == 0
    assert (recording.only.state, recording.only.notes) == (ExchangeState.BROKEN, [FAILED])


def test_a_fault_of_the_queue_stays_there(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise RuntimeError("no loop")

    recorder = Recorder(ExchangeStore(lambda: 0.0), broken)
    soup = [("in", GET, 9), ("out", OK, 9), ("in end", b"", 1), ("gone", b"", 1)]
    with caplog.at_level(logging.ERROR):
        assert log_of(make_splice(recorder.tap("x")), soup) == log_of(make_splice(None), soup)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


# Bounds.


def test_queue_is_bounded_in_bytes_and_counts_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_QUEUED", 1000)
    recording = Recording()
    recording.visitor_sends(GET)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"
    recording.tap.tapped(OUT).passed(head, len(head))
    for _ in range(50):
        recording.tap.tapped(OUT).passed(b"x" * 100, 100)
    assert recording.recorder.waiting <= 1000
    recording.drain()
    recording.pass_bytes(OUT, OK)  # behind the gap, which was all body
    body = recording.exchanges[0].response.body
    assert body.size == 5000
    assert len(body.data) == 900
    assert "could not keep up" in recording.exchanges[0].notes[0]
    assert recording.exchanges[0].state is ExchangeState.DONE


@pytest.mark.parametrize(
    ("opening", "end"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n", OK),
        (b"HTTP/1.1 200 OK\r\n\r\n", b""),
        (b"\xff", b""),
    ],
)
def test_unwanted_bytes_are_not_queued(opening: bytes, end: bytes) -> None:
    recording = Recording()
    recording.visitor_sends(GET, GET)
    recording.origin_sends(opening)
    pieces = 0
    for _ in range(1000):
        recording.tap.response.passed(b"x" * 10_000, 10_000)
        pieces += len(recording.recorder._queue)
        recording.drain()
    body = (recording.exchanges[2] if opening == b"\xff" else recording.exchanges[0]).response.body
    assert 10_000_000 - limits.REPORT_BYTES < body.size - (opening == b"\xff") <= 10_000_000
    assert pieces < 50, "the kept beginning, and a report now and then"
    if end:
        assert body.size == 10_000_000, "its end is reported when it is there"
        recording.origin_sends(end)
        assert [each.state for each in recording.exchanges] == [ExchangeState.DONE, ExchangeState.DONE]
    recording.closed()
    assert body.size - (opening == b"\xff") == 10_000_000


def test_pieces_that_were_counted_already_are_not_shown_again() -> None:
    """The pieces were on their direction into the queue when the recorder marked their range as not needed."""
    recording = Recording()
    recording.visitor_sends(GET, GET)
    recording.origin_sends(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n", b"x" * 270_000)
    direction = recording.tap.response
    behind = direction.passed_so_far
    direction.skip_until = 0
    direction.passed(b"x" * 20_000, 20_000)
    direction.lost, recording.recorder.has_lost = behind + 10_000, True
    recording.recorder._process_lost()
    assert recording.exchanges[0].response.body.size == 280_000
    recording.origin_sends(b"x" * 10_000 + OK)
    assert recording.exchanges[0].response.body.size == 300_000
    assert [each.state for each in recording.exchanges] == [ExchangeState.DONE, ExchangeState.DONE]


def test_the_last_bytes_of_all_pass_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing follows that would tell of them."""
    recording = Recording()
    recording.visitor_sends(GET)
    recording.origin_sends(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", b"x" * 1000)
    monkeypatch.setattr(limits, "MAX_QUEUED", 100)
    recording.origin_sends(b"x" * 4000)
    assert (recording.only.response.body.size, len(recording.only.response.body.data)) == (5000, 1000)
    assert recording.only.state is ExchangeState.DONE
    assert "could not keep up" in recording.only.notes[0]


def test_without_an_inspector_nothing_of_it_is_on_the_way() -> None:
    assert type(Origin(8000).splice(None)) is TcpSplice  # type: ignore[arg-type]  # nobody joins it


def test_when_a_head_passes_unseen_the_rest_is_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    recording = Recording()
    recording.visitor_sends(GET)
    monkeypatch.setattr(limits, "MAX_QUEUED", 10)
    recording.origin_sends(OK)
    monkeypatch.undo()
    recording.origin_sends(b"more")
    assert [each.kind for each in recording.exchanges] == [ExchangeKind.HTTP, ExchangeKind.RAW]
    assert f"{len(OK)} bytes are missing" in recording.exchanges[1].notes[0]
    recording.closed()


def test_queue_is_bounded_in_pieces_and_keeps_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    recording = Recording()
    taps = [recording.recorder.tap("x") for _ in range(20)]
    for tap in taps:
        recording.pass_bytes(IN, GET, tap=tap)
    monkeypatch.setattr(limits, "MAX_EVENTS", 10)
    for tap in taps:
        tap.tapped(OUT).passed(b"H", 1)
        tap.tapped(IN).ended()
        tap.closed("over")
    assert len(recording.recorder._queue) == 10
    recording.drain()
    assert recording.recorder.connections == 0
    assert {each.state for each in recording.store} == {ExchangeState.BROKEN}


def test_connections_beyond_the_bound_are_counted_not_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_CONNECTIONS", 3)
    recording = Recording()
    taps = [recording.recorder.tap("x") for _ in range(5)]
    for _ in range(2):
        for tap in taps:
            recording.pass_bytes(IN, GET, tap=tap)
    assert (recording.recorder.connections, recording.recorder.unseen_connections, len(recording.store)) == (
        3,
        2,
        6,
    )
    taps[0].closed("")
    recording.pass_bytes(IN, GET, tap=recording.recorder.tap("x"))
    recording.pass_bytes(OUT, OK, tap=taps[4])  # not from its middle
    assert (recording.recorder.connections, recording.recorder.unseen_connections, len(recording.store)) == (
        3,
        2,
        7,
    )


def test_looking_ends_when_its_time_is_over() -> None:
    recording = Recording()
    for _ in range(1000):
        recording.tap.tapped(IN).passed(GET, len(GET))
        recording.tap.tapped(OUT).passed(OK, len(OK))
    assert recording.recorder.drain(0.0)
    assert recording.recorder.waiting == 1000 * len(GET + OK) - len(GET)
    recording.drain()
    assert recording.exchanges[-1].number == 1000


def test_no_wake_is_lost_between_two_threads() -> None:
    """A thread records and another looks when woken; in the end everything has been looked at."""
    woken = threading.Event()
    recorder = Recorder(ExchangeStore(lambda: 0.0), woken.set)
    tap = recorder.tap("x")
    rounds = 5000

    def say() -> None:
        for _ in range(rounds):
            while not recorder.has_room(len(GET)):
                pass
            tap.tapped(IN).passed(b"\x00", 1)

    saying = threading.Thread(target=say)
    saying.start()
    seen = 0
    while seen < rounds:
        assert woken.wait(20), f"asleep after {seen}"
        woken.clear()
        while recorder.drain():
            pass
        seen = sum(exchange.request.body.size for exchange in recorder._store)
    saying.join()


def test_a_closed_recorder_takes_nothing() -> None:
    recording = Recording()
    recording.visitor_sends(GET)
    recording.tap.tapped(IN).passed(GET, len(GET))
    recording.recorder.close()
    recording.tap.tapped(IN).passed(GET, len(GET))
    recording.drain()
    assert len(recording.store) == 1


async def test_slow_watcher_is_told_to_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_EXCHANGES", 5)
    recording, changed = Recording(), asyncio.Event()
    watcher = Watcher(changed)
    recording.store.watchers.add(watcher)
    recording.visitor_sends(GET)
    recording.origin_sends(OK)
    assert changed.is_set()
    assert watcher.take() == [1]
    assert not changed.is_set()
    for _ in range(30):
        recording.visitor_sends(GET)
        recording.origin_sends(OK)
        assert len(watcher._numbers) <= 10
    assert watcher.take() is None
    assert watcher.take() == []


def test_data_after_both_ends_is_ignored() -> None:
    """No stream and no socket brings anything then; if one did, it would be nothing of ours."""
    recording = Recording()
    recording.visitor_sends(GET)
    recording.ended(IN)
    recording.ended(OUT)
    recording.visitor_sends(GET)
    recording.closed("why")
    assert (recording.only.state, recording.recorder.connections) == (ExchangeState.BROKEN, 0)
