"""Listening TCP sockets, as the edge and the inspector of a client open them."""

from __future__ import annotations

import contextlib
import os
import socket

from quictunnel.shared import unpatched


def open_listener(
    host: str, port: int, *, backlog: int, family: int = socket.AF_UNSPEC, is_shared: bool = False
) -> socket.socket:
    """Return a non-blocking listening TCP socket.

    Args:
        host: address or name; its first address is used.
        port: 0 for any.
        backlog: connections that the kernel queues until they are accepted.
        family: the family of the address; by default any.
        is_shared: another socket of this user may listen at the same port (SO_REUSEPORT).

    Raises:
        OSError: the host is unknown, or the port is in use or forbidden.
    """
    family, kind, protocol, _, address = unpatched.getaddrinfo(
        host, port, family=family, kind=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = unpatched.new_socket(family, kind, protocol)
    try:
        if os.name == "posix":
            # Without it, connections in TIME_WAIT would block the port for a minute. On Windows, it would let
            # another program take the port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared and hasattr(socket, "SO_REUSEPORT"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            with contextlib.suppress(OSError):  # one socket for both families, where the system supports it
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
        sock.listen(backlog)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock
