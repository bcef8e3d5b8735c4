"""Connection manager of one client: keeps a session with the edge, over one connection after another.

Everything here runs on the background event loop. ``client`` is the interface for other threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

from quictunnel.connection.connection_errors import no_answer_error
from quictunnel.connection.dialer import CONNECT_TIMEOUT, Dialer
from quictunnel.connection.draining import DrainingSessions
from quictunnel.connection.edge_connection import EdgeConnection, resolve
from quictunnel.connection.leases import ClientLease, Leases
from quictunnel.connection.network_monitor import NetworkChange, NetworkMonitor
from quictunnel.connection.redial_schedule import RedialSchedule
from quictunnel.connection.resumption import ReconnectCounters, ResumableSession
from quictunnel.connection.retry_policy import RetryPolicy
from quictunnel.connection.state import ConnectionState, ConnectionStateMachine
from quictunnel.connection.visitor_handler import VisitorHandler
from quictunnel.errors import AuthError, ClientClosedError, EdgeUnavailableError, Error
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
"""Seconds without an acknowledgement after which another link is dialled in parallel: three times the longest time
that an engine waits before it probes again. The suspect link stays in use meanwhile."""
CHECK_INTERVAL: Final = 1.0
"""Seconds between checks of whether the edge still answers."""
URGENT_DIAL_TIMEOUT: Final = 4.0
"""Seconds for one attempt to resume a session, whose visitors wait, or to replace a suspect link or a draining
edge. A new attempt retransmits its first
packet more often than an old one, whose retransmissions have backed off."""
BIND_TIMEOUT: Final = 10.0
"""Seconds that a connected edge may take to answer a Bind or an Unbind."""
DRAIN_GRACE: Final = 5.0
"""Seconds that active visitors get to finish when a tunnel closes."""


class ConnectionManager:
    """Keeps a client connected to its edge: dials, resumes, moves and replaces connections.

    Implements :class:`~quictunnel.connection.edge_connection.EdgeConnectionOwner`."""

    def __init__(self, config: ClientConfig, publish: Callable[[str, str], None]) -> None:
        """``publish(kind, message)`` is called with what becomes a ``ClientEvent``."""
        self._machine = ConnectionStateMachine(publish)
        self.counters = ReconnectCounters()
        self._tasks = Supervisor(self._task_failed)
        self.leases = Leases(publish, self._tasks)
        self.visitors = VisitorHandler(self.leases, publish, self._tasks)
        self._config = config
        self._dialer = Dialer(config, self, self._tasks)
        self._publish = publish
        self._connection: EdgeConnection | None = None
        self._schedule = RedialSchedule()
        self._connected = asyncio.Event()
        """Set while there is an active connection."""
        self._link_lost_event = asyncio.Event()
        """Set when the active connection's link is lost."""
        self._wake = asyncio.Event()
        """Set when the connection has to be checked now, before the next interval."""
        self._grace: int | None = None
        """Seconds that the edge gives visitors to finish, if it has sent GoAway."""
        self._draining = DrainingSessions(self._tasks)
        self._network: NetworkMonitor | None = None
        self._was_connected = False
        self.failure: Error | None = None
        """The error that ended dialling, until the next :meth:`bind` dials again; None: there was none."""
        self._session_task: asyncio.Task[None] | None = None
        """Runs :meth:`_keep_connected`."""
        self._resumable = ResumableSession()
        self._retry = RetryPolicy(publish, self._tasks)

    # For the client.

    @property
    def state(self) -> str:
        """The value of the connection's state; may be read from any thread."""
        return self._machine.state.value

    @property
    def engine(self) -> str:
        """The QUIC engine of the last connection."""
        return self._dialer.engine

    @property
    def rtt(self) -> float | None:
        """Round-trip time to the edge in seconds; None without a connection. May be read from any thread."""
        connection = self._connection  # read once: the loop's thread may replace it meanwhile
        return connection.session.link.rtt if connection is not None else None

    async def bind(
        self, options: ForwardOptions, file: TicketFile | None = None, origin: Origin | None = None
    ) -> ClientLease:
        """Lease a public name (and TCP port) for a local port. Raises the errors of ``forward``.

        When cancelled, the lease is given back.

        Args:
            options: the options of the tunnel.
            file: stores the ticket of the tunnel.
            origin: the local service; None for an :class:`Origin` that dials the target of ``options``.
        """
        # First, because it suspends: no other call may run between the checks and the lease that they allow.
        ticket = b"" if file is None else await in_thread(file.read)
        self._check_open()
        lease = self.leases.add(options, ticket, file, origin)
        try:
            await self._wait_connected()
            if self._connection is not None:
                self.leases.request(self._connection.session, lease)
            else:
                lease.is_wanted = True  # the connection is lost again already: the next session requests it
            async with asyncio.timeout(BIND_TIMEOUT):
                await asyncio.shield(lease.answer)
            if lease.writer is not None:
                await lease.writer.wait_first_write()
        except TimeoutError:
            await self.withdraw(lease)
            if lease.is_edge_closing:
                raise EdgeUnavailableError(
                    f"The edge at {self._config.edge} is shutting down and accepts no new tunnel; no other has "
                    "taken its "
                    f"place within {BIND_TIMEOUT:.0f} s.",
                    advice="Try again in a moment.",
                ) from None
            raise EdgeUnavailableError(
                f"The edge at {self._config.edge} did not answer within {BIND_TIMEOUT:.0f} s.",
                advice="Try again later.",
            ) from None
        except BaseException:
            await self.withdraw(lease)
            raise
        return lease

    async def release(self, lease: ClientLease, grace: float = DRAIN_GRACE) -> None:
        """End the lease now, let active visitors finish for up to ``grace`` seconds, reset the rest.

        When cancelled, they are reset at once."""
        if self.leases.get(lease.number) is None:
            return
        try:
            await self._unbind(lease)
            await lease.drain(grace)
        finally:
            for stream in tuple(lease.streams):
                stream.fail(StreamCode.CLOSING)
            self.leases.remove(lease)

    async def withdraw(self, lease: ClientLease) -> None:
        """End the lease at once, granted or not, and reset its visitors. Its target and name are free again."""
        self.leases.remove(lease)
        if not lease.answer.cancel() and not lease.answer.cancelled():  # the edge has answered
            lease.answer.exception()  # marks it as retrieved: the caller gets it
        if not lease.is_released:
            self._send_unbind(lease)
        for stream in tuple(lease.streams):
            stream.fail(StreamCode.CLOSING)
        # A session that waits for a link may hold the lease: dialling continues until the edge has the Unbind.
        is_idle = self._connection is None and self._resumable.session is None and not self.leases
        if is_idle and self._session_task is not None:
            self._session_task.cancel()
            await asyncio.wait([self._session_task])

    async def close(self) -> None:
        """End the session, its leases and its visitors, now."""
        self._machine.enter(ConnectionState.CLOSED, "The client was closed.")
        if self._session_task is not None:
            self._session_task.cancel()
            await asyncio.wait([self._session_task])
            self._session_task = None
        if self._network is not None:
            self._network.close()
        self._resumable.end_session()
        await self._draining.close()
        await self.visitors.close()
        self.leases.fail_pending(ClientClosedError())
        for lease in self.leases:
            self.leases.remove(lease)

    # The session.

    async def _wait_connected(self) -> None:
        """Wait until there is a connection; start the session task if it does not run."""
        up = asyncio.ensure_future(self._connected.wait())
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                while not up.done():
                    task = await self._ensure_session_task()
                    await asyncio.wait([up, task], return_when=asyncio.FIRST_COMPLETED)
                    if self.failure is not None:
                        raise self.failure
                    # Without a failure it ended because of a bug, or was cancelled by the last other caller.
                    if task.done() and not task.cancelled():
                        task.result()
        except TimeoutError:
            raise self._retry.last or await no_answer_error(self._config, CONNECT_TIMEOUT) from None
        finally:
            up.cancel()

    async def _ensure_session_task(self) -> asyncio.Task[None]:
        """Return the task that keeps the session; start it if it does not run."""
        self._check_open()
        if self._session_task is None or self._session_task.done():
            await resolve(self._config)  # a name that does not exist raises at once
            self._check_open()
        if self._session_task is None or self._session_task.done():  # no other call has started it meanwhile
            self.failure = self._retry.last = None
            self._session_task = self._tasks.start(self._keep_connected(), "keeping the connection to the edge")
            self._network = self._network or NetworkMonitor(self._network_changed)
        return self._session_task

    def _check_open(self) -> None:
        if self.is_closed:
            raise ClientClosedError

    async def _keep_connected(self) -> None:
        """Dial, serve until the link is lost, dial again; until cancelled or a permanent failure."""
        while True:
            try:
                is_first = not self._was_connected
                await self._activate(await self._dialer.dial(self._dial_timeout, is_first=is_first))
                await self._watch_connection()
                if self.failure is not None:
                    return
            except Exception as error:  # noqa: BLE001 - unexpected ones too: the retry policy reports and counts them
                final = self._retry.final_error(error, was_connected=self._was_connected)
                if final is not None:
                    self._fail(final)
                    return
            finally:
                await self._disconnect()
            await self._wait_to_redial()

    def _task_failed(self, what: str, error: Exception) -> None:
        self._publish("warning", f"Internal error of this client: {what} failed ({error!r}); see its log.")

    @property
    def _dial_timeout(self) -> float:
        return CONNECT_TIMEOUT if self._resumable.session is None else URGENT_DIAL_TIMEOUT

    async def _wait_to_redial(self) -> None:
        """Wait until the next dial is due or the network changes."""
        self._record_end()
        waiting = self._resumable.session
        wait = self._schedule.next_wait(is_urgent=waiting is not None)
        if waiting is None:
            self._machine.enter(ConnectionState.RECONNECTING, f"Dialling the edge again in {wait:.1f} s.")
        else:
            self._machine.enter(
                ConnectionState.AWAY, f"The edge is out of reach; {waiting.stream_count} visitors wait."
            )
        await self._schedule.pause(wait)

    def _record_end(self) -> bool:
        """Note that the active connection is over, or about to be replaced. Return True if it lasted, so that the
        next dial comes soon."""
        has_lasted = self._schedule.connection_ended()
        if has_lasted:
            self._retry.reset()
        return has_lasted

    async def _watch_connection(self) -> None:
        """Watch the active connection until its link is lost.

        Meanwhile dial in parallel: if the link is suspect, or if the edge drains."""
        while not self._link_lost_event.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_INTERVAL):
                    await self._wake.wait()
            self._wake.clear()  # after the wait: the checks below cover whatever has set it
            connection = self._connection
            if connection is None or self._link_lost_event.is_set():
                continue
            if self._grace is not None:
                await self._replace_draining(connection, self._grace)
            elif connection.unanswered_for >= SUSPECT_AFTER:
                await self._replace_suspect(connection)
            elif self._machine.state is ConnectionState.MIGRATING and connection.has_answered:
                self._machine.enter(ConnectionState.CONNECTED, "The edge answers at the new address.")
            elif self._machine.state is ConnectionState.SUSPECT:
                self._machine.enter(ConnectionState.CONNECTED, "The edge answers again.")

    async def _replace_suspect(self, suspect: EdgeConnection) -> None:
        """Dial in parallel with a suspect link; the session continues on the one that answers first."""
        self._resumable.save_suspect_session(suspect)
        if self._resumable.session is None:
            return
        self._machine.enter(
            ConnectionState.SUSPECT,
            f"The edge has not answered for {suspect.unanswered_for:.0f} s; dialling another connection.",
        )

        def is_unneeded() -> bool:
            return not self._resumable.is_resuming and (
                self._link_lost_event.is_set() or suspect.unanswered_for < SUSPECT_AFTER
            )

        connection = await self._dialer.dial_in_parallel(self._link_lost_event, URGENT_DIAL_TIMEOUT, is_unneeded)
        if connection is not None:
            await self._activate(connection)
            await suspect.close()
        elif suspect.session.is_away:
            self._link_lost()  # the session had resumed on the new link, which was lost at once
        elif not self._link_lost_event.is_set():
            self._resumable.forget_session()  # the old link answers again, or the next check dials again
            if suspect.unanswered_for < SUSPECT_AFTER:
                self._machine.enter(ConnectionState.CONNECTED, "The edge answers again.")

    async def _replace_draining(self, old: EdgeConnection, grace: int) -> None:
        """Dial for a new session, because the edge drains. Its successor or another edge accepts it, while the
        active visitors finish on the old session."""
        has_lasted = self._record_end()
        while not self._link_lost_event.is_set():
            # A random wait: the clients of one edge must not all dial at the same moment.
            await self._schedule.pause(self._schedule.next_wait(), self._link_lost_event)
            connection = await self._dialer.dial_in_parallel(
                self._link_lost_event, URGENT_DIAL_TIMEOUT, self._link_lost_event.is_set
            )
            if connection is None:
                continue
            try:
                await self._activate(connection)
            except Error as error:
                logger.info("%s", error)
                continue
            self._draining.add(old, grace)
            return
        if has_lasted:
            # The edge has ended, and its successor may accept connections now: earlier failures do not count.
            self._schedule.reset()

    async def _activate(self, connection: EdgeConnection) -> None:
        """Use this connection for the session. Raises the Error with which it has ended meanwhile; it is closed
        then."""
        try:
            connection.activate()
        except Error:
            self._resumable.connection_failed(connection)
            await connection.close()
            raise
        self._set_active(connection)

    def _set_active(self, connection: EdgeConnection) -> None:
        self._connection = connection
        self._grace = connection.grace
        self._wake.set()
        self._schedule.connection_began()
        if self._network is not None:
            self._network.watch_route_to(connection.address)
        if not connection.is_resumed:
            self._resumable.end_session()
            self.counters.reconnected += self._was_connected
        self._was_connected = True
        resumed = self._resumable.session
        self._resumable.forget_session()
        self._link_lost_event.clear()
        self._connected.set()
        if resumed is not None:
            self.counters.resumed += 1
            self._machine.enter(
                ConnectionState.RESUMING, "Connected again; both sides report which bytes have arrived."
            )
            self._publish("resumed", f"{resumed.stream_count} visitors continue.")
        if connection.is_usable:
            self.connection_usable(connection)
        self.leases.request_again(connection.session, is_resumed=resumed is not None)

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._connected.clear()
        if self._resumable.session is None:
            for lease in self.leases:
                # The edge ends the lease with the session: no Unbound will come, and none is needed.
                lease.on_unbound()
        if connection is not None:
            await connection.close()

    def _fail(self, error: Error) -> None:
        self.failure = error
        self._resumable.end_session()
        is_refused = isinstance(error, AuthError)
        self._machine.enter(ConnectionState.REFUSED if is_refused else ConnectionState.FAILED, str(error))
        self.leases.fail_pending(error)

    # The network.

    def _network_changed(self, change: NetworkChange) -> None:
        self._schedule.network_changed()
        connection = self._connection
        if connection is None:
            return
        logger.info("%s", change.value)
        if change is NetworkChange.OFF_ROUTE:
            connection.ping()
            return
        if change is NetworkChange.SUSPENDED:
            connection.mark_suspect(SUSPECT_AFTER)  # the edge may have dropped the link long ago
        for each in (connection, *self._draining):
            each.rebind()
        self.counters.migrated += 1
        self._machine.enter(
            ConnectionState.MIGRATING, f"{change.value.capitalize()}; the connection moves to a new socket."
        )
        self._wake.set()

    # Called by connections (edge_connection.EdgeConnectionOwner).

    @property
    def is_closed(self) -> bool:
        """True once :meth:`close` was called."""
        return self._machine.state is ConnectionState.CLOSED

    def start_resuming(self, connection: EdgeConnection) -> bytes | None:
        """Reserve the saved session for this connection, and return its secret. Empty if there is none; None if
        another connection has claimed it."""
        return self._resumable.start_resuming(connection)

    def connection_failed(self, connection: EdgeConnection) -> None:
        """Let another connection resume the saved session."""
        self._resumable.connection_failed(connection)

    def session_to_resume(self, connection: EdgeConnection) -> Session:
        """Return the session that resumes on the link of this connection."""
        return self._resumable.session_to_resume(connection)

    def connection_usable(self, connection: EdgeConnection) -> None:
        """Enter the state CONNECTED: the edge can send visitors."""
        if connection is self._connection:
            self._machine.enter(ConnectionState.CONNECTED, f"Connected to the edge at {self._config.edge}.")

    def connection_away(self, connection: EdgeConnection, closed: Closed) -> bool:
        """Return True if the session waits for another link."""
        if connection is not self._connection or not self._resumable.save_lost_session(connection, closed):
            return False
        self._publish("warning", f"The connection was lost ({closed.cause.value}); "
                      f"{connection.session.stream_count} visitors wait for another one.")  # fmt: skip
        self._link_lost()
        return True

    def connection_message(self, connection: EdgeConnection, message: AnyMessage) -> None:
        """Handle GoAway; pass on messages about leases, but not of a draining session: a later one has them."""
        if isinstance(message, GoAway):
            if connection is self._connection:
                self._publish("warning", "The edge is shutting down; active visitors may finish.")
                self._grace = message.grace
                self._wake.set()
        elif connection not in self._draining:
            self.leases.handle_message(message)

    def connection_stream(self, stream: Stream) -> None:
        """Serve a visitor."""
        self.visitors.accept(stream)

    def connection_ended(self, connection: EdgeConnection, error: Error) -> None:
        """Handle the end of the session; fail if the error is permanent."""
        if connection is self._connection:
            self._publish("warning", error.message)  # the advice is in the error that ends the client
            self._link_lost()
            if not error.temporary:
                self._fail(error)

    def _link_lost(self) -> None:
        self._link_lost_event.set()
        self._wake.set()

    # Leases.

    async def _unbind(self, lease: ClientLease) -> None:
        self._send_unbind(lease)
        if self._connection is None:
            return
        lease.unbound = asyncio.get_running_loop().create_future()
        with contextlib.suppress(TimeoutError):  # the edge ends the lease with the session at the latest
            async with asyncio.timeout(BIND_TIMEOUT):
                await lease.unbound

    def _send_unbind(self, lease: ClientLease) -> None:
        session = None if self._connection is None else self._connection.session
        self.leases.unbind(lease, session, is_waiting=self._resumable.session is not None)
