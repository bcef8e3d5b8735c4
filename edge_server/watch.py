"""What changes outside while an edge runs, and what becomes of those it is about: tokens, claims, certificates.

All of it is read off the loop's thread, twice a second, so that what was withdrawn ends within a second.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from edge_server.claims.store import BANNED
from quictunnel.errors import ConfigError
from quictunnel.wire.codes import BindCode, SessionCode

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from edge_server.control import Guest
    from edge_server.house import House

logger = logging.getLogger(__name__)

REFRESH: Final = 0.5
"""Seconds between looks: half of the second within which a revocation is to work."""
LOOK_AT_CLAIMS: Final = 3600.0
"""Seconds between looks at which claimed names are in use, for those that are so for weeks."""
MAX_SHOWN: Final = 200
"""Characters of names in a line of the log."""


class Watch:
    """See the module."""

    def __init__(self, house: House, guests: Collection[Guest]) -> None:
        self._house = house
        self._guests = guests
        self._told: dict[str, str] = {}
        """Of what cannot be read, so that it is said once."""

    async def run(self) -> None:
        """Until cancelled."""
        loop, house = asyncio.get_running_loop(), self._house
        seen_at = loop.time()
        while True:
            await asyncio.sleep(REFRESH)
            for what, read in (
                ("tokens", house.tokens.refresh),
                ("claims", house.claims.synchronise),
                ("certificates", house.certificates.refresh),
            ):
                await self._read(what, read)
            self._apply()
            if loop.time() >= seen_at + LOOK_AT_CLAIMS:
                seen_at = loop.time()
                self._see_claims()

    async def _read(self, what: str, read: Callable[[], object]) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(None, read)
        except ConfigError as error:
            if self._told.get(what) != str(error):
                self._told[what] = str(error)
                logger.error("%s What was known before stays in use.", error)
        else:
            self._told.pop(what, None)

    def _apply(self) -> None:
        house = self._house
        if house.claims.settle():
            self._withdraw()
        if names := house.certificates.settle():
            logger.info("a new certificate for %s is in use", ", ".join(sorted(names))[:MAX_SHOWN])
        for guest in tuple(self._guests):
            guest.check_rights()

    def _withdraw(self) -> None:
        """End what is held of names that the operator has banned, and whoever comes from where nobody may."""
        house = self._house
        house.admission.ban(house.claims.banned_networks())
        for guest in tuple(self._guests):
            if not house.admission.admits(guest.peer):
                guest.end(SessionCode.BANNED)
            else:
                for lease in guest.holdings:
                    lease.end_visitors(house.admission.admits)
        for lease in house.registry:
            if house.claims.owner(lease.name) != BANNED:
                continue
            for each in tuple(lease.pool.members) if lease.pool is not None else (lease,):
                logger.info("%s is withdrawn from client %s", each.name, each.owner)
                house.claims.record("banned", each, "")
                each.end_visitors()
                if each.holdings is not None:
                    each.holdings.lose(each, BindCode.BANNED)

    def _see_claims(self) -> None:
        house = self._house
        for lease in house.registry:
            house.claims.seen(lease.owner, lease.name)
            house.claims.seen(lease.owner, f":{lease.tcp_port}")
