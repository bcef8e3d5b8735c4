"""Connections of the operator's HTTP server: uvicorn's protocol, bounded in number, size and time."""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_CONNECTIONS: Final = 64
"""Open at once: a browser has six for one page, and there are few operators. For one more the oldest that
is idle makes room; so strangers who say nothing keep nobody out."""
MAX_HEAD: Final = 16 * 1024
"""Bytes of a request line with its headers, while they are not all there."""
KEEP_ALIVE: Final = 5
"""Seconds that a connection may stay open without a request."""
LOOK: Final = 10.0
"""Seconds between looks at a connection: one that said nothing whole since the last, or took nothing of what
waits for it, is closed."""

# What strangers send is no news: only faults of ours are said.
_logger = logging.getLogger(__name__)
_logger.setLevel(logging.ERROR)

_numbers = itertools.count()
"""Of connections, in the order of coming: many come within one turn of the loop."""


class HttpServer:
    """All connections of one server."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self._state = ServerState()
        self._config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE,
            h11_max_incomplete_event_size=MAX_HEAD,
        )
        self._config.load()

    def connection(self) -> HttpConnection:
        return HttpConnection(self._config, self._state)

    def close(self) -> None:
        """End all of them at once."""
        for connection in tuple(self._state.connections):
            connection.transport.abort()


class HttpConnection(H11Protocol):
    """See the module."""

    def __init__(self, config: uvicorn.Config, state: ServerState) -> None:
        super().__init__(config, state, {}, asyncio.get_running_loop())
        self.logger = _logger
        self.access_log = False
        self._look_timer: asyncio.TimerHandle | None = None
        self._seen: tuple[Any, int] | None = None
        self._number = next(_numbers)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        # Those that were told to close go a turn of the loop later, in which many may come.
        there = [
            one for one in self.connections if isinstance(one, HttpConnection) and not one.transport.is_closing()
        ]
        if len(there) > MAX_CONNECTIONS:
            idle = (one for one in there if one.is_idle)
            min(idle, key=lambda one: one._number).transport.abort()  # noqa: SLF001 - the same class
        self._look_timer = self.loop.call_later(LOOK, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._look_timer is not None:
            self._look_timer.cancel()
        super().connection_lost(exc)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being answered."""
        return getattr(self.cycle, "response_complete", True)  # there is none before the first request

    def _look(self) -> None:
        waiting = self.transport.get_write_buffer_size()
        now = self.cycle, waiting
        if self.transport.is_closing() or ((self.is_idle or waiting) and now == (self._seen or (None, 0))):
            self.transport.abort()
            return
        self._seen = now
        self._look_timer = self.loop.call_later(LOOK, self._look)
