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

from quictunnel.config.client_config import CONGESTION, ENGINE, ClientConfig, Secret, load, qlog_of
from quictunnel.connection.manager import CLOSED, ConnectionManager
from quictunnel.events import LOST, VISITOR, WARNING, ClientEvent, Snapshot
from quictunnel.origin.readiness import wait_until_listening
from quictunnel.shared import event_loop
from quictunnel.stats import Meter
from quictunnel.status import server as status
from quictunnel.status.model import TunnelStatus
from quictunnel.tunnel import Tunnel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from quictunnel.connection.leases import ClientLease
    from quictunnel.connection.options import ForwardOptions
    from quictunnel.connection.ticket_file import TicketFile
    from quictunnel.errors import Error
    from quictunnel.inspect.inspector import Inspector
    from quictunnel.shared.event_loop import EventLoopThread

logger = logging.getLogger(__name__)

MAX_UNTOLD: Final = 64
"""Events that are kept for the first subscriber; opening a tunnel makes a handful."""
EXIT_GRACE: Final = 2.0
"""Seconds that the end of the process waits for the edge to be told."""


class Client:
    """Owns one QUIC connection to an edge; connects when first used.

    May be used from any thread. After a fork the child's copy starts afresh: it has no leases and dials its own
    connection when used, and it never disturbs the parent's.

    Args:
        edge: ``host:port`` of the edge's QUIC socket.
        token: the secret that the edge gave; never logged, never part of an error.
        ca: PEM file with the authorities that the edge's certificate may come from; None means the system's.

    Raises ConfigError when an argument is malformed.
    """

    def __init__(self, edge: str, *, token: str, ca: str | os.PathLike[str] | None = None) -> None:
        self._init(
            ClientConfig(
                edge=edge,
                token=Secret(token),
                ca=None if ca is None else Path(ca),
                engine=os.environ.get(ENGINE) or "auto",
                congestion=os.environ.get(CONGESTION) or "auto",
                qlog=qlog_of(os.environ),
            )
        )

    @classmethod
    def from_config(cls, config: ClientConfig) -> Self:
        """A client for a configuration that was looked up already, such as that of an embedded edge. Connects when
        first used, and raises nothing."""
        client = cls.__new__(cls)
        client._init(config)  # noqa: SLF001 - the other constructor
        return client

    @classmethod
    def from_env(cls) -> Client:
        """The process's default client, made when first asked for: what ``forward(client=None)`` uses.

        Looks at the environment (QUICTUNNEL_EDGE, QUICTUNNEL_TOKEN, QUICTUNNEL_CA), then the user's config
        file, then an edge that runs on this machine. Connects when first used; only files are read here. Raises
        ConfigError when none of them names an edge, or one of them is malformed.
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
        self._untold: deque[ClientEvent] = deque(maxlen=MAX_UNTOLD)
        """Events from before the first subscriber, and those that are about to be told."""
        self._is_closed = False
        self._background: EventLoopThread | None = None
        self._manager: ConnectionManager | None = None
        _clients.add(self)

    @property
    def is_closed(self) -> bool:
        """Return True if :meth:`close` was called; such a client opens no tunnel any more."""
        return self._is_closed

    @property
    def state(self) -> str:
        """The state of its connection: one of :data:`quictunnel.events.STATES`. Cheap; from any thread."""
        return self.snapshot().state

    @property
    def failure(self) -> Error | None:
        """The error that ended the client for good, in the states ``refused`` and ``failed``; None in the others.
        Cheap; from any thread."""
        manager = self._manager
        return manager.failure if manager is not None else None

    def snapshot(self) -> Snapshot:
        """Return the state and the figures of this moment. Cheap, waits for nothing; from any thread."""
        manager = self._manager
        if manager is None:
            state = "closed" if self._is_closed else "connecting"
            return Snapshot(state, 0, 0, 0, 0, None, "")
        visitors, counters = manager.visitors, manager.counters
        tally = visitors.counts
        bytes_in, bytes_out = visitors.active_bytes
        return Snapshot(
            state=manager.state,
            visitors_now=visitors.active_count,
            visitors_total=tally.visitors,
            bytes_in=tally.bytes_in + bytes_in,
            bytes_out=tally.bytes_out + bytes_out,
            rtt=manager.rtt,
            engine=manager.engine,
            resumed=counters.resumed,
            migrated=counters.migrated,
            reconnected=counters.reconnected,
        )

    def subscribe(self, callback: Callable[[ClientEvent], None]) -> Callable[[], None]:
        """Call ``callback`` on the background thread for every event; it must return at once, and what it raises
        is logged. The first subscriber is also told what happened before (the newest :data:`MAX_UNTOLD` events,
        visitors excepted). Returns a function that ends it, which may be called again. Both are safe in any
        thread."""
        self._subscribers.append(callback)
        self._was_subscribed = True
        loop = self._background
        if self._untold and loop is not None and loop.process == os.getpid():
            with suppress(RuntimeError):  # its loop has ended
                loop.loop.call_soon_threadsafe(self._tell)

        def unsubscribe() -> None:
            if callback in self._subscribers:
                self._subscribers.remove(callback)

        return unsubscribe

    def close(self) -> None:
        """Close the connection and every tunnel on it, now: visitors in flight are reset. May be called again,
        and raises nothing. Waits for milliseconds, until the edge was told; interrupted (Ctrl-C), it goes on by
        itself. A subscriber that calls it (on the background thread) does not wait for the end."""
        with self._lock:
            self._is_closed = True
            manager, self._manager = self._manager, None
            loop = self._background
        if manager is None or loop is None or loop.process != os.getpid():
            return
        if loop.is_here:
            loop.submit(manager.close())
        else:
            event_loop.result_of(loop.submit(manager.close()))  # not call(): an interrupt would cancel it

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client edge={self.config.edge!r} {self.snapshot().state}>"

    # For forward().

    def reach(self) -> tuple[EventLoopThread, ConnectionManager]:
        """The loop and the connection manager on it; made anew in a process that was forked."""
        with self._lock:
            if self._is_closed:
                raise RuntimeError(CLOSED)
            loop = event_loop.shared()
            if self._manager is None or self._background is not loop:
                self._background = loop
                self._manager = ConnectionManager(self.config, self._observe)
            return loop, self._manager

    def _observe(self, kind: str, message: str) -> None:
        event = ClientEvent(kind, message, time.time())
        if self._subscribers:
            self._untold.append(event)
            self._tell()
            return
        if kind in (WARNING, LOST, "failed", "refused"):
            logger.warning("%s", message)  # nobody else would say it
        if not self._was_subscribed and kind != VISITOR:
            self._untold.append(event)

    def _tell(self) -> None:
        """Tell everybody what is untold, in order; on the background thread."""
        while self._untold:
            event = self._untold.popleft()
            for callback in tuple(self._subscribers):
                try:
                    callback(event)
                except Exception:
                    logger.exception("a subscriber of a Client failed")

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._manager = None
        self._background = None


class Binding:
    """Lease that ``forward()`` holds. It closes in the process that opened it."""

    def __init__(
        self,
        client: Client,
        options: ForwardOptions,
        ticket: TicketFile | None,
        *,
        wait: float = 0.0,
        inspector: Inspector | None = None,
    ) -> None:
        """``wait``: seconds for somebody to listen on the local port before the edge is asked."""
        self._inspector = inspector
        self._ticket = ticket
        self._wait = wait
        self._client = client
        self._wish = options
        self._held: tuple[EventLoopThread, ConnectionManager, ClientLease] | None = None
        self._meter: Meter | None = None

    def open(self) -> Tunnel:
        """Open the tunnel and return its addresses. Raises the errors of ``forward``."""
        loop, manager = self._client.reach()
        bound: list[ClientLease] = []
        try:
            loop.call(self._bind(manager, bound))
        except BaseException:
            loop.submit(self._undo(manager, bound))
            raise
        return self._hold(loop, manager, bound[0])

    async def open_async(self) -> Tunnel:
        """As :meth:`open`, without blocking the caller's loop. When cancelled, the lease is given back."""
        loop, manager = self._client.reach()
        bound: list[ClientLease] = []
        try:
            await asyncio.wrap_future(loop.submit(self._bind(manager, bound)))
        except BaseException:
            loop.submit(self._undo(manager, bound))
            raise
        return self._hold(loop, manager, bound[0])

    async def _bind(self, manager: ConnectionManager, bound: list[ClientLease]) -> None:
        if self._wait:
            await wait_until_listening(self._wish.port, self._wait)
        origin = None if self._inspector is None else self._inspector.origin(self._wish.port)
        lease = await manager.bind(self._wish, self._ticket, origin)
        bound.append(lease)
        self._meter = meter = Meter(lease, manager)
        await status.announce(self, partial(listed, self._client.config.edge, lease, meter))

    async def _release(self, manager: ConnectionManager, lease: ClientLease) -> None:
        try:
            await manager.release(lease)
        finally:
            status.withdraw(self)

    async def _undo(self, manager: ConnectionManager, bound: list[ClientLease]) -> None:
        """Give the lease back: the caller was interrupted, perhaps when the lease was granted already.

        Runs after the cancellation of :meth:`_bind`, which it follows through the loop's queue."""
        for lease in bound:
            status.withdraw(self)
            await manager.release(lease, grace=0)

    def _hold(self, loop: EventLoopThread, manager: ConnectionManager, lease: ClientLease) -> Tunnel:
        self._held = (loop, manager, lease)
        assert self._meter is not None, "it is bound"
        tunnel = Tunnel(*lease.answer.result()).metered(self._meter.read)
        if self._inspector is not None:
            self._inspector.opened(tunnel.url)
            tunnel.inspected(self._inspector.url)
        return tunnel

    def close(self) -> None:
        """Close the port; visitors in flight may finish (bounded). Interrupted, it resets them at once."""
        held = self._take()
        if held is not None:
            loop, manager, lease = held
            with self._closing():
                loop.call(self._release(manager, lease))

    async def close_async(self) -> None:
        """As :meth:`close`. The port is closed even when this is cancelled; visitors are then reset."""
        held = self._take()
        if held is not None:
            loop, manager, lease = held
            with self._closing():
                await asyncio.wrap_future(loop.submit(self._release(manager, lease)))

    @contextmanager
    def _closing(self) -> Iterator[None]:
        """Keep the figures right while the body closes the tunnel, and after."""
        meter = self._meter
        assert meter is not None, "it is held"
        meter.closing()
        try:
            yield
        finally:
            meter.closed()

    def _take(self) -> tuple[EventLoopThread, ConnectionManager, ClientLease] | None:
        held, self._held = self._held, None
        if held is not None and held[0].process != os.getpid():
            return None  # a forked child leaves the parent's tunnel alone
        return held


def listed(edge: str, lease: ClientLease, meter: Meter) -> TunnelStatus:
    """Tunnel as ``quictunnel status`` shows it."""
    tunnel, stats = Tunnel(*lease.answer.result()), meter.read()
    return TunnelStatus(
        url=tunnel.url,
        tcp="{}:{}".format(*tunnel.tcp_socket) if tunnel.unencrypted_host else "",
        port=lease.origin.port,
        edge=edge,
        state=stats.state,
        engine=stats.engine,
        rtt=stats.rtt,
        visitors_now=stats.visitors_now,
        visitors_total=stats.visitors_total,
        bytes_in=stats.bytes_in,
        bytes_out=stats.bytes_out,
        since=stats.since,
    )


_lock = threading.Lock()
_default: Client | None = None
_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _forked() -> None:
    global _lock
    _lock = threading.Lock()
    for client in _clients:
        client._after_fork()  # noqa: SLF001 - the same module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


@atexit.register
def _hang_up_at_exit() -> None:
    """Tell the edges that this process is leaving, so that names and ports are free at once."""
    for client in tuple(_clients):
        manager, loop = client._manager, client._background  # noqa: SLF001 - the same module
        if manager is not None and loop is not None and loop.process == os.getpid():
            try:
                event_loop.result_of(loop.submit(manager.close()), EXIT_GRACE)
            except TimeoutError:
                logger.warning("the edge could not be told that this process ends")
