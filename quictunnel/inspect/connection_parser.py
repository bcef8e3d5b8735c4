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
from quictunnel.inspect.exchange_store import Exchange, ExchangeKind, Frame, State, Way
from quictunnel.inspect.http1 import (
    ParseError,
    end_of_head,
    guess_protocol,
    has_token,
    proxy_header,
    read_request,
    read_response,
    request_body,
    response_body,
)
from quictunnel.inspect.websocket import FrameError, FrameParser, negotiated_deflate
from quictunnel.origin.bad_gateway import method_of

if TYPE_CHECKING:
    from quictunnel.inspect.exchange_store import ExchangeStore
    from quictunnel.inspect.http1 import AnyResponse

OVERLOADED: Final = "The inspector could not keep up: {} bytes are missing."
ENDED_EARLY: Final = "The connection ended before the exchange was complete."
NOT_ASKED: Final = "The origin sent data before an HTTP/1 request."


class HeadBudget:
    """Shared budget for the bytes of incomplete heads of all connections."""

    def __init__(self) -> None:
        self.held = 0

    def take(self, size: int) -> bool:
        """Take bytes from the budget (negative: return them). Return False if it is exhausted."""
        if self.held + size > limits.MAX_PARSING:
            return False
        self.held += size
        return True


@dataclass(slots=True)
class _Side:
    """HTTP/1 state of one direction."""

    way: Way
    head: bytearray = field(default_factory=bytearray)
    """Incomplete head, or bytes after a request for another protocol."""
    body: Body | None = None
    """Body of the current message, after its head."""
    exchange: Exchange | None = None
    """Exchange of the current message."""
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
        self._sides = {way: _Side(way) for way in Way}
        self._waiting: deque[Exchange] = deque()
        """Requests without a complete response, the oldest first."""
        self._raw: Exchange | None = None
        self._frames: dict[Way, FrameParser] | None = None
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

    def data(self, way: Way, data: bytes, when: float) -> None:
        """Parse bytes of one direction. ``when`` is a monotonic time in seconds."""
        self._parse(way, memoryview(data), when)

    def skippable(self, way: Way) -> int:
        """Return the number of the next bytes that need only be counted."""
        if self._raw is not None:
            return 0 if self._raw.side(way).body.room else limits.UNLIMITED
        if self._frames is not None:
            frames = self._frames[way]
            return frames.skippable if frames.is_full else 0
        side = self._sides[way]
        if side.body is None or side.exchange is None or side.exchange.side(way).body.room:
            return 0
        return side.body.skippable

    def skip(self, way: Way, size: int, when: float) -> bool:
        """Count ``size`` bytes without parsing them if all are skippable. Return False otherwise."""
        if size > self.skippable(way):
            return False
        side = self._sides[way]
        if self._raw is not None:
            self._raw.side(way).body.size += size
            self._store.changed(self._raw)
        elif self._frames is not None:
            self._frames[way].skip(size)
        elif side.body is not None and side.exchange is not None:
            side.body.skip(size)
            side.exchange.side(way).body.size += size
            self._store.changed(side.exchange)
            self._body_moved(side, when)
        return True

    def gap(self, way: Way, size: int, when: float) -> None:
        """Note that ``size`` bytes are missing."""
        side = self._sides[way]
        exchange = self._raw or self._socket or side.exchange
        if self._raw is not None:
            self._raw.side(way).body.size += size
        elif self._frames is not None:
            if not self._frames[way].skip(size):
                self._to_raw(OVERLOADED.format(size), when)
                return
        elif side.body is not None and exchange is not None and side.body.skip(size):
            exchange.side(way).body.size += size
            self._body_moved(side, when)
        else:
            self._to_raw(OVERLOADED.format(size), when)
            return
        if exchange is not None:
            exchange.note(OVERLOADED.format("some"))
            self._store.changed(exchange)

    def end(self, way: Way, when: float) -> None:
        """Note the end of one direction without an error."""
        side = self._sides[way]
        side.has_ended = True
        if self._raw is None and self._frames is None and isinstance(side.body, UntilClose):
            self._finish(side, when)
        if all(each.has_ended for each in self._sides.values()):
            self.over(when)

    def over(self, when: float, why: str = "") -> None:
        """Finish all exchanges at the end of the connection."""
        if self.is_over:
            return
        self.is_over = True
        self._drop_heads()
        for exchange in self._followed():
            if exchange.state is State.OPEN:
                may_end = exchange in (self._raw, self._socket) and not why
                exchange.state = State.DONE if may_end else State.BROKEN
                exchange.response.ended = exchange.response.ended or when
                self._settled(exchange, why or ("" if may_end else ENDED_EARLY))
        self._waiting.clear()

    def gone(self, when: float, why: str) -> None:
        """Note the end of the connection; ``why`` is the error, or empty."""
        if why and self._is_first:
            self._to_raw(why, when)  # without any data, the error itself is shown
        self.over(when, why)

    def fail(self, why: str) -> None:
        """Stop following the connection after an internal error."""
        self._drop_heads()
        self.is_over = True
        for exchange in self._followed():
            if exchange.state is State.OPEN:
                exchange.state = State.BROKEN
                self._settled(exchange, why)

    # Internal.

    def _followed(self) -> list[Exchange]:
        """Return the exchanges in progress."""
        sides = (side.exchange for side in self._sides.values())
        followed = dict.fromkeys([*self._waiting, *sides, self._socket, self._raw])
        return [exchange for exchange in followed if exchange is not None]

    def _parse(self, way: Way, data: memoryview, when: float) -> None:
        if self._is_first and way is Way.RESPONSE:
            self._to_raw(NOT_ASKED, when)
        self._is_first = False
        if self._raw is not None:
            self._keep_raw(way, data, when)
            return
        try:
            if self._frames is not None:
                self._websocket(way, data, when)
            else:
                self._http(self._sides[way], data, when)
        except (ParseError, BodyError, FrameError) as why:
            self._to_raw(f"{str(why)[:1].upper()}{str(why)[1:]}.", when)
            self._keep_raw(way, self._unread, when)

    def _http(self, side: _Side, data: memoryview, when: float) -> None:
        rest = self._parse_part(side, data, when)
        while rest and self._raw is None:
            if self._frames is not None:
                self._websocket(side.way, rest, when)
                return
            rest = self._parse_part(side, rest, when)
        if self._raw is not None and rest:
            self._keep_raw(side.way, rest, when)

    def _parse_part(self, side: _Side, data: memoryview, when: float) -> memoryview:
        """Parse at most one message and return the bytes after it."""
        self._unread = data
        if side.body is None:
            return self._read_head(side, data, when)
        exchange = side.exchange
        assert exchange is not None
        used = side.body.feed(data, lambda piece: self._store.keep(exchange, side.way, piece))
        self._body_moved(side, when)
        return data[used:]

    def _body_moved(self, side: _Side, when: float) -> None:
        assert side.exchange is not None
        assert side.body is not None
        side.exchange.side(side.way).ended = when
        if side.body.is_done:
            self._finish(side, when)

    def _finish(self, side: _Side, when: float) -> None:
        """Complete the current message."""
        exchange, side.exchange, side.body = side.exchange, None, None
        assert exchange is not None
        exchange.side(side.way).ended = when
        if side.way is Way.REQUEST:
            exchange.has_asked = True
        else:
            self._waiting.popleft()
            exchange.state = State.DONE
            if exchange is self._sides[Way.REQUEST].exchange:
                exchange.note("The origin answered before the request was complete.")
        self._store.changed(exchange)

    # Heads.

    def _read_head(self, side: _Side, data: memoryview, when: float) -> memoryview:
        if side.way is Way.REQUEST and self._waiting and self._waiting[-1].is_upgrade:
            self._hold(side, data)  # the response tells which protocol it is
            return data[:0]
        if not side.head:
            side.began = when
        before = len(side.head)
        taken = min(len(data), limits.MAX_HEAD + 1 - before)
        self._hold(side, data[:taken])
        self._unread = data[taken:]
        if side.way is Way.REQUEST:
            before = self._check_beginning(side, before)
        elif side.head[:7] != b"HTTP/1."[: len(side.head)]:
            raise ParseError("the origin's response is not HTTP/1")
        end = -1 if before < 0 else end_of_head(side.head, max(0, before - 3))
        if end < 0:
            if len(side.head) > limits.MAX_HEAD:
                raise ParseError(f"a head of more than {limits.MAX_HEAD} bytes")
            return data[:0]
        head = bytes(side.head[:end])
        rest = memoryview(bytes(side.head[end:]) + bytes(data[taken:]))
        self._release(side)
        self._unread = memoryview(head + bytes(rest))
        if side.way is Way.REQUEST:
            self._has_request(side, head, when)
        else:
            self._has_response(side, head, when)
        return rest

    def _hold(self, side: _Side, data: memoryview) -> None:
        if len(side.head) + len(data) > limits.MAX_HEAD + 1 or not self._head_budget.take(len(data)):
            raise ParseError("incomplete heads exceed the inspector's buffer")
        side.head += data

    def _release(self, side: _Side) -> None:
        self._head_budget.take(-len(side.head))
        side.head.clear()

    def _drop_heads(self) -> None:
        for side in self._sides.values():
            self._release(side)

    def _check_beginning(self, side: _Side, before: int) -> int:
        """Remove a PROXY header and empty lines, and check that a request begins.

        Returns:
            The number of bytes of the head that were searched before, or -1 while the PROXY header is incomplete.

        Raises:
            ParseError: the bytes cannot become a request.
        """
        head = side.head
        skipped = proxy_header(head) if not self._has_spoken else 0
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
    def _has_spoken(self) -> bool:
        return bool(self._waiting) or self._sides[Way.REQUEST].exchange is not None

    def _has_request(self, side: _Side, head: bytes, when: float) -> None:
        request = read_request(head)
        if len(self._waiting) >= limits.MAX_PIPELINED:
            raise ParseError(f"more than {limits.MAX_PIPELINED} requests wait for a response")
        exchange = self._store.new(
            ExchangeKind.HTTP, visitor=self._visitor, connection=self._connection, replay_of=self._replay_of
        )
        exchange.method = request.method.decode("ascii")
        exchange.target = request.target.decode("latin-1")
        exchange.version = request.http_version.decode("ascii")
        exchange.is_upgrade = request.method == b"CONNECT" or has_token(request.headers, b"connection", b"upgrade")
        self._store.headers(exchange, exchange.request, head, request.headers.raw_items())
        exchange.request.began, exchange.request.ended = side.began, when
        side.exchange = exchange
        side.body = request_body(request)
        self._waiting.append(exchange)
        self._body_moved(side, when)

    def _has_response(self, side: _Side, head: bytes, when: float) -> None:
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
        self._store.headers(exchange, exchange.response, head, response.headers.raw_items())
        exchange.response.began, exchange.response.ended = side.began, when
        side.exchange = exchange
        if response.status_code == 101 or (method == b"CONNECT" and 200 <= response.status_code < 300):
            self._switch(exchange, response, when)
            return
        side.body = response_body(response, method)
        was_upgrade, exchange.is_upgrade = exchange.is_upgrade, False
        self._body_moved(side, when)
        if was_upgrade:
            self._go_on(when)

    def _go_on(self, when: float) -> None:
        """Parse the bytes after a request for another protocol as HTTP, because the origin declined."""
        side = self._sides[Way.REQUEST]
        held = bytes(side.head)
        self._release(side)
        if held:
            self._parse(side.way, memoryview(held), when)

    # Other protocols.

    def _switch(self, exchange: Exchange, response: AnyResponse, when: float) -> None:
        self._waiting.clear()
        request = self._sides[Way.REQUEST]
        held = bytes(request.head)
        self._release(request)
        for side in self._sides.values():
            side.exchange = side.body = None
        self._socket = exchange
        if response.status_code == 101 and has_token(response.headers, b"upgrade", b"websocket"):
            exchange.kind = ExchangeKind.WEBSOCKET
            extensions = [value for key, value in response.headers if key == b"sec-websocket-extensions"]
            self._frames = {
                way: FrameParser(negotiated_deflate(extensions, from_server=way is Way.RESPONSE)) for way in Way
            }
            self._store.changed(exchange)
            if held:
                self._parse(Way.REQUEST, memoryview(held), when)
        else:
            exchange.state = State.DONE
            self._socket = None
            self._to_raw(f"The connection uses another protocol since the response to #{exchange.number}.", when)
            if held:
                self._parse(Way.REQUEST, memoryview(held), when)

    def _websocket(self, way: Way, data: memoryview, when: float) -> None:
        assert self._socket is not None
        assert self._frames is not None
        self._unread = data
        for message in self._frames[way].feed(data):
            frame = Frame(way, when, message.kind, message.data, message.size, message.note)
            self._store.frame(self._socket, frame)

    def _to_raw(self, why: str, when: float) -> None:
        """Record the rest of the connection as raw bytes, with the reason."""
        if self._raw is not None:
            self._raw.note(why)
            self._store.changed(self._raw)
            return
        raw = self._raw = self._store.new(
            ExchangeKind.RAW, visitor=self._visitor, connection=self._connection, replay_of=self._replay_of
        )
        raw.note(why)
        for exchange in self._followed():
            if exchange is not raw and exchange.state is State.OPEN:
                exchange.state = State.BROKEN
                self._settled(exchange, f"Continued as raw bytes in #{raw.number}. {why}")
        self._waiting.clear()
        for side in self._sides.values():
            side.exchange = side.body = None
            held = bytes(side.head)
            self._release(side)
            if held:
                self._keep_raw(side.way, memoryview(held), when)
        self._socket = self._frames = None

    def _keep_raw(self, way: Way, data: memoryview, when: float) -> None:
        raw = self._raw
        assert raw is not None
        message = raw.side(way)
        message.began = message.began or when
        message.ended = when
        self._store.keep(raw, way, data)

    def _settled(self, exchange: Exchange, why: str) -> None:
        if why:
            exchange.note(why)
        self._store.changed(exchange)
