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
from quictunnel.inspect.conversation import Conversation, Parsing
from quictunnel.inspect.exchanges import Way

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.inspect.exchanges import Store

logger = logging.getLogger(__name__)

FAILED: Final = "The inspector has a fault and does not follow this connection; the log has it."


class _End(NamedTuple):
    """A direction has ended in good order."""


class _Gone(NamedTuple):
    """The connection is gone; why, if it was not in good order."""

    why: str


Piece = bytes | list[bytes] | int | _End | _Gone
"""Bytes that passed; as a number, so many that passed unseen."""


class Tap:
    """One connection, as the tunnel's side knows it."""

    __slots__ = ("_recorder", "_unseen", "gone_why", "is_unwatched", "number", "visitor")

    def __init__(self, recorder: Recorder, number: int, visitor: str) -> None:
        self.number = number
        self.visitor = visitor
        self.gone_why: str | None = None
        """Set when it is gone; for when there was no room to say it."""
        self.is_unwatched = False
        """The store's side does not look into it (any more)."""
        self._recorder = recorder
        self._unseen = dict.fromkeys(Way, 0)

    def passed(self, way: Way, data: bytes | list[bytes], size: int) -> None:
        """Bytes pass; they must not change any more."""
        recorder = self._recorder
        try:
            if not recorder.has_room(size):
                self._unseen[way] += size
                return
            if self._unseen[way]:
                self._tell_unseen(way)
            recorder.put(self, way, data, size)
        except Exception as error:  # noqa: BLE001 - nothing of the inspector may ever reach the bytes
            recorder.failed(error)

    def ended(self, way: Way) -> None:
        """A direction ended in good order."""
        self._last(way, _End())

    def gone(self, why: str) -> None:
        """The connection is gone; ``why``, unless it was in good order."""
        if self.gone_why is None:
            self.gone_why = why
            self._last(Way.RESPONSE, _Gone(why))

    def _last(self, way: Way, piece: _End | _Gone) -> None:
        recorder = self._recorder
        try:
            if not recorder.has_room(0):
                recorder.has_lost_ends = True
                return
            for each in Way:
                if self._unseen[each]:
                    self._tell_unseen(each)
            recorder.put(self, way, piece, 0)
        except Exception as error:  # noqa: BLE001 - as above
            recorder.failed(error)

    def _tell_unseen(self, way: Way) -> None:
        self._recorder.put(self, way, self._unseen[way], 0)
        self._unseen[way] = 0


class Recorder:
    """See the module. :meth:`drain` belongs to the store's thread, what :class:`Tap` calls to the tunnel's."""

    def __init__(
        self, store: Store, wake: Callable[[], object], now: Callable[[], float] = time.monotonic
    ) -> None:
        """``wake`` is called on the tunnel's thread when there is something after there was nothing; it has to see
        to it that :meth:`drain` is called until that says that nothing is left."""
        self.parsing = Parsing()
        self.unseen_connections = 0
        """Connections that nobody looked into, because there were too many."""
        self.has_lost_ends = False
        self._store = store
        self._wake = wake
        self._now = now
        self._queue: deque[tuple[Tap, Way, Piece, int, float]] = deque()
        # Each written by one thread alone, so neither needs a lock.
        self._put = 0
        self._taken = 0
        self._is_awake = False
        self._is_closed = False
        self._next = 1
        self._live: dict[Tap, Conversation] = {}
        self.is_faulty = False

    # The tunnel's side.

    def tap(self, visitor: str) -> Tap:
        number, self._next = self._next, self._next + 1
        return Tap(self, number, visitor)

    def has_room(self, size: int) -> bool:
        return self._put - self._taken + size <= limits.MAX_QUEUED and len(self._queue) < limits.MAX_EVENTS

    def put(self, tap: Tap, way: Way, piece: Piece, size: int) -> None:
        if self._is_closed:
            return
        self._put += size
        self._queue.append((tap, way, piece, size, self._now()))
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
        has_looked = bool(queue or self.has_lost_ends)
        while queue:
            tap, way, piece, size, when = queue.popleft()
            self._taken += size
            self._look(tap, way, piece, size, when)
            if until is not None and time.monotonic() >= until:
                return True
        if self.has_lost_ends:
            self.has_lost_ends = False
            for tap in [tap for tap in self._live if tap.gone_why is not None]:
                self._look(tap, Way.RESPONSE, _Gone(tap.gone_why or ""), 0, self._now())
        if has_looked:
            return True
        # In this order: whoever puts something now either is seen by the next line, or wakes.
        self._is_awake = False
        if queue:
            self._is_awake = True
        return self._is_awake

    def _look(self, tap: Tap, way: Way, piece: Piece, size: int, when: float) -> None:
        conversation = self._live.get(tap)
        if conversation is None:
            conversation = self._begin(tap, piece)
            if conversation is None:
                return
        try:
            _tell(conversation, way, piece, size, when)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is ours alone, and the page goes on
            self.failed(error)
            del self._live[tap]
            tap.is_unwatched = True
            conversation.fail(FAILED)
            return
        if isinstance(piece, _Gone):
            self._live.pop(tap, None)

    def _begin(self, tap: Tap, piece: Piece) -> Conversation | None:
        says_nothing = isinstance(piece, _End) or (isinstance(piece, _Gone) and not piece.why)
        if tap.is_unwatched or says_nothing or self._is_closed:
            return None
        if len(self._live) >= limits.MAX_CONNECTIONS:
            tap.is_unwatched = True
            self.unseen_connections += 1
            return None
        conversation = Conversation(self._store, self.parsing, visitor=tap.visitor, connection=tap.number)
        self._live[tap] = conversation
        return conversation


def _tell(conversation: Conversation, way: Way, piece: Piece, size: int, when: float) -> None:
    match piece:
        case bytes():
            if not conversation.pass_over(way, size, when):
                conversation.data(way, piece, when)
        case list():
            if not conversation.pass_over(way, size, when):
                for each in piece:
                    if not conversation.pass_over(way, len(each), when):
                        conversation.data(way, each, when)
        case int():
            conversation.gap(way, piece, when)
        case _End():
            conversation.end(way, when)
        case _Gone(why=why):
            conversation.gone(when, why)
