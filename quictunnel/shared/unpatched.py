"""Threads and sockets of the operating system, also where gevent has put its own in their place.

A program that has called ``gevent.monkey.patch_all()`` gets greenlets for threads, and sockets that wait for the
greenlets' own event loop (the hub). The tunnel's loop needs real ones: it runs on a thread of the system, which
must never get a hub, because gevent's locks work between threads only where one side has none. gevent keeps what
it replaced, and gives it to those who ask.
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
    """Return an attribute of a module of the standard library as it was before gevent, if gevent is here."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and hasattr(monkey, "get_original"):  # it may be in the middle of its own import
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
    """Return True if eventlet has replaced threads or sockets; it keeps no originals that work beside it."""
    patcher = sys.modules.get("eventlet.patcher")
    return patcher is not None and any(map(patcher.is_monkey_patched, ("thread", "socket")))


def new_socket(family: int, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> socket.socket:
    """Return a socket of the system. Raises OSError."""
    made: socket.socket = _original("socket", "socket")(family, kind, protocol)
    return made


def getaddrinfo(host: str, port: int, *, kind: int, protocol: int) -> list[Any]:
    """Ask the system's resolver; blocks. Raises OSError."""
    found: list[Any] = _original("socket", "getaddrinfo")(host, port, type=kind, proto=protocol)
    return found


def wait_for(future: Future[Any], timeout: float | None = None) -> None:
    """Wait until a future that another thread sets is done, or for ``timeout`` seconds. Other greenlets run
    meanwhile; where there are none, ``Future.result`` waits by itself and this returns at once."""
    if not has_gevent_threads():
        return
    gevent: Any = importlib.import_module("gevent")  # it is there, or its threads would not be
    done = importlib.import_module("gevent.event").Event()
    # The hub cannot know that another thread is going to tell; this keeps it waiting.
    watcher = gevent.get_hub().loop.async_()
    watcher.start(done.set)
    try:
        future.add_done_callback(lambda _: watcher.send())
        done.wait(timeout)
    finally:
        watcher.stop()


class Thread:
    """A running daemon thread of the system."""

    def __init__(self, run: Callable[[], None], name: str) -> None:
        """Start it. Raises RuntimeError when the interpreter is about to end."""
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
        """True for a caller on this thread."""
        if self._thread is not None:
            return threading.current_thread() is self._thread
        return bool(_original("_thread", "get_ident")() == self._ident)

    @property
    def is_alive(self) -> bool:
        """True until it has ended."""
        return self._thread.is_alive() if self._thread is not None else bool(self._ended.locked())

    def join(self) -> None:
        """Wait for its end. Blocks, greenlets included: to be called when the end is near."""
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
