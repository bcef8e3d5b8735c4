"""Visitors of a client: dials the origin for each stream and counts the stream when it is over."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from quictunnel.connection.capacity import Capacity, descriptor_limit, kept_free
from quictunnel.connection.leases import VisitorCounts
from quictunnel.origin.bad_gateway import BadGateway
from quictunnel.origin.dial import OriginDialError
from quictunnel.origin.dial_failure import NO_DESCRIPTORS
from quictunnel.wire.codes import StreamCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.connection.capacity import Reservation
    from quictunnel.connection.leases import ClientLease, Leases
    from quictunnel.origin.dial_failure import DialFailure
    from quictunnel.shared.supervision import Supervisor
    from quictunnel.transport.stream import Stream


FULL_INTERVAL: Final = 60.0
"""Seconds between two events that report visitors refused because no file descriptor is free."""


class VisitorHandler:
    """Handles the visitors of one client."""

    def __init__(self, leases: Leases, publish: Callable[[str, str], None], supervisor: Supervisor) -> None:
        self.counts = VisitorCounts()
        """Counts since the client was created."""
        self._leases = leases
        self._publish = publish
        self._supervisor = supervisor
        self._capacity = Capacity()
        self._refused = 0
        """Visitors refused because no descriptor was free, since the last such event."""
        self._reported_full_at = float("-inf")
        self._dialling: dict[Stream, asyncio.Task[None]] = {}
        """Visitors whose origin is being dialled. Not an attribute of the stream, which outlives the task."""

    @property
    def active_count(self) -> int:
        """Number of active visitors."""
        return sum(len(lease.streams) for lease in self._leases)

    @property
    def active_bytes(self) -> tuple[int, int]:
        """Bytes received from and sent to active visitors, which :attr:`counts` does not have yet."""
        streams = [stream for lease in self._leases for stream in tuple(lease.streams)]
        return sum(s.bytes_received for s in streams), sum(s.bytes_sent for s in streams)

    def accept(self, stream: Stream) -> None:
        """Serve a new visitor."""
        lease = self._leases.get(stream.preface.lease)
        if lease is None:
            stream.abort(StreamCode.UNKNOWN_LEASE)
            return
        self.counts.visitors += 1
        lease.counts.visitors += 1
        lease.streams.add(stream)
        stream.on_over = partial(self._over, lease)
        self._publish("visitor", f"{stream.preface.host} connected to {lease.origin.target.noun}.")
        reservation = self._capacity.reserve(lease.number, stream.preface.host)
        if reservation is None:
            self._report_full()
            self._refuse(stream, lease, NO_DESCRIPTORS)
            return
        lease.dial_queue.add(stream, reservation, partial(self._start_dial, lease))

    def _start_dial(self, lease: ClientLease, stream: Stream, reservation: Reservation) -> asyncio.Task[None]:
        dial = self._supervisor.start(self._dial(stream, lease, reservation), "dialling the local service")
        self._dialling[stream] = dial
        dial.add_done_callback(lambda _: self._dialling.pop(stream))
        return dial

    def _report_full(self) -> None:
        self._refused += 1
        now = asyncio.get_running_loop().time()
        limit = descriptor_limit()
        if now >= self._reported_full_at + FULL_INTERVAL and limit is not None:
            self._publish(
                "warning",
                f"Visitors are refused ({self._refused} since the last report): {self._capacity.reserved} have or "
                f"wait for a connection, and of the {limit} file descriptors that this program may have (ulimit "
                f"-n) {kept_free(limit)} are kept free for the program itself.",
            )
            self._reported_full_at = now
            self._refused = 0

    @staticmethod
    def _refuse(stream: Stream, lease: ClientLease, failure: DialFailure) -> None:
        if lease.options.pool:
            stream.abort(failure.code)  # the edge tries another client of the pool
        elif not stream.is_over:
            BadGateway(stream, lease.origin.target, failure)

    async def close(self) -> None:
        """Stop dialling, and reset the visitors who wait for it."""
        for lease in self._leases:
            for stream in tuple(lease.streams):
                reservation = lease.dial_queue.remove(stream)
                if reservation is not None:
                    reservation.release()
                    stream.abort(StreamCode.CLOSING)
        for task in tuple(self._dialling.values()):
            task.cancel()
        if self._dialling:
            await asyncio.wait(tuple(self._dialling.values()))

    async def _dial(self, stream: Stream, lease: ClientLease, reservation: Reservation) -> None:
        try:
            splice = await lease.origin.dial(stream)
        except BaseException as error:
            reservation.release()
            self._dial_failed(stream, lease, error)
            if not isinstance(error, OriginDialError):
                raise
        else:
            reservation.mark_opened()
            if splice.is_connected:
                splice.on_closed = reservation.release
            else:
                reservation.release()
            if lease.origin_warning:
                lease.origin_warning = ""
                self._publish("origin", lease.origin.target.format("{origin} answers again."))

    def _dial_failed(self, stream: Stream, lease: ClientLease, error: BaseException) -> None:
        if isinstance(error, OriginDialError):
            event = error.failure.event_for(lease.origin.target)
            if lease.origin_warning != event:
                lease.origin_warning = event
                self._publish("origin", event)
            self._refuse(stream, lease, error.failure)
        elif isinstance(error, asyncio.CancelledError):
            stream.abort(StreamCode.CLOSING)
        else:
            stream.abort(StreamCode.ABORTED)  # a bug: the visitor is reset, and the supervisor reports it

    def _over(self, lease: ClientLease, stream: Stream) -> None:
        reservation = lease.dial_queue.remove(stream)
        if reservation is not None:
            reservation.release()
        dial = self._dialling.get(stream)
        if dial is not None:
            dial.cancel()
        lease.streams.discard(stream)  # first: another thread that reads meanwhile must not count it twice
        for counts in (self.counts, lease.counts):
            counts.bytes_in += stream.bytes_received
            counts.bytes_out += stream.bytes_sent
            counts.lost += stream.ended_with_session
