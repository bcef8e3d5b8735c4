"""Search in what is stored: every part, decoded, with limits."""

from __future__ import annotations

import gzip

import pytest

from quictunnel.inspect import limits
from quictunnel.inspect.search import Searches
from tests.inspect.recorded_connection import Recording


def exchange(recording: Recording, request: bytes, response: bytes) -> None:
    recording.tap = recording.recorder.tap("192.0.2.1:1")
    recording.visitor_sends(request)
    recording.origin_sends(response)
    recording.closed()


@pytest.fixture
def recording() -> Recording:
    recording = Recording()
    packed = gzip.compress(b"x" * 1000 + "Größe <b>42</b>".encode() + b"y" * 1000)
    post = b"POST /basket HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nOolong"
    exchange(recording, post, b"HTTP/1.1 200 OK\r\nX-Kind: green\r\nContent-Length: 0\r\n\r\n")
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    exchange(recording, b"GET /sizes HTTP/1.1\r\nHost: x\r\n\r\n", head + packed)
    exchange(recording, b"GET /l1 HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nGr\xf6\xdfe")
    upgrade = b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    exchange(recording, upgrade, b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\n\r\n\x81\x05steam")
    return recording


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("/basket", [(1, "request")]),
        ("OOLONG", [(1, "request body")]),
        ("x-kind: GREEN", [(1, "response")]),
        ("<b>42", [(2, "response body")]),
        ("Größe", [(3, "response body"), (2, "response body")]),
        ("steam", [(4, "message")]),
        (".", [(4, "request"), (3, "request"), (2, "request"), (1, "request")]),
        ("no such", []),
    ],
)
async def test_each_part_is_searched(recording: Recording, text: str, found: list[tuple[int, str]]):
    result = await Searches(recording.store).find(text)
    assert [(match.number, match.where) for match in result.matches] == found
    assert (result.searched, result.is_complete) == (4, True)


async def test_match_is_shown_with_little_around_it(recording: Recording):
    (match,) = (await Searches(recording.store).find("<b>42</b>")).matches
    assert "<b>42</b>" in match.around
    assert len(match.around) < 120


async def test_time_is_limited(recording: Recording, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "SEARCH_TIME", 0.0)
    result = await Searches(recording.store).find("x")
    assert (result.searched, result.is_complete) == (0, False)
