"""Response to a visitor whose origin cannot be reached: a reset, or for an HTTP/1 request a plain 502, 503 or 504.

This response is the only content that the client ever adds to a visitor's stream. It exists because "nobody
listens on port 8000" is the most common mistake, and a browser's "connection reset" does not show it.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final

from quictunnel.wire.codes import StreamCode

if TYPE_CHECKING:
    from quictunnel.origin.dial_failure import DialFailure
    from quictunnel.origin.target import Target
    from quictunnel.transport.stream import Stream

FIRST_BYTES_TIMEOUT: Final = 5.0
"""Seconds to wait for the first bytes of a TLS visitor before its stream is reset without a response."""
LINGER_TIMEOUT: Final = 5.0
"""Seconds in which a visitor may still send after the response, such as the body of an upload. A reset at once
could destroy the response before it is read (RFC 9112 section 9.6)."""
MAX_METHOD: Final = 24
"""Bytes after which text without a space is not an HTTP method."""

_METHOD = re.compile(rb"([A-Z][A-Z-]{0,22}) [!-~]")


def method_of(head: bytes) -> str | None:
    """Return the method of an HTTP/1 request from its first bytes; '' while undecided; None for other
    protocols."""
    match = _METHOD.match(head)
    if match:
        # The HTTP/2 preface looks like a request with the method PRI (RFC 9113 section 3.4).
        return None if match[1] == b"PRI" else match[1].decode()
    undecided = len(head) < MAX_METHOD and re.fullmatch(rb"([A-Z][A-Z-]*( )?)?", head)
    return "" if undecided else None


def error_response(failure: DialFailure, target: Target, method: str) -> bytes:
    """Return the HTTP/1.1 response for a dial failure; without a body for HEAD."""
    body = f"{failure.status}: {failure.body_for(target)}.\n".encode()
    head = (
        f"HTTP/1.1 {failure.status}\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\n"
        "Connection: close\r\n\r\n"
    ).encode()
    return head if method == "HEAD" else head + body


class BadGateway:
    """StreamConsumer that replaces the connection to an origin that cannot be reached."""

    def __init__(self, stream: Stream, target: Target, failure: DialFailure) -> None:
        self._stream = stream
        self._target = target
        self._failure = failure
        self._head = b""
        self._answered = False
        self._deadline: asyncio.TimerHandle | None = None
        if stream.preface.tls:
            self._deadline = asyncio.get_running_loop().call_later(FIRST_BYTES_TIMEOUT, self._give_up)
            stream.attach(self)
        else:
            stream.abort(failure.code)

    def stream_data(self, chunks: list[bytes], size: int) -> None:
        """Send the response when the request's method is known; discard everything after it."""
        self._stream.consume(size)
        if self._answered:
            return
        self._head = (self._head + b"".join(chunks))[:MAX_METHOD]
        method = method_of(self._head)
        if method is None:
            self._give_up()
        elif method:
            self._answered = True
            self._stream.write(error_response(self._failure, self._target, method))
            self._stream.finish()
            self._restart(LINGER_TIMEOUT)

    def stream_end(self) -> None:
        """Close the stream if the response was sent, else reset it."""
        if self._answered:
            self._cancel()
            self._stream.consume_end()
        else:
            self._give_up()

    def stream_room(self) -> None:
        """Do nothing: the response is far smaller than any window."""

    def stream_lost(self, code: StreamCode, unconsumed: object) -> None:  # noqa: ARG002 - no origin to close
        """Stop the timer of a stream that was reset."""
        self._cancel()

    def _give_up(self) -> None:
        self._cancel()
        if self._answered:
            # Not REFUSED, which would mean that the visitor got no response.
            self._stream.abort_after_delivery(StreamCode.ABORTED)
        else:
            self._stream.abort(self._failure.code)

    def _restart(self, seconds: float) -> None:
        self._cancel()
        self._deadline = asyncio.get_running_loop().call_later(seconds, self._give_up)

    def _cancel(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
