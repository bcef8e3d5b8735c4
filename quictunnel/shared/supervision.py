"""Background work that cannot end without a word: every task that outlives its caller is started here.

asyncio tells of a task's exception when the task is thrown away, which may be never, and in a line that nobody
connects with what stopped working. A :class:`Supervisor` logs it at once with its traceback, and tells the owner,
who changes its state.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

logger = logging.getLogger(__name__)

T = TypeVar("T")

RESTART_PAUSE: Final = 1.0
"""Seconds before a loop that failed is begun again: soon enough to be no outage, and a fault that repeats at once
costs nothing."""
WELL_AFTER: Final = 30.0
"""Seconds that a loop which was begun again has to run to count as well."""
MAX_LOGGED: Final = 100
"""Failures that one supervisor logs with their tracebacks; a fault that repeats for ever must not fill a disk."""


class Supervisor:
    """Starts the background tasks of one owner."""

    def __init__(self, failed: Callable[[str, Exception], None] | None = None) -> None:
        """``failed`` is called with the name of the work and its exception, on the loop's thread."""
        self.failures = 0
        """Since it was made."""
        self.failing: dict[str, str] = {}
        """Loops of :meth:`keep_running` whose last turn failed, and why."""
        self._failed = failed
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T], what: str) -> asyncio.Task[T]:
        """Run ``work`` as a task, which is kept until it ends. ``what`` names it in the log."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, what))
        return task

    def keep_running(self, make: Callable[[], Coroutine[Any, Any, None]], what: str) -> asyncio.Task[None]:
        """Run the loop that ``make`` returns; after an exception make another. It ends when it returns or is
        cancelled."""
        return self.start(self.running(make, what), what)

    def cancel(self) -> None:
        """Cancel every task that runs."""
        for task in tuple(self._tasks):
            task.cancel()

    def report(self, what: str, error: Exception) -> None:
        """Log a failure that the caller has caught, and tell the owner."""
        self.failures += 1
        if self.failures <= MAX_LOGGED:
            logger.error("background work failed: %s", what, exc_info=error)
        if self._failed is not None:
            self._failed(what, error)

    async def running(self, make: Callable[[], Coroutine[Any, Any, None]], what: str) -> None:
        """The same as a coroutine, for a caller who waits for it."""
        well: asyncio.TimerHandle | None = None
        while True:
            try:
                await make()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is reported, and the loop goes on
                self.turn_failed(what, error)
            else:
                return
            finally:
                if well is not None:
                    well.cancel()
            await asyncio.sleep(RESTART_PAUSE)
            well = asyncio.get_running_loop().call_later(WELL_AFTER, self.recovered, what)

    def turn_failed(self, what: str, error: Exception) -> None:
        """Report a turn of a loop that failed; one that fails in the same way again is only counted."""
        if self.failing.get(what) == repr(error):
            self.failures += 1
        else:
            self.failing[what] = repr(error)
            self.report(what, error)

    def recovered(self, what: str) -> None:
        """A turn of a loop that had failed was well."""
        self.failing.pop(what, None)

    def _ended(self, what: str, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, Exception):
            self.report(what, error)


def watch_over(loop: asyncio.AbstractEventLoop) -> None:
    """Have callbacks of a loop that fail logged by name: timers, readers, done callbacks."""
    supervisor = Supervisor()

    def handle(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        what = str(context.get("message") or "a callback")
        supervisor.report(what, error if isinstance(error, Exception) else RuntimeError(repr(error)))

    loop.set_exception_handler(handle)
