"""The queue of visitors that wait until the client of their tunnel has a link again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from quictunnel.transport.refusal import Refusal

if TYPE_CHECKING:
    from edge_server.ingress.admission import Admission
    from edge_server.tunnels.visitor_log import EntryPoint, VisitorConnection
    from quictunnel.transport.splice import Splice


@dataclass(slots=True, eq=False)
class WaitingVisitor:
    """A queued visitor with its timer. It occupies a descriptor; nothing is read from it."""

    queue: WaitingVisitors
    splice: Splice
    entry_point: EntryPoint
    timer: asyncio.TimerHandle

    def reject(self, reason: Refusal = Refusal.AT_CAPACITY) -> None:
        """Remove the visitor from the queue and refuse it."""
        self.queue.discard(self.splice)
        self.splice.refuse(reason)


class Released(NamedTuple):
    """A visitor that was taken out of the queue, to be served."""

    splice: Splice
    entry_point: EntryPoint
    remaining: float
    """Seconds for which it may wait again, if there is still no link."""


class WaitingVisitors:
    """The queue of one tunnel, oldest visitor first; admission limits its length."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._waiting: dict[Splice, WaitingVisitor] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, splice: Splice, entry_point: EntryPoint, visit: VisitorConnection, seconds: float) -> None:
        """Queue a visitor for this many seconds. If the limit is reached, admission evicts a visitor, which is
        refused."""
        timer = asyncio.get_running_loop().call_later(seconds, self._time_out, splice)
        waiting = self._waiting[splice] = WaitingVisitor(self, splice, entry_point, timer)
        evicted = self._admission.enqueue(waiting, visit.address, visit.owner, visit.tunnel_name)
        if evicted is not None:
            evicted.reject()

    def discard(self, splice: Splice) -> None:
        """Remove a visitor from the queue, if it is queued."""
        waiting = self._waiting.pop(splice, None)
        if waiting is not None:
            waiting.timer.cancel()
            self._admission.waiting.release(waiting)

    def take_all(self) -> list[Released]:
        """Remove and return all visitors."""
        now = asyncio.get_running_loop().time()
        released = [
            Released(each.splice, each.entry_point, max(0.0, each.timer.when() - now))
            for each in self._waiting.values()
        ]
        for each in released:
            self.discard(each.splice)
        return released

    def reject_all(self) -> None:
        """Remove and refuse all visitors."""
        for waiting in tuple(self._waiting.values()):
            waiting.reject(Refusal.OFFLINE)

    def _time_out(self, splice: Splice) -> None:
        self._waiting[splice].reject(Refusal.OFFLINE)
