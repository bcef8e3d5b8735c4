"""The visitors of a client: each gets its origin dialled, and is counted when it has left."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from quictunnel.leases import Tally
from quictunnel.origin import OriginRefusedError
from quictunnel.refusal import Refusal
from quictunnel.wire.codes import StreamCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.leases import HeldLease, Leases
    from quictunnel.supervision import Supervisor
    from quictunnel.transport.stream import Stream


class Visits:
    """See the module."""

    def __init__(self, leases: Leases, observe: Callable[[str, str], None], supervisor: Supervisor) -> None:
        self.tally = Tally()
        """Since the client was made."""
        self._leases = leases
        self._observe = observe
        self._supervisor = supervisor
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
        visit = self._supervisor.start(self._visit(stream, lease), "dialling the local service")
        stream.on_over = partial(self._over, lease)
        self._dialling[stream] = visit
        visit.add_done_callback(lambda _: self._dialling.pop(stream))
        self._observe("visitor", f"{stream.preface.host} came to port {lease.origin.port}.")

    async def close(self) -> None:
        """Stop dialling for those who wait."""
        for task in tuple(self._dialling.values()):
            task.cancel()
        if self._dialling:
            await asyncio.wait(tuple(self._dialling.values()))

    async def _visit(self, stream: Stream, lease: HeldLease) -> None:
        try:
            await lease.origin.join(stream)
        except OriginRefusedError as refused:
            if not lease.warned:
                lease.warned = True
                self._observe("origin", f"Nobody listens on port {lease.origin.port}; visitors are refused.")
            if lease.wish.pool:
                stream.abort(refused.code)  # the edge has others to ask
            elif not stream.is_over:
                Refusal(stream, lease.origin.port, refused.code)
        except asyncio.CancelledError:
            stream.abort(StreamCode.CLOSING)
            raise
        except BaseException:
            stream.abort(StreamCode.ABORTED)  # a fault of ours: its visitor hears of it, as its supervisor does
            raise
        else:
            if lease.warned:
                lease.warned = False
                self._observe("origin", f"Port {lease.origin.port} answers again.")

    def _over(self, lease: HeldLease, stream: Stream) -> None:
        visit = self._dialling.get(stream)
        if visit is not None:
            visit.cancel()  # it still dials, and the visitor does not wait any more
        lease.streams.discard(stream)  # first: nobody who reads meanwhile counts it twice
        for tally in (self.tally, lease.tally):
            tally.bytes_in += stream.bytes_received
            tally.bytes_out += stream.bytes_sent
