"""Threads and sockets of the operating system, even where gevent has replaced those of the standard library.

In a program that has called ``gevent.monkey.patch_all()``, threads are greenlets, and sockets wait for the
greenlets' event loop (the hub). The tunnel's event loop needs the originals: it runs on an operating system
thread, which must never get a hub, because gevent's locks work between two threads only if one of them has no
hub. gevent keeps the originals and returns them on request.
"""

from __future__ import annotations

import importlib
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future


def _original(module: str, name: str) -> Any:
    """Return the original of an attribute that gevent may have replaced in a module of the standard library."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and hasattr(monkey, "get_original"):  # gevent.monkey may be partly imported at this time
        return monkey.get_original(module, name)
    return getattr(sys.modules[module], name)


def has_gevent_threads() -> bool:
    """Return True if ``threading.Thread`` starts greenlets."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def has_gevent() -> bool:
    """Return True if gevent has replaced threads or sockets."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and any(map(monkey.is_module_patched, ("threading", "socket")))


def has_eventlet() -> bool:
    """Return True if eventlet has replaced threads or sockets; it keeps no originals that work together with
    it."""
    patcher = sys.modules.get("eventlet.patcher")
    return patcher is not None and any(map(patcher.is_monkey_patched, ("thread", "socket")))


def new_socket(family: int, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> socket.socket:
    """Return a socket of the operating system. Raises OSError."""
    sock: socket.socket = _original("socket", "socket")(family, kind, protocol)
    return sock


def getaddrinfo(
    host: str, port: int, *, kind: int, protocol: int = 0, family: int = 0, flags: int = 0
) -> list[Any]:
    """Query the system's resolver; blocks. Raises OSError."""
    query = _original("socket", "getaddrinfo")
    found: list[Any] = query(host, port, family=family, type=kind, proto=protocol, flags=flags)
    return found


def wait_for(future: Future[Any], timeout: float | None = None) -> None:
    """Wait until a future that another thread sets is done, at most ``timeout`` seconds, and let greenlets run.

    Without gevent this returns at once, because ``Future.result`` waits by itself."""
    if not has_gevent_threads():
        return
    gevent: Any = importlib.import_module("gevent")  # loaded already: it has replaced the threads
    done = importlib.import_module("gevent.event").Event()
    # Without a watcher the hub would end, because it does not know that another thread will set the event.
    watcher = gevent.get_hub().loop.async_()
    watcher.start(done.set)
    try:
        future.add_done_callback(lambda _: watcher.send())
        done.wait(timeout)
    finally:
        watcher.stop()


class Thread:
    """Running daemon thread of the operating system."""

    def __init__(self, run: Callable[[], None], name: str) -> None:
        """Start the thread. Raises RuntimeError if the interpreter is shutting down."""
        self._run = run
        self._ident = 0
        self._ended: Any = None
        self._thread: threading.Thread | None = None
        if has_gevent_threads():
            self._ended = _original("_thread", "allocate_lock")()
            self._ended.acquire()
            _original("_thread", "start_new_thread")(self._run_bare, ())
        else:
            self._thread = threading.Thread(target=run, name=name, daemon=True)
            self._thread.start()

    @property
    def is_current(self) -> bool:
        """True if the caller runs on this thread."""
        if self._thread is not None:
            return threading.current_thread() is self._thread
        return bool(_original("_thread", "get_ident")() == self._ident)

    @property
    def is_alive(self) -> bool:
        """True until the thread has ended."""
        return self._thread.is_alive() if self._thread is not None else bool(self._ended.locked())

    def join(self) -> None:
        """Wait for the end of the thread. This also blocks all greenlets of the caller's thread."""
        if self._thread is not None:
            self._thread.join()
        else:
            self._ended.acquire()
            self._ended.release()

    def _run_bare(self) -> None:
        self._ident = _original("_thread", "get_ident")()
        try:
            self._run()
        finally:
            self._ended.release()
