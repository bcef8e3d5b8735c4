"""The numbers of an edge's streams, as its client gets to know them.

An edge numbers its streams from zero, but their QUIC streams arrive in any order, and some never do: a reset
overtakes the preface, or the link is lost. A client has to tell a stream that it has not met yet from one that is
over here, so it keeps the numbers that were skipped. A reset that names its stream, and the edge's account of its
streams when a session goes on with another link, take those away that will never come.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from quictunnel.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_SKIPPED: Final = 65_536
"""Numbers that may be skipped at one time: several times the streams that a peer may have open at once."""


class StreamNumbers:
    """The numbers that were met, and those below them that were not."""

    __slots__ = ("_skipped", "_unnamed", "next")

    def __init__(self) -> None:
        self.next = 0
        """The number after the largest one that was met."""
        self._skipped: dict[int, None] = {}  # in rising order, because that is how numbers are skipped
        self._unnamed = 0

    @property
    def skipped(self) -> int:
        """How many numbers below :attr:`next` were not met."""
        return len(self._skipped)

    def has_met(self, number: int) -> bool:
        """Return True if a stream of this number was here, now or before."""
        return number < self.next and number not in self._skipped

    def meet(self, number: int) -> bool:
        """Note that a stream of this number is here, or is known to be over. Return False if it was met before.

        Raises ProtocolError for a number so far ahead that more are skipped than an honest edge has streams.
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
        # Streams that were reset without their numbers most likely have these, the oldest. All are looked up
        # at once: the first key of a dict takes the longer to find the more were deleted in front of it.
        for oldest in tuple(islice(self._skipped, max(0, ahead))):
            del self._skipped[oldest]
            self._unnamed -= 1
        return True

    def lose_unnamed(self) -> None:
        """Note that one of those skipped was reset before its preface came, by an edge that does not say which."""
        self._unnamed = min(self._unnamed + 1, MAX_SKIPPED)

    def reconcile(self, alive: Collection[int], following: int) -> None:
        """Take in the edge's account of its streams: only those that are alive there can still come.

        Args:
            alive: the numbers that the edge has streams for, and that are not open here.
            following: the number of the edge's next stream; 0 if it does not say.
        """
        before, self.next = self.next, max(self.next, following)
        self._skipped = {
            number: None for number in sorted(alive) if number in self._skipped or before <= number < self.next
        }
        self._unnamed = 0
