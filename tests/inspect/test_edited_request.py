"""Edited requests: one valid request to the origin, whatever a person types."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quictunnel.inspect import limits
from quictunnel.inspect.edited_request import EditedRequest, EditError, changes, encode_request, read_edited
from tests.inspect.recorded_connection import Recording

if TYPE_CHECKING:
    from quictunnel.inspect.exchange_store import Exchange


def recorded(body: bytes = b"tea=2") -> Exchange:
    recording = Recording()
    head = b"POST /basket HTTP/1.1\r\nHost: x\r\nContent-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n"
    recording.visitor_sends(head, b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
    return recording.only


def edited(**changed: Any) -> EditedRequest:
    given = {"method": "POST", "target": "/basket", "headers": [["Host", "x"], ["Content-Encoding", "identity"]]}
    return read_edited(json.dumps(given | changed).encode())


def test_new_body_has_its_length_and_no_coding():
    sent = encode_request(edited(body="tea=33é", target="/b?c", method="PUT"), recorded())
    assert sent == b"PUT /b?c HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\ntea=33\xc3\xa9"


def test_recorded_body_is_sent_as_it_was():
    headers = [["Host", "x"], ["Content-Encoding", "gzip"], ["Content-Length", "99"], ["Expect", "100-continue"]]
    sent = encode_request(edited(headers=headers), recorded(b"\x1f\x8b"))
    assert sent == (
        b"POST /basket HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b"
    )


def test_get_without_a_body_has_no_length():
    assert encode_request(edited(method="GET", body="", headers=[]), recorded()) == b"GET /basket HTTP/1.1\r\n\r\n"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"method": "get"}, "capital letters"),
        ({"method": "G" * 25}, "capital letters"),
        ({"method": "CONNECT"}, "both sides"),
        ({"method": "GET / HTTP/1.1\r\nX:"}, "capital letters"),
        ({"target": "basket"}, "begin with /"),
        ({"target": "http://evil.example/"}, "begin with /"),
        ({"target": "/a b"}, "begin with /"),
        ({"target": "/\r\nX: y"}, "begin with /"),
        ({"headers": [["a b", "c"]]}, "invalid name"),
        ({"headers": [["", "c"]]}, "invalid name"),
        ({"headers": [["a", "b\r\nc: d"]]}, "control characters"),
        ({"headers": [["a", "b\x00"]]}, "control characters"),
        ({"headers": [["Connection", "Upgrade"]]}, "another protocol"),
        ({"headers": [["Upgrade", "websocket"]]}, "another protocol"),
        ({"headers": [["a", "b"]] * (limits.MAX_EDITED_HEADERS + 1)}, "more than"),
        ({"headers": [["a", "b" * limits.MAX_HEAD]]}, "limit is"),
        ({"body": "x" * (limits.MAX_BODY + 1)}, "limit is"),
        ({"headers": "none"}, "not valid"),
        ({"port": 22}, "not valid"),
        ({"body": 5}, "not valid"),
    ],
)
def test_what_is_no_request_is_not_sent(changed: dict[str, Any], why: str):
    with pytest.raises(EditError, match=why):
        encode_request(edited(**changed), recorded())


def test_body_that_was_stored_in_part_needs_another():
    exchange = recorded(b"x" * (limits.MAX_BODY + 1))
    with pytest.raises(EditError, match="Only a part"):
        encode_request(edited(), exchange)
    assert encode_request(edited(body="y"), exchange).endswith(b"\r\n\r\ny")


def test_note_says_what_was_edited():
    exchange = recorded()
    same = [["Host", "x"], ["Content-Encoding", "identity"], ["Content-Length", "7"]]
    assert changes(edited(headers=same), exchange) == ""
    assert changes(edited(headers=same, body="y"), exchange) == "Edited before it was sent: body."
    assert (
        changes(edited(method="PUT", target="/", headers=[]), exchange)
        == "Edited before it was sent: method, path, headers."
    )


@settings(deadline=None)
@given(
    st.text(max_size=5),
    st.text(max_size=10),
    st.lists(st.tuples(st.text(max_size=5), st.text(max_size=8)), max_size=4),
    st.text(max_size=10),
)
def test_any_text_is_one_request_or_none(method: str, target: str, headers: list[tuple[str, str]], body: str):
    request = EditedRequest(method=method or "GET", target="/" + target, headers=headers, body=body)
    try:
        sent = encode_request(request, recorded())
    except EditError:
        return
    head, _, rest = sent.partition(b"\r\n\r\n")
    assert rest == body.encode("utf-8", "replace")
    assert head.count(b"\r\n") <= len(headers) + 1
