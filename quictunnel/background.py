"""The background loop: one thread of this process on which all tunnels do their work.

A thread of its own is what lets ``forward()`` be the same under ``with`` and ``async with``, inside a running
loop, and around a body that blocks. After a fork the child has no such thread; it starts its own when it first
needs one, and never touches what it inherited.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


def new_event_loop() -> asyncio.AbstractEventLoop:
    """The fastest loop there is here: uvloop where it is installed, else the standard one."""
    try:
        import uvloop  # noqa: PLC0415 - optional: no wheels for Windows
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


class Background:
    """A daemon thread with a running loop."""

    def __init__(self, name: str = "quictunnel") -> None:
        self.loop = new_event_loop()
        self.process = os.getpid()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run a coroutine there."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    @property
    def is_here(self) -> bool:
        """Whether the caller runs on this thread, and would wait for itself in :meth:`call`."""
        return threading.current_thread() is self._thread

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and wait for it. KeyboardInterrupt (or any other exception thrown into the
        waiting thread) cancels it."""
        future = self.submit(work)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise
        except BaseException:
            if not future.done():
                future.cancel()
            raise

    def stop(self) -> None:
        """End the loop and the thread. What runs on the loop is cancelled."""
        if self._thread.is_alive() and not self.is_here:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()


_lock = threading.Lock()
_shared: Background | None = None


def shared() -> Background:
    """The process's background loop, started when first asked for."""
    global _shared
    with _lock:
        if _shared is None or _shared.process != os.getpid():
            _shared = Background()
        return _shared


def _forget_after_fork() -> None:
    global _lock, _shared
    # The lock may have been held by a thread that does not exist in the child.
    _lock = threading.Lock()
    _shared = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
