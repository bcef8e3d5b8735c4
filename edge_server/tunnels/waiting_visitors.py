"""Visitors who wait for a client of their tunnel that has no link at the moment, in the order of coming."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from edge_server.ingress.admission import Admission
    from edge_server.tunnels.visitor_log import Ingress, VisitorConnection
    from quictunnel.transport.splice import Splice


@dataclass(slots=True, eq=False)
class WaitingVisitor:
    """A visitor that waits, and until when. It holds a descriptor; nothing is read from it."""

    queue: WaitingVisitors
    splice: Splice
    ingress: Ingress
    timer: asyncio.TimerHandle

    def send_away(self) -> None:
        """Refuse the visitor; it waits no longer."""
        self.queue.discard(self.splice)
        self.splice.refuse()


class Released(NamedTuple):
    """A visitor that waits no longer, and may go in."""

    splice: Splice
    ingress: Ingress
    left: float
    """Seconds for which it may still wait."""


class WaitingVisitors:
    """The waiting visitors of one tunnel; bounded by the places that admission has for them."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._waiting: dict[Splice, WaitingVisitor] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, splice: Splice, ingress: Ingress, visit: VisitorConnection, seconds: float) -> None:
        """Let a visitor wait for so many seconds. The one that has to make room for it is refused."""
        timer = asyncio.get_running_loop().call_later(seconds, self._send_away, splice)
        waiting = self._waiting[splice] = WaitingVisitor(self, splice, ingress, timer)
        evicted = self._admission.wait(waiting, visit.host, visit.owner, visit.lease)
        if evicted is not None:
            evicted.send_away()

    def discard(self, splice: Splice) -> None:
        """Stop the wait of a visitor, if it waits."""
        waiting = self._waiting.pop(splice, None)
        if waiting is not None:
            waiting.timer.cancel()
            self._admission.waiting.leave(waiting)

    def release(self) -> list[Released]:
        """Return all visitors, which wait no longer."""
        now = asyncio.get_running_loop().time()
        released = [
            Released(each.splice, each.ingress, max(0.0, each.timer.when() - now))
            for each in self._waiting.values()
        ]
        for each in released:
            self.discard(each.splice)
        return released

    def send_all_away(self) -> None:
        """Refuse all visitors."""
        for waiting in tuple(self._waiting.values()):
            waiting.send_away()

    def _send_away(self, splice: Splice) -> None:
        self._waiting[splice].send_away()
