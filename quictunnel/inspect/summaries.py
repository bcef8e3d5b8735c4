"""Summaries of finished requests, for a terminal: method, path, status, duration and visitor.

::

    queue = RequestQueue()
    with quictunnel.forward(8000, on_request=queue):
        ...
        for summary in queue.take():
            print(summary.method, summary.path, summary.status, summary.seconds, summary.visitor)

A :class:`SummaryTap` reads the heads of HTTP/1 messages and skips their bodies. It stores no byte of a body, and
at most ``MAX_HEAD`` bytes of an incomplete head. It needs no package of the extra ``inspect``. It runs on the
tunnel's thread, so the work for each piece of data is limited as well. A connection that it cannot follow is
reported as raw; of HTTP/2, the requests are only counted, because their heads are compressed (RFC 7541).
"""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from quictunnel.inspect.bodies import Body, BodyError, Chunked, Length, UntilClose
from quictunnel.inspect.frame_counter import FrameCounter
from quictunnel.inspect.heads import end_of_head, guess_protocol
from quictunnel.inspect.request_queue import MAX_PATH, RequestQueue, RequestSummary
from quictunnel.shared.error_page import method_of
from quictunnel.shared.proxy_header import proxy_header

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

MAX_HEAD: Final = 16 * 1024
"""Bytes of a head; most servers accept no more. A connection with a longer one is reported as raw."""
MAX_HEADS: Final = 1024 * 1024
"""Bytes of incomplete heads that all connections of a tunnel together may buffer."""
MAX_PIPELINED: Final = 32
"""Requests of one connection without a response; browsers send one at a time."""
MAX_LINES: Final = 1024
"""Lines between chunks to read of one piece of data, which takes about a millisecond. A body of tiny chunks is not
followed."""
ENDED_EARLY: Final = "The connection ended before the response was complete."
SWITCHED: Final = "The connection uses another protocol now."
HTTP2: Final = "HTTP/2"

_REQUEST: Final = re.compile(rb"([A-Z][A-Z-]{0,22}) ([!-~\x80-\xff]+) HTTP/1\.[01]\r?\n")
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})[ \r\n]")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_PREFACE: Final = len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")


class SummaryTaps:
    """Source of the taps of one tunnel. Used only on the tunnel's thread."""

    def __init__(
        self, report: Callable[[RequestSummary], object], now: Callable[[], float] = time.monotonic
    ) -> None:
        """Create a source.

        Args:
            report: called on the tunnel's thread with each summary; it must return at once. Its first error is
                logged, and the tunnel is not affected.
            now: the monotonic clock.
        """
        self.now = now
        self.buffered = 0
        """Bytes of the incomplete heads of all connections."""
        self._report = report
        self._queue = report if isinstance(report, RequestQueue) else None
        self._has_failed = False

    def tap(self, visitor: str) -> SummaryTap:
        """Return a tap for a new connection of a visitor (``host:port``)."""
        return SummaryTap(self, visitor.rpartition(":")[0].strip("[]"))

    @property
    def is_full(self) -> bool:
        """True if a summary would be dropped, so that requests need not be read."""
        return self._queue is not None and self._queue.is_full

    def skip(self) -> None:
        """Count a request that was not read."""
        assert self._queue is not None, "only a queue is full"
        self._queue.dropped += 1

    def report(self, summary: RequestSummary) -> None:
        """Pass a summary on. Never raises."""
        try:
            self._report(summary)
        except Exception as error:  # noqa: BLE001 - an error of an observer must not reach the byte path
            self.failed(error)

    def failed(self, error: Exception) -> None:
        """Log an error, only the first time."""
        if not self._has_failed:
            self._has_failed = True
            logger.error("a summary of a request failed; the tunnel is not affected", exc_info=error)


class _UnreadableError(Exception):
    """Error of bytes that cannot be followed as HTTP/1."""


class _Pending:
    """Request without a complete response."""

    __slots__ = ("began", "method", "path", "status")

    def __init__(self, method: str, path: str, began: float) -> None:
        self.method = method
        self.path = path
        self.began = began
        self.status = 0


class _BoundedChunked(Chunked):
    """Chunked body with a limited number of lines in one piece of data."""

    lines = 0

    def _on_line(self, line: bytes) -> None:
        self.lines += 1
        if self.lines > MAX_LINES:
            raise BodyError("too many chunks in one piece of data")
        super()._on_line(line)


class SummaryDirection:
    """Direction of a tapped connection."""

    __slots__ = ("_body", "_head", "_is_request", "_tap", "size")

    def __init__(self, tap: SummaryTap, *, is_request: bool) -> None:
        self._tap = tap
        self._is_request = is_request
        self._head = bytearray()
        self._body: Body | None = None
        self.size = 0
        """Bytes that have passed."""

    def passed(self, data: bytes | list[bytes], size: int) -> None:
        """Follow bytes. Never raises."""
        self.size += size
        tap, body = self._tap, self._body
        if tap.is_settled:
            if tap.frames is not None and self._is_request:
                tap.frames.passed(data)
            return
        if (tap.is_paused or (self._is_request and tap.pauses())) and self._skip(data):
            return
        try:
            if body is not None and body.skip(size):
                if body.is_done:
                    self._finish()
                return
            if isinstance(body, _BoundedChunked):
                body.lines = 0
            for piece in (data,) if isinstance(data, bytes) else data:
                if body is not None or self._head or not self._read_whole(piece):
                    self._read(memoryview(piece))
                body = self._body
        except (_UnreadableError, BodyError) as error:
            if tap.is_resuming:
                tap.pause()  # the piece that looked like a request was none
            else:
                tap.settle(str(error))
        except Exception as error:  # noqa: BLE001 - an error of this module must not reach the byte path
            tap.fail(error)

    def _skip(self, data: bytes | list[bytes]) -> bool:
        """Count requests unread while summaries would be dropped. Return False when this piece is to be read.

        A visitor's first piece after a response is taken for a request."""
        tap = self._tap
        if not self._is_request:
            tap.is_answered = True
            return True
        if tap.is_answered:
            first = data if isinstance(data, bytes) else data[0]
            if not tap.taps.is_full and _REQUEST.match(first):
                tap.is_paused, tap.is_resuming = False, True
                return False
            tap.is_answered = False
            tap.taps.skip()
        return True

    def ended(self) -> None:
        """Note the end of this direction: a body that the connection delimits is complete."""
        if isinstance(self._body, UntilClose) and not self._tap.is_settled:
            self._finish()

    def release(self) -> None:
        """Drop what is buffered."""
        self._tap.taps.buffered -= len(self._head)
        self._head.clear()
        self._body = None

    def _read_whole(self, piece: bytes) -> bool:
        """Read a piece that begins with a whole head, without copying it: the common case of small requests.

        Return False to have it read the other way, also for everything that is unusual."""
        tap = self._tap
        if tap.is_settled or len(piece) > MAX_HEAD or b"\n\n" in piece:
            return False
        end = piece.find(b"\n\r\n") + 3
        if end < 3 or not (_REQUEST if self._is_request else _STATUS).match(piece):
            return False
        rest = len(piece) - end
        if self._is_request:
            tap.began_request()
            self._body = tap.on_request(piece if not rest else piece[:end])
        else:
            self._body = tap.on_response(piece if not rest else piece[:end])
        if rest and (self._body is None or not self._body.skip(rest)):
            self._read(memoryview(piece)[end:])
        elif self._body is not None and self._body.is_done:
            self._finish()
        return True

    def _read(self, rest: memoryview) -> None:
        tap = self._tap
        while rest:
            if tap.is_settled:
                if tap.frames is not None and self._is_request:
                    tap.frames.passed(bytes(rest))
                return
            used = self._read_head(rest) if self._body is None else self._body.feed(rest, _ignore)
            rest = rest[used:]
            if self._body is not None and self._body.is_done:
                self._finish()

    def _finish(self) -> None:
        """End the current message."""
        self._body = None
        if not self._is_request:
            self._tap.answered()

    def _read_head(self, data: memoryview) -> int:
        """Buffer bytes up to the end of a head, and return how many of them belong to it."""
        head, taps = self._head, self._tap.taps
        if not head and self._is_request:
            self._tap.began_request()
        before = len(head)
        taken = min(len(data), MAX_HEAD + 1 - before)
        if taps.buffered + taken > MAX_HEADS:
            raise _UnreadableError("too many incomplete heads")
        head += data[:taken]
        taps.buffered += taken
        before = self._check_request(before) if self._is_request else self._check_response(before)
        end = -1 if before < 0 else end_of_head(head, max(0, before - 3))
        if end < 0:
            if len(head) > MAX_HEAD:
                raise _UnreadableError(f"a head of more than {MAX_HEAD} bytes")
            return taken
        used = taken - (len(head) - end)
        complete = bytes(head[:end])
        taps.buffered -= len(head)
        head.clear()
        self._body = self._tap.on_request(complete) if self._is_request else self._tap.on_response(complete)
        return used

    def _check_request(self, before: int) -> int:
        """Remove a PROXY header and empty lines, and check that a request begins.

        Returns the number of bytes that were searched before, or -1 while the PROXY header is incomplete."""
        head, tap = self._head, self._tap
        skipped = 0 if tap.has_request else proxy_header(head)
        if skipped < 0:
            return -1
        if head[skipped:].startswith((b"\r", b"\n")):  # RFC 9112 section 2.2
            skipped = len(head) - len(head[skipped:].lstrip(b"\r\n"))
        if skipped:
            del head[:skipped]
            tap.taps.buffered -= skipped
            before = 0
        if method_of(bytes(head[:64])) is None:
            if not head.startswith(b"PRI *"):
                raise _UnreadableError(guess_protocol(bytes(head[:64])))
            tap.frames = FrameCounter(_PREFACE)
            tap.frames.passed(bytes(head))
            tap.settle(HTTP2)
            return -1
        return before

    def _check_response(self, before: int) -> int:
        if self._head[:7] != b"HTTP/1."[: len(self._head)]:
            raise _UnreadableError("the response is not HTTP/1")
        return before


class SummaryTap:
    """Tapped connection that reports its requests."""

    __slots__ = (
        "_began",
        "_request_began",
        "_waiting",
        "frames",
        "has_request",
        "is_answered",
        "is_paused",
        "is_resuming",
        "is_settled",
        "request",
        "response",
        "taps",
        "visitor",
        "why_raw",
    )

    def __init__(self, taps: SummaryTaps, visitor: str) -> None:
        self.taps = taps
        self.visitor = visitor
        self.request = SummaryDirection(self, is_request=True)
        self.response = SummaryDirection(self, is_request=False)
        self.has_request = False
        """True after the first request."""
        self.is_paused = False
        """True while requests are only counted, because their summaries would be dropped."""
        self.is_answered = True
        """True if a response came after the last counted request."""
        self.is_resuming = False
        """True after a pause, until a response shows that requests are read at the right place."""
        self.is_settled = False
        """True if the connection is not followed any more."""
        self.why_raw = ""
        """Reason why it is reported as a raw connection, or empty."""
        self.frames: FrameCounter | None = None
        self._began = taps.now()
        self._request_began = self._began
        self._waiting: deque[_Pending] = deque()

    def closed(self, why: str) -> None:
        """Report the end of the connection; ``why`` is the error, or empty."""
        if self.why_raw:
            self._report_connection(is_open=False)
            self.why_raw = ""
        elif not self.is_settled and why and not self.has_request:
            self.taps.report(RequestSummary("refused", self.visitor, note=why))
        elif not self.is_settled:
            self._fail_waiting(why or ENDED_EARLY)
        self._release()

    def pauses(self) -> bool:
        """Pause between two requests if their summaries would be dropped. Return True if the tap is paused now."""
        if self.has_request and self.taps.is_full and not self._waiting:
            self.pause()
        return self.is_paused

    def pause(self) -> None:
        """Read nothing until a request begins whose summary is not dropped."""
        self._waiting.clear()
        self.request.release()
        self.response.release()
        self.is_paused, self.is_answered, self.is_resuming = True, True, False

    def settle(self, why: str) -> None:
        """Report a raw connection, and do not follow it any more."""
        self._fail_waiting(why)
        self.why_raw = why
        self._release()
        self._report_connection(is_open=True)

    def fail(self, error: Exception) -> None:
        """Stop following after an internal error."""
        self._release()
        self.taps.failed(error)

    # From the directions.

    def began_request(self) -> None:
        """Note the time of a request's first byte."""
        self._request_began = self.taps.now()

    def on_request(self, head: bytes) -> Body | None:
        """Note a request and return its body."""
        match = _REQUEST.match(head)
        if match is None:
            raise _UnreadableError("this is not an HTTP/1 request")
        if len(self._waiting) >= MAX_PIPELINED:
            raise _UnreadableError(f"more than {MAX_PIPELINED} requests wait for a response")
        self.has_request = True
        self._waiting.append(_Pending(match[1].decode(), _path(match[2]), self._request_began))
        body = _framing(head)
        if isinstance(body, UntilClose):
            raise _UnreadableError("a request whose length is unknown")
        return body

    def on_response(self, head: bytes) -> Body | None:
        """Note a response and return its body."""
        match = _STATUS.match(head)
        if match is None or not self._waiting:
            raise _UnreadableError(
                "the response is not HTTP/1" if match is None else "a response without a request"
            )
        pending, status = self._waiting[0], int(match[1])
        if status < 200 and status != 101:
            return None
        pending.status = status
        self.is_resuming = False
        if status == 101 or (pending.method == "CONNECT" and status < 300):
            self.answered()
            self._fail_waiting(SWITCHED)
            self._release()
            return None
        if pending.method == "HEAD" or status in (204, 304):
            self.answered()
            return None
        return _framing(head) or UntilClose()

    def answered(self) -> None:
        """Report the oldest request, whose response is complete."""
        self._report_request(self._waiting.popleft(), "")

    # Internal.

    def _fail_waiting(self, why: str) -> None:
        while self._waiting:
            self._report_request(self._waiting.popleft(), why)

    def _report_request(self, done: _Pending, note: str) -> None:
        seconds = self.taps.now() - done.began
        self.taps.report(RequestSummary("http", self.visitor, done.method, done.path, done.status, seconds, note))

    def _report_connection(self, *, is_open: bool) -> None:
        is_http2 = self.frames is not None
        self.taps.report(
            RequestSummary(
                "http2" if is_http2 else "raw",
                self.visitor,
                seconds=self.taps.now() - self._began,
                note="" if is_http2 else self.why_raw,
                requests=self.frames.requests if self.frames is not None else 0,
                is_open=is_open,
                bytes_in=0 if is_open else self.request.size,
                bytes_out=0 if is_open else self.response.size,
            )
        )

    def _release(self) -> None:
        self.is_settled = True
        self._waiting.clear()
        self.request.release()
        self.response.release()


def _ignore(content: memoryview) -> None:
    """Store nothing of a body."""


def _path(target: bytes) -> str:
    """Return the path of a request's target for display."""
    text = target.partition(b"?")[0][: 4 * MAX_PATH].decode("utf-8", "replace")[:MAX_PATH]
    return text if text.isprintable() else "".join(each if each.isprintable() else "\ufffd" for each in text)


def _framing(head: bytes) -> Body | None:
    """Return the body that a head announces, or None without one (RFC 9112 section 6.3)."""
    lowered = head.lower()
    codings = _values(lowered, b"\ntransfer-encoding:")
    lengths = set(_values(lowered, b"\ncontent-length:"))
    if codings:
        return _BoundedChunked() if codings[-1].endswith(b"chunked") else UntilClose()
    if not lengths:
        return None
    if len(lengths) > 1 or not _LENGTH.fullmatch(size := lengths.pop()):
        raise _UnreadableError("a wrong Content-Length")
    return Length(int(size))


def _values(lowered: bytes, name: bytes) -> list[bytes]:
    """Return the values of all headers with a name, which begins with the end of the line before."""
    values = []
    at = lowered.find(name)
    while at >= 0:
        at += len(name)
        end = lowered.find(b"\n", at)
        values.append(lowered[at:end].strip())
        at = lowered.find(name, end)
    return values
