"""HAR files: valid HAR 1.2, with bodies decoded and nothing invented."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import msgspec
import pytest

from quictunnel.inspect import limits
from quictunnel.inspect.har import har_pieces
from tests.inspect.har_format import check_har
from tests.inspect.recorded_connection import Recording
from tests.inspect.test_search import exchange

BASE = "https://tea.example"


def entries(recording: Recording) -> list[dict[str, Any]]:
    return check_har("".join(har_pieces(recording.store, BASE)))["log"]["entries"]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"startedDateTime": "2023-11-14T22:13:20"}, "startedDateTime"),
        ({"time": -1}, "time"),
        ({"time": 7}, "not the sum"),
        ({"request": {}}, "request"),
        ({"cookie": 1}, "unknown field `cookie`"),
        ({"timings": {"send": 0, "wait": -1, "receive": 0}}, "wait"),
    ],
)
def test_the_format_refuses(change, error):
    recording = Recording()
    exchange(recording, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n")
    har = json.loads("".join(har_pieces(recording.store, BASE)))
    har["log"]["entries"][0] |= change
    with pytest.raises(msgspec.ValidationError, match=error):
        check_har(json.dumps(har))


def test_no_exchange_is_a_valid_file():
    assert entries(Recording()) == []


def test_request_and_response():
    recording = Recording()
    recording.visitor_sends(b"POST /basket?a=1&b=%20c HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
    recording.visitor_sends(b'Content-Length: 9\r\n\r\n{"tea":2}')
    recording.now += 0.25
    recording.origin_sends(b"HTTP/1.1 303 See Other\r\nLocation: /\r\nContent-Length: 4\r\n\r\n")
    recording.now += 0.5
    recording.origin_sends(b"done")
    (entry,) = entries(recording)
    assert entry["request"]["url"] == BASE + "/basket?a=1&b=%20c"
    assert entry["request"]["queryString"] == [{"name": "a", "value": "1"}, {"name": "b", "value": " c"}]
    assert entry["request"]["postData"] == {"mimeType": "application/json", "params": [], "text": '{"tea":2}'}
    assert entry["request"]["headers"][0] == {"name": "Host", "value": "x"}
    assert (entry["response"]["status"], entry["response"]["redirectURL"]) == (303, "/")
    assert entry["response"]["content"] == {"size": 4, "mimeType": "x-unknown", "text": "done"}
    assert entry["timings"] == {"send": 0, "wait": 250, "receive": 500}
    assert entry["time"] == 750
    assert entry["startedDateTime"] == "2023-11-14T22:13:20.000+00:00"


def test_bodies_are_decoded_and_binary_is_base64():
    recording = Recording()
    packed = gzip.compress(b"told in full")
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    exchange(recording, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", head % len(packed) + packed)
    exchange(recording, b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n\x00\xff")
    text, binary = (entry["response"]["content"] for entry in entries(recording))
    assert (text["text"], text["size"], "encoding" in text) == ("told in full", 12, False)
    assert (base64.b64decode(binary["text"]), binary["encoding"]) == (b"\x00\xff", "base64")


def test_form_has_its_fields():
    recording = Recording()
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    exchange(recording, head + b"Content-Length: 8\r\n\r\na=%C3%A9", b"HTTP/1.1 204 No Content\r\n\r\n")
    assert entries(recording)[0]["request"]["postData"]["params"] == [{"name": "a", "value": "é"}]


def test_incomplete_exchanges_are_valid_too():
    recording = Recording()
    exchange(recording, b"OPTIONS * HTTP/1.0\r\n\r\n", b"")
    exchange(
        recording, b"GET http://x/y HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi"
    )
    body = b"x" * (limits.MAX_BODY + 1)
    exchange(recording, b"GET /l HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n" + body)
    exchange(recording, b"SSH-2.0-x\r\n", b"not HTTP")
    star, early, large = entries(recording)
    assert (star["response"]["status"], star["request"]["url"], star["timings"]["wait"]) == (0, BASE + "/", 0)
    assert "ended before" in early["comment"]
    assert large["response"]["content"]["size"] == limits.MAX_BODY + 1
    assert "were stored" in large["response"]["content"]["comment"]


def test_websocket_messages():
    recording = Recording()
    upgrade = b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    exchange(recording, upgrade, b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\n\r\n\x81\x05steam\x82\x01\xff")
    (entry,) = entries(recording)
    assert entry["_resourceType"] == "websocket"
    assert [(each["type"], each["opcode"], each["data"]) for each in entry["_webSocketMessages"]] == [
        ("receive", 1, "steam"),
        ("receive", 2, "/w=="),
    ]


def test_one_piece_for_each_exchange():
    """The page's server writes them one after the other, so that no file is in memory as a whole."""
    recording = Recording()
    for _ in range(5):
        exchange(recording, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n")
    assert len(list(har_pieces(recording.store, BASE))) == 7
