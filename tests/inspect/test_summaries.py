"""Summaries of requests: read from heads alone, bounded, and never in the way of the bytes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quictunnel.inspect import summaries
from quictunnel.inspect.exchange_store import ExchangeState
from quictunnel.inspect.frame_counter import MAX_FRAMES, FrameCounter
from quictunnel.inspect.request_queue import MAX_PATH, RequestQueue, RequestSummary
from quictunnel.inspect.summaries import (
    ENDED_EARLY,
    MAX_HEAD,
    MAX_HEADS,
    MAX_LINES,
    MAX_PIPELINED,
    SWITCHED,
    SummaryTap,
    SummaryTaps,
)
from tests.inspect.recorded_connection import IN, OUT, Recording, bytewise
from tests.inspect.test_recorder import FRAGMENTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.inspect.exchange_store import Direction

GET = b"GET /hello?secret=1 HTTP/1.1\r\nHost: x\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Watched:
    """Tap of one connection, whose time a test sets, and its summaries."""

    def __init__(self) -> None:
        self.now = 100.0
        self.queue = RequestQueue()
        self.taps = SummaryTaps(self.queue, lambda: self.now)
        self.tap = self.connect()

    def connect(self, visitor: str = "203.0.113.9:50000") -> SummaryTap:
        return self.taps.tap(visitor)

    def visitor_sends(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.tap.request.passed([piece], len(piece))

    def origin_sends(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.tap.response.passed(piece, len(piece))

    def take(self) -> list[tuple[str, str, int, str]]:
        return [(each.method, each.path, each.status, each.note) for each in self.queue.take()]


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_request_has_path_status_time_and_visitor(watched: Watched):
    watched.visitor_sends(GET)
    watched.now += 0.004
    watched.origin_sends(OK)
    (summary,) = watched.queue.take()
    assert summary == ("http", "203.0.113.9", "GET", "/hello", 200, pytest.approx(0.004), "", 0, False, 0, 0)
    watched.tap.closed("")
    assert watched.queue.take() == []
    assert watched.taps.buffered == 0


def test_visitor_with_an_ipv6_address(watched: Watched):
    watched.tap = watched.connect("[2001:db8::1]:50000")
    watched.visitor_sends(GET)
    watched.origin_sends(OK)
    assert watched.queue.take()[0].visitor == "2001:db8::1"


@pytest.mark.parametrize("split", [lambda data: (data,), bytewise], ids=["whole", "bytewise"])
def test_any_framing_on_one_connection(watched: Watched, split: Callable[[bytes], list[bytes]]):
    upload = b"POST /form HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nGET \r\n0\r\nX: y\r\n\r\n"
    put = b"PUT /it HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nGET /"
    head = b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"
    watched.visitor_sends(*split(b"PROXY TCP4 1.2.3.4 1.2.3.4 5 6\r\n" + GET))
    watched.origin_sends(*split(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK))
    watched.visitor_sends(*split(upload + b"\r\n" + put + head))
    watched.origin_sends(*split(CHUNKED + b"c\r\nHTTP/1.1 500\r\n0\r\n\r\n"))
    watched.origin_sends(*split(b"HTTP/1.1 204 No Content\r\n\r\n"))
    watched.origin_sends(*split(b"HTTP/1.1 404 Not Found\r\nContent-Length: 10\r\n\r\n"))
    watched.visitor_sends(*split(GET))
    watched.origin_sends(*split(b"HTTP/1.0 200 OK\r\n\r\nuntil the end"))
    assert watched.take() == [
        ("GET", "/hello", 200, ""),
        ("POST", "/form", 200, ""),
        ("PUT", "/it", 204, ""),
        ("HEAD", "/", 404, ""),
    ]
    watched.tap.response.ended()
    assert watched.take() == [("GET", "/hello", 200, "")]


def test_bodies_are_skipped_unread(watched: Watched):
    size = 1 << 40
    watched.visitor_sends(GET)
    watched.origin_sends(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    watched.tap.response.passed(b"", size - 1)  # nothing looks at the bytes
    assert watched.take() == []
    watched.tap.response.passed(b"x", 1)
    assert watched.take() == [("GET", "/hello", 200, "")]


def test_requests_that_would_be_dropped_are_only_counted(monkeypatch: pytest.MonkeyPatch):
    watched = Watched()
    watched.queue = RequestQueue(2)
    watched.taps = SummaryTaps(watched.queue, lambda: watched.now)
    watched.tap = watched.connect("203.0.113.9:50000")
    upload = b"POST /up HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (3 * len(GET))
    for _ in range(2):
        watched.visitor_sends(GET)
        watched.origin_sends(OK)
    with monkeypatch.context() as patched:
        patched.setattr(summaries.SummaryTap, "on_request", None)  # nothing is read
        for _ in range(100):
            watched.visitor_sends(GET)
            watched.origin_sends(OK[:20], OK[20:])
        watched.visitor_sends(upload, GET, GET, GET)
        watched.origin_sends(OK)
    assert watched.take() == [("GET", "/hello", 200, "")] * 2
    assert watched.queue.dropped == 101
    watched.visitor_sends(b"no request")
    watched.origin_sends(OK)
    watched.visitor_sends(GET)
    watched.origin_sends(b"the rest of a long response")
    watched.visitor_sends(GET)
    watched.origin_sends(OK)
    assert watched.take() == [("GET", "/hello", 200, "")]
    assert not watched.tap.is_paused
    watched.visitor_sends(b"bytes")
    assert watched.queue.take()[0].kind == "raw", "read as before"
    watched.tap.closed("")
    assert watched.taps.buffered == 0


def test_upgrade_is_reported_once(watched: Watched):
    watched.visitor_sends(GET)
    watched.origin_sends(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x00")
    watched.visitor_sends(b"\x81\x80abcd")
    watched.tap.closed("")
    assert watched.take() == [("GET", "/hello", 101, "")]


def test_connect_switches_what_was_pipelined_too(watched: Watched):
    watched.visitor_sends(b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n" + GET)
    watched.origin_sends(b"HTTP/1.1 200 OK\r\n\r\n")
    assert watched.take() == [("CONNECT", "x:1", 200, ""), ("GET", "/hello", 0, SWITCHED)]


def test_connection_that_ends_early(watched: Watched):
    watched.visitor_sends(GET, GET)
    watched.origin_sends(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi")
    watched.tap.closed("")
    watched.tap.closed("again")
    assert watched.take() == [("GET", "/hello", 200, ENDED_EARLY), ("GET", "/hello", 0, ENDED_EARLY)]


def test_connection_that_the_origin_refuses(watched: Watched):
    watched.tap.closed("Nobody listens on port 8000; visitors are refused.")
    (summary,) = watched.queue.take()
    assert (summary.kind, summary.note[:6], summary.visitor) == ("refused", "Nobody", "203.0.113.9")


def test_silent_connection_is_not_reported(watched: Watched):
    watched.tap.closed("")
    assert watched.queue.take() == []


@pytest.mark.parametrize(
    ("sent", "note"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
        (b"\x16\x03\x01\x02\x00", "TLS"),
        (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", "not an HTTP/1 request"),
        (b"GET /\x1b[2J HTTP/1.1\r\n\r\n", "not an HTTP/1 request"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "wrong Content-Length"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", "length is unknown"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n", "chunk"),
    ],
)
def test_raw_connection_is_reported_at_both_ends(watched: Watched, sent: bytes, note: str):
    watched.visitor_sends(sent)
    watched.now += 12
    watched.origin_sends(b"any bytes")
    watched.tap.closed("")
    begun, ended = [each for each in watched.queue.take() if each.kind == "raw"]
    assert note in begun.note
    assert begun.is_open
    assert (begun.bytes_in, begun.bytes_out) == (0, 0)
    assert ended == begun._replace(
        seconds=pytest.approx(12), is_open=False, bytes_in=len(sent), bytes_out=len(b"any bytes")
    )
    assert watched.taps.buffered == 0


def test_origin_that_speaks_first_is_raw(watched: Watched):
    watched.origin_sends(b"220 mail.example ESMTP\r\n")
    assert watched.queue.take()[0].kind == "raw"


def frame(kind: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, 4]) + stream.to_bytes(4, "big") + payload


@pytest.mark.parametrize("split", [lambda data: (data,), bytewise], ids=["whole", "bytewise"])
def test_http2_requests_are_counted(watched: Watched, split: Callable[[bytes], list[bytes]]):
    sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0) + frame(1, 1, b"h" * 40) + frame(0, 1, b"d" * 20_000)
    sent += frame(1, 1, b"trailers") + frame(1, 3, b"h")
    watched.visitor_sends(*split(sent))
    watched.origin_sends(frame(4, 0), frame(1, 1, b"h"))
    watched.tap.closed("")
    begun, ended = watched.queue.take()
    assert (begun.kind, begun.is_open, begun.requests) == ("http2", True, 0 if split is bytewise else 1)
    assert (ended.kind, ended.is_open, ended.requests) == ("http2", False, 2)


def test_http2_with_too_many_frames_is_not_counted_further():
    counter = FrameCounter(0)
    counter.passed([frame(1, number, b"") for number in range(1, 2 * MAX_FRAMES, 2)])
    assert counter.requests == MAX_FRAMES
    counter.passed(b"".join(frame(1, number, b"") for number in range(2 * MAX_FRAMES + 1, 9 * MAX_FRAMES, 2)))
    assert counter.requests == 2 * MAX_FRAMES + 1


def test_long_head_is_not_buffered(watched: Watched):
    watched.visitor_sends(GET[:-2], b"X: " + b"y" * (MAX_HEAD - len(GET) - 1))
    assert watched.taps.buffered > MAX_HEAD - 100
    watched.visitor_sends(b"y" * 1_000_000)
    assert f"more than {MAX_HEAD} bytes" in watched.queue.take()[0].note
    assert watched.taps.buffered == 0


def test_incomplete_heads_share_a_limit(watched: Watched):
    piece = GET[:-2] + b"X: " + b"y" * (MAX_HEAD - len(GET) - 1)
    for _ in range(MAX_HEADS // len(piece)):
        watched.connect().request.passed(piece, len(piece))
    assert watched.queue.take() == []
    watched.connect().request.passed(piece, len(piece))
    (summary,) = watched.queue.take()
    assert "too many incomplete heads" in summary.note
    assert watched.taps.buffered <= MAX_HEADS


def test_pipelined_requests_are_limited(watched: Watched):
    watched.visitor_sends(GET * MAX_PIPELINED)
    assert watched.queue.take() == []
    watched.visitor_sends(GET)
    found = watched.queue.take()
    assert [each.kind for each in found] == ["http"] * MAX_PIPELINED + ["raw"]


def test_body_of_tiny_chunks_is_not_followed(watched: Watched):
    watched.visitor_sends(GET)
    watched.origin_sends(CHUNKED, b"1\r\nx\r\n" * (MAX_LINES // 2))
    assert watched.queue.take() == []
    watched.origin_sends(b"1\r\nx\r\n" * MAX_LINES)
    assert [(each.kind, each.status) for each in watched.queue.take()] == [("http", 200), ("raw", 0)]


def test_path_is_short_and_printable(watched: Watched):
    watched.visitor_sends(b"GET /caf\xc3\xa9\xc2\x9b31m\xff" + b"a" * 1000 + b" HTTP/1.1\r\n\r\n")
    watched.origin_sends(OK)
    (summary,) = watched.queue.take()
    assert summary.path == ("/café\ufffd31m\ufffd" + "a" * 1000)[:MAX_PATH]


def test_queue_is_bounded():
    queue = RequestQueue(2)
    for _ in range(5):
        queue(RequestSummary("raw", "192.0.2.1"))
    assert (len(queue.take()), queue.dropped) == (2, 3)
    assert queue.take() == []


def test_error_of_an_observer_is_logged_once(caplog: pytest.LogCaptureFixture):
    def fail(_: RequestSummary) -> None:
        raise ValueError("a fault of the observer")

    tap = SummaryTaps(fail).tap("192.0.2.1:1")
    tap.request.passed([GET, GET], 2 * len(GET))
    tap.response.passed(OK + OK, 2 * len(OK))
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "a fault of the observer" in caplog.text


def test_internal_error_ends_the_tap_alone(watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog):
    def fail(_: bytes) -> None:
        raise ValueError("a fault of ours")

    monkeypatch.setattr(summaries, "_framing", fail)
    watched.visitor_sends(GET, GET)
    watched.origin_sends(OK)
    watched.tap.closed("")
    assert watched.queue.take() == []
    assert "a fault of ours" in caplog.text
    assert watched.taps.buffered == 0


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.one_of(st.sampled_from([*FRAGMENTS, GET, OK]), st.binary(max_size=40))))
)
def test_any_bytes_stay_bounded(pieces: list[tuple[bool, bytes]]):
    watched = Watched()
    for is_request, piece in pieces:
        (watched.visitor_sends if is_request else watched.origin_sends)(piece)
        assert 0 <= watched.taps.buffered <= 2 * (MAX_HEAD + 1)
    watched.tap.closed("")
    assert watched.taps.buffered == 0
    assert watched.taps._has_failed is False


def body_of(framing: str, body: bytes) -> bytes:
    """Return the framing headers, the end of the head, and the body."""
    match framing:
        case "length":
            return b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        case "chunked":
            halves = [half for half in (body[:3], body[3:]) if half]
            chunks = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(half), half) for half in halves)
            return b"transfer-encoding: Chunked\r\n\r\n" + chunks + b"0\r\nTrailer: x\r\n\r\n"
    return b"\r\n"


EXCHANGES = st.lists(
    st.tuples(
        st.sampled_from(["GET", "HEAD", "POST", "DELETE"]),
        st.sampled_from(["none", "length", "chunked"]),
        st.sampled_from([200, 204, 304, 404, 500]),
        st.sampled_from(["length", "chunked"]),
        st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"0\r\n\r\n", b"\n" * 9]),
    ),
    min_size=1,
    max_size=6,
)


@settings(deadline=None)
@given(exchanges=EXCHANGES, step=st.integers(1, 50), pipelined=st.booleans())
def test_it_agrees_with_the_inspector(
    exchanges: list[tuple[str, str, int, str, bytes]], step: int, *, pipelined: bool
):
    """Of any valid conversation in any pieces, both see the same requests and statuses."""
    watched, recording = Watched(), Recording()
    tapped = {IN: watched.tap.request, OUT: watched.tap.response}

    def send(direction: Direction, data: bytes) -> None:
        for at in range(0, len(data), step):
            piece = data[at : at + step]
            tapped[direction].passed(piece, len(piece))
            recording.pass_bytes(direction, piece)

    pairs = []
    for number, (method, framing, status, answer, body) in enumerate(exchanges):
        request = f"{method} /{number}?q HTTP/1.1\r\nHost: x\r\n".encode() + body_of(framing, body)
        response = f"HTTP/1.1 {status} Reason\r\n".encode() + body_of(answer, body)
        if method == "HEAD" or status in (204, 304):
            response = response.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        pairs.append((request, b"HTTP/1.1 100 Continue\r\n\r\n" + response))
    if pipelined:
        pairs = [tuple(map(b"".join, zip(*pairs, strict=True)))]
    for request, response in pairs:
        send(IN, request)
        send(OUT, response)
    expected = [(method, f"/{number}", status, "") for number, (method, _, status, _, _) in enumerate(exchanges)]
    assert watched.take() == expected
    assert [(each.method, each.target.partition("?")[0], each.status) for each in recording.exchanges] == [
        each[:3] for each in expected
    ]
    assert all(each.state is ExchangeState.DONE for each in recording.exchanges)
