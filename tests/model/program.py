"""A program that forwards a port: the client's real manager, with an origin whose connections the model makes."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, Any, Final

from quictunnel.config.client_config import ClientConfig, Secret
from quictunnel.connection.edge_connection import EdgeConnection
from quictunnel.connection.manager import BIND_TIMEOUT, DRAIN_GRACE, ConnectionManager
from quictunnel.connection.options import ForwardOptions
from quictunnel.errors import Error
from quictunnel.origin.dial import Origin
from quictunnel.wire.codes import BIND_REFUSALS, BindCode
from tests.model.stores import SECOND_TOKEN, TOKEN

if TYPE_CHECKING:
    from pathlib import Path

    from quictunnel.connection.leases import ClientLease
    from quictunnel.transport.engine import Address, Closed
    from quictunnel.transport.session import Session
    from quictunnel.transport.splice import TcpSplice
    from quictunnel.transport.stream import Stream
    from tests.model.system import ModelSystem

LOST_TO_OLDER = "a program lost its name to an older one"
"""A kind of fault."""
RELEASE_TIMEOUT = BIND_TIMEOUT + DRAIN_GRACE + 0.5
"""Seconds that giving a name back may take."""
KINDS: Final = ("file", "name", "port", "pool")
"""Kinds of tunnels: with a ticket file; by name, without one; with a ticket file and a public TCP port; with a
name and a TCP port that programs share."""
GONE: Final = "The edge no longer serves port"
"""Beginning of what a program is told when it has lost its name."""
MOVED: Final = "The edge could not assign the old address again"
"""Beginning of what a program is told when it has another port than before."""


class Ticket:
    """The ticket file of one tunnel (``ticketfile.TicketFile``), or a name that programs ask for without one."""

    def __init__(self, number: int, kind: str = "file", *, has_second_token: bool = False) -> None:
        """``kind``: one of :data:`KINDS`."""
        self.number = number
        self.kind = kind
        self.token = SECOND_TOKEN if has_second_token else TOKEN
        self.name = None if kind in ("file", "port") else f"shop-{number}"
        self.has_port = kind in ("port", "pool")
        self.is_pool = kind == "pool"
        self.is_banned = False
        """The operator has withdrawn the name."""
        self.content = b""
        self.host = ""
        """The name that it stands for, once that is known."""
        self.taker: Program | None = None
        """The program that an edge gave the name to last."""

    def read(self) -> bytes:
        return self.content

    def write(self, ticket: bytes) -> None:
        self.content = ticket


class Dial:
    """A connection to the local service that is being made."""

    def __init__(self, program: Program, origin: ModelOrigin, stream: Stream) -> None:
        self.program = program
        self.origin = origin
        self.stream = stream
        self.outcome: asyncio.Future[TcpSplice] = asyncio.get_running_loop().create_future()


class ModelOrigin(Origin):
    """The local service of a program."""

    def __init__(self, program: Program, port: int) -> None:
        super().__init__(port)
        self._program = program

    async def dial(self, stream: Stream) -> TcpSplice:
        dial = Dial(self._program, self, stream)
        dials = self._program.system.dials
        dials.append(dial)
        try:
            return await dial.outcome
        finally:
            dials.remove(dial)


class WatchedConnection(EdgeConnection):
    """Edge connection that reports its session's end to the model."""

    def __init__(self, config: ClientConfig, events: WatchedManager, address: Address) -> None:
        super().__init__(config, events, address)
        self.program = events.program
        self.program.connections.append(self)
        self.was_current = False
        """True after it has carried the program's session."""
        self.away_at: float | None = None

    def session_away(self, closed: Closed) -> bool:
        kept = super().session_away(closed)
        if kept:
            self.away_at = asyncio.get_running_loop().time()
        return kept

    def session_resumed(self) -> None:
        reach = self.program.system.reach
        reach("resumed")
        streams = self.session._streams.values()
        if streams:
            reach("resumed with visitors")
        if any(stream._has_received_end or stream._sender.is_finishing for stream in streams):
            reach("resumed with half-closed visitors")
        if any(stream._sender.buffer.size for stream in streams):
            reach("resumed with retained bytes")
        super().session_resumed()

    def session_down(self, closed: Closed) -> None:
        self.program.system.connection_ended(self, closed)
        super().session_down(closed)


class WatchedManager(ConnectionManager):
    """A manager that knows its program."""

    def __init__(self, program: Program, config: ClientConfig) -> None:
        super().__init__(config, program.publish)
        self.program = program

    def _set_active(self, connection: EdgeConnection) -> None:
        assert isinstance(connection, WatchedConnection)
        connection.was_current = True
        if tuple(self._draining):
            self.program.system.reach("an old session beside its successor")
        super()._set_active(connection)

    async def _replace_suspect(self, sick: EdgeConnection) -> None:
        self.program.system.reach("a second link is dialled beside a sick one")
        await super()._replace_suspect(sick)
        if self._connection is sick and not self._link_lost_event.is_set():
            self.program.system.reach("the first of two links came back")


class Program:
    """Client process with one tunnel."""

    def __init__(self, system: ModelSystem, number: int, ticket: Ticket, authority: Path | None) -> None:
        self.system = system
        self.number = number
        self.ticket = ticket
        self.connections: list[WatchedConnection] = []
        self.events: list[tuple[float, str, str]] = []
        self.state = "running"
        """``closing`` when it was told to end, ``killed``, or ``ended`` when nothing of it is left."""
        self.error: BaseException | None = None
        self.has_held = False
        """True after it was given its name."""
        self.turn = 0
        """Greater than that of each program that was first given a name before; 0: none was given to this one."""
        self.older = frozenset(each for each in system.programs if each.ticket is ticket and each.has_held)
        """Programs that had the name when this one was started, which must not take it from this one."""
        self.has_lost = False
        """A newer program has its name, for which no ticket was shown."""
        self.is_released = False
        """True after it has given its name back."""
        self.may_fail = False
        """The script has given it a reason to end for good."""
        self.is_gone = False
        config = ClientConfig(edge=system.network.edge_name, token=Secret(ticket.token), ca=authority)
        self.manager = WatchedManager(self, config)
        self.manager._schedule.random = random.Random(f"{system.seed} program {number}")
        self._lease: ClientLease | None = None
        self._task = asyncio.get_running_loop().create_task(self._run())

    def __repr__(self) -> str:
        return f"program {self.number} ({self.state}, {self.manager.state})"

    def publish(self, kind: str, message: str) -> None:
        self.events.append((self.system.loop.time(), kind, message))
        self.system.note(f"program {self.number}: {kind}: {message}")
        if kind == "lost":
            self.has_lost = True
            if self.ticket.is_banned:
                self.system.reach("a program lost its name to the operator")
                return
            self.system.reach("a name without a ticket went to a newer program")
            if not self.system.is_superseded(self):
                self.system.fault_log.found.append((LOST_TO_OLDER, f"{self}: {message}"))
        elif message.startswith(MOVED):
            self._check_move(message)

    def _check_move(self, message: str) -> None:
        """Another port than before is a fault, unless another tunnel has had the old one meanwhile, or the pool
        was begun anew by a program that knew no port."""
        assert self._lease is not None
        before = self._lease.answer.result().unencrypted_port
        is_new_pool = self.ticket.is_pool and self.ticket.host.partition(".")[0] in self.system.names_gone
        if is_new_pool or len(self.system.names_of_port.get(before, ())) > 1:
            self.system.reach("a tunnel has another port than before")
        else:
            self.system.fault_log.found.append(("a tunnel lost its port", f"{self}, {before}: {message}"))

    async def _run(self) -> None:
        ticket = self.ticket
        options = ForwardOptions(
            port=8000 + self.number,
            name=ticket.name,
            tls="passthrough",
            unencrypted=ticket.has_port,
            pool=ticket.is_pool,
        )
        file: Any = ticket if ticket.name is None else None
        try:
            lease = await self.manager.bind(options, file, ModelOrigin(self, options.port))
            self._lease = lease
            self.ticket.host = lease.answer.result().host
            self.has_held, self.is_released = True, False
            self.system.reach("a name was given")
        except Error as error:
            self.error = error
            self._check_refusal(error)
            self.may_fail = True  # it does not want the name any more
        except asyncio.CancelledError as error:
            if self.state == "running":
                self.error = error
                self.system.fault_log.found.append(("a bind ended in a cancellation", f"{self}"))
            raise

    def _check_refusal(self, error: Error) -> None:
        """A Bind is refused only for what the rules have done."""
        ticket = self.ticket
        code = next((code for code, (_, advice) in BIND_REFUSALS.items() if advice == error.advice), None)
        # The error of a bind at an edge that drains until the timeout has the same advice as CLOSING.
        may_be = {BindCode.CLOSING} | ({BindCode.BANNED} if ticket.is_banned else set())
        if not ticket.is_pool:
            may_be |= {BindCode.STALE, BindCode.NOT_SHARED}
        if self.system.is_superseded(self):
            may_be.add(BindCode.NAME_TAKEN_OVER)  # the answer was lost with a link, and the name has gone since
        if code is not None and code not in may_be:
            self.system.fault_log.found.append((f"a name is refused without a cause: {code.name}", f"{self}"))

    @property
    def session(self) -> Session | None:
        """Return the session that serves the tunnel now or waits for a link."""
        manager = self.manager
        if manager._connection is not None:
            return manager._connection.session
        return manager._resumable.session

    def sessions(self) -> list[Session]:
        """Return all sessions that were ever this program's, each once."""
        found: dict[int, Session] = {}
        for connection in self.connections:
            found[id(connection.session)] = connection.session
        return list(found.values())

    @property
    def was_told(self) -> bool:
        """Return True if it knows that an edge did not give the name back to it."""
        return any(message.startswith(GONE) for _, _, message in self.events)

    @property
    def may_release(self) -> bool:
        """Return True if it has a name, and nothing else to do with it at the moment."""
        has_name = self._lease is not None and not self.is_released and not self.has_lost
        return self.state == "running" and self._task.done() and has_name

    @property
    def is_releasing(self) -> bool:
        """Return True while its visitors may finish before it gives the name back."""
        return self.is_released and not self._task.done()

    def release(self, *, then_bind: bool) -> None:
        """Give the name back, as a program does that leaves ``forward``; perhaps ask again."""
        self.is_released = True
        self._task = asyncio.get_running_loop().create_task(self._release(then_bind=then_bind))

    async def _release(self, *, then_bind: bool) -> None:
        assert self._lease is not None
        before = self.system.loop.time()
        await self.manager.release(self._lease)
        if self.system.loop.time() > before + RELEASE_TIMEOUT:
            self.system.fault_log.found.append(("a tunnel that takes too long to close", f"{self}"))
        self._lease = None
        self.system.note(f"{self} has given its name back")
        if then_bind:
            self.has_held = False
            await self._run()

    def close(self) -> None:
        """End as a program does that leaves ``forward``."""
        self.state = "closing"
        asyncio.get_running_loop().create_task(self._end())

    def kill(self) -> None:
        """Die without a word."""
        self.state = "killed"
        for connection in self.connections:
            self.system.network.isolate(connection._endpoint)
        asyncio.get_running_loop().create_task(self._end())

    async def _end(self) -> None:
        was_killed = self.state == "killed"
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self.manager.close()
        self.state = "killed" if was_killed else "ended"
        self.is_gone = True
