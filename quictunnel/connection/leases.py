"""A client's leases: what was asked of the edge, and what it answered. Knows no link and no visitor's bytes.

Leases outlast sessions: on a new one all of them are asked for again (:meth:`Leases.ask_again`), with their
tickets.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from quictunnel.connection.dial_queue import DialQueue
from quictunnel.connection.ticket_writer import TicketWriter
from quictunnel.errors import EdgeUnavailableError, InvalidError, ProtocolError
from quictunnel.origin.dial import Origin
from quictunnel.shared.address import https_url
from quictunnel.wire.codes import BIND_SENTENCES, BindCode
from quictunnel.wire.messages import PROGRAM_SIZE, AnyMessage, BindRefused, BindV2, Bound, Unbind, Unbound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from quictunnel.connection.options import ForwardOptions
    from quictunnel.connection.ticket_file import TicketFile
    from quictunnel.shared.supervision import Supervisor
    from quictunnel.transport.session import Session
    from quictunnel.transport.stream import Stream

DRAIN_INTERVAL: Final = 0.05
"""Seconds between looks at whether the visitors of a tunnel that closes have finished."""

_PASSING: Final = frozenset({BindCode.TOO_MANY, BindCode.NO_PORT})

_FINAL: Final = frozenset({BindCode.REPLACED, BindCode.BANNED})


class PublicAddress(NamedTuple):
    """The addresses at which the public reaches a forwarded port; the fields of a ``Tunnel``."""

    host: str
    port: int
    unencrypted_host: str
    """Empty when plain TCP was not asked for."""
    unencrypted_port: int


@dataclass(slots=True)
class Tally:
    """Counts of visitors. Bytes are of those that have left; of the others their streams know."""

    visitors: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass(slots=True, eq=False)
class HeldLease:
    """Forwarded port, from the first Bind to the end."""

    number: int
    options: ForwardOptions
    origin: Origin
    answer: asyncio.Future[PublicAddress]
    """The edge's first answer."""
    asked: bool = False
    """The edge was asked for it; a new session must be asked again."""
    answered: bool = False
    """The edge has answered in the session of now; if not, it is asked again on that session's next link."""
    is_given_back: bool = False
    """The tunnel closes; no session is asked for it any more."""
    ticket: bytes = b""
    """Gets the same name and port again; from the newest Bound."""
    writer: TicketWriter | None = None
    """Keeps the newest ticket in a file."""
    streams: set[Stream] = field(default_factory=set)
    dial_queue: DialQueue = field(default_factory=DialQueue)
    tally: Tally = field(default_factory=Tally)
    """Since it was bound."""
    unbound: asyncio.Future[None] | None = None
    trouble: str = ""
    """The last warning about the origin; once is enough until it answers again, or for another reason."""

    def bind(self, program: bytes) -> BindV2:
        """Return the message that asks an edge for the lease, in this or a new session of the ``program``."""
        had = self.answer.done() and not self.answer.cancelled() and self.answer.exception() is None
        return self.options.bind(self.number, self.ticket, program, again=had)

    async def drain(self, grace: float) -> None:
        """Wait until no visitor is in the middle of something, at most ``grace`` seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        while (now := loop.time()) < deadline:
            if not any(stream.in_flight(now) for stream in self.streams):
                return
            await asyncio.sleep(DRAIN_INTERVAL)

    def is_unbound(self) -> None:
        """Note that the edge has closed the port, or that the session which held it is over, which comes to the
        same."""
        if self.unbound is not None and not self.unbound.done():
            self.unbound.set_result(None)


class Leases:
    """The leases of one client."""

    def __init__(self, observe: Callable[[str, str], None], supervisor: Supervisor) -> None:
        self._held: dict[int, HeldLease] = {}
        self._next = 1
        self._to_unbind: set[int] = set()
        """Leases of the session that were given back, which the edge has not confirmed: said again on another
        link."""
        self._observe = observe
        self._program = secrets.token_bytes(PROGRAM_SIZE)
        self._supervisor = supervisor

    def __iter__(self) -> Iterator[HeldLease]:
        # A copy: other threads count, and leases come and go meanwhile.
        return iter(tuple(self._held.values()))

    def __bool__(self) -> bool:
        return bool(self._held)

    def get(self, number: int) -> HeldLease | None:
        """Return the lease of a number, if it is held."""
        return self._held.get(number)

    def add(
        self, options: ForwardOptions, ticket: bytes, file: TicketFile | None, origin: Origin | None = None
    ) -> HeldLease:
        """Add a lease that is not asked for yet. Raises InvalidError when its port is forwarded already.

        Args:
            options: its options.
            ticket: the ticket that gets a former name and port again, or empty.
            file: keeps the newest ticket.
            origin: what stands for the local port, if not a plain Origin.
        """
        if any(lease.origin.port == options.port for lease in self):
            raise InvalidError(
                f"Port {options.port} is already forwarded by this client. Use the tunnel that exists, or another "
                "Client."
            )
        answer = asyncio.get_running_loop().create_future()
        writer = None if file is None else TicketWriter(file, self._observe, self._supervisor)
        lease = HeldLease(
            self._next, options, origin or Origin(options.port), answer, ticket=ticket, writer=writer
        )
        self._next += 1
        self._held[lease.number] = lease
        return lease

    def remove(self, lease: HeldLease) -> None:
        """Forget a lease."""
        self._held.pop(lease.number, None)
        if lease.writer is not None:
            lease.writer.close()

    def ask(self, session: Session, lease: HeldLease) -> None:
        """Ask the edge for a lease."""
        lease.asked, lease.answered = True, False
        bind = lease.bind(self._program)
        session.say(bind if session.version >= 2 else bind.of_version_1())

    def ask_again(self, session: Session, *, is_kept: bool) -> None:
        """Ask for the leases that a session on a new link does not hold, after giving back what was given back.

        Args:
            session: the session of now.
            is_kept: it has gone on with the link; if not, it is a new one and holds nothing.
        """
        if not is_kept:
            self._to_unbind.clear()
        for number in self._to_unbind:  # first: what is asked for may be the same name
            session.say(Unbind(number))
        for lease in self:
            if lease.asked and not lease.is_given_back and not (is_kept and lease.answered):
                self.ask(session, lease)

    def give_back(self, lease: HeldLease, session: Session | None, *, is_kept: bool) -> None:
        """Give a lease back in the session of now, on this link or the next. No other session is asked for it.

        Args:
            lease: the lease.
            session: the session of now, if it has a link.
            is_kept: there is a session that waits for a link.
        """
        lease.is_given_back = True
        if session is not None or is_kept:
            self._to_unbind.add(lease.number)
        if session is not None:
            session.say(Unbind(lease.number))

    def end(self, error: Exception) -> None:
        """Fail all leases that wait for an answer; none will come."""
        for lease in self:
            if not lease.answer.done():
                lease.answer.set_exception(error)

    def message(self, message: AnyMessage) -> None:
        """Take in what the edge said about a lease. Raises ProtocolError."""
        match message:
            case Bound():
                self._bound(message)
            case BindRefused(lease=number, code=code):
                self._refused(number, code)
            case Unbound(lease=number):
                self._to_unbind.discard(number)
                lease = self._held.get(number)
                if lease is not None:
                    lease.is_unbound()
            case _:
                raise ProtocolError(f"unexpected {type(message).__name__}")

    def _bound(self, message: Bound) -> None:
        lease = self._held.get(message.lease)
        if lease is None:
            return  # given up meanwhile; the Unbind is under way
        lease.answered = True
        lease.ticket = message.ticket
        if lease.writer is not None:
            lease.writer.put(lease.ticket)
        address = PublicAddress(message.host, message.port, message.unencrypted_host, message.unencrypted_port)
        if not lease.answer.done():
            lease.answer.set_result(address)
        elif lease.answer.exception() is None and lease.answer.result() != address:
            url = https_url(address.host, address.port)
            self._observe("warning", f"The edge could not give the old address back; the tunnel is now at {url}.")

    def _refused(self, number: int, code: BindCode) -> None:
        lease = self._held.get(number)
        if lease is None:
            return
        if not lease.answer.done():
            if code is BindCode.CLOSING:
                return  # the edge leaves, and the next session is asked again
            lease.answered = True
            kind = EdgeUnavailableError if code in _PASSING else InvalidError
            lease.answer.set_exception(kind(BIND_SENTENCES[code]))
        else:
            is_final = code in _FINAL
            if lease.answer.exception() is not None or (is_final and not lease.asked):
                return  # it is known: an edge says it again on each link of the session
            lease.answered = True
            # To ask again with the next session would take it from whoever has it now.
            lease.asked = lease.asked and not is_final
            self._observe(
                "lost" if is_final else "warning",
                f"The edge no longer serves port {lease.origin.port}: {BIND_SENTENCES[code]}",
            )
