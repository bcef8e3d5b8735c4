"""Whether an edge is ready for visitors and clients, and if not, why.

Alive is one that answers at all: its loop turns. Ready is more: see :class:`Health`. Both are for whatever starts
edges and sends people to them, which may ask as often as it likes: an answer is good for some seconds.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import msgspec

from edge_server.certificates.context_store import validity_of
from edge_server.observability.quic_probe import objection
from quictunnel.shared.address import on_this_machine

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from edge_server.certificates.context_store import Validity
    from edge_server.observability.introspection import Introspection
    from quictunnel.transport.engine import Address

FRESH: Final = 2.0
"""Seconds for which an answer is given again: less than what those who ask wait between two questions."""


class Check(msgspec.Struct, frozen=True):
    """One of the things that have to be well."""

    name: str
    ok: bool
    why: str = ""
    """What is wrong, for people."""


class Readiness(msgspec.Struct, frozen=True):
    """All of them."""

    ready: bool
    checks: list[Check]


class Life(msgspec.Struct, frozen=True):
    """What an edge whose loop turns says of itself."""

    alive: bool
    uptime_seconds: float
    loop_lag_seconds: float


class Health:
    """Ready means: it serves and is not about to stop, the certificates that visitors and clients see are valid
    now, none of its background loops fails, and its QUIC socket answers. On the loop's thread."""

    def __init__(
        self,
        scene: Introspection,
        *,
        clock: Callable[[], float] | None = None,
        probe: Callable[[Address], Awaitable[str]] = objection,
    ) -> None:
        """``clock``: seconds since the epoch; by default the edge's."""
        self._scene = scene
        self._clock = clock or scene.now
        self._probe = probe
        self._known: Readiness | None = None
        self._known_until = 0.0
        self._looking = asyncio.Lock()

    def life(self) -> Life:
        """That it is alive."""
        scene = self._scene
        return Life(True, max(0.0, round(self._clock() - scene.started_at, 3)), round(scene.lag.worst, 6))

    async def readiness(self) -> Readiness:
        """Whether it is ready. Never raises for what is wrong; takes two seconds at most. However many ask at
        once, one look is taken."""
        async with self._looking:
            now = asyncio.get_running_loop().time()
            if self._known is None or now >= self._known_until or self._scene.is_draining():
                checks = [self._serving(), self._certificates(), self._background(), await self._udp()]
                self._known = Readiness(all(check.ok for check in checks), checks)
                self._known_until = asyncio.get_running_loop().time() + FRESH
            return self._known

    def _serving(self) -> Check:
        is_leaving = self._scene.is_draining()
        return Check("serving", not is_leaving, "it takes nobody any more: it stops" if is_leaving else "")

    def _background(self) -> Check:
        failing = self._scene.supervisor.failing
        return Check("background", not failing, "; ".join(f"{what} fails: {why}" for what, why in failing.items()))

    def _certificates(self) -> Check:
        scene = self._scene
        wanted = f"*.{scene.config.domain}"
        try:
            shown = [validity for validity in scene.certificates.contexts.validities() if wanted in validity.names]
            ours = validity_of(scene.identity.read_bytes())
        except (OSError, ValueError) as error:
            return Check("certificate", False, f"a certificate cannot be read: {error}")
        if not shown and scene.certificates.expects_shared_certificate:
            return Check("certificate", False, f"there is none for {wanted} yet")
        now = self._clock()
        # Of several for the same names one that is good is enough.
        complaints = [_complaint(f"that for {wanted}", validity, now) for validity in shown]
        why = "" if not complaints or "" in complaints else complaints[0]
        why = why or _complaint("that which clients see", ours, now)
        return Check("certificate", not why, why)

    async def _udp(self) -> Check:
        host, port = self._scene.endpoint.local_address[:2]
        why = await self._probe((on_this_machine(host), port))
        return Check("udp", not why, why)


def _complaint(which: str, validity: Validity, now: float) -> str:
    if now >= validity.until:
        return f"{which} ended at {_moment(validity.until)}"
    if now < validity.since:
        return f"{which} begins at {_moment(validity.since)}; is the clock right?"
    return ""


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
