"""Bounded store of the recorded exchanges, their bodies and WebSocket messages."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

from quictunnel.inspect import limits

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

FIXED_COST: Final = 2048
"""Bytes that an exchange counts besides its content: about the size of its objects."""
HEADER_COST: Final = 160
"""Bytes that a header counts besides its text."""
FRAME_COST: Final = 240
"""Bytes that a message counts besides its content."""

Headers = list[tuple[bytes, bytes]]


class Direction(Enum):
    """Direction of bytes on a connection."""

    REQUEST = "request"
    """From the visitor to the origin."""
    RESPONSE = "response"
    """From the origin to the visitor."""


class ExchangeKind(Enum):
    """Protocol of an exchange."""

    HTTP = "http"
    WEBSOCKET = "websocket"
    RAW = "raw"


class ExchangeState(Enum):
    """State of an exchange."""

    OPEN = "open"
    DONE = "done"
    BROKEN = "broken"
    """The exchange ended early, or could not be recorded to its end."""


@dataclass(slots=True)
class StoredBody:
    """Stored beginning of a body, with the body's full size."""

    limit: int
    data: bytearray = field(default_factory=bytearray)
    size: int = 0

    @property
    def is_complete(self) -> bool:
        """True if the whole body is stored."""
        return len(self.data) == self.size

    @property
    def room(self) -> int:
        """Number of bytes that may still be stored; 0 after a gap."""
        return self.limit - len(self.data) if self.is_complete else 0


@dataclass(slots=True)
class HttpMessage:
    """Request or response."""

    body: StoredBody
    start: bytes = b""
    """The request line or the status line."""
    head: bytes = b""
    """The head as received, with the final empty line."""
    headers: Headers = field(default_factory=list)
    """The headers as received, in their order and spelling."""
    began: float | None = None
    """Monotonic time of the first byte, in seconds."""
    ended: float | None = None
    """Monotonic time of the last byte, in seconds."""

    def header_values(self, name: bytes) -> list[bytes]:
        """Return the values of all headers with a name (lower case)."""
        return [value for key, value in self.headers if key.lower() == name]


@dataclass(slots=True)
class Frame:
    """WebSocket message or control frame, or server-sent event."""

    direction: Direction
    when: float
    kind: str
    data: bytes
    size: int
    note: str = ""


@dataclass(slots=True, eq=False)
class Exchange:
    """Request with its response, WebSocket connection, or raw bytes that are not HTTP/1."""

    number: int
    visitor: str
    connection: int
    kind: ExchangeKind
    began: float
    """Seconds since the epoch."""
    request: HttpMessage
    response: HttpMessage
    state: ExchangeState = ExchangeState.OPEN
    method: str = ""
    target: str = ""
    version: str = ""
    status: int = 0
    reason: str = ""
    interim: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    frames: deque[Frame] = field(default_factory=deque)
    frames_seen: int = 0
    stored_frame_bytes: int = 0
    """Bytes of the stored frames."""
    replay_of: int = 0
    is_edited: bool = False
    """True if a person edited the replayed request."""
    is_request_complete: bool = False
    """True if the request is complete."""
    is_upgrade: bool = False
    """True if the request asks for another protocol."""
    cost: int = FIXED_COST
    """Bytes that the exchange counts in the store."""
    is_evicted: bool = False
    """True if the store has evicted the exchange."""

    def message(self, direction: Direction) -> HttpMessage:
        """Return the message of one direction."""
        return self.request if direction is Direction.REQUEST else self.response

    def note(self, text: str) -> None:
        """Add a note for the page, once."""
        text = text[: limits.MAX_NOTE]
        if text not in self.notes:
            self.notes.append(text)

    @property
    def duration(self) -> float | None:
        """Seconds from the first byte of the request to the last of the response."""
        first, last = self.request.began, self.response.ended
        if first is None:
            first = self.response.began
        return None if first is None or last is None else max(0.0, last - first)

    @property
    def time_to_first_byte(self) -> float | None:
        """Seconds from the first byte of the request to the first of the response."""
        first, then = self.request.began, self.response.began
        return None if first is None or then is None else max(0.0, then - first)


class ExchangeStore:
    """Store of exchanges with size limits. Used on one thread only."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._exchanges: dict[int, Exchange] = {}
        self._next = 1
        self.stored = 0
        """Bytes that all exchanges together count."""
        self.watchers: set[Watcher] = set()

    def __iter__(self) -> Iterator[Exchange]:
        return iter(tuple(self._exchanges.values()))

    def __len__(self) -> int:
        return len(self._exchanges)

    @property
    def last(self) -> int:
        """The number of the newest exchange."""
        return self._next - 1

    def get(self, number: int) -> Exchange | None:
        """Return the exchange with a number, or None if it was evicted."""
        return self._exchanges.get(number)

    def add_exchange(self, kind: ExchangeKind, *, visitor: str, connection: int, replay_of: int = 0) -> Exchange:
        """Create and store an exchange; evict another if the store is full."""
        number, self._next = self._next, self._next + 1
        limit = limits.MAX_RAW if kind is ExchangeKind.RAW else limits.MAX_BODY
        exchange = Exchange(
            number,
            visitor,
            connection,
            kind,
            self._now(),
            HttpMessage(StoredBody(limit)),
            HttpMessage(StoredBody(limit)),
            replay_of=replay_of,
        )
        while len(self._exchanges) >= limits.MAX_EXCHANGES:
            self._evict(self._oldest())
        self._exchanges[number] = exchange
        self.stored += exchange.cost
        self.changed(exchange)
        return exchange

    def charge(self, exchange: Exchange, size: int) -> bool:
        """Count bytes of an exchange and evict others to make room. Return False if the exchange is evicted
        itself."""
        if exchange.is_evicted:
            return False
        exchange.cost += size
        self.stored += size
        while self.stored > limits.MAX_STORED:
            self._evict(self._oldest())
        return not exchange.is_evicted

    def store_body(self, exchange: Exchange, direction: Direction, piece: bytes | memoryview) -> None:
        """Store bytes of a body up to its limit, and count all."""
        body = exchange.message(direction).body
        room = min(body.room, len(piece))
        body.size += len(piece)
        if room > 0 and self.charge(exchange, room):
            body.data += piece[:room]
        self.changed(exchange)

    def set_headers(self, exchange: Exchange, message: HttpMessage, head: bytes, headers: Headers) -> None:
        """Store the head of a message."""
        if self.charge(exchange, 2 * len(head) + HEADER_COST * len(headers)):
            message.head, message.headers = head, headers
            message.start = head.partition(b"\n")[0].rstrip(b"\r")

    def add_frame(self, exchange: Exchange, frame: Frame) -> None:
        """Store a message; evict the oldest ones beyond the limits."""
        exchange.frames_seen += 1
        if self.charge(exchange, len(frame.data) + FRAME_COST):
            exchange.frames.append(frame)
            exchange.stored_frame_bytes += len(frame.data)
            while (
                len(exchange.frames) > limits.MAX_FRAMES or exchange.stored_frame_bytes > limits.MAX_STORED_FRAMES
            ):
                dropped = exchange.frames.popleft()
                exchange.stored_frame_bytes -= len(dropped.data)
                self.charge(exchange, -len(dropped.data) - FRAME_COST)
        self.changed(exchange)

    def changed(self, exchange: Exchange) -> None:
        """Notify the watchers of a change."""
        if not exchange.is_evicted:
            for watcher in self.watchers:
                watcher.changed(exchange.number)

    def clear(self) -> None:
        """Evict all exchanges. Unfinished ones are not recorded any further."""
        for exchange in self:
            self._evict(exchange)

    def _oldest(self) -> Exchange:
        """Return the exchange to evict: the oldest completed one, or if none is complete, the oldest."""
        for exchange in self._exchanges.values():
            if exchange.state is not ExchangeState.OPEN:
                return exchange
        return next(iter(self._exchanges.values()))

    def _evict(self, exchange: Exchange) -> None:
        del self._exchanges[exchange.number]
        self.stored -= exchange.cost
        exchange.is_evicted = True
        exchange.frames.clear()
        for message in (exchange.request, exchange.response):
            # A parser may still have a reference to the object, which must not keep the bytes.
            message.body.data = bytearray()
            message.body.limit = 0
            message.head, message.headers = b"", []
        for watcher in self.watchers:
            watcher.changed(exchange.number)


class Watcher:
    """Pending changes for one page: numbers of exchanges, so the size is bounded for any slow page."""

    def __init__(self, changed_event: asyncio.Event) -> None:
        """Create a watcher without changes. ``changed_event`` is set while changes are pending."""
        self._changed_event = changed_event
        self._numbers: dict[int, None] = {}
        self._is_overrun = False

    def changed(self, number: int) -> None:
        """Add the number of a changed or evicted exchange."""
        self._changed_event.set()
        self._numbers[number] = None
        if len(self._numbers) > 2 * limits.MAX_EXCHANGES:
            self._numbers = {number: None}
            self._is_overrun = True

    def take(self) -> list[int] | None:
        """Return and clear the pending numbers. None means that too many changed: read all."""
        self._changed_event.clear()
        numbers, self._numbers = list(self._numbers), {}
        is_overrun, self._is_overrun = self._is_overrun, False
        return None if is_overrun else numbers
