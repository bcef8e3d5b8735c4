"""Heads of HTTP/1 messages, read by h11, and what they say of the bodies behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import h11

from quictunnel.inspect import limits
from quictunnel.inspect.bodies import Chunked, Length, UntilClose

if TYPE_CHECKING:
    from quictunnel.inspect.bodies import Body

    AnyResponse = h11.Response | h11.InformationalResponse

_V2: Final = b"\r\n\r\n\x00\r\nQUIT\n"
"""How version 2 of the PROXY protocol begins."""


class ParseError(Exception):
    """This is no HTTP/1 (any more)."""


def read_request(head: bytes) -> h11.Request:
    """Raises Misunderstood."""
    try:
        reader = h11.Connection(h11.SERVER, max_incomplete_event_size=2 * limits.MAX_HEAD)
        reader.receive_data(head)
        request = reader.next_event()
    except h11.RemoteProtocolError as error:
        raise ParseError(f"no HTTP/1 request ({error})") from None
    if not isinstance(request, h11.Request):
        raise ParseError("no HTTP/1 request")
    return request


def read_response(head: bytes, method: bytes, *, is_upgrade: bool) -> AnyResponse:
    """``method``, ``is_upgrade``: of what was asked. Raises Misunderstood."""
    try:
        reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=2 * limits.MAX_HEAD)
        reader.send(_stand_in(method, is_upgrade=is_upgrade))
        reader.receive_data(head)
        response = reader.next_event()
    except h11.ProtocolError as error:
        raise ParseError(f"the origin's answer is not HTTP/1 ({error})") from None
    if not isinstance(response, h11.Response | h11.InformationalResponse):
        raise ParseError("the origin's answer is not HTTP/1")
    return response


def end_of_head(head: bytearray, start: int) -> int:
    """Where the body begins; below zero when the head is not complete. A lone LF ends a line, as for h11."""
    ends = [at + len(mark) for mark in (b"\n\r\n", b"\n\n") if (at := head.find(mark, start)) >= 0]
    return min(ends, default=-1)


def request_body(request: h11.Request) -> Body:
    """RFC 9112 section 6.3, points 5 to 7."""
    return _framed(request.headers) or Length(0)


def response_body(response: AnyResponse, method: bytes) -> Body:
    """RFC 9112 section 6.3, points 1 to 8."""
    if method == b"HEAD" or response.status_code in (204, 304):
        return Length(0)
    return _framed(response.headers) or UntilClose()


def _framed(headers: h11._headers.Headers) -> Body | None:
    """h11 has seen to it that there is one of each and that it is a number, or ``chunked``."""
    found = dict(headers)
    if b"transfer-encoding" in found:
        return Chunked()
    return Length(int(found[b"content-length"])) if b"content-length" in found else None


def has_token(headers: h11._headers.Headers, name: bytes, wanted: bytes) -> bool:
    """Whether a header that is a list has this word."""
    return any(
        wanted in [word.strip().lower() for word in value.split(b",")] for key, value in headers if key == name
    )


def _stand_in(method: bytes, *, is_upgrade: bool) -> h11.Request:
    """What h11 has to believe was asked in order to read the answer."""
    headers = [(b"host", b"-")]
    if is_upgrade and method != b"CONNECT":
        headers += [(b"upgrade", b"-"), (b"connection", b"upgrade")]
    return h11.Request(method=method, target=b"/", headers=headers)


def proxy_header(head: bytearray) -> int:
    """How long the header of the PROXY protocol in front of a connection is: 0 when there is none, below zero
    while it is not complete."""
    if head.startswith(b"PROXY "):
        end = head.find(b"\r\n", 0, 108)
        return end + 2 if end >= 0 else -1 if len(head) < 108 else 0
    if head.startswith(_V2):
        return -1 if len(head) < 16 or len(head) < (size := 16 + int.from_bytes(head[14:16], "big")) else size
    return -1 if len(head) > 3 and _V2.startswith(bytes(head)) else 0


def guess(beginning: bytes) -> str:
    """What a connection that does not begin with HTTP/1 may be."""
    if beginning.startswith(b"PRI *"):
        return "HTTP/2 (gRPC speaks it too), which is shown as bytes"
    if beginning[:1] == b"\x16":  # a handshake record (RFC 8446 section 5.1)
        return "TLS, which only its two ends can read"
    if beginning.startswith(b"SSH-"):
        return "SSH, which only its two ends can read"
    return "this is no HTTP/1 request"
