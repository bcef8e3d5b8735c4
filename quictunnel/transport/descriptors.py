"""Registry of the process's descriptors that are connections of tunnels: a forked child closes its copies.

A connection ends for its peer when the last process that holds its socket closes it. A child that was forked for
something else (``multiprocessing``, ``os.fork``) would keep every visitor's and origin's connection open, and a
reset or an end of this side would be noticed only when the child exits. Closing a copy tells the peer nothing.

The child closes descriptors by number and calls no transport and no event loop: they share their epoll set with
those of the parent, and an entry that the child removed would be missing for the parent as well.
"""

from __future__ import annotations

import contextlib
import os
import socket
import weakref
from typing import Protocol


class Socket(Protocol):
    """Socket object of any library."""

    def fileno(self) -> int: ...


_inodes: dict[int, int] = {}
"""Descriptors with the inode of their sockets, by which a reused number is recognised. Plain numbers, because
every visitor has an entry."""
_handles: weakref.WeakValueDictionary[int, socket.SocketType] = weakref.WeakValueDictionary()
"""Python socket objects of some of them, which must not close the descriptor again when they are collected."""


def set_close_on_fork(sock: Socket | None) -> None:
    """Register a socket, of which a forked child then closes its copy. It may be a transport's view of its socket.

    Call :func:`clear_close_on_fork` before it is closed. Otherwise the inode shows that its number was reused."""
    if sock is None or sock.fileno() < 0:
        return
    inner = getattr(sock, "_sock", sock)  # asyncio has a wrapper, uvloop an object without the descriptor
    _handles.pop(sock.fileno(), None)
    if isinstance(inner, socket.SocketType):
        _handles[sock.fileno()] = inner
    _inodes[sock.fileno()] = os.fstat(sock.fileno()).st_ino


def clear_close_on_fork(sock: Socket | None) -> None:
    """Remove a socket that is about to be closed. May be called again."""
    if sock is not None:
        _inodes.pop(sock.fileno(), None)
        _handles.pop(sock.fileno(), None)


def _close_in_child() -> None:
    for descriptor, inode in _inodes.items():
        with contextlib.suppress(OSError):  # closed already
            if os.fstat(descriptor).st_ino == inode:
                handle = _handles.get(descriptor)
                if handle is not None:
                    handle.detach()
                os.close(descriptor)
    _inodes.clear()
    _handles.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
