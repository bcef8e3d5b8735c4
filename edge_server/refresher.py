"""Refresh of tokens, claims and certificates that change outside while an edge runs.

All of them are read outside the loop's thread, twice a second, so that a revocation takes effect within a second.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from edge_server.tunnels.ownership_store import BANNED
from quictunnel.errors import ConfigError
from quictunnel.wire.codes import SessionCode

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from edge_server.clients.session import ClientSession
    from edge_server.tunnels.tunnel import Tunnel
    from edge_server.wiring import EdgeServices

logger = logging.getLogger(__name__)

REFRESH: Final = 0.5
"""Seconds between looks: half of the second within which a revocation is to work."""
LOOK_AT_CLAIMS: Final = 3600.0
"""Seconds between looks at which claimed names are in use, for those that are so for weeks, and which are over."""
WORK: Final = "looking at what has changed of tokens, claims and certificates"
MAX_SHOWN: Final = 200
"""Characters of names in a line of the log."""


class Refresher:
    """Reads what has changed outside, and ends the sessions and leases that are no longer allowed."""

    def __init__(self, services: EdgeServices, clients: Collection[ClientSession]) -> None:
        self._services = services
        self._clients = clients
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="watch")
        self._task = services.supervisor.keep_running(self._run, WORK)
        self._seen_at = asyncio.get_running_loop().time()
        self._told: dict[str, str] = {}
        """Errors by what could not be read, so that each is logged once."""

    async def close(self) -> None:
        """Look no more. When it is done nothing is being read either."""
        self._task.cancel()
        await asyncio.wait([self._task])
        await asyncio.to_thread(self._thread.shutdown)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(REFRESH)
            try:
                await self._look()
            except Exception as error:  # noqa: BLE001 - a fault of ours in one look must not be the last look
                self._services.supervisor.loop_failed(WORK, error)
            else:
                self._services.supervisor.loop_recovered(WORK)

    async def _look(self) -> None:
        loop, services = asyncio.get_running_loop(), self._services
        services.clock.check()
        for what, read in (
            ("tokens", services.tokens.refresh),
            ("claims", services.claims.synchronise),
            ("certificates", services.certificates.refresh),
        ):
            await self._read(what, read)
        self._apply()
        if loop.time() >= self._seen_at + LOOK_AT_CLAIMS:
            self._seen_at = loop.time()
            self._see_claims()
            if services.clock.is_settled:
                services.claims.remove_expired(services.names.held)

    async def _read(self, what: str, read: Callable[[], object]) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, read)
        except (ConfigError, OSError, ValueError, TypeError) as error:
            if self._told.get(what) != str(error):
                self._told[what] = str(error)
                logger.error("%s (%s). What was known before stays in use.", error, what)
        else:
            self._told.pop(what, None)

    def _apply(self) -> None:
        services = self._services
        if services.claims.apply_read():
            self._withdraw()
        if names := services.certificates.apply_refresh():
            logger.info("a new certificate for %s is in use", ", ".join(sorted(names))[:MAX_SHOWN])
        for client in tuple(self._clients):
            client.check_rights()
        services.sessions.forget_superseded(services.tokens.is_over)

    def _withdraw(self) -> None:
        """End what is held of names that the operator has banned, and whoever comes from where nobody may."""
        services = self._services
        services.admission.ban(services.claims.banned_networks())
        for client in tuple(self._clients):
            if not services.admission.admits(client.peer):
                client.end(SessionCode.BANNED)
        # Also those whose tunnel is over, and who stayed.
        for tunnel in tuple(services.registry.alive):
            if self._is_banned(tunnel):
                tunnel.end_visitors()
            else:
                tunnel.end_visitors(services.admission.admits)
        for tunnel in services.registry:
            if self._is_banned(tunnel):
                logger.info("%s is withdrawn from client %s", tunnel.name, tunnel.owner)
                services.claims.record("banned", tunnel, "")
                services.pending.withdraw(tunnel)

    def _is_banned(self, tunnel: Tunnel) -> bool:
        owner = self._services.claims.owner
        return BANNED in (owner(tunnel.name), owner(f":{tunnel.tcp_port}"))

    def _see_claims(self) -> None:
        services = self._services
        for tunnel in services.registry:
            services.claims.seen(tunnel.owner, tunnel.name)
            services.claims.seen(tunnel.owner, f":{tunnel.tcp_port}")
            services.claims.record("seen", tunnel, "")
