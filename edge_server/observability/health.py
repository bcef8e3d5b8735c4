"""Readiness and liveness of an edge.

An edge is alive if it responds at all: its event loop runs. Readiness is stricter: see :class:`Health`. Both are
for orchestrators and load balancers, which may ask at any rate: a result is cached for some seconds.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import msgspec

from edge_server.certificates.context_store import validity_of
from quictunnel.shared.address import on_this_machine
from quictunnel.shared.event_loop import in_thread
from quictunnel.transport.probe import Answer, probe_server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from edge_server.certificates.context_store import Validity
    from edge_server.observability.introspection import Introspection
    from quictunnel.transport.engine import Address

CACHE_TIME: Final = 2.0
"""Seconds for which a result is cached: less than the interval of typical health checks."""
PROBE_ROUNDS: Final = (0.5, 0.5, 0.5)
"""Seconds to wait for the QUIC socket, for each of three tries. To the same machine a response takes a
millisecond; a loop that needs longer than this is overloaded."""


class Check(msgspec.Struct, frozen=True):
    """Result of one check."""

    name: str
    ok: bool
    why: str = ""
    """Description of the failure, for people."""


class Readiness(msgspec.Struct, frozen=True):
    """Results of all checks."""

    ready: bool
    checks: list[Check]


class Liveness(msgspec.Struct, frozen=True):
    """Liveness of an edge."""

    alive: bool
    uptime_seconds: float
    loop_lag_seconds: float


def quic_error(address: Address) -> str:
    """Return why the QUIC server at an address does not respond, or an empty text.

    The response comes from the engine itself: it proves that the socket is bound, that the loop reads it, and that
    the engine's packets are sent. Blocks for a millisecond if it does, for at most 1.5 seconds otherwise.
    """
    host, port = address[:2]
    result = probe_server(address, rounds=PROBE_ROUNDS, forbid_fragments=False)
    detail = f": {result.detail}" if result.detail else ""
    match result.answer:
        case Answer.QUIC:
            return ""
        case Answer.REFUSED:
            return f"nothing listens at UDP {host} port {port}"
        case Answer.FORBIDDEN | Answer.NO_ROUTE:
            return f"no datagram can be sent to {host} port {port}{detail}"
        case _:
            return f"no response from UDP {host} port {port}{detail}"


async def probe_error(address: Address) -> str:
    """Return :func:`quic_error`. It is asked in a thread of its own, because the
    responses come from this loop, and because others may occupy the threads of the loop's executor."""
    return await in_thread(quic_error, address)


class Health:
    """Checks of one edge, on the event loop's thread. It is ready if it serves and is not stopping, the
    certificates for visitors and clients are valid now, no background task fails, and its QUIC socket responds."""

    def __init__(
        self,
        introspection: Introspection,
        *,
        clock: Callable[[], float] | None = None,
        probe: Callable[[Address], Awaitable[str]] = probe_error,
    ) -> None:
        """Check nothing yet.

        Args:
            introspection: the edge.
            clock: seconds since the epoch; by default the edge's.
            probe: returns why a QUIC address does not respond, or an empty text.
        """
        self._introspection = introspection
        self._clock = clock or introspection.now
        self._probe = probe
        self._cached: Readiness | None = None
        self._cached_until = 0.0
        self._lock = asyncio.Lock()

    def liveness(self) -> Liveness:
        """Return the liveness."""
        introspection = self._introspection
        return Liveness(
            True, max(0.0, round(self._clock() - introspection.started_at, 3)), round(introspection.lag.worst, 6)
        )

    async def readiness(self) -> Readiness:
        """Run the checks, or return the cached result. Never raises for a failed check; takes two seconds at most.
        Concurrent calls share one run."""
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if self._cached is None or now >= self._cached_until or self._introspection.is_draining():
                checks = [self._serving(), self._certificates(), self._background(), await self._udp()]
                self._cached = Readiness(all(check.ok for check in checks), checks)
                self._cached_until = asyncio.get_running_loop().time() + CACHE_TIME
            return self._cached

    def _serving(self) -> Check:
        is_draining = self._introspection.is_draining()
        return Check(
            "serving",
            not is_draining,
            "the edge is draining and accepts no new connections" if is_draining else "",
        )

    def _background(self) -> Check:
        failing = self._introspection.supervisor.failing
        return Check("background", not failing, "; ".join(f"{what} fails: {why}" for what, why in failing.items()))

    def _certificates(self) -> Check:
        introspection = self._introspection
        wildcard = f"*.{introspection.config.domain}"
        try:
            wildcards = [
                validity
                for validity in introspection.certificates.contexts.validities()
                if wildcard in validity.names
            ]
            own = validity_of(introspection.identity.read_bytes())
        except (OSError, ValueError) as error:
            return Check("certificate", False, f"a certificate cannot be read: {error}")
        if not wildcards and introspection.certificates.expects_shared_certificate:
            return Check("certificate", False, f"there is no certificate for {wildcard} yet")
        now = self._clock()
        # Of several certificates for the same names, one valid one is enough.
        validity_errors = [
            _validity_error(f"the certificate for {wildcard}", validity, now) for validity in wildcards
        ]
        why = "" if not validity_errors or "" in validity_errors else validity_errors[0]
        why = why or _validity_error("the certificate for clients", own, now)
        return Check("certificate", not why, why)

    async def _udp(self) -> Check:
        host, port = self._introspection.endpoint.local_address[:2]
        why = await self._probe((on_this_machine(host), port))
        return Check("udp", not why, why)


def _validity_error(which: str, validity: Validity, now: float) -> str:
    if now >= validity.until:
        return f"{which} expired at {_moment(validity.until)}"
    if now < validity.since:
        return f"{which} is not valid before {_moment(validity.since)}; check the clock"
    return ""


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
