"""Sender of credit in batches: bytes consumed here, and the limit up to which the peer may send.

Credit that the peer needs soon is sent at the end of an iteration of the loop, other credit within
:data:`SWEEP_INTERVAL`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from quictunnel.wire.messages import MAX_CREDITS, Credits

if TYPE_CHECKING:
    from quictunnel.transport.link import Link
    from quictunnel.transport.stream import Stream

SWEEP_INTERVAL: Final = 0.25
"""Seconds after which consumed bytes are credited even when they are few, so that the sender
retains nothing for idle streams."""


class CreditOwner(Protocol):
    """The session, as its credit sender uses it."""

    link: Link

    def forget_if_ended(self, stream: Stream) -> None:
        """Forget the stream if both directions have ended cleanly."""


class CreditSender:
    """Streams of a session with credit that was not sent yet."""

    def __init__(self, owner: CreditOwner) -> None:
        self._owner = owner
        self._due: set[Stream] = set()
        """Streams whose credit is sent at the end of this iteration of the loop."""
        self._later: set[Stream] = set()
        """Streams whose credit is sent by the next sweep."""
        self._loop = asyncio.get_running_loop()
        self._sweep: asyncio.TimerHandle | None = None
        self._is_flush_scheduled = False

    @property
    def waiting(self) -> int:
        """Return the number of streams with credit that was not sent yet."""
        return len(self._due) + len(self._later)

    def add(self, stream: Stream) -> None:
        """Send credit for a stream of which bytes were consumed: in this iteration of the loop, or by a sweep."""
        if stream.receive_window.is_credit_due or stream.receive_done or stream.is_stopped_by_peer:
            self._due.add(stream)
            if not self._is_flush_scheduled:
                self._is_flush_scheduled = True
                self._loop.call_soon(self._flush_scheduled)
        else:
            self._later.add(stream)
            if self._sweep is None:
                self._sweep = self._loop.call_later(SWEEP_INTERVAL, self._swept)

    def forget(self, stream: Stream) -> None:
        """Send no credit for a stream that is over."""
        self._due.discard(stream)
        self._later.discard(stream)

    def clear(self) -> None:
        """Drop all credit: a ResumeState tells the peer of every stream."""
        self._due.clear()
        self._later.clear()

    def flush(self) -> None:
        """Send the credit that is due."""
        if self._due:
            self._send(self._due)

    def close(self) -> None:
        """Stop the sweep; the session is over."""
        if self._sweep is not None:
            self._sweep.cancel()

    def _flush_scheduled(self) -> None:
        self._is_flush_scheduled = False
        if not self._owner.link.is_down:
            self.flush()

    def _swept(self) -> None:
        self._sweep = None
        if self._later and not self._owner.link.is_down:
            self._send(self._later)

    def _send(self, streams: set[Stream]) -> None:
        now = self._loop.time()
        link = self._owner.link
        rtt = link.stats().rtt
        batch = list(streams)
        streams.clear()
        for start in range(0, len(batch), MAX_CREDITS):
            part = batch[start : start + MAX_CREDITS]
            link.send(Credits([(s.number, *s.receive_window.next_credit(now, rtt)) for s in part]))
        for stream in batch:
            self._later.discard(stream)
            self._owner.forget_if_ended(stream)
