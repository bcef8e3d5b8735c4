"""The end of a TCP connection: the last words of a refusal, or none at all.

Closing a socket with unread bytes makes the kernel send a RST, and a RST destroys what the other side has
not read yet: exactly the answer that explains the refusal. So a refused visitor gets its answer and a FIN,
what it still sends is thrown away, and its own FIN (or one of two bounds) ends it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from quictunnel.transport.tcp import end_writing, reset

if TYPE_CHECKING:
    from collections.abc import Callable

FAREWELL_TIMEOUT: Final = 2.0
"""Seconds a refused visitor has to take its answer and go; a few round trips on a bad link."""

FAREWELL_BYTES: Final = 64 * 1024
"""Bytes thrown away meanwhile; more than a client sends before it looks for an answer, and no free ride."""

UPLOAD_TIMEOUT: Final = 10.0
"""Seconds for one who came to a tunnel and is to ask elsewhere: many HTTP clients send all of an upload before
they look for an answer."""

UPLOAD_BYTES: Final = 32 * 1024 * 1024
"""Bytes thrown away in that case."""


class LingeringClose(asyncio.Protocol):
    """Takes over a raw transport, says ``words`` and sees it out. ``on_gone`` is called once at the end."""

    __slots__ = ("_on_gone", "_raw", "_room", "_timer")

    def __init__(
        self,
        raw: asyncio.Transport,
        words: bytes,
        *,
        loop: asyncio.AbstractEventLoop,
        on_gone: Callable[[], None] | None = None,
        is_upload: bool = False,
    ) -> None:
        """``is_upload``: the visitor may be in the middle of a long request, and is worth waiting for."""
        self._raw = raw
        self._room = UPLOAD_BYTES if is_upload else FAREWELL_BYTES
        self._on_gone = on_gone
        self._timer = loop.call_later(UPLOAD_TIMEOUT if is_upload else FAREWELL_TIMEOUT, reset, raw)
        raw.set_protocol(self)
        if raw.is_closing():
            return  # connection_lost is on its way
        raw.resume_reading()
        raw.write(words)
        end_writing(raw)

    def data_received(self, data: bytes) -> None:
        self._room -= len(data)
        if self._room < 0:
            reset(self._raw)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._timer.cancel()
        if self._on_gone is not None:
            self._on_gone()
