"""Bounded queue from the tunnel's thread to the inspector's thread.

The tunnel's side never waits, never raises, and does constant work for each piece. If the queue is full, bytes are
only counted, and the page shows the number of missing bytes.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from quictunnel.inspect import limits
from quictunnel.inspect.connection_parser import ConnectionParser, HeadBudget
from quictunnel.inspect.exchange_store import Direction

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.inspect.exchange_store import ExchangeStore

logger = logging.getLogger(__name__)

FAILED: Final = "The inspector failed and does not follow this connection any more; see the log."


class _End(NamedTuple):
    """Event: a direction has ended without an error."""


class _Closed(NamedTuple):
    """Event: the connection has ended; ``why`` is the error, or empty."""

    why: str


Piece = bytes | list[bytes] | _End | _Closed


class TappedDirection:
    """Direction of a recorded connection.

    Both threads count its bytes, so the inspector's side notices bytes that did not go through the queue.
    """

    __slots__ = ("_recorder", "_reported", "direction", "lost", "passed_so_far", "seen", "skip_until", "tap")

    def __init__(self, recorder: Recorder, tap: Tap, direction: Direction) -> None:
        self.tap = tap
        self.direction = direction
        self.passed_so_far = 0
        """Bytes counted by the tunnel's thread."""
        self.lost = 0
        """Value of ``passed_so_far`` when the queue was last full."""
        self.seen = 0
        """Bytes counted by the inspector's thread."""
        self.skip_until = 0
        """Offset before which bytes need not go through the queue. Only the inspector's thread writes it."""
        self._recorder = recorder
        self._reported = 0

    def passed(self, data: bytes | list[bytes], size: int) -> None:
        """Report bytes, which must not change afterwards. Never raises."""
        recorder = self._recorder
        try:
            position = self.passed_so_far = self.passed_so_far + size
            until = self.skip_until
            if position <= until:
                if position < until and position - self._reported < limits.REPORT_BYTES:
                    return
                self._reported, data, size = position, b"", 0
            if recorder.has_room(size):
                recorder.put(self, data, size)
            else:
                self.lost = position
                recorder.has_lost = True
        except Exception as error:  # noqa: BLE001 - an error of the inspector must not reach the byte path
            recorder.failed(error)

    def ended(self) -> None:
        """Report the end of this direction."""
        self.put_end(_End())

    def put_end(self, piece: _End | _Closed) -> None:
        """Put an end event into the queue. Never raises."""
        recorder = self._recorder
        try:
            if recorder.has_room(0):
                recorder.put(self, piece, 0)
            else:
                recorder.has_lost = True
        except Exception as error:  # noqa: BLE001 - as above
            recorder.failed(error)


class Tap:
    """Recorded connection, as the tunnel's thread sees it."""

    __slots__ = ("end_reason", "is_unwatched", "number", "request", "response", "visitor")

    def __init__(self, recorder: Recorder, number: int, visitor: str) -> None:
        self.number = number
        self.visitor = visitor
        self.end_reason: str | None = None
        """Reason of the end, or empty; None while connected. Kept here in case the queue has no room for the
        end event."""
        self.is_unwatched = False
        """True if the inspector's thread does not follow the connection."""
        self.request = TappedDirection(recorder, self, Direction.REQUEST)
        self.response = TappedDirection(recorder, self, Direction.RESPONSE)

    def tapped(self, direction: Direction) -> TappedDirection:
        """Return the recorded direction."""
        return self.request if direction is Direction.REQUEST else self.response

    def closed(self, why: str) -> None:
        """Report the end of the connection; ``why`` is the error, or empty."""
        if self.end_reason is None:
            self.end_reason = why
            self.response.put_end(_Closed(why))

    def unwatch(self) -> None:
        """Stop reporting. Called on the inspector's thread."""
        self.is_unwatched = True
        self.request.skip_until = self.response.skip_until = limits.UNLIMITED


class Recorder:
    """The queue with its two sides. :class:`Tap` uses it on the tunnel's thread, :meth:`drain` runs on the
    inspector's."""

    def __init__(
        self, store: ExchangeStore, wake: Callable[[], object], now: Callable[[], float] = time.monotonic
    ) -> None:
        """Create an empty queue.

        Args:
            store: the store for the recorded exchanges.
            wake: called on the tunnel's thread when the empty queue gets a piece. It must schedule calls of
                :meth:`drain` until that returns False.
            now: the monotonic clock.
        """
        self.head_budget = HeadBudget()
        self.unseen_connections = 0
        """Number of connections beyond MAX_CONNECTIONS, which were not followed."""
        self.has_lost = False
        """True if something found the queue full since the last check."""
        self._store = store
        self._wake = wake
        self._now = now
        self._queue: deque[tuple[TappedDirection, Piece, int, int, float]] = deque()
        # Each is written by one thread only, so neither needs a lock.
        self._put = 0
        self._taken = 0
        self._is_awake = False
        self._is_closed = False
        self._next = 1
        self._live: dict[Tap, ConnectionParser] = {}
        self.is_faulty = False

    # The tunnel's side.

    def tap(self, visitor: str) -> Tap:
        """Return a tap for a new connection of a visitor (``host:port``)."""
        number, self._next = self._next, self._next + 1
        return Tap(self, number, visitor)

    def has_room(self, size: int) -> bool:
        """Return True if the queue accepts another piece of ``size`` bytes."""
        return self._put - self._taken + size <= limits.MAX_QUEUED and len(self._queue) < limits.MAX_EVENTS

    def put(self, tapped: TappedDirection, piece: Piece, size: int) -> None:
        """Add a piece and wake the inspector's thread if it sleeps."""
        if self._is_closed:
            return
        self._put += size
        self._queue.append((tapped, piece, size, tapped.passed_so_far, self._now()))
        if not self._is_awake:
            self._is_awake = True
            self._wake()

    def close(self) -> None:
        """Stop recording. May be called on any thread."""
        self._is_closed = True

    def failed(self, error: Exception) -> None:
        """Log an internal error, only the first time."""
        if not self.is_faulty:
            self.is_faulty = True
            logger.error("the inspector failed; the tunnel is not affected", exc_info=error)

    # The store's side.

    @property
    def connections(self) -> int:
        """Number of connections that are followed."""
        return len(self._live)

    @property
    def waiting(self) -> int:
        """Number of bytes in the queue."""
        return self._put - self._taken

    def drain(self, seconds: float | None = None) -> bool:
        """Process the queue for at most ``seconds``. Return True if it must be called again after a pause.

        It returns False only if the queue was empty from the start: small pieces are cheaper to process together.
        After that, ``wake`` is called for the next piece.
        """
        until = None if seconds is None else time.monotonic() + seconds
        queue = self._queue
        if self._is_closed:
            queue.clear()
        has_worked = bool(queue or self.has_lost)
        while queue:
            tapped, piece, size, position, when = queue.popleft()
            self._taken += size
            self._process(tapped, piece, position - size, when)
            if until is not None and time.monotonic() >= until:
                return True
        if self.has_lost:
            self.has_lost = False
            self._process_lost()
        if has_worked:
            return True
        # The order matters: a piece that is added now is either seen by the next line, or wakes this thread.
        self._is_awake = False
        if queue:
            self._is_awake = True
        return self._is_awake

    def _process_lost(self) -> None:
        """Process the bytes and ends that found the queue full."""
        when = self._now()
        for tap in tuple(self._live):
            for tapped in (tap.request, tap.response):
                self._process(tapped, b"", tapped.lost, when)
            if tap.end_reason is not None:
                self._process(tap.response, _Closed(tap.end_reason), tap.response.passed_so_far, when)

    def _process(self, tapped: TappedDirection, piece: Piece, start: int, when: float) -> None:
        """Process one piece. ``start`` is its offset in the direction."""
        tap = tapped.tap
        parser = self._live.get(tap)
        if parser is None:
            parser = self._begin(tap, piece)
            if parser is None:
                return
        try:
            if isinstance(piece, _Closed):
                _catch_up(parser, tap.request, tap.request.passed_so_far, when)
            _catch_up(parser, tapped, start, when)
            _apply(parser, tapped, piece, start, when)
            tapped.skip_until = tapped.seen + parser.skippable(tapped.direction)
        except Exception as error:  # noqa: BLE001 - an internal error ends this connection only
            self.failed(error)
            self._live.pop(tap, None)
            tap.unwatch()
            parser.fail(FAILED)
            return
        if isinstance(piece, _Closed) or parser.is_over:
            self._live.pop(tap, None)
            tap.unwatch()

    def _begin(self, tap: Tap, piece: Piece) -> ConnectionParser | None:
        is_empty = isinstance(piece, _End) or (isinstance(piece, _Closed) and not piece.why)
        if tap.is_unwatched or is_empty or self._is_closed:
            return None
        if len(self._live) >= limits.MAX_CONNECTIONS:
            tap.unwatch()
            self.unseen_connections += 1
            return None
        parser = ConnectionParser(self._store, self.head_budget, visitor=tap.visitor, connection=tap.number)
        self._live[tap] = parser
        return parser


def _catch_up(parser: ConnectionParser, tapped: TappedDirection, position: int, when: float) -> None:
    """Count the bytes that did not go through the queue: skippable ones, or ones that found it full."""
    missing = position - tapped.seen
    if missing > 0:
        tapped.seen = position
        if not parser.skip(tapped.direction, missing, when):
            parser.gap(tapped.direction, missing, when)


def _apply(parser: ConnectionParser, tapped: TappedDirection, piece: Piece, start: int, when: float) -> None:
    match piece:
        case bytes():
            _parse(parser, tapped, piece, start, when)
        case list():
            size = sum(map(len, piece))
            if start == tapped.seen and parser.skip(tapped.direction, size, when):
                tapped.seen += size
                return
            for each in piece:
                _parse(parser, tapped, each, start, when)
                start += len(each)
        case _End():
            parser.end(tapped.direction, when)
        case _Closed(why=why):
            parser.closed(when, why)


def _parse(parser: ConnectionParser, tapped: TappedDirection, data: bytes, start: int, when: float) -> None:
    data = data[tapped.seen - start :]  # skippable bytes may have been counted already
    if data:
        tapped.seen += len(data)
        if not parser.skip(tapped.direction, len(data), when):
            parser.data(tapped.direction, data, when)
