"""The uplink of one client: a session kept alive, its leases, and the visitors it brings.

Everything here runs on the background loop. ``client`` is the face for other threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from quictunnel.backoff import Backoff
from quictunnel.call import Call, resolve, silence
from quictunnel.dialling import CONNECT_TIMEOUT, Dialler
from quictunnel.errors import EdgeUnavailableError, Error, InvalidError, ProtocolError
from quictunnel.keeping import KeptSession
from quictunnel.origin import Origin, OriginRefusedError
from quictunnel.refusal import Refusal
from quictunnel.tunnel import Tunnel
from quictunnel.wire.codes import BIND_SENTENCES, BindCode, StreamCode
from quictunnel.wire.messages import AnyMessage, Bind, BindRefused, Bound, GoAway, Unbind, Unbound

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.config import ClientConfig
    from quictunnel.ticketfile import TicketFile
    from quictunnel.transport.engine import Closed
    from quictunnel.transport.session import Session
    from quictunnel.transport.stream import Stream

logger = logging.getLogger(__name__)

SUSPICION: Final = 3.0
"""Seconds without an answer after which another link is dialled beside the one that is: three times what an engine
waits at most before it asks again. Nothing is given up for it."""
LOOK: Final = 1.0
"""Seconds between looks at whether the edge still answers."""
STEADY: Final = 10.0
"""Seconds that a session has to last for the next dial to come soon again: two ends that cannot get on with each
other would else dial and break five times a second for ever."""
CLOSED: Final = "this Client is closed; make a new one"
BIND_TIMEOUT: Final = 10.0
"""Seconds that a connected edge may take to answer a Bind or an Unbind."""
DRAIN_GRACE: Final = 5.0
"""Seconds that visitors in flight get to finish when a tunnel closes."""
DRAIN_LOOK: Final = 0.05
"""Seconds between looks at whether the visitors have finished."""


@dataclass(slots=True, eq=False)
class HeldLease:
    """One forwarded port, from the first Bind to the end."""

    number: int
    origin: Origin
    unencrypted: bool
    h2: bool
    answer: asyncio.Future[Tunnel]
    """The edge's first answer."""
    asked: bool = False
    """The edge was asked for it; a new session must be asked again."""
    ticket: bytes = b""
    """What gets the same name and port again; from the newest Bound."""
    file: TicketFile | None = None
    """Where the newest ticket is kept."""
    streams: set[Stream] = field(default_factory=set)
    unbound: asyncio.Future[None] | None = None
    warned: bool = False
    """The person was told that the origin refuses; once is enough until it answers again."""

    @property
    def bind(self) -> Bind:
        return Bind(lease=self.number, unencrypted=self.unencrypted, h2=self.h2, ticket=self.ticket)


@dataclass(slots=True)
class Tally:
    """Counts since the client was made."""

    visitors: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class Uplink:
    """See the module."""

    def __init__(self, config: ClientConfig, observe: Callable[[str, str], None]) -> None:
        """``observe(kind, message)`` is told what ``observation.ClientEvent`` passes on."""
        self.state = "connecting"
        self.tally = Tally()
        self._config = config
        self._dialler = Dialler(config, self)
        self._observe = observe
        self._leases: dict[int, HeldLease] = {}
        self._next_lease = 1
        self._call: Call | None = None
        self._up = asyncio.Event()
        self._down = asyncio.Event()
        self._failure: Error | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._keeping = KeptSession()
        self._to_unbind: set[int] = set()
        """Leases that were released while there was no link."""
        self._trouble: Error | None = None
        self._writes: set[asyncio.Task[None]] = set()
        self._visits: dict[Stream, asyncio.Task[None]] = {}
        """Visitors whose origin is being dialled. Kept here and not with the stream, which outlives the task."""

    # For the client.

    @property
    def visitors(self) -> int:
        """Visitors now."""
        return sum(len(lease.streams) for lease in tuple(self._leases.values()))

    @property
    def bytes_in_flight(self) -> tuple[int, int]:
        """Bytes in and out of the visitors of now, which the tally does not count yet."""
        streams = [stream for lease in tuple(self._leases.values()) for stream in tuple(lease.streams)]
        return sum(s.bytes_received for s in streams), sum(s.bytes_sent for s in streams)

    @property
    def engine(self) -> str:
        """The QUIC engine of the last call."""
        return self._dialler.engine

    @property
    def rtt(self) -> float | None:
        """Seconds to the edge and back."""
        call = self._call  # asked for from other threads, while it comes and goes
        return call.session.link.rtt if call is not None else None

    async def bind(self, port: int, *, unencrypted: bool, h2: bool, file: TicketFile | None = None) -> HeldLease:
        """Lease a public name (and TCP port) for a local port. Raises the errors of ``forward``. When
        cancelled, the lease is given back."""
        # Before anything is looked at: nobody else may come between the checks and the lease that they allow.
        ticket = b"" if file is None else await asyncio.to_thread(file.read)
        self._check_open()
        if any(lease.origin.port == port for lease in self._leases.values()):
            raise InvalidError(
                f"Port {port} is already forwarded by this client. Use the tunnel that exists, or another Client."
            )
        answer = asyncio.get_running_loop().create_future()
        lease = HeldLease(self._next_lease, Origin(port), unencrypted, h2, answer, ticket=ticket, file=file)
        self._next_lease += 1
        self._leases[lease.number] = lease
        try:
            await self._connected()
            if self._call is not None:
                self._ask(self._call, lease)
            else:
                lease.asked = True  # lost again at this very moment: the next session asks
            async with asyncio.timeout(BIND_TIMEOUT):
                await answer
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
        if lease.number not in self._leases:
            return
        try:
            await self._unbind(lease)
            await self._drain(lease, grace)
        finally:
            for stream in tuple(lease.streams):
                stream.lose(StreamCode.CLOSING)
            self._leases.pop(lease.number, None)

    async def close(self) -> None:
        """End the session and everything that hangs on it, now."""
        self._enter("closed", "The client was closed.")
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            self._keeper = None
        self._keeping.give_up()
        for task in tuple(self._visits.values()):
            task.cancel()
        if self._visits:
            await asyncio.wait(tuple(self._visits.values()))
        for lease in self._leases.values():
            if not lease.answer.done():
                lease.answer.set_exception(RuntimeError(CLOSED))
        self._leases.clear()

    # Keeping the session.

    async def _connected(self) -> None:
        """Wait until there is a session; start keeping one if nobody does."""
        up = asyncio.ensure_future(self._up.wait())
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                while not up.done():
                    keeper = await self._kept()
                    await asyncio.wait([up, keeper], return_when=asyncio.FIRST_COMPLETED)
                    if self._failure is not None:
                        raise self._failure
                    # Without a failure it ended because of a bug, or because somebody else gave up.
                    if keeper.done() and not keeper.cancelled():
                        keeper.result()
        except TimeoutError:
            raise self._trouble or await silence(self._config, CONNECT_TIMEOUT) from None
        finally:
            up.cancel()

    async def _kept(self) -> asyncio.Task[None]:
        """Who keeps the session, or is to begin it."""
        self._check_open()
        if self._keeper is None or self._keeper.done():
            await resolve(self._config)  # a name that does not exist is worth saying at once
            self._check_open()
        if self._keeper is None or self._keeper.done():  # nobody was quicker meanwhile
            self._failure = self._trouble = None
            self._keeper = asyncio.create_task(self._keep())
        return self._keeper

    def _check_open(self) -> None:
        if self.state == "closed":
            raise RuntimeError(CLOSED)

    async def _keep(self) -> None:
        """Dial, serve until the session ends, dial again; until cancelled or a failure that stays."""
        loop = asyncio.get_running_loop()
        backoff = Backoff()
        chance = random.Random()  # noqa: S311 - jitter, not a secret
        while True:
            try:
                self._connected_to(await self._dialler.dial())
                since = loop.time()
                await self._served()
                if loop.time() - since >= STEADY:
                    backoff.reset()
                if self._failure is not None:
                    return
            except Error as error:
                logger.info("%s", error)
                self._trouble = error
                if not error.temporary:
                    self._fail(error)
                    return
            finally:
                await self._hang_up()
            wait = backoff.next(chance)
            self._enter("reconnecting", f"Dialling the edge again in {wait:.1f} s.")
            await asyncio.sleep(wait)

    async def _served(self) -> None:
        """Until the session has no link. One that looks sick gets company meanwhile."""
        while not self._down.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._down.wait()
            call = self._call
            if call is not None and call.silence >= SUSPICION:
                await self._relieve(call)

    async def _relieve(self, sick: Call) -> None:
        """Dial beside a link from which nothing comes; whichever works first carries the session."""
        self._keeping.offer(sick)
        if self._keeping.session is None:
            return
        self._enter("suspect", f"Nothing has come from the edge for {sick.silence:.0f} s; dialling beside it.")
        dial = asyncio.create_task(self._dialler.dial())
        down = asyncio.create_task(self._down.wait())
        try:
            while sick.silence >= SUSPICION and not dial.done() and not down.done():
                await asyncio.wait([dial, down], timeout=LOOK, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (dial, down):
                task.cancel()
            call, _ = await asyncio.gather(dial, down, return_exceptions=True)
        if isinstance(call, Call):
            self._connected_to(call)
            await sick.hang_up()
            return
        logger.info("dialling beside the link that is there: %s", call)
        if not self._down.is_set():
            self._keeping.hand_over()  # the link is well again, or the next look tries again
            if sick.silence < SUSPICION:
                self._enter("connected", "The edge answers again.")

    def _connected_to(self, call: Call) -> None:
        self._call = call
        if not call.is_resumed:
            self._keeping.give_up()
        kept = self._keeping.hand_over()
        self._down.clear()
        self._up.set()
        self._enter("connected", f"Connected to the edge at {self._config.edge}.")
        if kept is not None:
            self._observe("resumed", f"{kept.streams} visitors go on where they were.")
        for lease in self._leases.values():
            if lease.asked and not (kept and lease.answer.done()):
                self._ask(call, lease)
            if kept and lease.unbound is not None:
                self._to_unbind.add(lease.number)
        for number in self._to_unbind if kept else ():
            call.session.say(Unbind(number))
        self._to_unbind.clear()

    # A session without a link.

    def call_secret(self, call: Call) -> bytes | None:
        return self._keeping.secret_for(call)

    def call_failed(self, call: Call) -> None:
        self._keeping.call_failed(call)

    def call_resumed(self, call: Call) -> Session:
        return self._keeping.session_for(call)

    def call_away(self, call: Call, closed: Closed) -> bool:
        if call is not self._call or not self._keeping.keep(call, closed):
            return False
        self._observe("warning", f"The connection was lost ({closed.cause.value}); "
                      f"{call.session.streams} visitors wait for it to come back.")  # fmt: skip
        self._down.set()
        return True

    @staticmethod
    def _ask(call: Call, lease: HeldLease) -> None:
        lease.asked = True
        call.session.say(lease.bind)

    async def _hang_up(self) -> None:
        call, self._call = self._call, None
        self._up.clear()
        if self._keeping.session is None:
            for lease in self._leases.values():
                # The edge closes the port with the session, so nobody has to wait for it to say so.
                if lease.unbound is not None and not lease.unbound.done():
                    lease.unbound.set_result(None)
        if call is not None:
            await call.hang_up()

    def _fail(self, error: Error) -> None:
        self._failure = error
        self._keeping.give_up()
        self._enter("failed", str(error))
        for lease in self._leases.values():
            if not lease.answer.done():
                lease.answer.set_exception(error)

    def _enter(self, state: str, message: str) -> None:
        if self.state not in (state, "closed"):
            self.state = state
            self._observe(state, message)

    # Leases.

    async def _give_up(self, lease: HeldLease) -> None:
        """Take back a Bind that did not work out."""
        self._leases.pop(lease.number, None)
        if lease.answer.done():
            lease.answer.exception()  # seen: the caller gets it
        else:
            lease.answer.cancel()
        if self._call is not None:
            self._call.session.say(Unbind(lease.number))
        elif not self._leases and self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])

    async def _unbind(self, lease: HeldLease) -> None:
        if self._call is None:
            if self._keeping.session is not None:
                self._to_unbind.add(lease.number)
            return
        lease.unbound = asyncio.get_running_loop().create_future()
        self._call.session.say(Unbind(lease.number))
        with contextlib.suppress(TimeoutError):  # the edge closes the port with the session at the latest
            async with asyncio.timeout(BIND_TIMEOUT):
                await lease.unbound

    @staticmethod
    async def _drain(lease: HeldLease, grace: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        while (now := loop.time()) < deadline:
            if not any(stream.in_flight(now) for stream in lease.streams):
                return
            await asyncio.sleep(DRAIN_LOOK)

    # From the call (call.CallEvents).

    def call_message(self, message: AnyMessage) -> None:
        match message:
            case Bound():
                self._bound(message)
            case BindRefused(lease=number, code=code):
                self._refused(number, code)
            case Unbound(lease=number):
                lease = self._leases.get(number)
                if lease is not None and lease.unbound is not None and not lease.unbound.done():
                    lease.unbound.set_result(None)
            case GoAway():
                self._observe("warning", "The edge is shutting down; visitors in flight may finish.")
            case _:
                raise ProtocolError(f"unexpected {type(message).__name__}")

    def _bound(self, message: Bound) -> None:
        lease = self._leases.get(message.lease)
        if lease is None:
            return  # given up meanwhile; the Unbind is under way
        lease.ticket = message.ticket
        if lease.file is not None:
            write = asyncio.create_task(asyncio.to_thread(lease.file.write, lease.ticket))
            self._writes.add(write)
            write.add_done_callback(self._written)
        tunnel = Tunnel(message.host, message.port, message.unencrypted_host, message.unencrypted_port)
        if not lease.answer.done():
            lease.answer.set_result(tunnel)
        elif lease.answer.exception() is None and lease.answer.result() != tunnel:
            self._observe(
                "warning", f"The edge could not give the old address back; the tunnel is now at {tunnel.url}."
            )

    def _written(self, write: asyncio.Task[None]) -> None:
        self._writes.discard(write)
        error = None if write.cancelled() else write.exception()
        if error is not None:
            self._observe("warning", f"The ticket could not be written, the name will not be had again: {error}")

    def _refused(self, number: int, code: BindCode) -> None:
        lease = self._leases.get(number)
        if lease is None:
            return
        if not lease.answer.done():
            kind = EdgeUnavailableError if code in _PASSING else InvalidError
            lease.answer.set_exception(kind(BIND_SENTENCES[code]))
        else:
            self._observe("warning", f"The edge no longer serves port {lease.origin.port}: {BIND_SENTENCES[code]}")

    def call_stream(self, stream: Stream) -> None:
        lease = self._leases.get(stream.preface.lease)
        if lease is None:
            stream.abort(StreamCode.UNKNOWN_LEASE)
            return
        self.tally.visitors += 1
        lease.streams.add(stream)
        visit = asyncio.create_task(self._visit(stream, lease))
        stream.on_over = self._stream_over
        self._visits[stream] = visit
        visit.add_done_callback(lambda _: self._visits.pop(stream))
        self._observe("visitor", f"{stream.preface.host} came to port {lease.origin.port}.")

    def call_ended(self, call: Call, error: Error) -> None:
        if call is self._call:
            self._observe("warning", str(error))
            self._down.set()
            if not error.temporary:
                self._fail(error)

    # Visitors.

    async def _visit(self, stream: Stream, lease: HeldLease) -> None:
        try:
            await lease.origin.join(stream)
        except OriginRefusedError as refused:
            if not lease.warned:
                lease.warned = True
                self._observe("origin", f"Nobody listens on port {lease.origin.port}; visitors are refused.")
            if not stream.is_over:
                Refusal(stream, lease.origin.port, refused.code)
        except asyncio.CancelledError:
            stream.abort(StreamCode.CLOSING)
            raise
        else:
            if lease.warned:
                lease.warned = False
                self._observe("origin", f"Port {lease.origin.port} answers again.")

    def _stream_over(self, stream: Stream) -> None:
        visit = self._visits.get(stream)
        if visit is not None:
            visit.cancel()  # it still dials, and the visitor does not wait any more
        self.tally.bytes_in += stream.bytes_received
        self.tally.bytes_out += stream.bytes_sent
        lease = self._leases.get(stream.preface.lease)
        if lease is not None:
            lease.streams.discard(stream)


_PASSING: Final = frozenset({BindCode.TOO_MANY, BindCode.NO_PORT, BindCode.CLOSING})
