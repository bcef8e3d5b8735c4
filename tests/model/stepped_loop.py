"""An event loop that a driver turns: nothing runs and no time passes unless it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import math
from typing import TYPE_CHECKING, Any, TypeVar

from tests.model.ports import AcceptingServer
from tests.simnet.clock import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

MAX_TURNS = 20_000
"""Turns of the loop without time passing, after which something is taken to spin."""


class SpinError(Exception):
    """The loop does not come to rest although no time passes."""


class SteppedLoop(VirtualLoop):
    """A virtual loop without ``run_forever``: the driver calls in and gets control back when all is at rest."""

    def __init__(self) -> None:
        super().__init__(math.inf)

    def waited(self, timeout: float | None) -> None:
        """Do not move the clock: :meth:`advance` does."""

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Run the function at once: threads take no time here."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  handed to the caller, as an executor does
            future.set_exception(error)
        return future

    async def create_server(self, protocol_factory: Any, *_: Any, sock: Any, **__: Any) -> Any:
        """Return a server on a handle of ``ports``: there are no other TCP sockets here."""
        return AcceptingServer(protocol_factory, sock)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function as a callback of the loop would be, and let everything that follows from it happen."""
        with self._running():
            result = function(*args)
            self._settle()
        return result

    def settle(self) -> None:
        """Run until nothing is ready."""
        with self._running():
            self._settle()

    def advance(self, seconds: float) -> None:
        """Let time pass, timer by timer."""
        end = self._virtual_now + seconds
        with self._running():
            self._settle()
            while (when := self._next_timer()) is not None and when <= end:
                self._virtual_now = max(self._virtual_now, when)
                self._run_once()
                self._settle()
            self._virtual_now = end

    @property
    def timers(self) -> list[asyncio.TimerHandle]:
        """Timers that are set."""
        return [timer for timer in self._scheduled if not timer.cancelled()]

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        if asyncio._get_running_loop() is self:
            yield
            return
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)

    def _settle(self) -> None:
        turns = 0
        while self._ready:
            self._run_once()
            turns += 1
            if turns > MAX_TURNS:
                raise SpinError(f"{MAX_TURNS} turns and no rest; ready: {list(self._ready)[:3]}")

    def _next_timer(self) -> float | None:
        scheduled = self._scheduled
        while scheduled and scheduled[0].cancelled():
            self._timer_cancelled_count -= 1
            heapq.heappop(scheduled)._scheduled = False
        return scheduled[0].when() if scheduled else None
