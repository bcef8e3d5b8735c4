"""Leases: a public name, and perhaps a TCP port, held by a session now. And the registry of names."""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from quictunnel.transport.splice import TcpSplice, TlsSplice

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from edge_server.admission import Admission
    from quictunnel.transport.session import Session
    from quictunnel.transport.splice import Splice

NAME_BYTES: Final = 10
"""80 random bits, 16 characters of base32: names are secrets to those who were not told them."""
WAIT: Final = 10.0
"""Seconds that a visitor waits for a client that lost its link; longer than most who come back need, shorter than
browsers and people have patience for."""
MAX_WAITING: Final = 256
"""Visitors of one lease who wait; more are refused at once. Each costs a descriptor; nothing is read from it."""
UNCONFIRMED: Final = 30.0
"""Seconds after which a client has its ticket, or has lost its link, which is dead after as many in silence."""
UNKNOWN_PEER: Final = ("", 0)


def random_name() -> str:
    """A label nobody guesses."""
    return base64.b32encode(secrets.token_bytes(NAME_BYTES)).decode().lower()


class Lease:
    """One name of one session, and the visitors that came for it."""

    def __init__(
        self,
        session: Session | None,
        number: int,
        name: str,
        *,
        h2: bool,
        owner: str,
        admission: Admission,
        generation: int = 1,
    ) -> None:
        self.session = session
        """None: the name is kept for a client that has not come yet."""
        self.number = number
        self.name = name
        self.h2 = h2
        self.owner = owner
        self.generation = generation
        """Of the ticket that was given for it."""
        self.since = time.monotonic()
        self.listener: asyncio.Server | None = None
        self.tcp_port = 0
        self.visitors: set[Splice] = set()
        self.max_visitors: int | None = None
        """Of its owner, at all its leases together."""
        self._admission = admission
        self._socket: socket.socket | None = None
        self._is_open = True
        self.heir: Lease | None = None
        """The lease that took the name over."""
        self._waiting: dict[Splice, tuple[bool, asyncio.TimerHandle]] = {}
        """Visitors for whom the client has no link, whether they came over TLS, and until when they wait."""

    def is_newer_than(self, generation: int) -> bool:
        """Whether a ticket of that generation is not to take the name. That which this lease was given for may,
        for a while: the answer with the next may have been lost, and the client be back in another session."""
        if generation >= self.generation:
            return False
        is_young = time.monotonic() < self.since + UNCONFIRMED
        return generation < self.generation - 1 or not is_young

    @property
    def newest(self) -> Lease:
        """The lease that has the name now, as far as it went from one to the next."""
        lease = self
        while lease.heir is not None:
            lease = lease.heir
        return lease

    def tls_visitor(self) -> asyncio.Protocol:
        """The protocol for a visitor whose TLS handshake is complete."""
        return TlsSplice(lambda splice: self.newest.came(splice, tls=True))

    def tcp_visitor(self) -> asyncio.BaseProtocol:
        """The protocol for a visitor of the TCP port."""
        return TcpSplice(lambda splice: self.newest.came(splice, tls=False))

    def hold(self, sock: socket.socket) -> None:
        """Take a listening socket for the TCP port. :meth:`listen` has to follow; it closes the socket if this
        lease was closed meanwhile."""
        self._socket = sock
        self.tcp_port = sock.getsockname()[1]

    async def listen(self) -> None:
        """Accept visitors on the TCP port. Not to be cancelled."""
        assert self._socket is not None
        if not self._is_open:
            self._socket.close()
            return
        # A server that is not serving yet is made without a turn of the loop, in which it could be lost.
        self.listener = await asyncio.get_running_loop().create_server(
            self.tcp_visitor, sock=self._socket, start_serving=False
        )
        await self.listener.start_serving()

    def keep_socket(self) -> socket.socket | None:
        """A second handle of the listening socket, for a lease that takes over: the port is never free in
        between, and visitors that are in its queue are not lost."""
        return self._socket.dup() if self._socket is not None and self._is_open else None

    def stop_listening(self) -> None:
        """Nobody comes through the TCP port any more; those in the middle of a TLS handshake are still let in."""
        if self.listener is not None:
            self.listener.close()

    def close(self) -> None:
        """Take no more visitors; those who are in stay."""
        self._is_open = False
        self.stop_listening()
        for splice in tuple(self._waiting):
            self._send_away(splice)

    def take_over(self, ghost: Lease) -> None:
        """Let in those who waited at a lease of the same name, whose client has come here; who is still in a
        handshake there comes here as well."""
        self._let_all_in(ghost.make_way(self))

    def make_way(self, heir: Lease) -> dict[Splice, tuple[bool, asyncio.TimerHandle]]:
        """Those who wait are the heir's from now on. They stay counted here until they go."""
        self.heir = heir
        return self._part_with_waiting()

    def client_is_back(self) -> None:
        """There is a link again: whoever waited goes in, in the order of coming."""
        self._let_all_in(self._part_with_waiting())

    def came(self, splice: Splice, *, tls: bool) -> None:
        """A visitor is in, its TLS handshake complete."""
        if not self._is_open or not self._admission.enter(self.owner, self.max_visitors):
            splice.refuse()
            return
        splice.on_gone = self._went
        self.visitors.add(splice)
        if self.session is not None and not self.session.is_away:
            self._let_in(splice, tls=tls)
        elif len(self._waiting) < MAX_WAITING:
            timer = asyncio.get_running_loop().call_later(WAIT, self._send_away, splice)
            self._waiting[splice] = tls, timer
        else:
            splice.refuse()

    def _part_with_waiting(self) -> dict[Splice, tuple[bool, asyncio.TimerHandle]]:
        waiting, self._waiting = self._waiting, {}
        return waiting

    def _let_all_in(self, waiting: dict[Splice, tuple[bool, asyncio.TimerHandle]]) -> None:
        for splice, (tls, timer) in waiting.items():
            timer.cancel()
            self._let_in(splice, tls=tls)

    def _send_away(self, splice: Splice) -> None:
        _, timer = self._waiting.pop(splice)
        timer.cancel()
        splice.refuse()

    def _let_in(self, splice: Splice, *, tls: bool) -> None:
        assert self.session is not None
        host, port = (splice.transport.get_extra_info("peername") or UNKNOWN_PEER)[:2]
        stream = self.session.open(lease=self.number, tls=tls, host=host, port=port)
        if stream is None:
            splice.refuse()
        else:
            splice.join(stream)

    def _went(self, splice: Splice) -> None:
        waiting = self._waiting.pop(splice, None)
        if waiting is not None:
            waiting[1].cancel()
        self.visitors.remove(splice)
        self._admission.leave(self.owner)


class Registry:
    """Which lease holds a name now."""

    def __init__(self, name: Callable[[], str] = random_name) -> None:
        self._leases: dict[str, Lease] = {}
        self._held: Counter[str] = Counter()
        self._name = name

    def __len__(self) -> int:
        return len(self._leases)

    def __iter__(self) -> Iterator[Lease]:
        return iter(tuple(self._leases.values()))

    def find(self, name: str) -> Lease | None:
        return self._leases.get(name)

    def held_by(self, owner: str) -> int:
        """How many names are an owner's."""
        return self._held[owner]

    def fresh_name(self) -> str:
        """A name that nobody holds."""
        while (name := self._name()) in self._leases:
            pass
        return name

    def add(self, lease: Lease) -> None:
        assert lease.name not in self._leases
        self._leases[lease.name] = lease
        self._held[lease.owner] += 1

    def remove(self, lease: Lease) -> None:
        if self._leases.get(lease.name) is lease:
            del self._leases[lease.name]
            self._held[lease.owner] -= 1
            if not self._held[lease.owner]:
                del self._held[lease.owner]
