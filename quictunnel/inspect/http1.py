"""Parsing of HTTP/1 heads with h11, and the framing of their bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h11

from quictunnel.inspect import limits
from quictunnel.inspect.bodies import Chunked, Length, UntilClose
from quictunnel.inspect.event_stream import MEDIA_TYPE

if TYPE_CHECKING:
    from quictunnel.inspect.bodies import Body

    AnyResponse = h11.Response | h11.InformationalResponse


class ParseError(Exception):
    """Error of bytes that are not HTTP/1."""


def read_request(head: bytes) -> h11.Request:
    """Parse the head of a request.

    Raises:
        ParseError: the head is malformed.
    """
    try:
        reader = h11.Connection(h11.SERVER, max_incomplete_event_size=2 * limits.MAX_HEAD)
        reader.receive_data(head)
        request = reader.next_event()
    except h11.RemoteProtocolError as error:
        raise ParseError(f"not an HTTP/1 request ({error})") from None
    if not isinstance(request, h11.Request):
        raise ParseError("not an HTTP/1 request")
    return request


def read_response(head: bytes, method: bytes, *, is_upgrade: bool) -> AnyResponse:
    """Parse the head of a response.

    Args:
        head: the bytes of the head.
        method: method of the request.
        is_upgrade: True if the request asked for another protocol.

    Raises:
        ParseError: the head is malformed.
    """
    try:
        reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=2 * limits.MAX_HEAD)
        reader.send(_request_context(method, is_upgrade=is_upgrade))
        reader.receive_data(head)
        response = reader.next_event()
    except h11.ProtocolError as error:
        raise ParseError(f"the origin's response is not HTTP/1 ({error})") from None
    if not isinstance(response, h11.Response | h11.InformationalResponse):
        raise ParseError("the origin's response is not HTTP/1")
    return response


def request_body(request: h11.Request) -> Body:
    """Return the body framing of a request (RFC 9112 section 6.3, points 5 to 7)."""
    return _framing_of(request.headers) or Length(0)


def response_body(response: AnyResponse, method: bytes) -> Body:
    """Return the body framing of a response to a method (RFC 9112 section 6.3, points 1 to 8)."""
    if method == b"HEAD" or response.status_code in (204, 304):
        return Length(0)
    return _framing_of(response.headers) or UntilClose()


def _framing_of(headers: h11._headers.Headers) -> Body | None:
    """Return the framing from the headers, or None. h11 has checked that each occurs once and is valid."""
    found = dict(headers)
    if b"transfer-encoding" in found:
        return Chunked()
    return Length(int(found[b"content-length"])) if b"content-length" in found else None


def has_token(headers: h11._headers.Headers, name: bytes, wanted: bytes) -> bool:
    """Return True if a list header contains a token."""
    return any(
        wanted in [word.strip().lower() for word in value.split(b",")] for key, value in headers if key == name
    )


def has_events(response: AnyResponse) -> bool:
    """Return True if the body of a response has server-sent events in plain text."""
    found = dict(response.headers)
    media = found.get(b"content-type", b"").partition(b";")[0].strip().lower()
    return media == MEDIA_TYPE and found.get(b"content-encoding", b"identity").lower() == b"identity"


def _request_context(method: bytes, *, is_upgrade: bool) -> h11.Request:
    """Return the request that h11 needs as context to parse the response."""
    headers = [(b"host", b"-")]
    if is_upgrade and method != b"CONNECT":
        headers += [(b"upgrade", b"-"), (b"connection", b"upgrade")]
    return h11.Request(method=method, target=b"/", headers=headers)
