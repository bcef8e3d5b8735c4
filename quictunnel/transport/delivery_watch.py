"""Deadline for the delivery of bytes that were received from a TCP connection before it broke."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.transport.stream_sender import StreamSender

DELIVERY_TIMEOUT: Final = 60.0
"""Seconds without progress after which such a delivery is given up. Twice the time in which a dead link is
detected, so that a session has another link first; an open connection has no such deadline."""


class DeliveryWatch:
    """Check, every :data:`DELIVERY_TIMEOUT` seconds, whether the peer has consumed more."""

    __slots__ = ("_give_up", "_is_waiting", "_sender", "_timer")

    def __init__(self, sender: StreamSender, is_waiting: Callable[[], bool], give_up: Callable[[], None]) -> None:
        """Start the timer.

        Args:
            sender: the sending direction of the stream.
            is_waiting: returns True while progress is due.
            give_up: called once, after an interval without progress.
        """
        self._sender = sender
        self._is_waiting = is_waiting
        self._give_up = give_up
        self._timer = self._start()

    def close(self) -> None:
        """Stop the timer."""
        self._timer.cancel()

    def _start(self) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(DELIVERY_TIMEOUT, self._check, self._sender.consumed)

    def _check(self, before: int) -> None:
        if self._is_waiting() and self._sender.consumed == before:
            self._give_up()
        else:
            self._timer = self._start()
