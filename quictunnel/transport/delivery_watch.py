"""A deadline for the delivery of what a broken TCP connection had said."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.transport.stream_sender import StreamSender

DELIVERY_TIMEOUT: Final = 60.0
"""Seconds without progress after which the delivery of what a broken TCP connection had said is given up. Twice
what it takes to find a link dead, so that a session has another link first; a connection that lives has no such
deadline."""


class DeliveryWatch:
    """Looks every :data:`DELIVERY_TIMEOUT` seconds whether the peer has consumed more."""

    __slots__ = ("_give_up", "_is_waiting", "_sender", "_timer")

    def __init__(self, sender: StreamSender, is_waiting: Callable[[], bool], give_up: Callable[[], None]) -> None:
        """Start to watch.

        Args:
            sender: the direction that is delivered.
            is_waiting: returns True while progress is due.
            give_up: called once, when there was none.
        """
        self._sender = sender
        self._is_waiting = is_waiting
        self._give_up = give_up
        self._timer = self._watch()

    def close(self) -> None:
        """Stop watching."""
        self._timer.cancel()

    def _watch(self) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(DELIVERY_TIMEOUT, self._look, self._sender.consumed)

    def _look(self, before: int) -> None:
        if self._is_waiting() and self._sender.consumed == before:
            self._give_up()
        else:
            self._timer = self._watch()
