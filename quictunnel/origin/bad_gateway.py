"""Response to a visitor whose origin cannot be reached: a reset, or a page for an HTTP/1 request.

This response is the only content that the client ever adds to a visitor's stream. It exists because "nobody
listens on port 8000" is the most common mistake, and a browser's "connection reset" does not show it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from quictunnel.shared.error_page import ErrorPage, NotHttpError, RequestHead, RequestHeadReader, http_response
from quictunnel.wire.codes import StreamCode

if TYPE_CHECKING:
    from quictunnel.origin.dial_failure import DialFailure
    from quictunnel.origin.target import Target
    from quictunnel.transport.stream import Stream

FIRST_BYTES_TIMEOUT: Final = 5.0
"""Seconds to wait for the request of a TLS visitor. Without any request its stream is then reset."""
LINGER_TIMEOUT: Final = 5.0
"""Seconds in which a visitor may still send after the response, such as the body of an upload. A reset at once
could destroy the response before it is read (RFC 9112 section 9.6)."""

_TITLES: Final = {
    "503": "The program behind this tunnel is busy",
    "504": "The local service does not answer in time",
}
_HINT: Final = "If this is your tunnel: start the service, or correct the port, and load this page again."
_HINT_BUSY: Final = "Try again in a moment. If this is your tunnel, the program that opened it reports the reason."


def error_response(failure: DialFailure, target: Target, request: RequestHead) -> bytes:
    """Return the HTTP/1.1 response for a dial failure; without a body for HEAD."""
    number = failure.status[:3]
    title = _TITLES.get(number, "The local service does not answer")
    hint = _HINT if number == "502" else _HINT_BUSY
    return http_response(ErrorPage(failure.status, title, failure.body_for(target), hint), request)


class BadGateway:
    """StreamConsumer that replaces the connection to an origin that cannot be reached."""

    def __init__(self, stream: Stream, target: Target, failure: DialFailure) -> None:
        self._stream = stream
        self._target = target
        self._failure = failure
        self._reader = RequestHeadReader()
        self._answered = False
        self._deadline: asyncio.TimerHandle | None = None
        if stream.preface.tls:
            self._restart(FIRST_BYTES_TIMEOUT)
            stream.attach(self)
        else:
            stream.abort(failure.code)

    def stream_data(self, chunks: list[bytes], size: int) -> None:
        """Send the response when the head of the request is known; discard everything after it."""
        self._stream.consume(size)
        if self._answered:
            return
        try:
            request = self._reader.feed(b"".join(chunks))
        except NotHttpError:
            self._give_up()
        else:
            if request is not None:
                self._answer(request)

    def stream_end(self) -> None:
        """Close the stream if the response was sent, or can be sent; else reset it."""
        self._answer_incomplete()
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

    def _answer(self, request: RequestHead) -> None:
        self._answered = True
        self._stream.write(error_response(self._failure, self._target, request))
        self._stream.finish()
        self._restart(LINGER_TIMEOUT)

    def _answer_incomplete(self) -> None:
        """Answer a request whose head does not end, if it has begun."""
        request = None if self._answered else self._reader.known
        if request is not None:
            self._answer(request)

    def _time_out(self) -> None:
        if self._answered or self._reader.known is None:
            self._give_up()
        else:
            self._answer_incomplete()

    def _give_up(self) -> None:
        self._cancel()
        if self._answered:
            # Not REFUSED, which would mean that the visitor got no response.
            self._stream.abort_after_delivery(StreamCode.ABORTED)
        else:
            self._stream.abort(self._failure.code)

    def _restart(self, seconds: float) -> None:
        self._cancel()
        self._deadline = asyncio.get_running_loop().call_later(seconds, self._time_out)

    def _cancel(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
