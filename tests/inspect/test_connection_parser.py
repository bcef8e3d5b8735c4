"""Tests of the connection parser: HTTP/1 of all kinds, whole and byte by byte, and bytes that are not HTTP."""

from __future__ import annotations

import gzip

import pytest

from quictunnel.inspect import limits
from quictunnel.inspect.exchange_store import Direction, ExchangeKind, ExchangeState
from quictunnel.inspect.views import detail, replay_error
from tests.inspect.recorded_connection import IN, OUT, Recording, bytewise

GET = b"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


@pytest.fixture
def recording() -> Recording:
    return Recording()


CASES = {
    "GET": (GET, OK, "GET", 200, b"", b"hi"),
    "POST": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: r\r\n\r\n",
        "POST",
        201,
        b"abc",
        b"abcde",
    ),
    "chunked up": (
        b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        "PUT",
        204,
        b"0123456789",
        b"",
    ),
    "HEAD": (
        b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
        "HEAD",
        200,
        b"",
        b"",
    ),
    "304": (GET, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", "GET", 304, b"", b""),
    "lone LF": (b"GET / HTTP/1.1\nHost: x\n\n", b"HTTP/1.1 200 OK\nContent-Length: 1\n\n!", "GET", 200, b"", b"!"),
    "empty lines first": (b"\r\n\r\n" + GET, OK, "GET", 200, b"", b"hi"),
    "no reason": (GET, b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "GET", 200, b"", b""),
}


@pytest.mark.parametrize("split", ["whole", "bytewise"])
@pytest.mark.parametrize("case", CASES)
def test_an_exchange(recording: Recording, case: str, split: str) -> None:
    request, response, method, status, sent, received = CASES[case]
    pieces = (lambda data: [data]) if split == "whole" else bytewise
    for turn in range(3):  # keep-alive
        recording.visitor_sends(*pieces(request))
        recording.origin_sends(*pieces(response))
        exchange = recording.exchanges[-1]
        assert len(recording.store) == turn + 1
        assert (exchange.kind, exchange.state) == (ExchangeKind.HTTP, ExchangeState.DONE)
        assert (exchange.method, exchange.status) == (method, status)
        assert (exchange.request.body.data, exchange.response.body.data) == (sent, received)
        assert exchange.is_request_complete
        assert replay_error(exchange) == ""
    recording.closed()
    assert recording.recorder.connections == 0


def test_times_and_sizes(recording: Recording) -> None:
    recording.visitor_sends(GET[:5])
    recording.now += 1
    recording.visitor_sends(GET[5:])
    recording.now += 2
    recording.origin_sends(OK[:10])
    recording.now += 4
    recording.origin_sends(OK[10:])
    exchange = recording.only
    assert (exchange.time_to_first_byte, exchange.duration) == (3.0, 7.0)
    assert exchange.visitor == "192.0.2.1:50000"
    assert exchange.response.body.size == 2


def test_headers_are_shown_as_sent(recording: Recording) -> None:
    recording.visitor_sends(b"GET / HTTP/1.1\r\nHoSt: x\r\nX-A:  1\r\nx-a: caf\xc3\xa9\r\nX-Raw: \xff\r\n\r\n")
    assert detail(recording.only)["request"]["headers"] == [
        ["HoSt", "x"],
        ["X-A", "1"],
        ["x-a", "café"],
        ["X-Raw", "ÿ"],
    ]
    assert detail(recording.only)["request"]["start"] == "GET / HTTP/1.1"


def test_interim_responses(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_INTERIM", 3)
    recording.visitor_sends(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    recording.origin_sends(b"HTTP/1.1 100 Continue\r\n\r\n")
    recording.visitor_sends(b"ok")
    recording.origin_sends(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 9 + OK)
    assert (recording.only.interim, recording.only.status) == ([100, 103, 103], 200)
    assert (recording.only.request.body.data, recording.only.response.body.data) == (b"ok", b"hi")


def test_a_response_until_the_connection_ends(recording: Recording) -> None:
    recording.visitor_sends(b"GET / HTTP/1.0\r\n\r\n")
    recording.origin_sends(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n", b"some", b"thing")
    assert recording.only.state is ExchangeState.OPEN
    recording.ended(OUT)
    assert (recording.only.state, recording.only.version) == (ExchangeState.DONE, "1.0")
    assert recording.only.response.body.data == b"something"


def test_pipelined_requests_get_their_own_answers(recording: Recording) -> None:
    recording.visitor_sends(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(5)))
    answers = b"".join(
        b"HTTP/1.1 20%d OK\r\nContent-Length: 1\r\n\r\n%d" % (number, number) for number in range(4)
    )
    recording.origin_sends(*bytewise(answers))
    assert [(each.target, each.status, bytes(each.response.body.data)) for each in recording.exchanges] == [
        *((f"/{number}", 200 + number, b"%d" % number) for number in range(4)),
        ("/4", 0, b""),
    ]
    assert recording.exchanges[-1].state is ExchangeState.OPEN


def test_an_answer_before_the_request_is_whole(recording: Recording) -> None:
    recording.visitor_sends(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
    recording.origin_sends(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    assert recording.only.state is ExchangeState.DONE
    assert "before the request was complete" in recording.only.notes[0]
    assert "not complete yet" in replay_error(recording.only)
    recording.visitor_sends(b"67890", GET)
    recording.origin_sends(OK)
    assert [each.status for each in recording.exchanges] == [413, 200]
    assert recording.exchanges[0].request.body.data == b"1234567890"


@pytest.mark.parametrize(
    ("answer", "why"), [(b"", "the origin broke"), (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", "")]
)
def test_aborted_exchange_is_not_done(recording: Recording, answer: bytes, why: str) -> None:
    recording.visitor_sends(GET)
    recording.origin_sends(*[answer] * bool(answer))
    recording.closed(why)
    assert recording.only.state is ExchangeState.BROKEN
    assert (why or "ended before the exchange was complete") in recording.only.notes[0]


def test_a_compressed_body_is_shown_as_what_it_is(recording: Recording) -> None:
    packed = gzip.compress(b'{"a": 1}')
    recording.visitor_sends(GET)
    recording.origin_sends(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed), packed
    )
    body = detail(recording.only)["response"]["body"]
    assert (body["text"], body["size"], body["note"]) == (
        '{"a": 1}',
        len(packed),
        "Content-Encoding gzip: decoded.",
    )


@pytest.mark.parametrize(
    ("opening", "word"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2"),
        (b"\x16\x03\x01\x02\x00\x01", "TLS"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
        (b"\x00\x01\x02", "not an HTTP/1 request"),
        (b"get / HTTP/1.1\r\n\r\n", "not an HTTP/1 request"),
        (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", "not an HTTP/1 request"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "not an HTTP/1 request"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", "not an HTTP/1 request"),
    ],
)
@pytest.mark.parametrize("split", ["whole", "bytewise"])
def test_other_protocols_are_shown_as_bytes(recording: Recording, opening: bytes, word: str, split: str) -> None:
    recording.visitor_sends(*([opening] if split == "whole" else bytewise(opening)))
    recording.origin_sends(b"\xffanswer")
    recording.visitor_sends(b"more")
    assert recording.only.kind is ExchangeKind.RAW
    assert word.lower() in recording.only.notes[0].lower()
    assert recording.only.request.body.data == opening + b"more"
    assert recording.only.response.body.data == b"\xffanswer"
    recording.closed()
    assert recording.only.state is ExchangeState.DONE


def test_a_server_that_speaks_first(recording: Recording) -> None:
    recording.origin_sends(b"220 mail.example ESMTP\r\n")
    recording.visitor_sends(b"EHLO x\r\n")
    assert (recording.only.kind, recording.only.response.body.data) == (
        ExchangeKind.RAW,
        b"220 mail.example ESMTP\r\n",
    )


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (b"nonsense", "not HTTP/1"),
        (b"HTTP/1.1 abc\r\n\r\n", "not HTTP/1"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "begin with its size"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", "longer than its size"),
        (OK + OK, "without a request"),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", "not HTTP/1"),
    ],
)
def test_when_it_stops_being_http(recording: Recording, answer: bytes, word: str) -> None:
    recording.visitor_sends(GET)
    recording.origin_sends(answer)
    first, raw = recording.exchanges
    assert (first.kind, raw.kind) == (ExchangeKind.HTTP, ExchangeKind.RAW)
    assert word in raw.notes[0]
    assert bytes(raw.response.body.data) in answer
    assert raw.response.body.data
    if first.state is not ExchangeState.DONE:
        assert (first.state, f"#{raw.number}" in first.notes[0]) == (ExchangeState.BROKEN, True)


def test_the_header_of_the_proxy_protocol_is_no_request(recording: Recording) -> None:
    for header in (
        b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6\r\n",
        b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12),
    ):
        one = Recording()
        one.visitor_sends(header + GET)
        assert (one.only.method, one.only.kind) == ("GET", ExchangeKind.HTTP)
    recording.visitor_sends(b"PROXY TCP4 192.0.2.1 ", b"192.0.2.2 5 6\r\nGE", GET[2:])
    assert recording.only.request.head == GET


def test_connect_becomes_bytes(recording: Recording) -> None:
    recording.visitor_sends(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n")
    recording.origin_sends(b"HTTP/1.1 200 OK\r\n\r\nbytes")
    recording.visitor_sends(b"more")
    connect, raw = recording.exchanges
    assert (connect.state, raw.kind) == (ExchangeState.DONE, ExchangeKind.RAW)
    assert (raw.request.body.data, raw.response.body.data) == (b"more", b"bytes")
    assert "both sides" in replay_error(connect)


def test_an_upgrade_that_is_not_taken_stays_http(recording: Recording) -> None:
    ask = b"GET /%d HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n"
    recording.visitor_sends(ask % 1 + ask % 2)
    assert len(recording.store) == 1  # what follows may be another language
    recording.origin_sends(OK)
    assert len(recording.store) == 2
    recording.origin_sends(OK)
    assert [(each.target, each.status) for each in recording.exchanges] == [("/1", 200), ("/2", 200)]


def test_refused_dial_is_a_broken_exchange(recording: Recording) -> None:
    recording.closed("Nobody listens on port 8000.")
    assert (recording.only.kind, recording.only.state) == (ExchangeKind.RAW, ExchangeState.BROKEN)
    assert recording.only.notes == ["Nobody listens on port 8000."]


def test_a_connection_that_says_nothing_is_nothing(recording: Recording) -> None:
    recording.ended(IN)
    recording.ended(OUT)
    recording.closed()
    assert recording.exchanges == []


# Bounds.


def test_a_remark_that_quotes_a_peer_is_short(recording: Recording) -> None:
    recording.visitor_sends(b"GET / HTTP/1.1\r\n" + b"bad " * 10_000 + b"\r\n\r\n")
    assert len(recording.only.notes[0]) == limits.MAX_NOTE


def test_of_a_body_a_beginning_is_kept_and_the_rest_counted(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_BODY", 100)
    for framing in (b"Content-Length: 1050", b"Transfer-Encoding: chunked"):
        body = b"a" * 60 + b"b" * 990
        if framing.startswith(b"T"):
            pieces = [b"41A\r\n", body[:60], body[60:500], body[500:], b"\r\n0\r\n\r\n"]
        else:
            pieces = [body[:60], body[60:500], body[500:]]
        recording.visitor_sends(GET)
        recording.origin_sends(b"HTTP/1.1 200 OK\r\n%s\r\n\r\n" % framing, *pieces)
        kept = recording.exchanges[-1].response.body
        assert (kept.data, kept.size, recording.exchanges[-1].state) == (body[:100], 1050, ExchangeState.DONE)


def test_of_bytes_a_beginning_is_kept(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_RAW", 100)
    recording.visitor_sends(b"\x00" * 99, b"\x00" * 99, b"\x00" * 99)
    assert (len(recording.only.request.body.data), recording.only.request.body.size) == (100, 297)


@pytest.mark.parametrize("direction", Direction)
def test_a_head_that_never_ends(recording: Recording, direction: Direction) -> None:
    recording.visitor_sends(GET)
    opening = b"GET / HTTP/1.1\r\nX: " if direction is IN else b"HTTP/1.1 200 OK\r\nX: "
    recording.pass_bytes(direction, opening, *[b"x" * 10_000] * 10)
    assert recording.exchanges[-1].kind is ExchangeKind.RAW
    assert f"more than {limits.MAX_HEAD} bytes" in recording.exchanges[-1].notes[0]
    assert recording.exchanges[-1].message(direction).body.size == len(opening) + 100_000
    assert recording.recorder.head_budget.used == 0


def test_the_longest_head_there_is(recording: Recording) -> None:
    opening, end = b"GET / HTTP/1.1\r\nHost: x\r\nX: ", b"\r\n\r\n"
    recording.visitor_sends(opening + b"x" * (limits.MAX_HEAD - len(opening) - len(end)) + end)
    assert (recording.only.kind, len(recording.only.request.head)) == (ExchangeKind.HTTP, limits.MAX_HEAD)


def test_requests_that_wait(recording: Recording) -> None:
    recording.visitor_sends(GET * limits.MAX_PIPELINED)
    assert {each.kind for each in recording.exchanges} == {ExchangeKind.HTTP}
    recording.visitor_sends(GET)
    assert recording.exchanges[-1].kind is ExchangeKind.RAW
    assert "wait for a response" in recording.exchanges[-1].notes[0]


def test_lines_between_chunks(recording: Recording) -> None:
    recording.visitor_sends(GET)
    recording.origin_sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", *[b"x" * 1000] * 5)
    assert "line between chunks is too long" in recording.exchanges[-1].notes[0]


def test_unfinished_heads_share_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_PARSING", 1000)
    recording = Recording()
    taps = [recording.recorder.tap("x") for _ in range(30)]
    for tap in taps:
        recording.pass_bytes(IN, b"GET /" + b"a" * 95, tap=tap)
    assert recording.recorder.head_budget.used == 1000
    assert len(recording.store) == 20  # those that came too late are bytes
    for tap in taps:
        tap.closed("")
    recording.drain()
    assert recording.recorder.head_budget.used == 0


def test_exchanges_make_room_the_oldest_that_ended_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_EXCHANGES", 10)
    recording = Recording()
    recording.visitor_sends(b"GET /first HTTP/1.1\r\nHost: x\r\n\r\n")
    other = recording.recorder.tap("other")
    for _ in range(30):
        recording.pass_bytes(IN, GET, tap=other)
        recording.pass_bytes(OUT, OK, tap=other)
    assert [each.number for each in recording.exchanges] == [1, *range(23, 32)]
    many = [recording.recorder.tap("many") for _ in range(12)]
    for tap in many:
        recording.pass_bytes(IN, GET, tap=tap)
    assert [each.number for each in recording.exchanges] == list(range(34, 44))
    recording.origin_sends(OK)  # to one that is not kept any more


def test_total_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_STORED", 100_000)
    recording = Recording()
    for _ in range(20):
        recording.visitor_sends(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 30000\r\n\r\n", *[b"x" * 10_000] * 3
        )
        recording.origin_sends(OK)
    assert 1 <= len(recording.store) <= 3
    recording.visitor_sends(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n", *[b"x" * 10_000] * 20)
    recording.origin_sends(OK)  # alone it is more than all may be: it made room of itself
    recording.visitor_sends(GET)
    recording.origin_sends(OK)
    assert recording.exchanges[-1].status == 200


def test_clearing_in_the_middle(recording: Recording) -> None:
    recording.visitor_sends(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
    recording.store.clear()
    assert (recording.store.stored, recording.exchanges) == (0, [])
    recording.visitor_sends(b"defghi")
    recording.origin_sends(OK)
    assert recording.exchanges == []
    recording.visitor_sends(GET)
    recording.origin_sends(OK)
    assert recording.only.status == 200
