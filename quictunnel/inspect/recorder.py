"""From the tunnel's thread to the inspector's: a bounded queue, and whoever empties it without hurry.

The tunnel's side never waits, never raises and does a fixed little for each piece. When the queue is full, bytes
pass unseen; their number does not, and the page says so.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from quictunnel.inspect import limits
from quictunnel.inspect.connection_parser import ConnectionParser, Parsing
from quictunnel.inspect.exchange_store import Way

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.inspect.exchange_store import ExchangeStore

logger = logging.getLogger(__name__)

FAILED: Final = "The inspector has a fault and does not follow this connection; the log has it."


class _End(NamedTuple):
    """A direction has ended in good order."""


class _Gone(NamedTuple):
    """The connection is gone; why, if it was not in good order."""

    why: str


Piece = bytes | list[bytes] | _End | _Gone


class Direction:
    """One direction of a connection. Both sides count its bytes: what never came into the queue is missing in the
    count of the other side."""

    __slots__ = ("_recorder", "_told", "lost", "passed_so_far", "seen", "tap", "until", "way")

    def __init__(self, recorder: Recorder, tap: Tap, way: Way) -> None:
        self.tap = tap
        self.way = way
        self.passed_so_far = 0
        """Bytes, as the tunnel's side counts them."""
        self.lost = 0
        """The same when last there was no room for what passed."""
        self.seen = 0
        """Bytes, as the store's side counts them."""
        self.until = 0
        """Nobody needs to look at what passes before so many have. Written by the store's side alone."""
        self._recorder = recorder
        self._told = 0

    def passed(self, data: bytes | list[bytes], size: int) -> None:
        """Bytes pass; they must not change any more."""
        recorder = self._recorder
        try:
            position = self.passed_so_far = self.passed_so_far + size
            until = self.until
            if position <= until:
                if position < until and position - self._told < limits.REPORT:
                    return
                self._told, data, size = position, b"", 0
            if recorder.has_room(size):
                recorder.put(self, data, size)
            else:
                self.lost = position
                recorder.has_lost = True
        except Exception as error:  # noqa: BLE001 - nothing of the inspector may ever reach the bytes
            recorder.failed(error)

    def ended(self) -> None:
        """It ended in good order."""
        self.last(_End())

    def last(self, piece: _End | _Gone) -> None:
        recorder = self._recorder
        try:
            if recorder.has_room(0):
                recorder.put(self, piece, 0)
            else:
                recorder.has_lost = True
        except Exception as error:  # noqa: BLE001 - as above
            recorder.failed(error)


class Tap:
    """One connection, as the tunnel's side knows it."""

    __slots__ = ("gone_why", "is_unwatched", "number", "request", "response", "visitor")

    def __init__(self, recorder: Recorder, number: int, visitor: str) -> None:
        self.number = number
        self.visitor = visitor
        self.gone_why: str | None = None
        """Set when it is gone; for when there was no room to say it."""
        self.is_unwatched = False
        """The store's side does not look into it (any more)."""
        self.request = Direction(recorder, self, Way.REQUEST)
        self.response = Direction(recorder, self, Way.RESPONSE)

    def lane(self, way: Way) -> Direction:
        return self.request if way is Way.REQUEST else self.response

    def gone(self, why: str) -> None:
        """The connection is gone; ``why``, unless it was in good order."""
        if self.gone_why is None:
            self.gone_why = why
            self.response.last(_Gone(why))

    def unwatch(self) -> None:
        """For the store's side: nothing of it is wanted any more."""
        self.is_unwatched = True
        self.request.until = self.response.until = limits.ENDLESS


class Recorder:
    """See the module. :meth:`drain` belongs to the store's thread, what :class:`Tap` calls to the tunnel's."""

    def __init__(
        self, store: ExchangeStore, wake: Callable[[], object], now: Callable[[], float] = time.monotonic
    ) -> None:
        """``wake`` is called on the tunnel's thread when there is something after there was nothing; it has to see
        to it that :meth:`drain` is called until that says that nothing is left."""
        self.parsing = Parsing()
        self.unseen_connections = 0
        """Connections that nobody looked into, because there were too many."""
        self.has_lost = False
        """Something was not put into the queue since that was last looked at."""
        self._store = store
        self._wake = wake
        self._now = now
        self._queue: deque[tuple[Direction, Piece, int, int, float]] = deque()
        # Each written by one thread alone, so neither needs a lock.
        self._put = 0
        self._taken = 0
        self._is_awake = False
        self._is_closed = False
        self._next = 1
        self._live: dict[Tap, ConnectionParser] = {}
        self.is_faulty = False

    # The tunnel's side.

    def tap(self, visitor: str) -> Tap:
        number, self._next = self._next, self._next + 1
        return Tap(self, number, visitor)

    def has_room(self, size: int) -> bool:
        return self._put - self._taken + size <= limits.MAX_QUEUED and len(self._queue) < limits.MAX_EVENTS

    def put(self, lane: Direction, piece: Piece, size: int) -> None:
        if self._is_closed:
            return
        self._put += size
        self._queue.append((lane, piece, size, lane.passed_so_far, self._now()))
        if not self._is_awake:
            self._is_awake = True
            self._wake()

    def close(self) -> None:
        """Nothing is wanted any more; from any thread."""
        self._is_closed = True

    def failed(self, error: Exception) -> None:
        """Something of ours is wrong: say it once."""
        if not self.is_faulty:
            self.is_faulty = True
            logger.error("the inspector failed; the tunnel does not notice", exc_info=error)

    # The store's side.

    @property
    def connections(self) -> int:
        """How many are being looked into."""
        return len(self._live)

    @property
    def waiting(self) -> int:
        """Bytes that wait to be looked at."""
        return self._put - self._taken

    def drain(self, seconds: float | None = None) -> bool:
        """Look at what waits, for so long; whether it is to be called again in a moment. That it is not said only
        when nothing had come: what comes piece by piece is better looked at together. Then ``wake`` is called."""
        until = None if seconds is None else time.monotonic() + seconds
        queue = self._queue
        if self._is_closed:
            queue.clear()
        has_looked = bool(queue or self.has_lost)
        while queue:
            lane, piece, size, position, when = queue.popleft()
            self._taken += size
            self._look(lane, piece, position - size, when)
            if until is not None and time.monotonic() >= until:
                return True
        if self.has_lost:
            self.has_lost = False
            self._find_lost()
        if has_looked:
            return True
        # In this order: whoever puts something now either is seen by the next line, or wakes.
        self._is_awake = False
        if queue:
            self._is_awake = True
        return self._is_awake

    def _find_lost(self) -> None:
        """What there was no room to say: bytes that passed, and ends."""
        when = self._now()
        for tap in tuple(self._live):
            for lane in (tap.request, tap.response):
                self._look(lane, b"", lane.lost, when)
            if tap.gone_why is not None:
                self._look(tap.response, _Gone(tap.gone_why), tap.response.passed_so_far, when)

    def _look(self, lane: Direction, piece: Piece, start: int, when: float) -> None:
        """``start``: how many bytes passed before."""
        tap = lane.tap
        conversation = self._live.get(tap)
        if conversation is None:
            conversation = self._begin(tap, piece)
            if conversation is None:
                return
        try:
            if isinstance(piece, _Gone):
                _catch_up(conversation, tap.request, tap.request.passed_so_far, when)
            _catch_up(conversation, lane, start, when)
            _tell(conversation, lane, piece, start, when)
            lane.until = lane.seen + conversation.certain(lane.way)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is ours alone, and the page goes on
            self.failed(error)
            self._live.pop(tap, None)
            tap.unwatch()
            conversation.fail(FAILED)
            return
        if isinstance(piece, _Gone) or conversation.is_over:
            self._live.pop(tap, None)
            tap.unwatch()

    def _begin(self, tap: Tap, piece: Piece) -> ConnectionParser | None:
        says_nothing = isinstance(piece, _End) or (isinstance(piece, _Gone) and not piece.why)
        if tap.is_unwatched or says_nothing or self._is_closed:
            return None
        if len(self._live) >= limits.MAX_CONNECTIONS:
            tap.unwatch()
            self.unseen_connections += 1
            return None
        conversation = ConnectionParser(self._store, self.parsing, visitor=tap.visitor, connection=tap.number)
        self._live[tap] = conversation
        return conversation


def _catch_up(conversation: ConnectionParser, lane: Direction, position: int, when: float) -> None:
    """Bytes that were not put into the queue: nobody had to look at them, or there was no room."""
    missing = position - lane.seen
    if missing > 0:
        lane.seen = position
        if not conversation.pass_over(lane.way, missing, when):
            conversation.gap(lane.way, missing, when)


def _tell(conversation: ConnectionParser, lane: Direction, piece: Piece, start: int, when: float) -> None:
    match piece:
        case bytes():
            _show(conversation, lane, piece, start, when)
        case list():
            size = sum(map(len, piece))
            if start == lane.seen and conversation.pass_over(lane.way, size, when):
                lane.seen += size
                return
            for each in piece:
                _show(conversation, lane, each, start, when)
                start += len(each)
        case _End():
            conversation.end(lane.way, when)
        case _Gone(why=why):
            conversation.gone(when, why)


def _show(conversation: ConnectionParser, lane: Direction, data: bytes, start: int, when: float) -> None:
    data = data[lane.seen - start :]  # what was certain may have been counted already
    if data:
        lane.seen += len(data)
        if not conversation.pass_over(lane.way, len(data), when):
            conversation.data(lane.way, data, when)
