"""Names below ``localhost`` for programs whose resolver does not know them.

RFC 6761 section 6.3 has them all mean loopback. Browsers and curl know it; the resolver of the C library, which
Python asks, often knows ``localhost`` alone (glibc and musl do).
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOOPBACK: Final = "127.0.0.1"


@contextlib.contextmanager
def localhost_resolved() -> Iterator[None]:
    """While the body runs, ``*.localhost`` is 127.0.0.1 to everything in this process that asks
    ``socket.getaddrinfo``: http.client, urllib, requests, httpx, aiohttp, asyncio's own loop. uvloop's asks the C
    library and is not helped; nor are other processes.

    May be nested, and other patches may come and go meanwhile: what is not on top any more in the end stays where
    it is and does nothing.
    """
    asked: Callable[..., Any] = socket.getaddrinfo
    is_active = True

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        return asked(LOOPBACK if is_active and is_below_localhost(host) else host, *arguments, **options)

    socket.getaddrinfo = getaddrinfo
    try:
        yield
    finally:
        is_active = False
        if socket.getaddrinfo is getaddrinfo:
            socket.getaddrinfo = asked


def is_below_localhost(host: object) -> bool:
    """Return True for a name such as ``my-app.tunnel.localhost``."""
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    return isinstance(host, str) and host.lower().rstrip(".").endswith(".localhost")
