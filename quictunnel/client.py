"""The client as a program sees it: one connection to an edge, shared by every ``forward()`` that uses it.

Each method hands its work to the background loop, where ``connection.manager`` does it.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import time
import weakref
from collections import deque
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from quictunnel.config.client_config import ClientConfig, client_config_of, load
from quictunnel.connection.manager import ConnectionManager
from quictunnel.errors import ClientClosedError
from quictunnel.events import LOST, VISITOR, WARNING, ClientEvent, Snapshot
from quictunnel.inspect.summaries import SummaryTaps
from quictunnel.inspect.tap import TappedOrigin
from quictunnel.origin.readiness import wait_until_listening
from quictunnel.shared import event_loop
from quictunnel.stats import StatsReader
from quictunnel.status import server as status
from quictunnel.status.model import TunnelStatus
from quictunnel.tunnel import Tunnel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from types import TracebackType

    from quictunnel.connection.leases import ClientLease
    from quictunnel.connection.options import ForwardOptions
    from quictunnel.connection.ticket_file import TicketFile
    from quictunnel.errors import Error
    from quictunnel.inspect.inspector import Inspector
    from quictunnel.inspect.request_queue import RequestSummary
    from quictunnel.inspect.tap import TapSource
    from quictunnel.shared.event_loop import EventLoopThread

logger = logging.getLogger(__name__)

MAX_UNDELIVERED: Final = 64
"""Events that are kept for the first subscriber; opening a tunnel makes a handful."""
EXIT_GRACE: Final = 2.0
"""Seconds that the exit of the process waits until the edge has the close of the connection."""


class Client:
    """Client of an edge, with one session, over one QUIC connection at a time. Connects when first used.

    Also a context manager, sync and async: at the end of the body the connection and all of its tunnels are
    closed, and ``forward(client=...)`` then raises InvalidError.

    May be used from any thread. After a fork, the child's copy has no tunnels and dials its own connection when
    used; the parent's connection is not affected.

    Args:
        edge: ``host:port`` of the edge's QUIC socket.
        token: the secret that the edge issued; never logged, never part of an error.
        ca: PEM file with the certificate authorities to trust; None means the system's.
        profile: instead of the others, the name of an edge that ``quictunnel login --profile NAME`` has stored.
        credential: instead of the others, the string ``qt1...`` that the edge printed; a secret like the token.

    Raises ConfigError if an argument is malformed or missing, or there is no such profile.
    """

    def __init__(
        self,
        edge: str | None = None,
        *,
        token: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        profile: str | None = None,
        credential: str | None = None,
    ) -> None:
        self._init(
            client_config_of(
                edge=edge,
                token=token,
                ca=None if ca is None else Path(ca),
                profile=profile,
                credential=credential,
            )
        )

    @classmethod
    def from_config(cls, config: ClientConfig) -> Self:
        """Return a client for an existing configuration, such as that of an embedded edge.

        Connects when first used, and raises nothing."""
        client = cls.__new__(cls)
        client._init(config)  # noqa: SLF001 - the other constructor
        return client

    @classmethod
    def from_env(cls) -> Client:
        """Return the process's default client, which ``forward(client=None)`` uses; create it at the first call.

        Reads the environment (QUICTUNNEL_CREDENTIAL, or QUICTUNNEL_EDGE, QUICTUNNEL_TOKEN and QUICTUNNEL_CA), then
        what ``quictunnel login`` has stored (QUICTUNNEL_PROFILE names a profile), then the user's config file,
        then the ``client.env`` of an edge that runs on this machine. Connects when first used, not here. Raises
        ConfigError if none of them names an edge, or one of them is malformed.
        """
        global _default
        with _lock:
            if _default is None or _default.is_closed:
                _default = cls.from_config(load())
            return _default

    def _init(self, config: ClientConfig) -> None:
        self.config = config
        self._lock = threading.Lock()
        self._subscribers: list[Callable[[ClientEvent], None]] = []
        self._was_subscribed = False
        self._undelivered: deque[ClientEvent] = deque(maxlen=MAX_UNDELIVERED)
        """Events from before the first subscriber, and those that are about to be delivered."""
        self._is_closed = False
        self._loop_thread: EventLoopThread | None = None
        self._manager: ConnectionManager | None = None
        _clients.add(self)

    @property
    def is_closed(self) -> bool:
        """True once :meth:`close` was called; such a client opens no more tunnels."""
        return self._is_closed

    @property
    def state(self) -> str:
        """The state of the connection: one of :data:`quictunnel.events.STATES`. Cheap; callable from any
        thread."""
        return self.snapshot().state

    @property
    def failure(self) -> Error | None:
        """The error that ended the client, in the states ``refused`` and ``failed``; None in the others.

        Cheap; callable from any thread."""
        manager = self._manager
        return manager.failure if manager is not None else None

    def snapshot(self) -> Snapshot:
        """Return the current state and figures. Cheap, does not block; callable from any thread."""
        manager = self._manager
        if manager is None:
            state = "closed" if self._is_closed else "connecting"
            return Snapshot(state, 0, 0, 0, 0, None, "")
        visitors, counters = manager.visitors, manager.counters
        counts = visitors.counts
        bytes_in, bytes_out = visitors.active_bytes
        return Snapshot(
            state=manager.state,
            visitors_now=visitors.active_count,
            visitors_total=counts.visitors,
            bytes_in=counts.bytes_in + bytes_in,
            bytes_out=counts.bytes_out + bytes_out,
            rtt=manager.rtt,
            engine=manager.engine,
            resumed=counters.resumed,
            migrated=counters.migrated,
            reconnected=counters.reconnected,
            visitors_lost=counts.lost,
        )

    def subscribe(self, callback: Callable[[ClientEvent], None]) -> Callable[[], None]:
        """Call ``callback`` on the background thread for every event. Return a function that ends the
        subscription.

        The callback must return at once; an exception of it is logged. The first subscriber also gets the newest
        :data:`MAX_UNDELIVERED` events from before, except those about visitors. Both functions may be called from
        any thread, the returned one more than once."""
        self._subscribers.append(callback)
        self._was_subscribed = True
        loop_thread = self._loop_thread
        if self._undelivered and loop_thread is not None and loop_thread.owner_pid == os.getpid():
            with suppress(RuntimeError):  # its loop has ended
                loop_thread.loop.call_soon_threadsafe(self._deliver)

        def unsubscribe() -> None:
            if callback in self._subscribers:
                self._subscribers.remove(callback)

        return unsubscribe

    def close(self) -> None:
        """Close the connection and all of its tunnels now; active visitors are reset.

        Raises nothing and may be called again. Blocks for some milliseconds, until the close was sent to the edge.
        If interrupted (Ctrl-C), closing continues in the background. Does not block when called by a subscriber
        (on the background thread)."""
        closing = self._begin_close()
        if closing is not None and not event_loop.shared_loop().is_current:
            event_loop.result_of(closing)  # not call(): an interrupt would cancel it

    async def aclose(self) -> None:
        """Close as :meth:`close` does, without blocking the event loop. Closing continues if this is cancelled."""
        closing = self._begin_close()
        if closing is not None:
            await asyncio.shield(asyncio.wrap_future(closing))

    def _begin_close(self) -> Future[None] | None:
        """Start to close on the background thread. Return its future; None if there is nothing to close."""
        with self._lock:
            self._is_closed = True
            manager, self._manager = self._manager, None
            loop_thread = self._loop_thread
        if manager is None or loop_thread is None or loop_thread.owner_pid != os.getpid():
            return None
        return loop_thread.submit(manager.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<Client edge={self.config.edge!r} {self.snapshot().state}>"

    # For forward().

    def loop_thread_and_manager(self) -> tuple[EventLoopThread, ConnectionManager]:
        """Return the background event loop and the connection manager on it; a forked process gets new ones."""
        with self._lock:
            if self._is_closed:
                raise ClientClosedError
            loop_thread = event_loop.shared_loop()
            if self._manager is None or self._loop_thread is not loop_thread:
                self._loop_thread = loop_thread
                self._manager = ConnectionManager(self.config, self._publish)
            return loop_thread, self._manager

    def _publish(self, kind: str, message: str) -> None:
        event = ClientEvent(kind, message, time.time())
        if self._subscribers:
            self._undelivered.append(event)
            self._deliver()
            return
        if kind in (WARNING, LOST, "failed", "refused"):
            logger.warning("%s", message)  # without a subscriber, the log is the only place for it
        if not self._was_subscribed and kind != VISITOR:
            self._undelivered.append(event)

    def _deliver(self) -> None:
        """Pass all undelivered events to all subscribers, in order; on the background thread."""
        while self._undelivered:
            event = self._undelivered.popleft()
            for callback in tuple(self._subscribers):
                try:
                    callback(event)
                except Exception:
                    logger.exception("a subscriber of a Client failed")

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._manager = None
        self._loop_thread = None


class TunnelHandle:
    """Opens and closes the tunnel of one ``forward()``. Only the process that opened it closes it."""

    def __init__(
        self,
        client: Client,
        options: ForwardOptions,
        ticket: TicketFile | None,
        *,
        wait: float = 0.0,
        inspector: Inspector | None = None,
        on_request: Callable[[RequestSummary], object] | None = None,
    ) -> None:
        """``wait``: seconds to wait until the local port accepts connections, before the lease is requested."""
        self._inspector = inspector
        self._taps: list[TapSource] = [] if inspector is None else [inspector.taps]
        if on_request is not None:
            self._taps.append(SummaryTaps(on_request))
        self._ticket = ticket
        self._wait = wait
        self._client = client
        self._options = options
        self._open: tuple[EventLoopThread, ConnectionManager, ClientLease] | None = None
        self._stats: StatsReader | None = None

    def open(self) -> Tunnel:
        """Open the tunnel and return its addresses. Raises the errors of ``forward``."""
        loop_thread, manager = self._client.loop_thread_and_manager()
        bound: list[ClientLease] = []
        try:
            loop_thread.call(self._bind(manager, bound))
        except BaseException:
            loop_thread.submit(self._withdraw(manager))
            raise
        return self._opened(loop_thread, manager, bound[0])

    async def open_async(self) -> Tunnel:
        """Open the tunnel without blocking the caller's event loop. When cancelled, the lease is released."""
        loop_thread, manager = self._client.loop_thread_and_manager()
        bound: list[ClientLease] = []
        try:
            await asyncio.wrap_future(loop_thread.submit(self._bind(manager, bound)))
        except BaseException:
            loop_thread.submit(self._withdraw(manager))
            raise
        return self._opened(loop_thread, manager, bound[0])

    async def _bind(self, manager: ConnectionManager, bound: list[ClientLease]) -> None:
        if self._wait:
            await wait_until_listening(self._options.target, self._wait)
        origin = TappedOrigin(self._options.target, self._taps) if self._taps else None
        lease = await manager.bind(self._options, self._ticket, origin)
        bound.append(lease)
        self._stats = stats = StatsReader(lease, manager)
        await status.add_tunnel(self, partial(tunnel_status, self._client.config.edge, lease, stats))

    async def _release(self, manager: ConnectionManager, lease: ClientLease) -> None:
        try:
            await manager.release(lease)
        finally:
            status.remove_tunnel(self)

    async def _withdraw(self, manager: ConnectionManager) -> None:
        """Withdraw the lease, if there is one: the caller was interrupted while it opened or closed the tunnel.

        Runs after the first step of :meth:`_bind` or :meth:`_release`, perhaps before their cancellation, and
        before the next call of the same caller, because the loop's queue keeps that order. It waits for no answer
        of the edge, so that this call may have the same target and name."""
        for lease in manager.leases:
            if lease.options is self._options:
                status.remove_tunnel(self)
                await manager.withdraw(lease)

    def _opened(self, loop_thread: EventLoopThread, manager: ConnectionManager, lease: ClientLease) -> Tunnel:
        self._open = (loop_thread, manager, lease)
        assert self._stats is not None, "set by _bind"
        tunnel = Tunnel(*lease.answer.result()).with_stats(self._stats.read)
        tunnel.set_target(self._options.target.text)
        if self._inspector is not None:
            self._inspector.set_tunnel_url(tunnel.url)
            tunnel.set_inspector_url(self._inspector.url)
        return tunnel

    def close(self) -> None:
        """Close the port; active visitors may finish (bounded). If interrupted, they are reset at once."""
        opened = self._take_open()
        if opened is not None:
            loop_thread, manager, lease = opened
            with self._closing(opened):
                loop_thread.call(self._release(manager, lease))

    async def close_async(self) -> None:
        """Close the port without blocking the caller's event loop; active visitors may finish (bounded).

        When cancelled, the port is closed nevertheless, and visitors are reset."""
        opened = self._take_open()
        if opened is not None:
            loop_thread, manager, lease = opened
            with self._closing(opened):
                await asyncio.wrap_future(loop_thread.submit(self._release(manager, lease)))

    @contextmanager
    def _closing(self, opened: tuple[EventLoopThread, ConnectionManager, ClientLease]) -> Iterator[None]:
        """Update the statistics before and after the body, which closes the tunnel; withdraw the lease if it is
        interrupted."""
        loop_thread, manager, _ = opened
        stats = self._stats
        assert stats is not None, "set while the tunnel is open"
        stats.before_close()
        try:
            yield
        except BaseException:
            loop_thread.submit(self._withdraw(manager))
            raise
        finally:
            stats.after_close()

    def _take_open(self) -> tuple[EventLoopThread, ConnectionManager, ClientLease] | None:
        opened, self._open = self._open, None
        if opened is not None and opened[0].owner_pid != os.getpid():
            return None  # a forked child must not close the parent's tunnel
        return opened


def tunnel_status(edge: str, lease: ClientLease, reader: StatsReader) -> TunnelStatus:
    """Return a tunnel as ``quictunnel status`` shows it."""
    tunnel, stats = Tunnel(*lease.answer.result()), reader.read()
    return TunnelStatus(
        url=tunnel.url,
        tcp="{}:{}".format(*tunnel.tcp_socket) if tunnel.unencrypted_host else "",
        port=lease.options.target.port,
        edge=edge,
        state=stats.state,
        engine=stats.engine,
        rtt=stats.rtt,
        visitors_now=stats.visitors_now,
        visitors_total=stats.visitors_total,
        bytes_in=stats.bytes_in,
        bytes_out=stats.bytes_out,
        since=stats.since,
        target=lease.options.target.text,
    )


_lock = threading.Lock()
_default: Client | None = None
_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _reset_after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    for client in _clients:
        client._after_fork()  # noqa: SLF001 - the same module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


@atexit.register
def _close_at_exit() -> None:
    """Close all connections when the process exits, so that the edges free its names and ports at once."""
    for client in tuple(_clients):
        manager, loop_thread = client._manager, client._loop_thread  # noqa: SLF001 - the same module
        if manager is not None and loop_thread is not None and loop_thread.owner_pid == os.getpid():
            try:
                event_loop.result_of(loop_thread.submit(manager.close()), EXIT_GRACE)
            except TimeoutError:
                logger.warning("the connection to the edge was not closed within %.0f s at exit", EXIT_GRACE)
