"""The background event loop: one thread of this process that runs all tunnels.

With a thread of its own, ``forward()`` works the same under ``with`` and ``async with``, inside a running loop,
and around a body that blocks. After a fork the child has no such thread. It starts one when it needs one, and
never uses the inherited objects.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from quictunnel.errors import ConfigError
from quictunnel.shared import unpatched
from quictunnel.shared.lazy_imports import import_module
from quictunnel.shared.supervision import log_callback_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop: of uvloop if it is installed, otherwise of asyncio.

    Raises:
        ConfigError: gevent has replaced asyncio's sockets and uvloop cannot be loaded.
    """
    try:
        uvloop = import_module("uvloop")  # optional: there are no wheels for Windows
    except (ImportError, RuntimeError) as error:
        # RuntimeError: uvloop imports concurrent.futures.thread, which fails after the main thread's end.
        if unpatched.has_gevent():
            raise ConfigError(
                f"gevent has replaced the sockets of asyncio's own loop, and uvloop cannot be loaded ({error}): "
                "install uvloop, or run the tunnel in its own process: `quictunnel run -- PROGRAM`."
            ) from None
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


async def in_thread(function: Callable[..., T], *arguments: object) -> T:
    """Run a blocking function on a new thread and return its result.

    ``asyncio.to_thread`` uses the loop's executor, which accepts no work after the main thread's end, although
    other threads and their tunnels may run for days. When cancelled, the function still runs to its end; each
    caller has at most one such thread at a time.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def complete(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)  # type: ignore[arg-type]  # the function may return None
        else:
            future.set_exception(error)

    def work() -> None:
        result, failure = None, None
        try:
            result = function(*arguments)
        except BaseException as error:  # noqa: BLE001 - raised in the caller
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has closed meanwhile
            loop.call_soon_threadsafe(complete, result, failure)

    unpatched.Thread(work, "quictunnel-blocking")
    return await future


def result_of(future: concurrent.futures.Future[T], timeout: float | None = None) -> T:
    """Wait for the result of a coroutine that was submitted to a background loop, from another thread.

    Raises:
        TimeoutError: no result after ``timeout`` seconds.
    """
    unpatched.wait_for(future, timeout)
    return future.result(timeout)


class EventLoopThread:
    """Daemon thread that runs an event loop."""

    def __init__(self, name: str = "quictunnel") -> None:
        """Start the thread.

        Raises:
            ConfigError: eventlet has replaced the threads of this process.
        """
        if unpatched.has_eventlet():
            raise ConfigError(
                "eventlet.monkey_patch() has replaced the threads and sockets of this process, and a tunnel needs "
                "real ones. Run the tunnel in its own process: `quictunnel run -- PROGRAM`, or `quictunnel http "
                "PORT` in another terminal. (With gevent, or eventlet without monkey_patch(), this is not needed.)"
            )
        self.loop = new_event_loop()
        log_callback_errors(self.loop)
        self.owner_pid = os.getpid()
        self._thread = unpatched.Thread(self._run, name)

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run a coroutine on the loop and return its future."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    @property
    def is_current(self) -> bool:
        """True on this thread, where :meth:`call` would wait for itself."""
        return self._thread.is_current

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for its result.

        KeyboardInterrupt, or another exception raised in the waiting thread, cancels the coroutine.
        """
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
        """Stop the loop, cancel its tasks, and wait for the thread."""
        if self._thread.is_alive and not self.is_current:
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


def shared_loop() -> EventLoopThread:
    """Return the background loop of this process; start it at the first call."""
    global _shared
    with _lock:
        if _shared is None or _shared.owner_pid != os.getpid():
            _shared = EventLoopThread()
        return _shared


def _reset_after_fork() -> None:
    global _lock, _shared
    # A thread that does not exist in the child may hold the old lock.
    _lock = threading.Lock()
    _shared = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
