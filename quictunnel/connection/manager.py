"""The connection manager of one client: keeps a session alive when its link, its edge or the network fails.

Everything here runs on the background loop. ``client`` is the interface for other threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

from quictunnel.connection.dialer import CONNECT_TIMEOUT, Dialer
from quictunnel.connection.draining import DrainingSessions
from quictunnel.connection.edge_connection import EdgeConnection, resolve, silence
from quictunnel.connection.leases import HeldLease, Leases
from quictunnel.connection.network_monitor import Change, NetworkMonitor
from quictunnel.connection.redial_schedule import RedialSchedule
from quictunnel.connection.resumption import ReconnectCounters, ResumableSession
from quictunnel.connection.retry_policy import RetryPolicy
from quictunnel.connection.state import ConnectionState, ConnectionStateMachine
from quictunnel.connection.visitor_handler import VisitorHandler
from quictunnel.errors import AuthError, EdgeUnavailableError, Error
from quictunnel.shared.event_loop import in_thread
from quictunnel.shared.supervision import Supervisor
from quictunnel.wire.codes import StreamCode
from quictunnel.wire.messages import AnyMessage, GoAway

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.config.client_config import ClientConfig
    from quictunnel.connection.options import ForwardOptions
    from quictunnel.connection.ticket_file import TicketFile
    from quictunnel.origin.dial import Origin
    from quictunnel.transport.engine import Closed
    from quictunnel.transport.session import Session
    from quictunnel.transport.stream import Stream

logger = logging.getLogger(__name__)

SUSPECT_AFTER: Final = 3.0
"""Seconds without an answer after which another link is dialled beside the one that is: three times what an engine
waits at most before it asks again. Nothing is given up for it."""
CHECK_INTERVAL: Final = 1.0
"""Seconds between looks at whether the edge still answers."""
URGENT_DIAL_TIMEOUT: Final = 4.0
"""Seconds for one attempt while visitors wait: a fresh one says hello more often than one that is old, whose
repetitions are far apart by then."""
CLOSED: Final = "this Client is closed; make a new one"
BIND_TIMEOUT: Final = 10.0
"""Seconds that a connected edge may take to answer a Bind or an Unbind."""
DRAIN_GRACE: Final = 5.0
"""Seconds that visitors in flight get to finish when a tunnel closes."""


class ConnectionManager:
    """Connection of a client to its edge, from the first dial to the end."""

    def __init__(self, config: ClientConfig, observe: Callable[[str, str], None]) -> None:
        """``observe(kind, message)`` is told what ``events.ClientEvent`` passes on."""
        self._machine = ConnectionStateMachine(observe)
        self.counters = ReconnectCounters()
        self._tasks = Supervisor(self._task_failed)
        self.leases = Leases(observe, self._tasks)
        self.visitors = VisitorHandler(self.leases, observe, self._tasks)
        self._config = config
        self._dialer = Dialer(config, self, self._tasks)
        self._observe = observe
        self._connection: EdgeConnection | None = None
        self._schedule = RedialSchedule()
        self._up = asyncio.Event()
        self._down = asyncio.Event()
        self._wake = asyncio.Event()
        """Set when the connection is to be checked now, before the next interval."""
        self._grace: int | None = None
        """The edge is leaving, and gives visitors so many seconds."""
        self._draining = DrainingSessions(self._tasks)
        self._network: NetworkMonitor | None = None
        self._was_connected = False
        self.failure: Error | None = None
        """The error that ended it for good."""
        self._keep_task: asyncio.Task[None] | None = None
        self._resumable = ResumableSession()
        self._retry = RetryPolicy(observe, self._tasks)

    # For the client.

    @property
    def state(self) -> str:
        """The value of the connection's state; may be asked for from any thread."""
        return self._machine.state.value

    @property
    def engine(self) -> str:
        """The QUIC engine of the last connection."""
        return self._dialer.engine

    @property
    def rtt(self) -> float | None:
        """Seconds to the edge and back."""
        connection = self._connection  # asked for from other threads, while it comes and goes
        return connection.session.link.rtt if connection is not None else None

    async def bind(
        self, options: ForwardOptions, file: TicketFile | None = None, origin: Origin | None = None
    ) -> HeldLease:
        """Lease a public name (and TCP port) for a local port. Raises the errors of ``forward``.

        When cancelled, the lease is given back.

        Args:
            options: the options of the tunnel.
            file: keeps the ticket of the tunnel.
            origin: what stands for the local port, if not a plain Origin.
        """
        # Before anything is looked at: nobody else may come between the checks and the lease that they allow.
        ticket = b"" if file is None else await in_thread(file.read)
        self._check_open()
        lease = self.leases.add(options, ticket, file, origin)
        try:
            await self._connected()
            if self._connection is not None:
                self.leases.ask(self._connection.session, lease)
            else:
                lease.asked = True  # lost again at this very moment: the next session asks
            async with asyncio.timeout(BIND_TIMEOUT):
                await asyncio.shield(lease.answer)
            if lease.writer is not None:
                await lease.writer.settle()
        except TimeoutError:
            await self._give_up(lease)
            raise EdgeUnavailableError(
                f"The edge at {self._config.edge} did not answer within {BIND_TIMEOUT:.0f} s; try again later."
            ) from None
        except BaseException:
            await self._give_up(lease)
            raise
        return lease

    async def release(self, lease: HeldLease, grace: float = DRAIN_GRACE) -> None:
        """Close the public port at once, let visitors in flight finish for up to ``grace`` seconds, reset
        the rest. When cancelled, they are reset at once."""
        if self.leases.get(lease.number) is None:
            return
        try:
            await self._unbind(lease)
            await lease.drain(grace)
        finally:
            for stream in tuple(lease.streams):
                stream.lose(StreamCode.CLOSING)
            self.leases.remove(lease)

    async def close(self) -> None:
        """End the session and everything that hangs on it, now."""
        self._machine.enter(ConnectionState.CLOSED, "The client was closed.")
        if self._keep_task is not None:
            self._keep_task.cancel()
            await asyncio.wait([self._keep_task])
            self._keep_task = None
        if self._network is not None:
            self._network.close()
        self._resumable.give_up()
        await self._draining.close()
        await self.visitors.close()
        self.leases.end(RuntimeError(CLOSED))
        for lease in self.leases:
            self.leases.remove(lease)

    # Keeping the session.

    async def _connected(self) -> None:
        """Wait until there is a session; start keeping one if nobody does."""
        up = asyncio.ensure_future(self._up.wait())
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                while not up.done():
                    keeper = await self._kept()
                    await asyncio.wait([up, keeper], return_when=asyncio.FIRST_COMPLETED)
                    if self.failure is not None:
                        raise self.failure
                    # Without a failure it ended because of a bug, or because somebody else gave up.
                    if keeper.done() and not keeper.cancelled():
                        keeper.result()
        except TimeoutError:
            raise self._retry.last or await silence(self._config, CONNECT_TIMEOUT) from None
        finally:
            up.cancel()

    async def _kept(self) -> asyncio.Task[None]:
        """Return the task that keeps the session; start one if there is none."""
        self._check_open()
        if self._keep_task is None or self._keep_task.done():
            await resolve(self._config)  # a name that does not exist is worth saying at once
            self._check_open()
        if self._keep_task is None or self._keep_task.done():  # nobody was quicker meanwhile
            self.failure = self._retry.last = None
            self._keep_task = self._tasks.start(self._keep(), "keeping the connection to the edge")
            self._network = self._network or NetworkMonitor(self._network_changed)
        return self._keep_task

    def _check_open(self) -> None:
        if self.is_closed:
            raise RuntimeError(CLOSED)

    async def _keep(self) -> None:
        """Dial, serve until the session ends, dial again; until cancelled or a failure that stays."""
        while True:
            try:
                await self._rely_on(await self._dialer.dial(self._patience))
                await self._served()
                if self.failure is not None:
                    return
            except Exception as error:  # noqa: BLE001 - a fault of ours, too: judged there, and reported
                final = self._retry.judge(error, was_connected=self._was_connected)
                if final is not None:
                    self._fail(final)
                    return
            finally:
                await self._hang_up()
            await self._rest()

    def _task_failed(self, what: str, error: Exception) -> None:
        self._observe("warning", f"A fault of this client: {what} failed ({error!r}); its log says where.")

    @property
    def _patience(self) -> float:
        return CONNECT_TIMEOUT if self._resumable.session is None else URGENT_DIAL_TIMEOUT

    async def _rest(self) -> None:
        """Wait between two dials, unless the network changes."""
        self._settle()
        kept = self._resumable.session
        wait = self._schedule.next_wait(is_urgent=kept is not None)
        if kept is None:
            self._machine.enter(ConnectionState.RECONNECTING, f"Dialling the edge again in {wait:.1f} s.")
        else:
            self._machine.enter(ConnectionState.AWAY, f"The edge is out of reach; {kept.streams} visitors wait.")
        await self._schedule.pause(wait)

    def _settle(self) -> bool:
        """End the session of now. Return True if it lasted, so that the next dial comes soon."""
        has_lasted = self._schedule.settle()
        if has_lasted:
            self._retry.lasted()
        return has_lasted

    async def _served(self) -> None:
        """Wait until the session has no link. Meanwhile dial beside a link that looks sick, and for a successor of
        an edge that leaves."""
        while not self._down.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_INTERVAL):
                    await self._wake.wait()
            self._wake.clear()  # after the wait: what happened since the last look is looked at now
            connection = self._connection
            if connection is None or self._down.is_set():
                continue
            if self._grace is not None:
                await self._move(connection, self._grace)
            elif connection.silence >= SUSPECT_AFTER:
                await self._relieve(connection)
            elif self._machine.state is ConnectionState.MIGRATING and connection.has_answered:
                self._machine.enter(ConnectionState.CONNECTED, "The edge answers at the new address.")
            elif self._machine.state is ConnectionState.SUSPECT:
                self._machine.enter(ConnectionState.CONNECTED, "The edge answers again.")

    async def _relieve(self, sick: EdgeConnection) -> None:
        """Dial beside a link from which nothing comes; whichever works first carries the session."""
        self._resumable.offer(sick)
        if self._resumable.session is None:
            return
        self._machine.enter(
            ConnectionState.SUSPECT,
            f"Nothing has come from the edge for {sick.silence:.0f} s; dialling beside it.",
        )

        def is_vain() -> bool:
            return not self._resumable.is_shown and (self._down.is_set() or sick.silence < SUSPECT_AFTER)

        connection = await self._dialer.dial_beside(self._down, URGENT_DIAL_TIMEOUT, is_vain)
        if connection is not None:
            await self._rely_on(connection)
            await sick.close()
        elif sick.session.is_away:
            self._lost()  # it had gone on with the new link, which was lost at once
        elif not self._down.is_set():
            self._resumable.hand_over()  # the link is well again, or the next look tries again
            if sick.silence < SUSPECT_AFTER:
                self._machine.enter(ConnectionState.CONNECTED, "The edge answers again.")

    async def _move(self, old: EdgeConnection, grace: int) -> None:
        """Dial for a new session, because the edge leaves: its successor or another edge takes it, while the
        visitors in flight finish with the old one."""
        has_lasted = self._settle()
        while not self._down.is_set():
            # Not all clients at the same moment.
            await self._schedule.pause(self._schedule.next_wait(), self._down)
            connection = await self._dialer.dial_beside(self._down, URGENT_DIAL_TIMEOUT, self._down.is_set)
            if connection is None:
                continue
            try:
                await self._rely_on(connection)
            except Error as error:
                logger.info("%s", error)
                continue
            self._draining.add(old, grace)
            return
        if has_lasted:
            # It is gone, and who follows may be there already: that nobody answered before does not count.
            self._schedule.reset()

    async def _rely_on(self, connection: EdgeConnection) -> None:
        """Carry the session on this connection. Raises the Error with which it has ended meanwhile; it is closed
        then."""
        try:
            connection.adopt()
        except Error:
            self._resumable.connection_failed(connection)
            await connection.close()
            raise
        self._connected_to(connection)

    def _connected_to(self, connection: EdgeConnection) -> None:
        self._connection = connection
        self._grace = connection.grace
        self._wake.set()
        self._schedule.session_began()
        if self._network is not None:
            self._network.towards(connection.address)
        if not connection.is_resumed:
            self._resumable.give_up()
            self.counters.reconnected += self._was_connected
        self._was_connected = True
        kept = self._resumable.hand_over()
        self._down.clear()
        self._up.set()
        if kept is not None:
            self.counters.resumed += 1
            self._machine.enter(ConnectionState.RESUMING, "The edge is back; both sides say how far they got.")
            self._observe("resumed", f"{kept.streams} visitors go on where they were.")
        if connection.is_usable:
            self.connection_usable(connection)
        self.leases.ask_again(connection.session, is_kept=kept is not None)

    async def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        self._up.clear()
        if self._resumable.session is None:
            for lease in self.leases:
                # The edge closes the port with the session, so nobody has to wait for it to say so.
                lease.is_unbound()
        if connection is not None:
            await connection.close()

    def _fail(self, error: Error) -> None:
        self.failure = error
        self._resumable.give_up()
        is_refused = isinstance(error, AuthError)
        self._machine.enter(ConnectionState.REFUSED if is_refused else ConnectionState.FAILED, str(error))
        self.leases.end(error)

    # The network.

    def _network_changed(self, change: Change) -> None:
        self._schedule.network_changed()
        connection = self._connection
        if connection is None:
            return
        logger.info("%s", change.value)
        if change is Change.STIRRED:
            connection.ask()
            return
        if change is Change.SLEPT:
            connection.doubt(SUSPECT_AFTER)  # the edge may have given the link up long ago
        for each in (connection, *self._draining):
            each.rebind()
        self.counters.migrated += 1
        self._machine.enter(ConnectionState.MIGRATING, f"{change.value.capitalize()}; the connection moves on.")
        self._wake.set()

    # From the edge session (edge_session.ConnectionEvents).

    @property
    def is_closed(self) -> bool:
        """True after :meth:`close`."""
        return self._machine.state is ConnectionState.CLOSED

    def connection_secret(self, connection: EdgeConnection) -> bytes | None:
        """Return the secret of a session that waits for a link."""
        return self._resumable.secret_for(connection)

    def connection_failed(self, connection: EdgeConnection) -> None:
        """Let another connection show the secret."""
        self._resumable.connection_failed(connection)

    def connection_resumed(self, connection: EdgeConnection) -> Session:
        """Return the session that goes on with the link of this connection."""
        return self._resumable.session_for(connection)

    def connection_usable(self, connection: EdgeConnection) -> None:
        """Note that the edge carries visitors."""
        if connection is self._connection:
            self._machine.enter(ConnectionState.CONNECTED, f"Connected to the edge at {self._config.edge}.")

    def connection_away(self, connection: EdgeConnection, closed: Closed) -> bool:
        """Return True if the session waits for another link."""
        if connection is not self._connection or not self._resumable.keep(connection, closed):
            return False
        self._observe("warning", f"The connection was lost ({closed.cause.value}); "
                      f"{connection.session.streams} visitors wait for it to come back.")  # fmt: skip
        self._lost()
        return True

    def connection_message(self, connection: EdgeConnection, message: AnyMessage) -> None:
        """Take in a GoAway; pass on what is about leases."""
        if isinstance(message, GoAway):
            if connection is self._connection:
                self._observe("warning", "The edge is shutting down; visitors in flight may finish.")
                self._grace = message.grace
                self._wake.set()
        else:
            self.leases.message(message)

    def connection_stream(self, stream: Stream) -> None:
        """Serve a visitor."""
        self.visitors.come(stream)

    def connection_ended(self, connection: EdgeConnection, error: Error) -> None:
        """Note that the session is over; give up if the error stays."""
        if connection is self._connection:
            self._observe("warning", str(error))
            self._lost()
            if not error.temporary:
                self._fail(error)

    def _lost(self) -> None:
        self._down.set()
        self._wake.set()

    # Leases.

    async def _give_up(self, lease: HeldLease) -> None:
        """Take back a Bind that did not work out."""
        self.leases.remove(lease)
        if not lease.answer.cancel() and not lease.answer.cancelled():  # the end of a time-out has cancelled it
            lease.answer.exception()  # seen: the caller gets it
        self._give_back(lease)
        # A session that waits for a link may hold what was given back: it is dialled for until the edge knows.
        is_idle = self._connection is None and self._resumable.session is None and not self.leases
        if is_idle and self._keep_task is not None:
            self._keep_task.cancel()
            await asyncio.wait([self._keep_task])

    async def _unbind(self, lease: HeldLease) -> None:
        self._give_back(lease)
        if self._connection is None:
            return
        lease.unbound = asyncio.get_running_loop().create_future()
        with contextlib.suppress(TimeoutError):  # the edge closes the port with the session at the latest
            async with asyncio.timeout(BIND_TIMEOUT):
                await lease.unbound

    def _give_back(self, lease: HeldLease) -> None:
        session = None if self._connection is None else self._connection.session
        self.leases.give_back(lease, session, is_kept=self._resumable.session is not None)
