"""Queue of visitors for which the origin is not dialled yet.

A visitor in the queue has no task and no socket. After an outage hundreds of visitors arrive at once, and the
process would keep the memory that a task for each needs.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from quictunnel.connection.capacity import Reservation
    from quictunnel.transport.stream import Stream

    StartDial: TypeAlias = Callable[[Stream, Reservation], asyncio.Task[None]]

MAX_CONCURRENT_DIALS: Final = 4
"""Connections to one local port that may be pending at a time, not counting
those older than :data:`DIAL_SLOT_TIME`. With more pending connections than the service's
backlog (five, for Python's own servers), the kernel answers with SYN cookies. If the last packet of such a
handshake finds no room, the server's side knows nothing of the connection, which only the client believes to be
open."""
DIAL_SLOT_TIME: Final = 0.23
"""Seconds after which a pending dial frees its slot although the service has not answered. Its backlog is full
then, and the kernel retries after whole seconds, which are no multiples of this."""


class DialQueue:
    """Visitors of one origin in the order of their arrival; at most a few recent dials are pending at a time.

    ``Capacity`` bounds the length: each visitor in the queue has a reservation.
    """

    def __init__(self) -> None:
        self._free_slots = MAX_CONCURRENT_DIALS
        self._waiting: OrderedDict[Stream, tuple[Reservation, StartDial]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, stream: Stream, reservation: Reservation, start: StartDial) -> None:
        """Call ``start``, which returns the task of a dial, now or when a slot becomes free."""
        if self._free_slots:
            self._start(stream, reservation, start)
        else:
            self._waiting[stream] = reservation, start

    def remove(self, stream: Stream) -> Reservation | None:
        """Remove a visitor and return its reservation. Return None if it is not in the queue."""
        entry = self._waiting.pop(stream, None)
        return None if entry is None else entry[0]

    def release_slot(self) -> None:
        """Free a slot. Start the dial for the visitor that has waited longest."""
        self._free_slots += 1
        if self._waiting:
            stream, (reservation, start) = self._waiting.popitem(last=False)
            self._start(stream, reservation, start)

    def _start(self, stream: Stream, reservation: Reservation, start: StartDial) -> None:
        self._free_slots -= 1
        slot = _DialSlot(self)
        start(stream, reservation).add_done_callback(slot.release)


class _DialSlot:
    """Right of one dial to be pending. Released once: when the dial ends, or after ``DIAL_SLOT_TIME``."""

    def __init__(self, queue: DialQueue) -> None:
        self._queue: DialQueue | None = queue
        self._timer = asyncio.get_running_loop().call_later(DIAL_SLOT_TIME, self.release)

    def release(self, _: object = None) -> None:
        self._timer.cancel()
        if self._queue is not None:
            queue, self._queue = self._queue, None
            queue.release_slot()
