"""Check that a custom domain points to this edge.

It is made before a tunnel gets the domain, to refuse in clear words what could not work. The token and the claims
decide who may have a domain, and the authority decides what counts for a certificate. Where the edge does not know
its own addresses, as behind a NAT without a configured name, every domain is taken to point here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter, OrderedDict
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from edge_server.certificates.acme.settings import read_server
from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

logger = logging.getLogger(__name__)

LOOKUP: Final = 5.0
"""Seconds for the addresses of one name; resolvers try again after as many."""
REMEMBERED: Final = 60.0
"""Seconds for which a domain that pointed here is not looked up again: after a restart all clients come back."""
MAX_REMEMBERED: Final = 1000
MAX_LOOKUPS: Final = 20
"""At once; the others wait. Each may take a thread of the loop's pool."""
MAX_THREADS: Final = 64
"""Threads of the system's resolver, which cannot be interrupted: one may hang for half a minute, six times the
timeout. Other work of the edge has threads of its own."""
MAX_OF_OWNER: Final = 4
"""Look-ups at once for one owner: domains whose servers do not answer take LOOKUP seconds each, and must not delay
those of others."""
MAX_ADDRESSES: Final = 64
"""Addresses of one name; names of content networks have a dozen."""


class DomainCheck:
    """Looks up where domains point, with bounds, and remembers good answers."""

    def __init__(
        self, own: Sequence[str] = (), resolve: Callable[[str], Awaitable[frozenset[str]]] | None = None
    ) -> None:
        """``own``: names and addresses under which this edge is reached. ``resolve``: the addresses of a name; it
        may raise OSError. None: nothing is checked."""
        self._own = [each for each in own if each]
        self._resolve = resolve
        self._good: OrderedDict[str, float] = OrderedDict()
        self._places = asyncio.Semaphore(MAX_LOOKUPS)
        self._of: dict[str, asyncio.Semaphore] = {}
        """The places of owners who look something up now, or wait."""
        self._looking: Counter[str] = Counter()

    async def point_here(self, domain: str, *, owner: str = "", is_known: bool = False) -> bool:
        """Return True if a domain points here, as far as can be known; within LOOKUP seconds of its turn.

        A domain that ``is_known`` to be the owner's is believed when the resolver fails: a short failure takes
        nothing away.
        """
        now = asyncio.get_running_loop().time()
        if self._resolve is None or self._good.get(domain, 0.0) > now:
            return True
        async with self._place(owner):
            found, ours = await asyncio.gather(self._addresses(domain), self._ours())
        if ours and not found & ours and (found or not is_known):
            logger.info("%s does not point here: it has %s, this edge %s", domain, _list(found), _list(ours))
            return False
        self._good[domain] = now + REMEMBERED
        self._good.move_to_end(domain)
        if len(self._good) > MAX_REMEMBERED:
            self._good.popitem(last=False)
        return True

    @contextlib.asynccontextmanager
    async def _place(self, owner: str) -> AsyncIterator[None]:
        """One of the places, and one of the owner's. What waits for the owner's is not in others' way."""
        mine = self._of.setdefault(owner, asyncio.Semaphore(MAX_OF_OWNER))
        self._looking[owner] += 1
        try:
            async with mine, self._places:
                yield
        finally:
            self._looking[owner] -= 1
            if not self._looking[owner]:
                del self._looking[owner], self._of[owner]

    async def _ours(self) -> frozenset[str]:
        found = await asyncio.gather(*map(self._addresses, self._own))
        return frozenset().union(*found)

    async def _addresses(self, name: str) -> frozenset[str]:
        """None at all when they cannot be found out."""
        assert self._resolve is not None
        try:
            return frozenset((str(ip_address(name)),))
        except ValueError:
            pass  # a name, then
        try:
            async with asyncio.timeout(LOOKUP):
                return frozenset(sorted(await self._resolve(name))[:MAX_ADDRESSES])
        except (OSError, UnicodeError) as error:  # a time-out is one of them
            logger.debug("%s could not be resolved: %s", name, error)
            return frozenset()


_threads: Final = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="lookup")


async def system_addresses(name: str) -> frozenset[str]:
    """As the system's resolver has them. Raises OSError."""
    found = await asyncio.get_running_loop().run_in_executor(_threads, socket.getaddrinfo, name, None)
    return frozenset(str(ip_address(str(address[0]).partition("%")[0])) for *_, address in found)


def make_domain_check(own: Sequence[str], address: str, resolver: str) -> DomainCheck:
    """Return the check of an edge that is reached under these names. Raises ConfigError.

    Args:
        own: names and addresses of the edge; empty ones are left out.
        address: the address that the edge listens on for visitors, which counts if it is a public one.
        resolver: the DNS server to ask, ``HOST`` or ``HOST:PORT``; empty for the system's resolver.
    """
    with contextlib.suppress(ValueError):
        # An address that only this machine's network knows is none that a domain could have.
        own = [*own, address] if ip_address(address).is_global else own
    resolve = addresses_from(read_server(resolver, "--resolver")) if resolver else system_addresses
    return DomainCheck(own, resolve)


def addresses_from(server: tuple[str, int]) -> Callable[[str], Awaitable[frozenset[str]]]:
    """Return a resolver that asks one DNS server, whatever this machine's hosts file says. Raises ConfigError."""
    try:
        import dns.asyncresolver  # noqa: PLC0415 - an optional package
        import dns.exception  # noqa: PLC0415 - likewise
    except ImportError:
        raise ConfigError("--resolver needs a package that is not here: pip install 'quictunnel[edge]'") from None
    resolver = dns.asyncresolver.Resolver(configure=False)
    try:
        # dnspython wants a numeric one.
        resolver.nameservers = [str(socket.getaddrinfo(server[0], None, type=socket.SOCK_DGRAM)[0][4][0])]
    except OSError as error:
        raise ConfigError(f"--resolver {server[0]} cannot be found: {error.strerror or error}.") from None
    resolver.port = server[1]
    resolver.lifetime = LOOKUP

    async def addresses(name: str) -> frozenset[str]:
        try:
            answers = await resolver.resolve_name(name + ".", lifetime=LOOKUP)
        except dns.exception.DNSException as error:
            raise OSError(str(error)) from None
        return frozenset(str(ip_address(address)) for address in answers.addresses())

    return addresses


def _list(addresses: frozenset[str]) -> str:
    return ", ".join(sorted(addresses)[:4]) or "no address"
