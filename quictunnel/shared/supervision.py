"""Supervision of background tasks: every task that outlives its caller is started here.

asyncio reports a task's exception when the task is garbage-collected, which may be never, and in a log line that
does not name the work. A :class:`Supervisor` logs the exception at once with its traceback and calls its owner.
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
"""Seconds before a failed loop is restarted: short enough to be no outage, long enough that a repeated failure
costs little."""
RECOVERY_TIME: Final = 30.0
"""Seconds that a restarted loop must run to count as recovered."""
MAX_LOGGED: Final = 100
"""Failures that one supervisor logs with tracebacks; a failure that repeats must not fill the disk."""


class Supervisor:
    """Owner of the background tasks of one object."""

    def __init__(self, failed: Callable[[str, Exception], None] | None = None) -> None:
        """Create a supervisor without tasks.

        Args:
            failed: called on the loop's thread with the name of the work and its exception.
        """
        self.failures = 0
        """Number of failures since the start."""
        self.failing: dict[str, str] = {}
        """Loops of :meth:`keep_running` whose last run failed, with the exception's repr."""
        self._failed = failed
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T], what: str) -> asyncio.Task[T]:
        """Run ``work`` as a task and keep a reference until it ends. ``what`` names the work in the log."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, what))
        return task

    def keep_running(self, make: Callable[[], Coroutine[Any, Any, None]], what: str) -> asyncio.Task[None]:
        """Run the coroutine that ``make`` returns in a task; after an exception, run a new one.

        The task ends when the coroutine returns or is cancelled.
        """
        return self.start(self.run_repeatedly(make, what), what)

    def cancel(self) -> None:
        """Cancel all running tasks."""
        for task in tuple(self._tasks):
            task.cancel()

    def report(self, what: str, error: Exception) -> None:
        """Log an exception that the caller has caught, and call the owner."""
        self.failures += 1
        if self.failures <= MAX_LOGGED:
            logger.error("background work failed: %s", what, exc_info=error)
        if self._failed is not None:
            self._failed(what, error)

    async def run_repeatedly(self, make: Callable[[], Coroutine[Any, Any, None]], what: str) -> None:
        """Run the loop of :meth:`keep_running` in the calling task."""
        recovery: asyncio.TimerHandle | None = None
        while True:
            try:
                await make()
            except Exception as error:  # noqa: BLE001 - any error is reported, and the loop continues
                self.loop_failed(what, error)
            else:
                return
            finally:
                if recovery is not None:
                    recovery.cancel()
            await asyncio.sleep(RESTART_PAUSE)
            recovery = asyncio.get_running_loop().call_later(RECOVERY_TIME, self.loop_recovered, what)

    def loop_failed(self, what: str, error: Exception) -> None:
        """Report a failed iteration of a loop; a repetition of the same failure is only counted."""
        if self.failing.get(what) == repr(error):
            self.failures += 1
        else:
            self.failing[what] = repr(error)
            self.report(what, error)

    def loop_recovered(self, what: str) -> None:
        """Mark a loop that had failed as recovered."""
        self.failing.pop(what, None)

    def _ended(self, what: str, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, Exception):
            self.report(what, error)


def log_callback_errors(loop: asyncio.AbstractEventLoop) -> None:
    """Log exceptions of a loop's callbacks (timers, readers, done callbacks) with the loop's message."""
    supervisor = Supervisor()

    def handle(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        what = str(context.get("message") or "a callback")
        supervisor.report(what, error if isinstance(error, Exception) else RuntimeError(repr(error)))

    loop.set_exception_handler(handle)
