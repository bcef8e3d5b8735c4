"""An asyncio event loop in which waiting takes no time.

When nothing is ready the clock jumps to the next timer. When there is no timer either, every task waits for
something that cannot happen, and that is an error here instead of a hang. Threads and real sockets live in
another time and have no place in this one.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

# Real seconds that a virtual run may take; a run that needs more spins, or does not belong in a test.
PATIENCE = 100.0
# Not zero, so that code which takes 0 for "never" is found out.
START = 1000.0


class DeadlockError(Exception):
    """Nothing is ready and nothing is scheduled: whoever is still waiting waits for ever."""


class OverdueError(Exception):
    """The run has used up its real time."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Event loop whose time passes only when all callbacks have run."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self._virtual_now = START
        self._give_up_at = time.monotonic() + patience
        self._patience = patience
        super().__init__(_Waiter(self))
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._virtual_now

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        raise RuntimeError(f"{func!r} would run on a thread, which has no place in virtual time")

    def waited(self, timeout: float | None) -> None:
        """The loop has nothing to do for ``timeout`` seconds; None: for ever."""
        if time.monotonic() > self._give_up_at:
            self._give_up_at = float("inf")  # say so once; what follows is taking down
            raise OverdueError(f"{self._patience:g} s of real time are used up {self._elapsed()}")
        if timeout is None:
            waiting = "; ".join(
                sorted(f"{task.get_name()}: {task.get_coro()!r}" for task in asyncio.all_tasks(self))
            )
            raise DeadlockError(f"nothing is scheduled any more {self._elapsed()}, yet these wait: {waiting}")
        if timeout > 0:
            # The timer's own number, not now + timeout: the sum may fall short of it by a rounding.
            self._virtual_now = max(self._virtual_now, self._scheduled[0].when())

    def _elapsed(self) -> str:
        return f"after {self._virtual_now - START:.3f} s of virtual time"


class _Waiter(selectors.DefaultSelector):  # type: ignore[misc]  # the class differs by platform
    """A selector that never waits. It looks at real sockets (the loop's own wake-up pipe) all the same."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            self._loop.waited(timeout)
        return ready


def run(main: Coroutine[Any, Any, Any], patience: float = PATIENCE) -> Any:
    """``asyncio.run`` in virtual time."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(patience)) as runner:
        return runner.run(main)
