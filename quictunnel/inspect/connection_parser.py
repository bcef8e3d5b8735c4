"""Passive parser of one connection: HTTP/1 (heads by h11), WebSocket, or raw bytes.

The parser reads a copy of the bytes and is not part of the byte path. Bytes that it cannot parse, and all that
follow them, are recorded as raw bytes with the reason. No input raises.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from quictunnel.inspect import limits
from quictunnel.inspect.bodies import Body, BodyError, UntilClose
from quictunnel.inspect.event_stream import EventParser
from quictunnel.inspect.exchange_store import Direction, Exchange, ExchangeKind, ExchangeState, Frame
from quictunnel.inspect.heads import end_of_head, guess_protocol
from quictunnel.inspect.http1 import (
    ParseError,
    has_events,
    has_token,
    read_request,
    read_response,
    request_body,
    response_body,
)
from quictunnel.inspect.websocket import FrameError, FrameParser, negotiated_deflate
from quictunnel.shared.error_page import method_of
from quictunnel.shared.proxy_header import proxy_header

if TYPE_CHECKING:
    from quictunnel.inspect.exchange_store import ExchangeStore
    from quictunnel.inspect.http1 import AnyResponse

OVERLOADED: Final = "The inspector could not keep up: {} bytes are missing."
ENDED_EARLY: Final = "The connection ended before the exchange was complete."
NO_REQUEST: Final = "The origin sent data before an HTTP/1 request."


class HeadBudget:
    """Shared budget for the bytes of incomplete heads of all connections."""

    def __init__(self) -> None:
        self.used = 0

    def take(self, size: int) -> bool:
        """Take bytes from the budget (negative: return them). Return False if it is exhausted."""
        if self.used + size > limits.MAX_PARSING:
            return False
        self.used += size
        return True


@dataclass(slots=True)
class _HttpDirection:
    """HTTP/1 state of one direction."""

    direction: Direction
    head: bytearray = field(default_factory=bytearray)
    """Incomplete head, or bytes after a request for another protocol."""
    body: Body | None = None
    """Body of the current message, after its head."""
    exchange: Exchange | None = None
    """Exchange of the current message."""
    events: EventParser | None = None
    """Parser of the current body, if it has server-sent events."""
    began: float | None = None
    has_ended: bool = False


class ConnectionParser:
    """Parser of one connection. Used only on the store's thread."""

    def __init__(
        self, store: ExchangeStore, head_budget: HeadBudget, *, visitor: str, connection: int, replay_of: int = 0
    ) -> None:
        self._store = store
        self._head_budget = head_budget
        self._visitor = visitor
        self._connection = connection
        self._replay_of = replay_of
        self._directions = {direction: _HttpDirection(direction) for direction in Direction}
        self._waiting: deque[Exchange] = deque()
        """Requests without a complete response, the oldest first."""
        self._raw: Exchange | None = None
        self._frames: dict[Direction, FrameParser] | None = None
        self._socket: Exchange | None = None
        self._is_first = True
        self._unread = memoryview(b"")
        """Unparsed bytes of the current piece, which become raw bytes after an error."""
        self.is_over = False

    @property
    def is_answered(self) -> bool:
        """True if every request has its response, and the connection is still HTTP."""
        return not self._waiting and self._raw is None and self._socket is None

    # Input.

    def data(self, direction: Direction, data: bytes, when: float) -> None:
        """Parse bytes of one direction. ``when`` is a monotonic time in seconds."""
        self._parse(direction, memoryview(data), when)

    def skippable(self, direction: Direction) -> int:
        """Return the number of the next bytes that need only be counted."""
        if self._raw is not None:
            return 0 if self._raw.message(direction).body.room else limits.UNLIMITED
        if self._frames is not None:
            frames = self._frames[direction]
            return frames.skippable if frames.is_full else 0
        http = self._directions[direction]
        if http.body is None or http.exchange is None or http.events is not None:
            return 0
        if http.exchange.message(direction).body.room:
            return 0
        return http.body.skippable

    def skip(self, direction: Direction, size: int, when: float) -> bool:
        """Count ``size`` bytes without parsing them if all are skippable. Return False otherwise."""
        if size > self.skippable(direction):
            return False
        http = self._directions[direction]
        if self._raw is not None:
            self._raw.message(direction).body.size += size
            self._store.changed(self._raw)
        elif self._frames is not None:
            self._frames[direction].skip(size)
        elif http.body is not None and http.exchange is not None:
            http.body.skip(size)
            http.exchange.message(direction).body.size += size
            self._store.changed(http.exchange)
            self._on_body_progress(http, when)
        return True

    def gap(self, direction: Direction, size: int, when: float) -> None:
        """Note that ``size`` bytes are missing."""
        http = self._directions[direction]
        exchange = self._raw or self._socket or http.exchange
        if self._raw is not None:
            self._raw.message(direction).body.size += size
        elif self._frames is not None:
            if not self._frames[direction].skip(size):
                self._to_raw(OVERLOADED.format(size), when)
                return
        elif http.body is not None and exchange is not None and http.body.skip(size):
            exchange.message(direction).body.size += size
            if http.events is not None:
                http.events.lost()
            self._on_body_progress(http, when)
        else:
            self._to_raw(OVERLOADED.format(size), when)
            return
        if exchange is not None:
            exchange.note(OVERLOADED.format("some"))
            self._store.changed(exchange)

    def end(self, direction: Direction, when: float) -> None:
        """Note the end of one direction without an error."""
        http = self._directions[direction]
        http.has_ended = True
        if self._raw is None and self._frames is None and isinstance(http.body, UntilClose):
            self._finish(http, when)
        if all(each.has_ended for each in self._directions.values()):
            self.finish(when)

    def finish(self, when: float, why: str = "") -> None:
        """Finish all exchanges at the end of the connection; ``why`` is the error, or empty."""
        if self.is_over:
            return
        self.is_over = True
        self._drop_heads()
        for exchange in self._unfinished():
            if exchange.state is ExchangeState.OPEN:
                may_end = exchange in (self._raw, self._socket) and not why
                exchange.state = ExchangeState.DONE if may_end else ExchangeState.BROKEN
                exchange.response.ended = exchange.response.ended or when
                self._end_exchange(exchange, why or ("" if may_end else ENDED_EARLY))
        self._waiting.clear()

    def closed(self, when: float, why: str) -> None:
        """Note the end of the connection; ``why`` is the error, or empty."""
        if why and self._is_first:
            self._to_raw(why, when)  # without any data, the error itself is shown
        self.finish(when, why)

    def fail(self, why: str) -> None:
        """Stop following the connection after an internal error."""
        self._drop_heads()
        self.is_over = True
        for exchange in self._unfinished():
            if exchange.state is ExchangeState.OPEN:
                exchange.state = ExchangeState.BROKEN
                self._end_exchange(exchange, why)

    # Internal.

    def _unfinished(self) -> list[Exchange]:
        """Return the exchanges in progress."""
        parts = (http.exchange for http in self._directions.values())
        followed = dict.fromkeys([*self._waiting, *parts, self._socket, self._raw])
        return [exchange for exchange in followed if exchange is not None]

    def _parse(self, direction: Direction, data: memoryview, when: float) -> None:
        if self._is_first and direction is Direction.RESPONSE:
            self._to_raw(NO_REQUEST, when)
        self._is_first = False
        if self._raw is not None:
            self._store_raw(direction, data, when)
            return
        try:
            if self._frames is not None:
                self._parse_websocket(direction, data, when)
            else:
                self._parse_http(self._directions[direction], data, when)
        except (ParseError, BodyError, FrameError) as why:
            self._to_raw(f"{str(why)[:1].upper()}{str(why)[1:]}.", when)
            self._store_raw(direction, self._unread, when)

    def _parse_http(self, http: _HttpDirection, data: memoryview, when: float) -> None:
        rest = self._parse_part(http, data, when)
        while rest and self._raw is None:
            if self._frames is not None:
                self._parse_websocket(http.direction, rest, when)
                return
            rest = self._parse_part(http, rest, when)
        if self._raw is not None and rest:
            self._store_raw(http.direction, rest, when)

    def _parse_part(self, http: _HttpDirection, data: memoryview, when: float) -> memoryview:
        """Parse at most one message and return the bytes after it."""
        self._unread = data
        if http.body is None:
            return self._read_head(http, data, when)
        used = http.body.feed(data, lambda piece: self._store_content(http, piece, when))
        self._on_body_progress(http, when)
        return data[used:]

    def _store_content(self, http: _HttpDirection, piece: memoryview, when: float) -> None:
        """Store bytes of a body, and the server-sent events that they complete."""
        exchange = http.exchange
        assert exchange is not None
        self._store.store_body(exchange, http.direction, piece)
        if http.events is not None:
            for event in http.events.feed(piece):
                frame = Frame(http.direction, when, event.kind, event.data, event.size, event.note)
                self._store.add_frame(exchange, frame)

    def _on_body_progress(self, http: _HttpDirection, when: float) -> None:
        assert http.exchange is not None
        assert http.body is not None
        http.exchange.message(http.direction).ended = when
        if http.body.is_done:
            self._finish(http, when)

    def _finish(self, http: _HttpDirection, when: float) -> None:
        """Complete the current message."""
        exchange, http.exchange, http.body, http.events = http.exchange, None, None, None
        assert exchange is not None
        exchange.message(http.direction).ended = when
        if http.direction is Direction.REQUEST:
            exchange.is_request_complete = True
        else:
            self._waiting.popleft()
            exchange.state = ExchangeState.DONE
            if exchange is self._directions[Direction.REQUEST].exchange:
                exchange.note("The origin answered before the request was complete.")
        self._store.changed(exchange)

    # Heads.

    def _read_head(self, http: _HttpDirection, data: memoryview, when: float) -> memoryview:
        if http.direction is Direction.REQUEST and self._waiting and self._waiting[-1].is_upgrade:
            self._buffer_head(http, data)  # the response tells which protocol it is
            return data[:0]
        if not http.head:
            http.began = when
        before = len(http.head)
        taken = min(len(data), limits.MAX_HEAD + 1 - before)
        self._buffer_head(http, data[:taken])
        self._unread = data[taken:]
        if http.direction is Direction.REQUEST:
            before = self._check_beginning(http, before)
        elif http.head[:7] != b"HTTP/1."[: len(http.head)]:
            raise ParseError("the origin's response is not HTTP/1")
        end = -1 if before < 0 else end_of_head(http.head, max(0, before - 3))
        if end < 0:
            if len(http.head) > limits.MAX_HEAD:
                raise ParseError(f"a head of more than {limits.MAX_HEAD} bytes")
            return data[:0]
        head = bytes(http.head[:end])
        rest = memoryview(bytes(http.head[end:]) + bytes(data[taken:]))
        self._release(http)
        self._unread = memoryview(head + bytes(rest))
        if http.direction is Direction.REQUEST:
            self._on_request(http, head, when)
        else:
            self._on_response(http, head, when)
        return rest

    def _buffer_head(self, http: _HttpDirection, data: memoryview) -> None:
        if len(http.head) + len(data) > limits.MAX_HEAD + 1 or not self._head_budget.take(len(data)):
            raise ParseError("incomplete heads exceed the inspector's buffer")
        http.head += data

    def _release(self, http: _HttpDirection) -> None:
        self._head_budget.take(-len(http.head))
        http.head.clear()

    def _drop_heads(self) -> None:
        for http in self._directions.values():
            self._release(http)

    def _check_beginning(self, http: _HttpDirection, before: int) -> int:
        """Remove a PROXY header and empty lines, and check that a request begins.

        Returns:
            The number of bytes of the head that were searched before, or -1 while the PROXY header is incomplete.

        Raises:
            ParseError: the bytes cannot become a request.
        """
        head = http.head
        skipped = proxy_header(head) if not self._had_request else 0
        if skipped < 0:
            return -1
        while skipped < len(head) and head[skipped] in b"\r\n":
            skipped += 1  # RFC 9112 section 2.2
        if skipped:
            del head[:skipped]
            self._head_budget.take(-skipped)
            before = 0
        if method_of(bytes(head[:64])) is None:
            raise ParseError(guess_protocol(bytes(head[:64])))
        return before

    @property
    def _had_request(self) -> bool:
        return bool(self._waiting) or self._directions[Direction.REQUEST].exchange is not None

    def _on_request(self, http: _HttpDirection, head: bytes, when: float) -> None:
        request = read_request(head)
        if len(self._waiting) >= limits.MAX_PIPELINED:
            raise ParseError(f"more than {limits.MAX_PIPELINED} requests wait for a response")
        exchange = self._store.add_exchange(
            ExchangeKind.HTTP, visitor=self._visitor, connection=self._connection, replay_of=self._replay_of
        )
        exchange.method = request.method.decode("ascii")
        exchange.target = request.target.decode("latin-1")
        exchange.version = request.http_version.decode("ascii")
        exchange.is_upgrade = request.method == b"CONNECT" or has_token(request.headers, b"connection", b"upgrade")
        self._store.set_headers(exchange, exchange.request, head, request.headers.raw_items())
        exchange.request.began, exchange.request.ended = http.began, when
        http.exchange = exchange
        http.body = request_body(request)
        self._waiting.append(exchange)
        self._on_body_progress(http, when)

    def _on_response(self, http: _HttpDirection, head: bytes, when: float) -> None:
        if not self._waiting:
            raise ParseError("a response without a request")
        exchange = self._waiting[0]
        method = exchange.method.encode("ascii")
        response = read_response(head, method, is_upgrade=exchange.is_upgrade)
        if response.status_code < 200 and response.status_code != 101:
            exchange.interim = [*exchange.interim, response.status_code][: limits.MAX_INTERIM]
            self._store.changed(exchange)
            return
        exchange.status = response.status_code
        exchange.reason = response.reason.decode("latin-1")
        self._store.set_headers(exchange, exchange.response, head, response.headers.raw_items())
        exchange.response.began, exchange.response.ended = http.began, when
        http.exchange = exchange
        if response.status_code == 101 or (method == b"CONNECT" and 200 <= response.status_code < 300):
            self._switch(exchange, response, when)
            return
        http.body = response_body(response, method)
        http.events = EventParser() if has_events(response) else None
        was_upgrade, exchange.is_upgrade = exchange.is_upgrade, False
        self._on_body_progress(http, when)
        if was_upgrade:
            self._resume_http(when)

    def _resume_http(self, when: float) -> None:
        """Parse the bytes after a request for another protocol as HTTP, because the origin declined."""
        http = self._directions[Direction.REQUEST]
        buffered = bytes(http.head)
        self._release(http)
        if buffered:
            self._parse(http.direction, memoryview(buffered), when)

    # Other protocols.

    def _switch(self, exchange: Exchange, response: AnyResponse, when: float) -> None:
        self._waiting.clear()
        request = self._directions[Direction.REQUEST]
        buffered = bytes(request.head)
        self._release(request)
        for http in self._directions.values():
            http.exchange = http.body = http.events = None
        self._socket = exchange
        if response.status_code == 101 and has_token(response.headers, b"upgrade", b"websocket"):
            exchange.kind = ExchangeKind.WEBSOCKET
            extensions = [value for key, value in response.headers if key == b"sec-websocket-extensions"]
            self._frames = {
                each: FrameParser(negotiated_deflate(extensions, from_server=each is Direction.RESPONSE))
                for each in Direction
            }
            self._store.changed(exchange)
            if buffered:
                self._parse(Direction.REQUEST, memoryview(buffered), when)
        else:
            exchange.state = ExchangeState.DONE
            self._socket = None
            self._to_raw(f"The connection uses another protocol since the response to #{exchange.number}.", when)
            if buffered:
                self._parse(Direction.REQUEST, memoryview(buffered), when)

    def _parse_websocket(self, direction: Direction, data: memoryview, when: float) -> None:
        assert self._socket is not None
        assert self._frames is not None
        self._unread = data
        for message in self._frames[direction].feed(data):
            frame = Frame(direction, when, message.kind, message.data, message.size, message.note)
            self._store.add_frame(self._socket, frame)

    def _to_raw(self, why: str, when: float) -> None:
        """Record the rest of the connection as raw bytes, with the reason."""
        if self._raw is not None:
            self._raw.note(why)
            self._store.changed(self._raw)
            return
        raw = self._raw = self._store.add_exchange(
            ExchangeKind.RAW, visitor=self._visitor, connection=self._connection, replay_of=self._replay_of
        )
        raw.note(why)
        for exchange in self._unfinished():
            if exchange is not raw and exchange.state is ExchangeState.OPEN:
                exchange.state = ExchangeState.BROKEN
                self._end_exchange(exchange, f"Continued as raw bytes in #{raw.number}. {why}")
        self._waiting.clear()
        for http in self._directions.values():
            http.exchange = http.body = http.events = None
            buffered = bytes(http.head)
            self._release(http)
            if buffered:
                self._store_raw(http.direction, memoryview(buffered), when)
        self._socket = self._frames = None

    def _store_raw(self, direction: Direction, data: memoryview, when: float) -> None:
        raw = self._raw
        assert raw is not None
        message = raw.message(direction)
        message.began = message.began or when
        message.ended = when
        self._store.store_body(raw, direction, data)

    def _end_exchange(self, exchange: Exchange, why: str) -> None:
        if why:
            exchange.note(why)
        self._store.changed(exchange)
