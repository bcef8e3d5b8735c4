"""The check that a custom domain points to this edge.

It runs before a tunnel gets the domain, so that a domain that cannot work is refused with a clear reason. It is no
authorisation: the permissions of tokens and the claims decide about that, and the certificate authority validates
the domain itself. If the edge does not know its own addresses, as behind a NAT without a configured name, every
domain passes.
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

LOOKUP_TIMEOUT: Final = 5.0
"""Seconds for the addresses of one name; resolvers retry after the same time."""
CACHE_TIME: Final = 60.0
"""Seconds for which a good result is cached, because after a restart all clients reconnect at once."""
MAX_CACHED: Final = 1000
"""Cached results."""
MAX_CHECKS: Final = 20
"""Checks at once; further ones wait. Each may take threads of the resolver's pool."""
MAX_THREADS: Final = 64
"""Threads for calls of the system's resolver, which cannot be interrupted: a call may hang for half a minute, six
times the timeout. Other work of the edge has threads of its own."""
MAX_CHECKS_PER_OWNER: Final = 4
"""Checks at once for one owner: domains whose servers do not respond take LOOKUP_TIMEOUT seconds each, and must
not delay those of others."""
MAX_ADDRESSES: Final = 64
"""Addresses of one name; names of content networks have a dozen."""


class DomainCheck:
    """Resolves domains, with limits for each owner, and caches good results."""

    def __init__(
        self, own: Sequence[str] = (), resolve: Callable[[str], Awaitable[frozenset[str]]] | None = None
    ) -> None:
        """Check against the edge's own addresses.

        Args:
            own: names and addresses under which this edge is reached.
            resolve: returns the addresses of a name, or raises OSError. None: every domain passes.
        """
        self._own_names = [each for each in own if each]
        self._resolve = resolve
        self._valid_until: OrderedDict[str, float] = OrderedDict()
        self._slots = asyncio.Semaphore(MAX_CHECKS)
        self._slots_of_owner: dict[str, asyncio.Semaphore] = {}
        """A semaphore for each owner with checks that run or wait."""
        self._checks_of_owner: Counter[str] = Counter()

    async def points_here(self, domain: str, *, owner: str = "", is_known: bool = False) -> bool:
        """Return True if a domain points to this edge; if the check is off, or the edge does not know
        its own addresses; or if the domain does not resolve, but its owner has claimed it already.

        It takes at most LOOKUP_TIMEOUT seconds in addition to the wait for other checks.

        Args:
            domain: the domain.
            owner: key of the token that requests it.
            is_known: True if the owner has claimed the domain already. A short failure of DNS then takes no domain
                away.
        """
        now = asyncio.get_running_loop().time()
        if self._resolve is None or self._valid_until.get(domain, 0.0) > now:
            return True
        async with self._slot(owner):
            found, ours = await asyncio.gather(self._addresses(domain), self._own_addresses())
        if ours and not found & ours and (found or not is_known):
            logger.info(
                "%s does not point here: it resolves to %s, this edge has %s", domain, _list(found), _list(ours)
            )
            return False
        self._valid_until[domain] = now + CACHE_TIME
        self._valid_until.move_to_end(domain)
        if len(self._valid_until) > MAX_CACHED:
            self._valid_until.popitem(last=False)
        return True

    @contextlib.asynccontextmanager
    async def _slot(self, owner: str) -> AsyncIterator[None]:
        """Hold a slot for a check, within the limit of the owner and then within that of the edge.

        A check that waits for the limit of its owner takes no slot of the edge.
        """
        mine = self._slots_of_owner.setdefault(owner, asyncio.Semaphore(MAX_CHECKS_PER_OWNER))
        self._checks_of_owner[owner] += 1
        try:
            async with mine, self._slots:
                yield
        finally:
            self._checks_of_owner[owner] -= 1
            if not self._checks_of_owner[owner]:
                del self._checks_of_owner[owner], self._slots_of_owner[owner]

    async def _own_addresses(self) -> frozenset[str]:
        found = await asyncio.gather(*map(self._addresses, self._own_names))
        return frozenset().union(*found)

    async def _addresses(self, name: str) -> frozenset[str]:
        """Return the addresses of a name; empty if it cannot be resolved."""
        assert self._resolve is not None
        try:
            return frozenset((str(ip_address(name)),))
        except ValueError:
            pass  # not an address, so it is a name
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT):
                return frozenset(sorted(await self._resolve(name))[:MAX_ADDRESSES])
        except (OSError, UnicodeError) as error:  # TimeoutError is an OSError
            logger.debug("%s could not be resolved: %s", name, error)
            return frozenset()


_threads: Final = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="lookup")


async def system_addresses(name: str) -> frozenset[str]:
    """Return the addresses of a name from the system's resolver. Raises OSError."""
    found = await asyncio.get_running_loop().run_in_executor(_threads, socket.getaddrinfo, name, None)
    return frozenset(str(ip_address(str(address[0]).partition("%")[0])) for *_, address in found)


def make_domain_check(own: Sequence[str], address: str, resolver: str) -> DomainCheck:
    """Return the check of an edge that is reached under these names. Raises ConfigError.

    Args:
        own: names and addresses of the edge; empty ones are ignored.
        address: the address on which the edge listens for visitors; ignored unless it is a public one.
        resolver: the DNS server to query, ``HOST`` or ``HOST:PORT``; empty for the system's resolver.
    """
    with contextlib.suppress(ValueError):
        # No public domain points to a private address.
        own = [*own, address] if ip_address(address).is_global else own
    resolve = addresses_from(read_server(resolver, "--resolver")) if resolver else system_addresses
    return DomainCheck(own, resolve)


def addresses_from(server: tuple[str, int]) -> Callable[[str], Awaitable[frozenset[str]]]:
    """Return a resolver that queries one DNS server and ignores this machine's hosts file. Raises ConfigError."""
    try:
        import dns.asyncresolver  # noqa: PLC0415 - an optional package
        import dns.exception  # noqa: PLC0415 - likewise
    except ImportError:
        raise ConfigError(
            "--resolver needs dnspython, which is not installed: pip install 'quictunnel[edge]'"
        ) from None
    resolver = dns.asyncresolver.Resolver(configure=False)
    try:
        # dnspython requires a numeric address.
        resolver.nameservers = [str(socket.getaddrinfo(server[0], None, type=socket.SOCK_DGRAM)[0][4][0])]
    except OSError as error:
        raise ConfigError(f"--resolver {server[0]} cannot be found: {error.strerror or error}.") from None
    resolver.port = server[1]
    resolver.lifetime = LOOKUP_TIMEOUT

    async def addresses(name: str) -> frozenset[str]:
        try:
            answers = await resolver.resolve_name(name + ".", lifetime=LOOKUP_TIMEOUT)
        except dns.exception.DNSException as error:
            raise OSError(str(error)) from None
        return frozenset(str(ip_address(address)) for address in answers.addresses())

    return addresses


def _list(addresses: frozenset[str]) -> str:
    return ", ".join(sorted(addresses)[:4]) or "no address"
