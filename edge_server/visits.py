"""Visitors, as they are told of: who was where, for how long, with how many bytes, and why it ended.

One :class:`Visit` for each that is in; the :class:`Ledger` has those that are, sums of those that were, and writes
one line of the log for each that leaves. Nothing in here decides anything.
"""

from __future__ import annotations

import enum
import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Final, Literal

from quictunnel.wire.codes import StreamCode

if TYPE_CHECKING:
    from quictunnel.transport.splice import Splice
    from quictunnel.transport.stream import Stream

logger = logging.getLogger(__name__)

Kind = Literal["tls", "tcp", "passthrough"]
"""TLS that ends here; plain TCP at a port; TLS that ends at the origin."""


class Ending(enum.Enum):
    """Why a visit ended. A fixed set, so that counting by it is bounded."""

    DONE = "both sides finished"
    VISITOR = "the visitor broke it off"
    ORIGIN = "the origin broke it off"
    REFUSED = "the origin did not answer"
    STALLED = "one side was silent for too long"
    CLOSED = "the tunnel was closed, or lost its client"
    SENT_AWAY = "no client took it"


_BY_CODE: Final = {
    StreamCode.ABORTED: Ending.ORIGIN,
    StreamCode.REFUSED: Ending.REFUSED,
    StreamCode.UNREACHABLE: Ending.REFUSED,
    StreamCode.UNKNOWN_LEASE: Ending.CLOSED,
    StreamCode.STALLED: Ending.STALLED,
    StreamCode.CLOSING: Ending.CLOSED,
}


class Visit:
    """One visitor that is in."""

    __slots__ = ("began", "host", "kind", "lease", "owner", "stream")

    def __init__(self, host: str, kind: Kind, *, lease: str, owner: str) -> None:
        self.host = host
        self.kind: Kind = kind
        self.lease = lease
        self.owner = owner
        self.began = time.monotonic()
        self.stream: Stream | None = None
        """That carries it, when a client has taken it."""

    @property
    def bytes_in(self) -> int:
        """Bytes from the visitor to the origin so far."""
        return self.stream.bytes_sent if self.stream is not None else 0

    @property
    def bytes_out(self) -> int:
        """Bytes from the origin to the visitor so far."""
        return self.stream.bytes_received if self.stream is not None else 0


class Ledger:
    """See the module."""

    def __init__(self) -> None:
        self.now: set[Visit] = set()
        """Those that are in."""
        self.came = 0
        self.endings: Counter[Ending] = Counter()
        self._bytes_in = 0
        self._bytes_out = 0

    @property
    def bytes_in(self) -> int:
        """Bytes from all visitors, of now and before."""
        return self._bytes_in + sum(visit.bytes_in for visit in self.now)

    @property
    def bytes_out(self) -> int:
        """Bytes to all of them."""
        return self._bytes_out + sum(visit.bytes_out for visit in self.now)

    def begin(self, visit: Visit) -> None:
        """It is in."""
        self.now.add(visit)
        self.came += 1

    def end(self, visit: Visit, splice: Splice) -> None:
        """It has left; why is what its splice knows."""
        self.now.discard(visit)
        self._bytes_in += visit.bytes_in
        self._bytes_out += visit.bytes_out
        ending = _ending(splice)
        self.endings[ending] += 1
        if logger.isEnabledFor(logging.INFO):
            seconds = time.monotonic() - visit.began
            logger.info(
                "visitor %s of %s (%s): %d bytes in, %d out, %.3f s, %s",
                visit.host or "unknown",
                visit.lease,
                visit.kind,
                visit.bytes_in,
                visit.bytes_out,
                seconds,
                ending.value,
                extra={
                    "fields": {
                        "visitor": visit.host,
                        "name": visit.lease,
                        "owner": visit.owner,
                        "kind": visit.kind,
                        "bytes_in": visit.bytes_in,
                        "bytes_out": visit.bytes_out,
                        "seconds": round(seconds, 6),
                        "ending": ending.name.lower(),
                    }
                },
            )


def _ending(splice: Splice) -> Ending:
    if splice.is_complete:
        return Ending.DONE
    if splice.lost is not None:
        return _BY_CODE[splice.lost]
    return Ending.SENT_AWAY if splice.is_refused else Ending.VISITOR
