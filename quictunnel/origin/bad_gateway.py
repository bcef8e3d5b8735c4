"""The answer to a visitor whose origin does not answer: a reset, or for an HTTP/1 request one plain 502, 503 or
504.

That answer is the only byte string that this project ever puts into a visitor's stream. It exists because "nobody
listens on port 8000" is the most common mistake there is, and a browser's "connection reset" hides it.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final

from quictunnel.wire.codes import StreamCode

if TYPE_CHECKING:
    from quictunnel.origin.dial import DialFailure
    from quictunnel.transport.stream import Stream

FIRST_BYTES_TIMEOUT: Final = 5.0
"""Seconds to wait for the first bytes of a TLS visitor before it is reset without an answer."""
LINGER: Final = 5.0
"""Seconds in which a visitor may still send what it was sending (the body of an upload) after the answer;
resetting at once could destroy the answer before it is read (RFC 9112 section 9.6)."""
MAX_METHOD: Final = 24
"""Bytes after which something without a blank is not an HTTP method."""

_METHOD = re.compile(rb"([A-Z][A-Z-]{0,22}) [!-~]")


def method_of(head: bytes) -> str | None:
    """The method of an HTTP/1 request that begins so; '' while undecided; None for anything else."""
    match = _METHOD.match(head)
    if match:
        # The HTTP/2 preface looks like a request with the method PRI (RFC 9113 section 3.4).
        return None if match[1] == b"PRI" else match[1].decode()
    undecided = len(head) < MAX_METHOD and re.fullmatch(rb"([A-Z][A-Z-]*( )?)?", head)
    return "" if undecided else None


def answer(trouble: DialFailure, port: int, method: str) -> bytes:
    """The one answer."""
    body = f"{trouble.status}: {trouble.words.format(port=port)}.\n".encode()
    head = (
        f"HTTP/1.1 {trouble.status}\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\n"
        "Connection: close\r\n\r\n"
    ).encode()
    return head if method == "HEAD" else head + body


class BadGateway:
    """Stands at the end of a stream in place of an origin that did not answer (a StreamSide)."""

    def __init__(self, stream: Stream, port: int, trouble: DialFailure) -> None:
        self._stream = stream
        self._port = port
        self._trouble = trouble
        self._head = b""
        self._answered = False
        self._deadline: asyncio.TimerHandle | None = None
        if stream.preface.tls:
            self._deadline = asyncio.get_running_loop().call_later(FIRST_BYTES_TIMEOUT, self._give_up)
            stream.attach(self)
        else:
            stream.abort(trouble.code)

    def stream_data(self, chunks: list[bytes], size: int) -> None:
        self._stream.consume(size)
        if self._answered:
            return
        self._head = (self._head + b"".join(chunks))[:MAX_METHOD]
        method = method_of(self._head)
        if method is None:
            self._give_up()
        elif method:
            self._answered = True
            self._stream.write(answer(self._trouble, self._port, method))
            self._stream.finish()
            self._restart(LINGER)

    def stream_end(self) -> None:
        if self._answered:
            self._cancel()
            self._stream.consume_end()
        else:
            self._give_up()

    def stream_room(self) -> None:
        """The answer is far below any window; nothing waits for room."""

    def stream_lost(self, code: StreamCode, untaken: object) -> None:  # noqa: ARG002 - whatever it was, there is nobody to tell
        self._cancel()

    def _give_up(self) -> None:
        self._cancel()
        if self._answered:
            self._stream.abort_after_delivery(StreamCode.ABORTED)  # with REFUSED, nothing would have been answered
        else:
            self._stream.abort(self._trouble.code)

    def _restart(self, seconds: float) -> None:
        self._cancel()
        self._deadline = asyncio.get_running_loop().call_later(seconds, self._give_up)

    def _cancel(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
