"""HTTP/1.1 server for a page on the caller's loop: uvicorn's protocol with bounds on number, size and time.

The operator's page of an edge and the inspector's page of a client use it. Only uvicorn's protocol is used: its
``Server`` installs signal handlers, wakes ten times a second, and does not close silent connections.
"""

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
"""Open connections: a browser has six for one page, and few people read it. One more closes the oldest idle
one, so that silent clients cannot lock others out."""
MAX_HEAD: Final = 16 * 1024
"""Bytes of an incomplete request line with its headers."""
KEEP_ALIVE: Final = 5
"""Seconds that a connection may stay open without a request."""
CHECK_INTERVAL: Final = 10.0
"""Seconds between checks of a connection. It is closed if it has neither sent a complete request nor read any
of the bytes that wait for it since the last check."""

DRAIN_POLL_INTERVAL: Final = 0.01
"""Seconds between checks of whether the responses in progress have ended."""

# Invalid input of clients is not logged, only internal errors.
_logger = logging.getLogger(__name__)
_logger.setLevel(logging.ERROR)

_numbers = itertools.count()
"""Numbers of connections, in the order of arrival: many may arrive within one iteration of the event loop."""


class HttpServer:
    """All connections of one server."""

    def __init__(self, app: Callable[..., Any], *, max_head: int = MAX_HEAD) -> None:
        """Serve an application. :meth:`connection` is the factory for the listening socket's server.

        Args:
            app: ASGI application.
            max_head: bytes of an incomplete request line with its headers.
        """
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
            h11_max_incomplete_event_size=max_head,
        )
        self._config.load()

    def connection(self) -> HttpConnection:
        """Return a protocol for one connection."""
        return HttpConnection(self._config, self._state)

    async def drain(self, timeout: float) -> None:
        """Close idle connections, wait up to ``timeout`` seconds for responses in progress, and abort the rest.
        The caller has closed the listening socket."""
        for connection in tuple(self._state.connections):
            connection.shutdown()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while self._state.connections and loop.time() < deadline:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(DRAIN_POLL_INTERVAL)
        self.close()

    def close(self) -> None:
        """Abort all connections."""
        for connection in tuple(self._state.connections):
            connection.transport.abort()


class HttpConnection(H11Protocol):
    """A connection with uvicorn's protocol and the bounds of this module."""

    def __init__(self, config: uvicorn.Config, state: ServerState) -> None:
        """Share the configuration and the state of a server."""
        super().__init__(config, state, {}, asyncio.get_running_loop())
        self.logger = _logger
        self.access_log = False
        self._check_timer: asyncio.TimerHandle | None = None
        self._previous: tuple[Any, int] | None = None
        self._number = next(_numbers)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Start; evict the oldest idle connection if there are too many."""
        super().connection_made(transport)
        # Closing connections disappear one iteration of the event loop later, and many may arrive within it.
        open_connections = [
            one for one in self.connections if isinstance(one, HttpConnection) and not one.transport.is_closing()
        ]
        if len(open_connections) > MAX_CONNECTIONS:
            idle = (one for one in open_connections if one.is_idle)
            min(idle, key=lambda one: one._number).transport.abort()  # noqa: SLF001 - the same class
        self._check_timer = self.loop.call_later(CHECK_INTERVAL, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the checks."""
        if self._check_timer is not None:
            self._check_timer.cancel()
        super().connection_lost(exc)

    @property
    def is_idle(self) -> bool:
        """True if no request is being served."""
        return getattr(self.cycle, "response_complete", True)  # no cycle exists before the first request

    def _check(self) -> None:
        waiting = self.transport.get_write_buffer_size()
        now = self.cycle, waiting
        if self.transport.is_closing() or ((self.is_idle or waiting) and now == (self._previous or (None, 0))):
            self.transport.abort()
            return
        self._previous = now
        self._check_timer = self.loop.call_later(CHECK_INTERVAL, self._check)
