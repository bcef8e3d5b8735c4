"""Leases of a client: the Binds that it has sent and the edge's answers. Independent of links and visitors' bytes.

Leases outlast sessions: on a new session all of them are requested again (:meth:`Leases.request_again`), with
their tickets.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from quictunnel.connection.dial_queue import DialQueue
from quictunnel.connection.ticket_writer import TicketWriter
from quictunnel.errors import EdgeUnavailableError, Error, InvalidError, ProtocolError
from quictunnel.origin.dial import Origin
from quictunnel.shared.address import https_url
from quictunnel.wire.codes import BIND_REFUSALS, BIND_SENTENCES, BindCode
from quictunnel.wire.messages import (
    CLIENT_ID_SIZE,
    AnyMessage,
    BindRefused,
    BindRefusedV3,
    BindV2,
    Bound,
    Unbind,
    Unbound,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from quictunnel.connection.options import ForwardOptions
    from quictunnel.connection.ticket_file import TicketFile
    from quictunnel.shared.supervision import Supervisor
    from quictunnel.transport.session import Session
    from quictunnel.transport.stream import Stream

DRAIN_INTERVAL: Final = 0.05
"""Seconds between checks of whether the visitors of a closing tunnel have finished."""

_TEMPORARY: Final = frozenset({BindCode.TOO_MANY, BindCode.NO_PORT})
"""Refusals after which a later attempt may succeed."""

_FINAL: Final = frozenset(
    {
        BindCode.NAME_TAKEN_OVER,
        BindCode.BANNED,
        BindCode.FORBIDDEN,
        BindCode.DOMAIN_FORBIDDEN,
        BindCode.NAME_RESERVED,
    }
)
"""Refusals after which a lease that was granted before is not requested again."""


class PublicAddress(NamedTuple):
    """The addresses at which the public reaches a forwarded port; the fields of a ``Tunnel``."""

    host: str
    port: int
    unencrypted_host: str
    """Empty when plain TCP was not asked for."""
    unencrypted_port: int


@dataclass(slots=True)
class VisitorCounts:
    """Counts of visitors. Bytes are those of finished visitors; the streams of active ones have theirs."""

    visitors: int = 0
    lost: int = 0
    """Visitors whose connection ended with the session, before they had finished."""
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass(slots=True, eq=False)
class ClientLease:
    """Lease of a public name for one local port, from the first Bind to the end."""

    number: int
    options: ForwardOptions
    origin: Origin
    answer: asyncio.Future[PublicAddress]
    """The edge's first answer in any session."""
    is_wanted: bool = False
    """True while the lease is to be requested on each new session."""
    is_answered_in_session: bool = False
    """True if the edge has answered in the current session; if not, the next link of that session repeats the
    Bind."""
    is_held: bool = False
    """True if the edge has granted it in the current session."""
    is_released: bool = False
    """True if the tunnel closes; no session requests the lease any more."""
    ticket: bytes = b""
    """Secret that gets the same name and port again; from the newest Bound."""
    writer: TicketWriter | None = None
    """Writes the newest ticket to a file."""
    streams: set[Stream] = field(default_factory=set)
    """Streams of active visitors."""
    dial_queue: DialQueue = field(default_factory=DialQueue)
    counts: VisitorCounts = field(default_factory=VisitorCounts)
    """Counts since the lease was bound."""
    unbound: asyncio.Future[None] | None = None
    """Done when the edge has ended the lease, if somebody waits for that."""
    is_edge_closing: bool = False
    """True if an edge has refused the lease because it drains."""
    origin_warning: str = ""
    """The last warning about the origin. It is not repeated until the origin has answered or fails otherwise."""

    def bind_message(self, client_id: bytes) -> BindV2:
        """Return the message that requests the lease, in this or a new session of the client with this ID."""
        was_bound = self.answer.done() and not self.answer.cancelled() and self.answer.exception() is None
        return self.options.bind_message(self.number, self.ticket, client_id, again=was_bound)

    async def drain(self, grace: float) -> None:
        """Wait until all visitors have finished their current request, at most ``grace`` seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        while (now := loop.time()) < deadline:
            if not any(stream.is_active(now) for stream in self.streams):
                return
            await asyncio.sleep(DRAIN_INTERVAL)

    def on_unbound(self) -> None:
        """Complete ``unbound``: the edge has ended the lease, or the session that held it has ended."""
        if self.unbound is not None and not self.unbound.done():
            self.unbound.set_result(None)


class Leases:
    """All leases of one client."""

    def __init__(self, publish: Callable[[str, str], None], supervisor: Supervisor) -> None:
        self._by_number: dict[int, ClientLease] = {}
        self._next_number = 1
        self._to_unbind: set[int] = set()
        """Released leases of the current session for which no Unbound has come: each further link repeats the
        Unbind."""
        self._publish = publish
        self._client_id = secrets.token_bytes(CLIENT_ID_SIZE)
        """Random ID of this client object: the edge sees from it that a Bind of a new session is no takeover by
        another client."""
        self._supervisor = supervisor

    def __iter__(self) -> Iterator[ClientLease]:
        # A copy: other threads read it while the loop's thread adds and removes leases.
        return iter(tuple(self._by_number.values()))

    def __bool__(self) -> bool:
        return bool(self._by_number)

    def get(self, number: int) -> ClientLease | None:
        """Return the lease with this number, if there is one."""
        return self._by_number.get(number)

    def add(
        self, options: ForwardOptions, ticket: bytes, file: TicketFile | None, origin: Origin | None = None
    ) -> ClientLease:
        """Add a lease that is not requested yet. Raises InvalidError if its target is forwarded already.

        Args:
            options: the options of the tunnel.
            ticket: the ticket that gets an earlier name and port again, or empty.
            file: stores the newest ticket.
            origin: the local service, if it is not a plain Origin.
        """
        if any(lease.options.target == options.target for lease in self):
            raise InvalidError(
                options.target.format("{origin} is already forwarded by this client.")
                + " Use the tunnel that exists, or another Client."
            )
        answer = asyncio.get_running_loop().create_future()
        writer = None if file is None else TicketWriter(file, self._publish, self._supervisor)
        lease = ClientLease(
            self._next_number, options, origin or Origin(options.target), answer, ticket=ticket, writer=writer
        )
        self._next_number += 1
        self._by_number[lease.number] = lease
        return lease

    def remove(self, lease: ClientLease) -> None:
        """Remove a lease; an answer that comes later is ignored."""
        self._by_number.pop(lease.number, None)
        if lease.writer is not None:
            lease.writer.close()

    def request(self, session: Session, lease: ClientLease) -> None:
        """Send the Bind of a lease."""
        lease.is_wanted, lease.is_answered_in_session, lease.is_held = True, False, False
        bind = lease.bind_message(self._client_id)
        session.send(bind if session.version >= 2 else bind.of_version_1())

    def request_again(self, session: Session, *, is_resumed: bool) -> None:
        """Request the leases that the session on a new link does not hold, after repeating unconfirmed Unbinds.

        Args:
            session: the current session.
            is_resumed: True if the session has resumed on the link; False if it is new and holds no lease.
        """
        if not is_resumed:
            self._to_unbind.clear()
        for number in self._to_unbind:  # first: a lease requested below may have the same name
            session.send(Unbind(number))
        for lease in self:
            if lease.is_wanted and not lease.is_released and not (is_resumed and lease.is_answered_in_session):
                self.request(session, lease)

    def unbind(self, lease: ClientLease, session: Session | None, *, is_waiting: bool) -> None:
        """Release a lease in the current session, on this link or the next. No later session requests it.

        Args:
            lease: the lease.
            session: the current session, if it has a link.
            is_waiting: True if a session waits for a link.
        """
        lease.is_released = True
        if session is not None or is_waiting:
            self._to_unbind.add(lease.number)
        if session is not None:
            session.send(Unbind(lease.number))

    def fail_pending(self, error: Exception) -> None:
        """Fail all leases that wait for an answer."""
        for lease in self:
            if not lease.answer.done():
                lease.answer.set_exception(error)

    def handle_message(self, message: AnyMessage) -> None:
        """Handle the edge's message about a lease. Raises ProtocolError for any other message."""
        match message:
            case Bound():
                self._bound(message)
            case BindRefused():
                self._refused(message)
            case Unbound(lease=number):
                self._to_unbind.discard(number)
                lease = self._by_number.get(number)
                if lease is not None:
                    lease.on_unbound()
            case _:
                raise ProtocolError(f"unexpected {type(message).__name__}")

    def _bound(self, message: Bound) -> None:
        lease = self._by_number.get(message.lease)
        if lease is None:
            return  # removed meanwhile; its Unbind is on the way
        lease.is_answered_in_session = lease.is_held = True
        lease.ticket = message.ticket
        if lease.writer is not None:
            lease.writer.put(lease.ticket)
        address = PublicAddress(message.host, message.port, message.unencrypted_host, message.unencrypted_port)
        if not lease.answer.done():
            lease.answer.set_result(address)
        elif lease.answer.exception() is None and lease.answer.result() != address:
            url = https_url(address.host, address.port)
            self._publish(
                "warning", f"The edge could not assign the old address again; the tunnel is now at {url}."
            )

    def _refused(self, message: BindRefused) -> None:
        code, lease = message.code, self._by_number.get(message.lease)
        if lease is None:
            return
        if not lease.answer.done():
            if code is BindCode.CLOSING:
                lease.is_edge_closing = True
                return  # the edge drains; the next session requests the lease again
            lease.is_answered_in_session = True
            lease.answer.set_exception(refusal_error(message))
        else:
            if lease.answer.exception() is not None or not lease.is_wanted:
                return  # known already: an edge repeats it on each link of the session
            # An edge takes a lease away for good. A Bind in the next session would be refused, or would take the
            # name from the client that has it now.
            is_final = lease.is_held or code in _FINAL
            lease.is_answered_in_session, lease.is_held = True, False
            lease.is_wanted = not is_final
            what = f"{lease.options.target.noun} at {lease.answer.result().host}"
            self._publish(
                "lost" if is_final else "warning", f"The edge no longer serves {what}: {_sentences(message)}"
            )


def _sentences(message: BindRefused) -> str:
    """Return why a lease was refused, in the edge's words if it gives a reason, and what to do."""
    if isinstance(message, BindRefusedV3) and message.reason:
        return f"{message.reason}. {BIND_REFUSALS[message.code][1]}"
    return BIND_SENTENCES[message.code]


def refusal_error(message: BindRefused) -> Error:
    """Return the error for a refused lease, with the edge's reason if it gives one."""
    what, advice = BIND_REFUSALS[message.code]
    if isinstance(message, BindRefusedV3) and message.reason:
        what = f"The edge refused the tunnel: {message.reason}."
    kind = EdgeUnavailableError if message.code in _TEMPORARY else InvalidError
    return kind(what, advice=advice)
