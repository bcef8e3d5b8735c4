"""Registry of the process's descriptors that are connections of tunnels: a forked child closes its copies.

A connection ends for its peer when the last process that holds its socket closes it. A child that was forked for
something else (``multiprocessing``, ``os.fork``) would keep every visitor's and origin's connection open, and a
reset or an end of this side would be heard of when the child exits. Closing a copy tells the peer nothing.

The child closes numbers, and asks no transport and no event loop to do it: they share their epoll set with those
of the parent, and what they would take out of it would be gone for the parent as well.
"""

from __future__ import annotations

import contextlib
import os
import socket
import weakref
from typing import Protocol


class Socket(Protocol):
    """A socket of any library."""

    def fileno(self) -> int: ...


_owned: dict[int, int] = {}
"""Descriptors and the inodes of their sockets: whether the number still means the same one. Every visitor has an
entry, so it is a plain number."""
_handles: weakref.WeakValueDictionary[int, socket.SocketType] = weakref.WeakValueDictionary()
"""Python's objects for some of them, which must not close the number once more when they are collected."""


def own(sock: Socket | None) -> None:
    """Have a forked child close its copy of this socket, which may be what a transport shows as its socket.
    :func:`disown` has to come before it is closed; where it does not, the number is found to mean something
    else."""
    if sock is None or sock.fileno() < 0:
        return
    inner = getattr(sock, "_sock", sock)  # asyncio shows a wrapper, uvloop something that owns nothing
    _handles.pop(sock.fileno(), None)
    if isinstance(inner, socket.SocketType):
        _handles[sock.fileno()] = inner
    _owned[sock.fileno()] = os.fstat(sock.fileno()).st_ino


def disown(sock: Socket | None) -> None:
    """The socket is about to be closed. May be called again."""
    if sock is not None:
        _owned.pop(sock.fileno(), None)
        _handles.pop(sock.fileno(), None)


def _close_in_child() -> None:
    for descriptor, inode in _owned.items():
        with contextlib.suppress(OSError):  # closed already
            if os.fstat(descriptor).st_ino == inode:
                handle = _handles.get(descriptor)
                if handle is not None:
                    handle.detach()
                os.close(descriptor)
    _owned.clear()
    _handles.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
