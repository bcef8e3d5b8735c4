"""Lingering close of a TCP connection after a last response.

When a socket with unread bytes is closed, the kernel sends a RST, and the RST destroys what the peer has not read
yet: the very response that explains the refusal. So a refused visitor gets its response and a FIN, and its further
input is discarded. Its own FIN, or one of two bounds, ends the connection.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from quictunnel.transport.tcp import end_writing, reset

if TYPE_CHECKING:
    from collections.abc import Callable

LINGER_TIMEOUT: Final = 2.0
"""Seconds for a refused visitor to read its response and close; a few round trips on a bad link."""

MAX_LINGER_BYTES: Final = 64 * 1024
"""Bytes discarded meanwhile: more than a client sends before it reads a response, and too few to be of use to an
attacker."""

UPLOAD_TIMEOUT: Final = 10.0
"""Seconds for a visitor that is redirected: many HTTP clients send the whole upload before they read a
response."""

MAX_UPLOAD_BYTES: Final = 32 * 1024 * 1024
"""Bytes discarded in that case."""


class LingeringClose(asyncio.Protocol):
    """Takes over a raw transport, sends a last response and closes it. ``on_closed`` is called once, when it is
    closed."""

    __slots__ = ("_on_closed", "_raw", "_remaining", "_timer")

    def __init__(
        self,
        raw: asyncio.Transport,
        response: bytes,
        *,
        loop: asyncio.AbstractEventLoop,
        on_closed: Callable[[], None] | None = None,
        may_be_uploading: bool = False,
    ) -> None:
        """Send ``response`` and a FIN. ``may_be_uploading``: the visitor may be within a long request and
        gets more time."""
        self._raw = raw
        self._remaining = MAX_UPLOAD_BYTES if may_be_uploading else MAX_LINGER_BYTES
        self._on_closed = on_closed
        self._timer = loop.call_later(UPLOAD_TIMEOUT if may_be_uploading else LINGER_TIMEOUT, reset, raw)
        raw.set_protocol(self)
        if raw.is_closing():
            return  # connection_lost is on its way
        raw.resume_reading()
        raw.write(response)
        end_writing(raw)

    def data_received(self, data: bytes) -> None:
        """Discard the bytes; reset the connection above the bound."""
        self._remaining -= len(data)
        if self._remaining < 0:
            reset(self._raw)

    def connection_lost(self, _exc: Exception | None) -> None:
        """Stop the timer and report the end."""
        self._timer.cancel()
        if self._on_closed is not None:
            self._on_closed()
