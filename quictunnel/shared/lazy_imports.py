"""Import of modules when they are first needed, by the thread that needs them.

A child that is forked while another thread imports a module can never import that module: the module's lock is
held by a thread that the child does not have. So all that this package imports late is imported under one lock,
for which a fork waits.
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
"""Seconds that a fork waits: for an import on a slow disk, and not for ever where an import waits for something
that the forking thread holds."""

_lock = _thread.RLock()
"""Held during an import. A lock of the system's threads, whatever gevent has replaced; one that a thread may take
again, because modules import each other, and because a module may fork while it is imported."""
_forking: set[int] = set()
"""Threads that hold it while they fork."""


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
        _lock = _thread.RLock()  # the other is held by a thread that is not here
    _forking.clear()


if hasattr(os, "register_at_fork"):
    # After logging has: what is registered later is called earlier before a fork, and modules ask for logging's
    # lock while they are imported.
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
