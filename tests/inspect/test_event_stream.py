"""Server-sent events: parsed as the standard says, in any pieces, within limits."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quictunnel.inspect import limits
from quictunnel.inspect.event_stream import EventParser, ServerEvent
from quictunnel.inspect.exchange_store import ExchangeState
from tests.inspect.recorded_connection import OUT, Recording, bytewise

STREAM = (
    b"\xef\xbb\xbf: keep-alive\r\n\r\n"
    b"event: price\ndata: 3\ndata:4\nid: 7\nretry: 10\n\n"
    b"data\r\rid: none\n\ndata: incomplete\n"
)
EVENTS = [
    ServerEvent("comment", b"keep-alive", 11, ""),
    ServerEvent("price", b"3\n4", 3, "id 7"),
    ServerEvent("message", b"", 0, ""),
]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"


@pytest.mark.parametrize("split", [lambda data: (data,), bytewise], ids=["whole", "bytewise"])
def test_events(split):
    parser = EventParser()
    assert [event for piece in split(STREAM) for event in parser.feed(piece)] == EVENTS


def test_events_and_lines_are_stored_in_part():
    parser = EventParser()
    line = b"data: " + b"x" * limits.MAX_FRAME + b"\n"
    for _ in range(3):
        assert list(parser.feed(line)) == []
    (event,) = parser.feed(b"\n")
    assert (len(event.data), event.size) == (limits.MAX_FRAME, 3 * limits.MAX_FRAME + 2)
    list(parser.feed(b"y" * 100_000))
    assert len(parser._line) == limits.MAX_FRAME


def test_event_with_missing_bytes_is_dropped():
    parser = EventParser()
    assert list(parser.feed(b"data: one\n")) == []
    parser.lost()
    assert [event.data for event in parser.feed(b"rest\ndata: of it\n\ndata: two\n\n")] == [b"two"]


@settings(deadline=None)
@given(st.lists(st.one_of(st.sampled_from([b"data: x", b"\n", b"\r", b":", b"event: e"]), st.binary(max_size=9))))
def test_pieces_do_not_matter(pieces: list[bytes]):
    one, many = EventParser(), EventParser()
    found = [event for piece in pieces for event in many.feed(piece)]
    assert list(one.feed(b"".join(pieces))) == found


def test_exchange_has_the_events_with_their_times():
    recording = Recording()
    recording.visitor_sends(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
    recording.origin_sends(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    for text in (b"one", b"two"):
        recording.now += 1
        piece = b"data: %s\n\n" % text
        recording.origin_sends(b"%x\r\n%s\r\n" % (len(piece), piece))
    assert [(frame.direction, frame.when, frame.data) for frame in recording.only.frames] == [
        (OUT, 101.0, b"one"),
        (OUT, 102.0, b"two"),
    ]
    recording.origin_sends(b"0\r\n\r\n")
    assert recording.only.state is ExchangeState.DONE


def test_long_stream_keeps_its_latest_events():
    """The body keeps its beginning, and the events the end."""
    recording = Recording()
    recording.visitor_sends(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
    recording.origin_sends(HEAD + b"\r\n")
    for number in range(limits.MAX_FRAMES + 500):
        recording.origin_sends(b"data: %0500d\n\n" % number)
    only = recording.only
    assert (len(only.frames), only.frames_seen) == (limits.MAX_FRAMES, limits.MAX_FRAMES + 500)
    assert int(only.frames[-1].data) == limits.MAX_FRAMES + 499
    assert len(only.response.body.data) == limits.MAX_BODY


def test_missing_bytes_of_a_stream():
    recording = Recording()
    recording.visitor_sends(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
    recording.origin_sends(HEAD + b"\r\ndata: one\n\ndata: t")
    recording.unseen(OUT, 1000)
    recording.origin_sends(b"\n\ndata: three\n\n")
    assert [frame.data for frame in recording.only.frames] == [b"one", b"three"]
    assert "could not keep up" in recording.only.notes[0]


def test_compressed_stream_has_no_events():
    recording = Recording()
    recording.visitor_sends(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
    recording.origin_sends(HEAD + b"Content-Encoding: gzip\r\n\r\ndata: one\n\n")
    assert len(recording.only.frames) == 0
