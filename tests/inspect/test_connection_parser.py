"""Tests of the connection parser: HTTP/1 of all kinds, whole and byte by byte, and bytes that are not HTTP."""

from __future__ import annotations

import gzip

import pytest

from quictunnel.inspect import limits
from quictunnel.inspect.exchange_store import ExchangeKind, State, Way
from quictunnel.inspect.views import detail, replay_error
from tests.inspect.recorded_connection import IN, OUT, Scene, bytewise

GET = b"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


@pytest.fixture
def scene() -> Scene:
    return Scene()


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
def test_an_exchange(scene: Scene, case: str, split: str) -> None:
    request, response, method, status, sent, received = CASES[case]
    pieces = (lambda data: [data]) if split == "whole" else bytewise
    for turn in range(3):  # keep-alive
        scene.said(*pieces(request))
        scene.answered(*pieces(response))
        exchange = scene.exchanges[-1]
        assert len(scene.store) == turn + 1
        assert (exchange.kind, exchange.state) == (ExchangeKind.HTTP, State.DONE)
        assert (exchange.method, exchange.status) == (method, status)
        assert (exchange.request.body.data, exchange.response.body.data) == (sent, received)
        assert exchange.has_asked
        assert replay_error(exchange) == ""
    scene.gone()
    assert scene.recorder.connections == 0


def test_times_and_sizes(scene: Scene) -> None:
    scene.said(GET[:5])
    scene.now += 1
    scene.said(GET[5:])
    scene.now += 2
    scene.answered(OK[:10])
    scene.now += 4
    scene.answered(OK[10:])
    exchange = scene.only
    assert (exchange.waited, exchange.duration) == (3.0, 7.0)
    assert exchange.visitor == "192.0.2.1:50000"
    assert exchange.response.body.size == 2


def test_headers_are_shown_as_they_came(scene: Scene) -> None:
    scene.said(b"GET / HTTP/1.1\r\nHoSt: x\r\nX-A:  1\r\nx-a: caf\xc3\xa9\r\nX-Raw: \xff\r\n\r\n")
    assert detail(scene.only)["request"]["headers"] == [
        ["HoSt", "x"],
        ["X-A", "1"],
        ["x-a", "café"],
        ["X-Raw", "ÿ"],
    ]
    assert detail(scene.only)["request"]["start"] == "GET / HTTP/1.1"


def test_interim_responses(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_INTERIM", 3)
    scene.said(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    scene.answered(b"HTTP/1.1 100 Continue\r\n\r\n")
    scene.said(b"ok")
    scene.answered(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 9 + OK)
    assert (scene.only.interim, scene.only.status) == ([100, 103, 103], 200)
    assert (scene.only.request.body.data, scene.only.response.body.data) == (b"ok", b"hi")


def test_a_response_until_the_connection_ends(scene: Scene) -> None:
    scene.said(b"GET / HTTP/1.0\r\n\r\n")
    scene.answered(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n", b"some", b"thing")
    assert scene.only.state is State.OPEN
    scene.ended(OUT)
    assert (scene.only.state, scene.only.version) == (State.DONE, "1.0")
    assert scene.only.response.body.data == b"something"


def test_pipelined_requests_get_their_own_answers(scene: Scene) -> None:
    scene.said(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(5)))
    answers = b"".join(
        b"HTTP/1.1 20%d OK\r\nContent-Length: 1\r\n\r\n%d" % (number, number) for number in range(4)
    )
    scene.answered(*bytewise(answers))
    assert [(each.target, each.status, bytes(each.response.body.data)) for each in scene.exchanges] == [
        *((f"/{number}", 200 + number, b"%d" % number) for number in range(4)),
        ("/4", 0, b""),
    ]
    assert scene.exchanges[-1].state is State.OPEN


def test_an_answer_before_the_request_is_whole(scene: Scene) -> None:
    scene.said(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
    scene.answered(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    assert scene.only.state is State.DONE
    assert "before the request was complete" in scene.only.notes[0]
    assert "not complete yet" in replay_error(scene.only)
    scene.said(b"67890", GET)
    scene.answered(OK)
    assert [each.status for each in scene.exchanges] == [413, 200]
    assert scene.exchanges[0].request.body.data == b"1234567890"


@pytest.mark.parametrize(
    ("answer", "why"), [(b"", "the origin broke"), (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", "")]
)
def test_what_breaks_off_is_not_done(scene: Scene, answer: bytes, why: str) -> None:
    scene.said(GET)
    scene.answered(*[answer] * bool(answer))
    scene.gone(why)
    assert scene.only.state is State.BROKEN
    assert (why or "ended before the exchange was complete") in scene.only.notes[0]


def test_a_compressed_body_is_shown_as_what_it_is(scene: Scene) -> None:
    packed = gzip.compress(b'{"a": 1}')
    scene.said(GET)
    scene.answered(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed), packed
    )
    body = detail(scene.only)["response"]["body"]
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
def test_what_is_no_http_is_shown_as_bytes(scene: Scene, opening: bytes, word: str, split: str) -> None:
    scene.said(*([opening] if split == "whole" else bytewise(opening)))
    scene.answered(b"\xffanswer")
    scene.said(b"more")
    assert scene.only.kind is ExchangeKind.RAW
    assert word.lower() in scene.only.notes[0].lower()
    assert scene.only.request.body.data == opening + b"more"
    assert scene.only.response.body.data == b"\xffanswer"
    scene.gone()
    assert scene.only.state is State.DONE


def test_a_server_that_speaks_first(scene: Scene) -> None:
    scene.answered(b"220 mail.example ESMTP\r\n")
    scene.said(b"EHLO x\r\n")
    assert (scene.only.kind, scene.only.response.body.data) == (ExchangeKind.RAW, b"220 mail.example ESMTP\r\n")


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
def test_when_it_stops_being_http(scene: Scene, answer: bytes, word: str) -> None:
    scene.said(GET)
    scene.answered(answer)
    first, raw = scene.exchanges
    assert (first.kind, raw.kind) == (ExchangeKind.HTTP, ExchangeKind.RAW)
    assert word in raw.notes[0]
    assert bytes(raw.response.body.data) in answer
    assert raw.response.body.data
    if first.state is not State.DONE:
        assert (first.state, f"#{raw.number}" in first.notes[0]) == (State.BROKEN, True)


def test_the_header_of_the_proxy_protocol_is_no_request(scene: Scene) -> None:
    for header in (
        b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6\r\n",
        b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12),
    ):
        one = Scene()
        one.said(header + GET)
        assert (one.only.method, one.only.kind) == ("GET", ExchangeKind.HTTP)
    scene.said(b"PROXY TCP4 192.0.2.1 ", b"192.0.2.2 5 6\r\nGE", GET[2:])
    assert scene.only.request.head == GET


def test_connect_becomes_bytes(scene: Scene) -> None:
    scene.said(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n")
    scene.answered(b"HTTP/1.1 200 OK\r\n\r\nbytes")
    scene.said(b"more")
    connect, raw = scene.exchanges
    assert (connect.state, raw.kind) == (State.DONE, ExchangeKind.RAW)
    assert (raw.request.body.data, raw.response.body.data) == (b"more", b"bytes")
    assert "both sides" in replay_error(connect)


def test_an_upgrade_that_is_not_taken_stays_http(scene: Scene) -> None:
    ask = b"GET /%d HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n"
    scene.said(ask % 1 + ask % 2)
    assert len(scene.store) == 1  # what follows may be another language
    scene.answered(OK)
    assert len(scene.store) == 2
    scene.answered(OK)
    assert [(each.target, each.status) for each in scene.exchanges] == [("/1", 200), ("/2", 200)]


def test_nobody_listens(scene: Scene) -> None:
    scene.gone("Nobody listens on port 8000.")
    assert (scene.only.kind, scene.only.state) == (ExchangeKind.RAW, State.BROKEN)
    assert scene.only.notes == ["Nobody listens on port 8000."]


def test_a_connection_that_says_nothing_is_nothing(scene: Scene) -> None:
    scene.ended(IN)
    scene.ended(OUT)
    scene.gone()
    assert scene.exchanges == []


# Bounds.


def test_a_remark_that_quotes_a_peer_is_short(scene: Scene) -> None:
    scene.said(b"GET / HTTP/1.1\r\n" + b"bad " * 10_000 + b"\r\n\r\n")
    assert len(scene.only.notes[0]) == limits.MAX_NOTE


def test_of_a_body_a_beginning_is_kept_and_the_rest_counted(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_BODY", 100)
    for framing in (b"Content-Length: 1050", b"Transfer-Encoding: chunked"):
        body = b"a" * 60 + b"b" * 990
        if framing.startswith(b"T"):
            pieces = [b"41A\r\n", body[:60], body[60:500], body[500:], b"\r\n0\r\n\r\n"]
        else:
            pieces = [body[:60], body[60:500], body[500:]]
        scene.said(GET)
        scene.answered(b"HTTP/1.1 200 OK\r\n%s\r\n\r\n" % framing, *pieces)
        kept = scene.exchanges[-1].response.body
        assert (kept.data, kept.size, scene.exchanges[-1].state) == (body[:100], 1050, State.DONE)


def test_of_bytes_a_beginning_is_kept(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_RAW", 100)
    scene.said(b"\x00" * 99, b"\x00" * 99, b"\x00" * 99)
    assert (len(scene.only.request.body.data), scene.only.request.body.size) == (100, 297)


@pytest.mark.parametrize("way", Way)
def test_a_head_that_never_ends(scene: Scene, way: Way) -> None:
    scene.said(GET)
    opening = b"GET / HTTP/1.1\r\nX: " if way is IN else b"HTTP/1.1 200 OK\r\nX: "
    scene.pass_(way, opening, *[b"x" * 10_000] * 10)
    assert scene.exchanges[-1].kind is ExchangeKind.RAW
    assert f"more than {limits.MAX_HEAD} bytes" in scene.exchanges[-1].notes[0]
    assert scene.exchanges[-1].side(way).body.size == len(opening) + 100_000
    assert scene.recorder.head_budget.held == 0


def test_the_longest_head_there_is(scene: Scene) -> None:
    opening, end = b"GET / HTTP/1.1\r\nHost: x\r\nX: ", b"\r\n\r\n"
    scene.said(opening + b"x" * (limits.MAX_HEAD - len(opening) - len(end)) + end)
    assert (scene.only.kind, len(scene.only.request.head)) == (ExchangeKind.HTTP, limits.MAX_HEAD)


def test_requests_that_wait(scene: Scene) -> None:
    scene.said(GET * limits.MAX_PIPELINED)
    assert {each.kind for each in scene.exchanges} == {ExchangeKind.HTTP}
    scene.said(GET)
    assert scene.exchanges[-1].kind is ExchangeKind.RAW
    assert "wait for a response" in scene.exchanges[-1].notes[0]


def test_lines_between_chunks(scene: Scene) -> None:
    scene.said(GET)
    scene.answered(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", *[b"x" * 1000] * 5)
    assert "line between chunks is too long" in scene.exchanges[-1].notes[0]


def test_what_all_unfinished_heads_hold_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_PARSING", 1000)
    scene = Scene()
    taps = [scene.recorder.tap("x") for _ in range(30)]
    for tap in taps:
        scene.pass_(IN, b"GET /" + b"a" * 95, tap=tap)
    assert scene.recorder.head_budget.held == 1000
    assert len(scene.store) == 20  # those that came too late are bytes
    for tap in taps:
        tap.gone("")
    scene.look()
    assert scene.recorder.head_budget.held == 0


def test_exchanges_make_room_the_oldest_that_ended_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_EXCHANGES", 10)
    scene = Scene()
    scene.said(b"GET /first HTTP/1.1\r\nHost: x\r\n\r\n")
    other = scene.recorder.tap("other")
    for _ in range(30):
        scene.pass_(IN, GET, tap=other)
        scene.pass_(OUT, OK, tap=other)
    assert [each.number for each in scene.exchanges] == [1, *range(23, 32)]
    many = [scene.recorder.tap("many") for _ in range(12)]
    for tap in many:
        scene.pass_(IN, GET, tap=tap)
    assert [each.number for each in scene.exchanges] == list(range(34, 44))
    scene.answered(OK)  # to one that is not kept any more


def test_all_that_is_kept_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_KEPT", 100_000)
    scene = Scene()
    for _ in range(20):
        scene.said(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 30000\r\n\r\n", *[b"x" * 10_000] * 3)
        scene.answered(OK)
    assert 1 <= len(scene.store) <= 3
    scene.said(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n", *[b"x" * 10_000] * 20)
    scene.answered(OK)  # alone it is more than all may be: it made room of itself
    scene.said(GET)
    scene.answered(OK)
    assert scene.exchanges[-1].status == 200


def test_clearing_in_the_middle(scene: Scene) -> None:
    scene.said(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
    scene.store.clear()
    assert (scene.store.kept, scene.exchanges) == (0, [])
    scene.said(b"defghi")
    scene.answered(OK)
    assert scene.exchanges == []
    scene.said(GET)
    scene.answered(OK)
    assert scene.only.status == 200
