"""Import of modules when they are first needed, safe against forks.

A child that is forked while another thread imports a module can never import that module: the module's lock is
held by a thread that does not exist in the child. So all lazy imports of this package are done under one lock, and
a fork waits for that lock.
"""

from __future__ import annotations

import _thread
import importlib
import logging  # noqa: F401 - see the end
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import ModuleType

MAX_WAIT: Final = 5.0
"""Seconds that a fork waits for the lock: enough for an import from a slow disk. The wait ends then, because the
import itself may wait for something that the forking thread holds."""

_lock = _thread.RLock()
"""Lock that is held during an import. It is a lock of operating system threads even where gevent has replaced
``threading``. It is reentrant, because modules import each other and may fork while they are imported."""
_forking: set[int] = set()
"""Threads that hold the lock while they fork."""


def import_module(name: str) -> ModuleType:
    """Import a module by its full name. Raises ImportError."""
    with _lock:
        return importlib.import_module(name)


def _before_fork() -> None:
    if _lock.acquire(timeout=MAX_WAIT):
        _forking.add(_thread.get_ident())


def _after_fork() -> None:
    here = _thread.get_ident()
    if here in _forking:
        _forking.remove(here)
        _lock.release()


def _after_fork_in_child() -> None:
    global _lock
    if _thread.get_ident() in _forking:
        _after_fork()
    else:
        _lock = _thread.RLock()  # the old one is held by a thread that does not exist in the child
    _forking.clear()


if hasattr(os, "register_at_fork"):
    # logging has registered its handlers before (hence its import): handlers run in reverse order before a
    # fork, so this lock is taken before logging's, as it is by modules that log while they are imported.
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
