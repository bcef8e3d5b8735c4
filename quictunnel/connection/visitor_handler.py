"""The visitors of a client: each gets its origin dialled, and is counted when it has left."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from quictunnel.connection.capacity import Capacity, descriptor_limit, reserve_of
from quictunnel.connection.leases import Tally
from quictunnel.origin.bad_gateway import BadGateway
from quictunnel.origin.dial import NO_DESCRIPTORS, OriginRefusedError
from quictunnel.wire.codes import StreamCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.connection.capacity import Place
    from quictunnel.connection.leases import HeldLease, Leases
    from quictunnel.origin.dial import DialFailure
    from quictunnel.shared.supervision import Supervisor
    from quictunnel.transport.stream import Stream


FULL_INTERVAL: Final = 60.0
"""Seconds between two events that say that visitors are refused for want of descriptors."""


class VisitorHandler:
    """The visitors of one client."""

    def __init__(self, leases: Leases, observe: Callable[[str, str], None], supervisor: Supervisor) -> None:
        self.tally = Tally()
        """Since the client was made."""
        self._leases = leases
        self._observe = observe
        self._supervisor = supervisor
        self._capacity = Capacity()
        self._refused = 0
        """For want of a place, since that was said."""
        self._said_at = float("-inf")
        self._dialling: dict[Stream, asyncio.Task[None]] = {}
        """Visitors whose origin is being dialled. Kept here and not with the stream, which outlives the task."""

    @property
    def now(self) -> int:
        """Visitors at this moment."""
        return sum(len(lease.streams) for lease in self._leases)

    @property
    def bytes_in_flight(self) -> tuple[int, int]:
        """Bytes in and out of the visitors of now, which the tally does not count yet."""
        streams = [stream for lease in self._leases for stream in tuple(lease.streams)]
        return sum(s.bytes_received for s in streams), sum(s.bytes_sent for s in streams)

    def come(self, stream: Stream) -> None:
        """A visitor is here."""
        lease = self._leases.get(stream.preface.lease)
        if lease is None:
            stream.abort(StreamCode.UNKNOWN_LEASE)
            return
        self.tally.visitors += 1
        lease.tally.visitors += 1
        lease.streams.add(stream)
        stream.on_over = partial(self._over, lease)
        self._observe("visitor", f"{stream.preface.host} came to port {lease.origin.port}.")
        place = self._capacity.take(lease.number, stream.preface.host)
        if place is None:
            self._say_full()
            self._refuse(stream, lease, NO_DESCRIPTORS)
            return
        lease.dial_queue.add(stream, place, partial(self._start_dial, lease))

    def _start_dial(self, lease: HeldLease, stream: Stream, place: Place) -> asyncio.Task[None]:
        dial = self._supervisor.start(self._dial(stream, lease, place), "dialling the local service")
        self._dialling[stream] = dial
        dial.add_done_callback(lambda _: self._dialling.pop(stream))
        return dial

    def _say_full(self) -> None:
        self._refused += 1
        now = asyncio.get_running_loop().time()
        limit = descriptor_limit()
        if now >= self._said_at + FULL_INTERVAL and limit is not None:
            self._observe(
                "warning",
                f"Visitors are refused ({self._refused} since this was last said): {self._capacity.held} are "
                f"here, and of the {limit} file descriptors that this program may have (ulimit -n) "
                f"{reserve_of(limit)} are kept for itself.",
            )
            self._said_at = now
            self._refused = 0

    @staticmethod
    def _refuse(stream: Stream, lease: HeldLease, failure: DialFailure) -> None:
        if lease.options.pool:
            stream.abort(failure.code)  # the edge has others to ask
        elif not stream.is_over:
            BadGateway(stream, lease.origin.port, failure)

    async def close(self) -> None:
        """Stop dialling, and reset the visitors who wait for it."""
        for lease in self._leases:
            for stream in tuple(lease.streams):
                place = lease.dial_queue.remove(stream)
                if place is not None:
                    place.give_back()
                    stream.abort(StreamCode.CLOSING)
        for task in tuple(self._dialling.values()):
            task.cancel()
        if self._dialling:
            await asyncio.wait(tuple(self._dialling.values()))

    async def _dial(self, stream: Stream, lease: HeldLease, place: Place) -> None:
        port = lease.origin.port
        try:
            splice = await lease.origin.join(stream)
        except BaseException as error:
            place.give_back()
            self._failed(stream, lease, error)
            if not isinstance(error, OriginRefusedError):
                raise
        else:
            place.opened()
            if splice.is_connected:
                splice.on_gone = place.give_back
            else:
                place.give_back()
            if lease.trouble:
                lease.trouble = ""
                self._observe("origin", f"Port {port} answers again.")

    def _failed(self, stream: Stream, lease: HeldLease, error: BaseException) -> None:
        if isinstance(error, OriginRefusedError):
            event = error.failure.event.format(port=lease.origin.port)
            if lease.trouble != event:
                lease.trouble = event
                self._observe("origin", event)
            self._refuse(stream, lease, error.failure)
        elif isinstance(error, asyncio.CancelledError):
            stream.abort(StreamCode.CLOSING)
        else:
            stream.abort(StreamCode.ABORTED)  # a fault of ours: its visitor hears of it, as its supervisor does

    def _over(self, lease: HeldLease, stream: Stream) -> None:
        place = lease.dial_queue.remove(stream)
        if place is not None:
            place.give_back()
        dial = self._dialling.get(stream)
        if dial is not None:
            dial.cancel()
        lease.streams.discard(stream)  # first: nobody who reads meanwhile counts it twice
        for tally in (self.tally, lease.tally):
            tally.bytes_in += stream.bytes_received
            tally.bytes_out += stream.bytes_sent
