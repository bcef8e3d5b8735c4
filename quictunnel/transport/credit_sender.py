"""Credit for the peer, in batches: what was consumed here, and how far it may send.

What matters is told at the end of a turn of the loop, the rest within :data:`SWEEP_INTERVAL`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from quictunnel.wire.messages import MAX_CREDITS, Credits

if TYPE_CHECKING:
    from quictunnel.transport.link import Link
    from quictunnel.transport.stream import Stream

SWEEP_INTERVAL: Final = 0.25
"""Seconds after which consumed bytes are credited even when they are few, so that idle streams keep nothing
on the sending side."""


class CreditOwner(Protocol):
    """The session, as its credit sender uses it."""

    link: Link

    def settle(self, stream: Stream) -> None:
        """Forget the stream if both directions have ended cleanly."""


class CreditSender:
    """The streams of a session that the peer is to be told of."""

    def __init__(self, owner: CreditOwner) -> None:
        self._owner = owner
        self._due: set[Stream] = set()
        """Streams that are told of at the end of this turn."""
        self._owed: set[Stream] = set()
        """Streams that are told of some time."""
        self._loop = asyncio.get_running_loop()
        self._sweep: asyncio.TimerHandle | None = None
        self._is_flush_scheduled = False

    @property
    def waiting(self) -> int:
        """Number of streams that credit is owed for."""
        return len(self._due) + len(self._owed)

    def owe(self, stream: Stream) -> None:
        """Note that bytes of a stream were consumed: tell the peer at the end of this turn, or some time."""
        if stream.receive_window.due or stream.receive_done or stream.is_stopped:
            self._due.add(stream)
            if not self._is_flush_scheduled:
                self._is_flush_scheduled = True
                self._loop.call_soon(self._flush_scheduled)
        else:
            self._owed.add(stream)
            if self._sweep is None:
                self._sweep = self._loop.call_later(SWEEP_INTERVAL, self._swept)

    def forget(self, stream: Stream) -> None:
        """Owe nothing for a stream that is over."""
        self._due.discard(stream)
        self._owed.discard(stream)

    def clear(self) -> None:
        """Owe nothing: the peer is told of all streams in another way."""
        self._due.clear()
        self._owed.clear()

    def flush(self) -> None:
        """Tell the peer what is due now."""
        if self._due:
            self._announce(self._due)

    def close(self) -> None:
        """End the timer; the session is over."""
        if self._sweep is not None:
            self._sweep.cancel()

    def _flush_scheduled(self) -> None:
        self._is_flush_scheduled = False
        if not self._owner.link.is_down:
            self.flush()

    def _swept(self) -> None:
        self._sweep = None
        if self._owed and not self._owner.link.is_down:
            self._announce(self._owed)

    def _announce(self, streams: set[Stream]) -> None:
        now = self._loop.time()
        link = self._owner.link
        rtt = link.stats().rtt
        batch = list(streams)
        streams.clear()
        for start in range(0, len(batch), MAX_CREDITS):
            part = batch[start : start + MAX_CREDITS]
            link.send(Credits([(s.number, *s.receive_window.announce(now, rtt)) for s in part]))
        for stream in batch:
            self._owed.discard(stream)
            self._owner.settle(stream)
