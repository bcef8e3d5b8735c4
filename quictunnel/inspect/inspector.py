"""The inspector of one tunnel: its thread and the server of its page."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import time
from typing import TYPE_CHECKING, Final

from quictunnel.errors import ConfigError
from quictunnel.inspect import limits
from quictunnel.inspect.exchange_store import ExchangeStore
from quictunnel.inspect.page_security import InspectorGuard
from quictunnel.inspect.recorder import Recorder
from quictunnel.inspect.replay import Replays
from quictunnel.inspect.web_app import Site
from quictunnel.shared.address import format_address, on_this_machine
from quictunnel.shared.event_loop import EventLoopThread
from quictunnel.shared.http_server import HttpServer
from quictunnel.shared.listening import open_listener
from quictunnel.shared.supervision import Supervisor
from quictunnel.shared.web_security import is_loopback, name_of
from quictunnel.transport import descriptors
from quictunnel.transport.tcp import start_server

if TYPE_CHECKING:
    from quictunnel.inspect.tap import TapSource
    from quictunnel.origin.target import Target

logger = logging.getLogger(__name__)

LOOPBACK: Final = "127.0.0.1"
DEFAULT_PORTS: Final = range(4040, 4060)
"""Ports to try in this order, so that the page of the first tunnel is always at the same address."""
TOKEN_BYTES: Final = 24
BACKLOG: Final = 16
DRAIN_TIMEOUT: Final = 1.0
"""Seconds for open responses of the page at the end of the tunnel."""


class Inspector:
    """Traffic inspector with its own thread. Create and close it on any other thread."""

    def __init__(self, address: tuple[str, int] | None, target: Target) -> None:
        """Start the thread and the page's server.

        Args:
            address: host and port of the page; port 0: any. None: loopback, the first free port from 4040.
            target: the local service of the tunnel.

        Raises:
            ConfigError: the address cannot be bound.
        """
        self._socket = _listen_by_default() if address is None else _listen(*address)
        host, self._port = self._socket.getsockname()[:2]
        if not is_loopback(host):
            logger.warning(
                "the inspector listens on %s without encryption: others on the network can read the visitors' "
                "data; use loopback and `ssh -L` instead", host,
            )  # fmt: skip
        self._host = host
        self._token = secrets.token_urlsafe(TOKEN_BYTES)
        self._is_closed = False
        self._store = ExchangeStore(time.time)
        self._recorder = Recorder(self._store, self._wake)
        self._background = EventLoopThread("quictunnel-inspector")
        try:
            self._background.call(self._start(target))
        except BaseException:
            descriptors.clear_close_on_fork(self._socket)
            self._socket.close()
            self._background.stop()
            raise

    @property
    def url(self) -> str:
        """URL of the page. The part after ``#`` is the token, which browsers do not send to servers."""
        return f"http://{format_address(on_this_machine(self._host), self._port)}/#{self._token}"

    @property
    def taps(self) -> TapSource:
        """Source of the taps that record connections."""
        return self._recorder

    def set_tunnel_url(self, public: str) -> None:
        """Set the public URL of the tunnel, when it is open."""
        self._site.public = public

    def close(self) -> None:
        """Stop recording and close the page. Open connections of visitors continue."""
        if self._is_closed or self._background.owner_pid != os.getpid():
            return  # in a forked child, the inspector belongs to the parent
        self._is_closed = True
        self._recorder.close()
        self._background.call(self._stop())
        self._background.stop()

    async def _start(self, target: Target) -> None:
        supervisor = Supervisor()
        self._replays = Replays(self._store, self._recorder.head_budget, target, supervisor)
        self._site = Site(self._store, self._recorder, self._replays, target)
        guarded = InspectorGuard(self._site.app, token=self._token, names=[name_of(self._host)])
        self._http = HttpServer(guarded, max_head=limits.MAX_PAGE_HEAD)
        self._server = await start_server(self._socket, self._http.connection, backlog=BACKLOG)

    async def _stop(self) -> None:
        self._site.close()
        await self._replays.close()
        descriptors.clear_close_on_fork(self._socket)
        self._server.close()
        await self._http.drain(DRAIN_TIMEOUT)

    # On the tunnel's thread.

    def _wake(self) -> None:
        try:
            self._background.loop.call_soon_threadsafe(self._work)
        except RuntimeError:  # the loop has closed meanwhile
            self._recorder.close()

    # On the inspector's.

    def _work(self) -> None:
        began = time.monotonic()
        if self._recorder.drain(limits.SLICE_TIME):
            took = time.monotonic() - began
            self._background.loop.call_later(
                max(limits.MIN_SLICE_INTERVAL, took * limits.PAUSE_FACTOR), self._work
            )


def _listen_by_default() -> socket.socket:
    """Return a listening socket on loopback, at the first free port of DEFAULT_PORTS or at any."""
    for port in DEFAULT_PORTS:
        with contextlib.suppress(ConfigError):
            return _listen(LOOPBACK, port)
    return _listen(LOOPBACK, 0)


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises ConfigError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = open_listener(host, port, backlog=BACKLOG, family=family)
    except OSError as error:
        raise ConfigError(
            f"The inspector cannot listen on {format_address(host, port)}: {error.strerror or error}. Choose "
            "another port, or 0 for any."
        ) from None
    descriptors.set_close_on_fork(sock)
    return sock
