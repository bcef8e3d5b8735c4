"""What is kept of what passed: exchanges, their bodies and messages, in a store that keeps to its bounds."""

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
"""What an exchange is counted for besides its bytes: about what its objects take."""
HEADER_COST: Final = 160
FRAME_COST: Final = 240

Headers = list[tuple[bytes, bytes]]


class Way(Enum):
    """Whose bytes."""

    REQUEST = "request"
    """From the visitor to the origin."""
    RESPONSE = "response"
    """Back."""


class ExchangeKind(Enum):
    HTTP = "http"
    WEBSOCKET = "websocket"
    RAW = "raw"


class State(Enum):
    OPEN = "open"
    DONE = "done"
    BROKEN = "broken"
    """It ended before it was complete, or could not be followed to its end."""


@dataclass(slots=True)
class Kept:
    """The beginning of a body, and how long it was."""

    limit: int
    data: bytearray = field(default_factory=bytearray)
    size: int = 0

    @property
    def is_whole(self) -> bool:
        return len(self.data) == self.size

    @property
    def room(self) -> int:
        """Bytes that may still be kept. None behind a gap."""
        return self.limit - len(self.data) if self.is_whole else 0


@dataclass(slots=True)
class HttpMessage:
    """A request or a response."""

    body: Kept
    start: bytes = b""
    """The request line or the status line."""
    head: bytes = b""
    """As it came, with the empty line behind it."""
    headers: Headers = field(default_factory=list)
    """As they came, in their order and spelling."""
    began: float | None = None
    """When its first byte passed, on the monotonic clock."""
    ended: float | None = None
    """When its last one did."""

    def all_of(self, name: bytes) -> list[bytes]:
        """The values of one header."""
        return [value for key, value in self.headers if key.lower() == name]


@dataclass(slots=True)
class Frame:
    """A WebSocket message, or a control frame."""

    way: Way
    when: float
    kind: str
    data: bytes
    size: int
    note: str = ""


@dataclass(slots=True, eq=False)
class Exchange:
    """A request with its response, a WebSocket that came of one, or bytes that are no HTTP/1."""

    number: int
    visitor: str
    connection: int
    kind: ExchangeKind
    began: float
    """Seconds since the epoch."""
    request: HttpMessage
    response: HttpMessage
    state: State = State.OPEN
    method: str = ""
    target: str = ""
    version: str = ""
    status: int = 0
    reason: str = ""
    interim: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    frames: deque[Frame] = field(default_factory=deque)
    frames_seen: int = 0
    frames_kept: int = 0
    """Bytes of those that are kept."""
    replay_of: int = 0
    has_asked: bool = False
    """The request has come to its end."""
    is_upgrade: bool = False
    """It asked for another protocol."""
    cost: int = FIXED_COST
    is_gone: bool = False
    """The store has let it go: nothing more is kept of it."""

    def side(self, way: Way) -> HttpMessage:
        return self.request if way is Way.REQUEST else self.response

    def note(self, text: str) -> None:
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
    def waited(self) -> float | None:
        """Seconds from the first byte of the request to the first of the response."""
        first, then = self.request.began, self.response.began
        return None if first is None or then is None else max(0.0, then - first)


class ExchangeStore:
    """See the module. Belongs to one thread."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._exchanges: dict[int, Exchange] = {}
        self._next = 1
        self.kept = 0
        """What all exchanges are counted for."""
        self.watchers: set[Watcher] = set()

    def __iter__(self) -> Iterator[Exchange]:
        return iter(tuple(self._exchanges.values()))

    def __len__(self) -> int:
        return len(self._exchanges)

    @property
    def last(self) -> int:
        """The number of the newest."""
        return self._next - 1

    def get(self, number: int) -> Exchange | None:
        return self._exchanges.get(number)

    def new(self, kind: ExchangeKind, *, visitor: str, connection: int, replay_of: int = 0) -> Exchange:
        number, self._next = self._next, self._next + 1
        limit = limits.MAX_RAW if kind is ExchangeKind.RAW else limits.MAX_BODY
        exchange = Exchange(
            number,
            visitor,
            connection,
            kind,
            self._now(),
            HttpMessage(Kept(limit)),
            HttpMessage(Kept(limit)),
            replay_of=replay_of,
        )
        while len(self._exchanges) >= limits.MAX_EXCHANGES:
            self._let_go(self._oldest())
        self._exchanges[number] = exchange
        self.kept += exchange.cost
        self.changed(exchange)
        return exchange

    def charge(self, exchange: Exchange, size: int) -> bool:
        """Count bytes that an exchange keeps; others make room. False: it was let go itself, nothing is kept."""
        if exchange.is_gone:
            return False
        exchange.cost += size
        self.kept += size
        while self.kept > limits.MAX_KEPT:
            self._let_go(self._oldest())
        return not exchange.is_gone

    def keep(self, exchange: Exchange, way: Way, piece: bytes | memoryview) -> None:
        """Bytes of a body passed."""
        body = exchange.side(way).body
        room = min(body.room, len(piece))
        body.size += len(piece)
        if room > 0 and self.charge(exchange, room):
            body.data += piece[:room]
        self.changed(exchange)

    def headers(self, exchange: Exchange, message: HttpMessage, head: bytes, headers: Headers) -> None:
        """A message's head is known."""
        if self.charge(exchange, 2 * len(head) + HEADER_COST * len(headers)):
            message.head, message.headers = head, headers
            message.start = head.partition(b"\n")[0].rstrip(b"\r")

    def frame(self, exchange: Exchange, frame: Frame) -> None:
        exchange.frames_seen += 1
        if self.charge(exchange, len(frame.data) + FRAME_COST):
            exchange.frames.append(frame)
            exchange.frames_kept += len(frame.data)
            while len(exchange.frames) > limits.MAX_FRAMES or exchange.frames_kept > limits.MAX_FRAMES_KEPT:
                dropped = exchange.frames.popleft()
                exchange.frames_kept -= len(dropped.data)
                self.charge(exchange, -len(dropped.data) - FRAME_COST)
        self.changed(exchange)

    def changed(self, exchange: Exchange) -> None:
        if not exchange.is_gone:
            for watcher in self.watchers:
                watcher.changed(exchange.number)

    def clear(self) -> None:
        """Forget everything. What is under way is not followed any further."""
        for exchange in self:
            self._let_go(exchange)

    def _oldest(self) -> Exchange:
        """Who makes room: the oldest that has ended, else the oldest."""
        for exchange in self._exchanges.values():
            if exchange.state is not State.OPEN:
                return exchange
        return next(iter(self._exchanges.values()))

    def _let_go(self, exchange: Exchange) -> None:
        del self._exchanges[exchange.number]
        self.kept -= exchange.cost
        exchange.is_gone = True
        exchange.frames.clear()
        for message in (exchange.request, exchange.response):
            # Whoever still follows it holds the object, and must not hold its bytes.
            message.body.data = bytearray()
            message.body.limit = 0
            message.head, message.headers = b"", []
        for watcher in self.watchers:
            watcher.changed(exchange.number)


class Watcher:
    """What a page has yet to be told: numbers of exchanges, so it is bounded however slow the page is."""

    def __init__(self, stirred: asyncio.Event) -> None:
        """``stirred`` is set while there is something to tell."""
        self._stirred = stirred
        self._numbers: dict[int, None] = {}
        self._is_overrun = False

    def changed(self, number: int) -> None:
        self._stirred.set()
        self._numbers[number] = None
        if len(self._numbers) > 2 * limits.MAX_EXCHANGES:
            self._numbers = {number: None}
            self._is_overrun = True

    def take(self) -> list[int] | None:
        """Numbers of those that changed or are gone; None when there were so many that all may have."""
        self._stirred.clear()
        numbers, self._numbers = list(self._numbers), {}
        is_overrun, self._is_overrun = self._is_overrun, False
        return None if is_overrun else numbers
