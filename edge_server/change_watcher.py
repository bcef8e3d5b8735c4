"""The watch for changes of tokens, claims and certificates that others make while an edge runs.

All of them are read twice a second in another thread, so that a revocation takes effect within a second.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from edge_server.tunnels.bind_explanations import banned_port
from edge_server.tunnels.bind_policy import BindPolicy
from edge_server.tunnels.forbidden_tunnels import ForbiddenTunnels
from edge_server.tunnels.ownership_store import BANNED_OWNER
from quictunnel.errors import ConfigError
from quictunnel.wire.codes import BindCode, SessionCode

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from edge_server.clients.session import ClientSession
    from edge_server.tunnels.tunnel import Tunnel
    from edge_server.wiring import EdgeServices

logger = logging.getLogger(__name__)

REFRESH_INTERVAL: Final = 0.5
"""Seconds between refreshes: half of the second within which a revocation takes effect."""
CLAIMS_INTERVAL: Final = 3600.0
"""Seconds between updates of the claims of names in use, together with the removal of expired claims."""
WORK: Final = "refreshing tokens, claims and certificates"
MAX_SHOWN: Final = 200
"""Characters of names in a line of the log."""


class ChangeWatcher:
    """Reads the changes, and ends the sessions and tunnels that are no longer allowed."""

    def __init__(self, services: EdgeServices, clients: Collection[ClientSession]) -> None:
        self._services = services
        self._clients = clients
        self._forbidden_tunnels = ForbiddenTunnels(
            BindPolicy(services.domain),
            registry=services.registry,
            pending=services.pending,
            tokens=services.tokens,
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="watch")
        self._task = services.supervisor.keep_running(self._run, WORK)
        self._seen_at = asyncio.get_running_loop().time()
        self._told: dict[str, str] = {}
        """The last error of each source, so that it is logged once."""

    async def close(self) -> None:
        """Stop, and wait for a read that is in progress."""
        self._task.cancel()
        await asyncio.wait([self._task])
        await asyncio.to_thread(self._thread.shutdown)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_INTERVAL)
            try:
                await self._look()
            except Exception as error:  # noqa: BLE001 - a bug must not end the refresh
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
        if loop.time() >= self._seen_at + CLAIMS_INTERVAL:
            self._seen_at = loop.time()
            self._see_claims()
            if services.clock.is_settled:
                services.claims.remove_expired(services.name_directory.in_use)

    async def _read(self, what: str, read: Callable[[], object]) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, read)
        except (ConfigError, OSError, ValueError, TypeError) as error:
            if self._told.get(what) != str(error):
                self._told[what] = str(error)
                logger.error("%s (%s). The last version stays in use.", error, what)
        else:
            self._told.pop(what, None)

    def _apply(self) -> None:
        services = self._services
        if services.claims.apply_read():
            self._withdraw()
        if names := services.certificates.apply_refresh():
            logger.info("a new certificate for %s is in use", ", ".join(sorted(names))[:MAX_SHOWN])
        clients = tuple(self._clients)
        changed = [before for client in clients if (before := client.check_rights()) is not None]
        self._forbidden_tunnels.end(changed, is_draining=any(client.is_draining for client in clients))
        services.sessions.forget_superseded(services.tokens.is_over)

    def _withdraw(self) -> None:
        """End the tunnels of banned names and ports, and the clients and visitors from banned networks."""
        services = self._services
        services.admission.ban(services.claims.banned_networks())
        for client in tuple(self._clients):
            if services.admission.is_banned(client.peer):
                client.end(SessionCode.BANNED)
        # Also closed tunnels whose visitors have stayed.
        for tunnel in tuple(services.registry.alive):
            if self._is_banned(tunnel):
                tunnel.end_visitors()
            else:
                tunnel.end_visitors(lambda address: not services.admission.is_banned(address))
        for tunnel in services.registry:
            if self._is_banned(tunnel):
                logger.info("%s is withdrawn from client %s", tunnel.name, tunnel.owner)
                services.claims.add_to_history("banned", tunnel, "")
                is_name = services.claims.owner(tunnel.name) == BANNED_OWNER
                tunnel.revoke_leases(BindCode.BANNED, "" if is_name else banned_port(tunnel.tcp_port))
                services.pending.withdraw_kept(tunnel)

    def _is_banned(self, tunnel: Tunnel) -> bool:
        owner = self._services.claims.owner
        return BANNED_OWNER in (owner(tunnel.name), owner(f":{tunnel.tcp_port}"))

    def _see_claims(self) -> None:
        services = self._services
        for tunnel in services.registry:
            services.claims.mark_used(tunnel.owner, tunnel.name)
            services.claims.mark_used(tunnel.owner, f":{tunnel.tcp_port}")
            services.claims.add_to_history("in_use", tunnel, "")
