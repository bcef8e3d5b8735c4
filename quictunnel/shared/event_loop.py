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

from quictunnel.errors import ConfigError
from quictunnel.shared.supervision import watch_over
from quictunnel.transport import unpatched
from quictunnel.transport.lazy_imports import import_module

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


def new_event_loop() -> asyncio.AbstractEventLoop:
    """The fastest loop there is here: uvloop where it is installed, else the standard one."""
    try:
        uvloop = import_module("uvloop")  # optional: no wheels for Windows
    except (ImportError, RuntimeError) as error:
        # RuntimeError: it loads concurrent.futures.thread, which cannot be loaded after the main thread's end.
        if unpatched.has_gevent():
            raise ConfigError(
                f"gevent has replaced the sockets of asyncio's own loop, and uvloop cannot be loaded ({error}): "
                "install uvloop, or run the tunnel beside the program: `quictunnel run -- PROGRAM`."
            ) from None
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


async def in_thread(function: Callable[..., T], *arguments: object) -> T:
    """Call a function that blocks on a thread of its own, and return its result.

    The loop's executor, which ``asyncio.to_thread`` uses, takes nothing any more when the main thread has ended,
    although other threads of the program, and their tunnels, may go on for days. When this is cancelled, the
    function goes on by itself; each caller has one such thread at a time.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(result)  # type: ignore[arg-type]  # of the function, which may return None
        else:
            answer.set_exception(error)

    def work() -> None:
        result, failure = None, None
        try:
            result = function(*arguments)
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result, failure)

    unpatched.Thread(work, "quictunnel-blocking")
    return await answer


def result_of(future: concurrent.futures.Future[T], timeout: float | None = None) -> T:
    """Wait for what was submitted to a background loop, from another thread. Raises TimeoutError."""
    unpatched.wait_for(future, timeout)
    return future.result(timeout)


class EventLoopThread:
    """A daemon thread with a running loop."""

    def __init__(self, name: str = "quictunnel") -> None:
        """Start it. Raises ConfigError in a process whose threads eventlet has replaced."""
        if unpatched.has_eventlet():
            raise ConfigError(
                "eventlet.monkey_patch() has replaced the threads and sockets of this process, and a tunnel needs "
                "real ones. Run the tunnel beside the program: `quictunnel run -- PROGRAM`, or `quictunnel http "
                "PORT` in another terminal. (gevent, or eventlet without monkey_patch(), needs no such thing.)"
            )
        self.loop = new_event_loop()
        watch_over(self.loop)
        self.process = os.getpid()
        self._thread = unpatched.Thread(self._run, name)

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run a coroutine there."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    @property
    def is_here(self) -> bool:
        """Whether the caller runs on this thread, and would wait for itself in :meth:`call`."""
        return self._thread.is_current

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and wait for it. KeyboardInterrupt (or any other exception thrown into the
        waiting thread) cancels it."""
        future = self.submit(work)
        try:
            return result_of(future)
        except concurrent.futures.CancelledError:
            raise
        except BaseException:
            if not future.done():
                future.cancel()
            raise

    def stop(self) -> None:
        """End the loop and the thread. What runs on the loop is cancelled."""
        if self._thread.is_alive and not self.is_here:
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
_shared: EventLoopThread | None = None


def shared() -> EventLoopThread:
    """The process's background loop, started when first asked for."""
    global _shared
    with _lock:
        if _shared is None or _shared.process != os.getpid():
            _shared = EventLoopThread()
        return _shared


def _forget_after_fork() -> None:
    global _lock, _shared
    # The lock may have been held by a thread that does not exist in the child.
    _lock = threading.Lock()
    _shared = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
