"""The edge's stream numbers as the client sees them.

An edge numbers its streams from zero. Their QUIC streams arrive in any order, and some never arrive: a reset
overtakes the preface, or the link is lost. A client must tell a stream that has not arrived yet from one that is
already over, so it remembers the skipped numbers. A reset that names its stream, and the edge's list of streams
after a resume, remove the numbers that will never arrive.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from quictunnel.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_SKIPPED: Final = 65_536
"""Numbers skipped at one time: several times the number of streams that a peer may have open."""


class StreamNumbers:
    """Set of the stream numbers that have arrived. Stores only the gaps below the largest."""

    __slots__ = ("_skipped", "_unnamed", "next")

    def __init__(self) -> None:
        self.next = 0
        """The number after the largest one that has arrived."""
        self._skipped: dict[int, None] = {}  # in ascending order, the order in which numbers are skipped
        self._unnamed = 0

    @property
    def skipped(self) -> int:
        """Count of the numbers below :attr:`next` that have not arrived."""
        return len(self._skipped)

    def has_seen(self, number: int) -> bool:
        """Return True if a stream with this number is open or was open before."""
        return number < self.next and number not in self._skipped

    def record(self, number: int) -> bool:
        """Record that a stream with this number has arrived or is over. Return False if it was recorded before.

        Raises:
            ProtocolError: the number is so far ahead that more than MAX_SKIPPED numbers would be missing.
        """
        if number < self.next:
            if number not in self._skipped:
                return False
            del self._skipped[number]
            return True
        ahead = number - self.next + len(self._skipped) - MAX_SKIPPED
        if ahead > self._unnamed:
            raise ProtocolError("stream numbers that rise too fast")
        self._skipped.update(dict.fromkeys(range(self.next, number)))
        self.next = number + 1
        # Streams that were reset without their number most likely have the oldest numbers. All are looked up at
        # once: finding the first key of a dict takes longer the more keys before it were deleted.
        for oldest in tuple(islice(self._skipped, max(0, ahead))):
            del self._skipped[oldest]
            self._unnamed -= 1
        return True

    def record_without_number(self) -> None:
        """Record that a skipped stream was reset before its preface arrived, by an edge that does not name it."""
        self._unnamed = min(self._unnamed + 1, MAX_SKIPPED)

    def forget_skipped(self, *, except_open: Collection[int], next_number: int) -> None:
        """Apply the edge's list of streams after a resume: only streams that are open there can still arrive.

        Args:
            except_open: numbers of the streams that are open at the edge and not here.
            next_number: number of the edge's next stream; 0 if the edge does not send it.
        """
        before, self.next = self.next, max(self.next, next_number)
        self._skipped = {
            number: None
            for number in sorted(except_open)
            if number in self._skipped or before <= number < self.next
        }
        self._unnamed = 0
