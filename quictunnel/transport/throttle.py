"""Throttle of a splice: pauses it while its rate limit is exceeded. Nothing is dropped.

In one direction it stops reading from TCP, which fills the visitor's own buffers. In the other it withholds the
credit of bytes written to TCP, which stops reading at the other end. A splice without a rate limit has no
throttle, so it costs nothing there.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class RateLimiter(Protocol):
    """Rate limiter of one direction, shared by several splices."""

    def spend(self, size: int) -> float:
        """Spend bytes. Return the seconds to wait before the next, or 0."""


class Throttle:
    """Pauses one splice by the rate limiters of its two directions."""

    __slots__ = ("_reading", "_received", "_sent", "_writing")

    def __init__(self, received: RateLimiter, sent: RateLimiter) -> None:
        """Create the throttle. ``received``: limit of bytes from the TCP connection; ``sent``: of bytes to it."""
        self._received = received
        self._sent = sent
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None

    @property
    def pauses_reading(self) -> bool:
        """Return True while reading from the TCP connection is paused."""
        return self._reading is not None

    @property
    def withholds_credit(self) -> bool:
        """Return True while bytes written to the TCP connection are not credited."""
        return self._writing is not None

    def received(self, size: int, later: Callable[[], None]) -> None:
        """Spend bytes that were read. ``later`` is called when reading may resume."""
        wait = self._received.spend(size)
        if wait and self._reading is None:

            def over() -> None:
                self._reading = None
                later()

            self._reading = asyncio.get_running_loop().call_later(wait, over)

    def sent(self, size: int, later: Callable[[], None]) -> None:
        """Spend bytes that were written. ``later`` is called when they may be credited."""
        wait = self._sent.spend(size)
        if wait and self._writing is None:

            def over() -> None:
                self._writing = None
                later()

            self._writing = asyncio.get_running_loop().call_later(wait, over)

    def close(self) -> None:
        """Cancel the timers."""
        for timer in (self._reading, self._writing):
            if timer is not None:
                timer.cancel()
