"""Resolution of names below ``localhost`` for programs whose resolver does not support them.

By RFC 6761 section 6.3 all of them mean loopback. Browsers and curl implement it; the resolver of the C
library, which Python uses, often resolves ``localhost`` alone (as glibc and musl do).
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
    """Resolve ``*.localhost`` to 127.0.0.1 while the body runs.

    This patches ``socket.getaddrinfo``, which http.client, urllib, requests, httpx, aiohttp and asyncio's own
    event loop call. uvloop calls the C library and is not affected; nor are other processes.

    May be nested, and other code may patch the function meanwhile. If another patch is installed over this one at
    the end of the body, this one stays in place and has no effect.
    """
    original: Callable[..., Any] = socket.getaddrinfo
    is_active = True

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        return original(LOOPBACK if is_active and is_below_localhost(host) else host, *arguments, **options)

    socket.getaddrinfo = getaddrinfo
    try:
        yield
    finally:
        is_active = False
        if socket.getaddrinfo is getaddrinfo:
            socket.getaddrinfo = original


def is_below_localhost(host: object) -> bool:
    """Return True for a name such as ``my-app.tunnel.localhost``."""
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    return isinstance(host, str) and host.lower().rstrip(".").endswith(".localhost")
