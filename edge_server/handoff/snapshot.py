"""The snapshot of the held names, which a restarted edge keeps for clients that are about to reconnect.

A successor in a hot restart gets them from its predecessor instead. The names are written to a table
(:mod:`edge_server.handoff.snapshot_store`) at most once in :data:`POLL_INTERVAL` seconds and at the stop, in a
thread of its own. After a crash the last write counts, whose time tells until when the edge ran.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from edge_server.handoff.legacy_snapshot import LegacySnapshot
from edge_server.handoff.snapshot_entry import SnapshotEntry
from edge_server.handoff.snapshot_store import MAX_AGE, AnotherWriterError, SnapshotStore
from edge_server.storage.sqlite import DamagedDatabaseError
from edge_server.tunnels.tunnel_record import TunnelRecord
from quictunnel.errors import ConfigError
from quictunnel.wire.labels import RANDOM_LABEL

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from edge_server.auth.token_registry import TokenRegistry
    from edge_server.handoff.snapshot_store import HeldNames
    from edge_server.ingress.tcp_ports import TcpPorts
    from edge_server.tunnels.backend import Backend
    from edge_server.tunnels.ownership import NameOwnership
    from edge_server.tunnels.pending import PendingTunnels
    from edge_server.tunnels.registry import Registry
    from edge_server.tunnels.tunnel import Tunnel
    from quictunnel.shared.supervision import Supervisor

logger = logging.getLogger(__name__)

T = TypeVar("T")

WORK: Final = "writing which names are held"
POLL_INTERVAL: Final = 0.5
"""Seconds between checks for changes, and thus between writes; after a crash as much is lost as of the claims."""
STAMP_INTERVAL: Final = 10.0
"""Seconds after which the time of the last write is updated: a sixth of :data:`MAX_AGE`, so a crash shortens that
time little, and seldom enough for a disk to sleep in between."""
RETURN_TIMEOUT: Final = 15.0
"""Seconds for which a name is kept. Clients that got a GoAway reconnect within about a second. An idle client
detects a crash by its keep-alive within five seconds, and repeats a failed dial after a few more."""


@dataclass(frozen=True, slots=True)
class _Frozen:
    """A name at the beginning of the stop, with its tunnel and backends of that time."""

    tunnel: Tunnel
    backends: tuple[Backend, ...]
    """Empty if the name was kept for an absent client."""
    entry: SnapshotEntry

    @property
    def is_held(self) -> bool:
        """Return True unless all clients have released it, or the operator has withdrawn it."""
        if self.backends:
            return not all(backend.is_released for backend in self.backends)
        return not self.tunnel.is_withdrawn


class NameSnapshot:
    """The snapshot of the held names: read at the start, then written until the edge hands over or stops.

    Call :meth:`restore`, then :meth:`start`, and at the end either :meth:`stop_writing` (handoff) or
    :meth:`freeze` and :meth:`close` (stop).
    """

    def __init__(
        self,
        directory: Path,
        key: bytes,
        domain: str,
        *,
        registry: Registry,
        pending: PendingTunnels,
        claims: NameOwnership,
        tokens: TokenRegistry,
        ports: TcpPorts,
        supervisor: Supervisor,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Open nothing yet. ``key``: the key of the tickets, from which the key of the table is derived."""
        self._store = SnapshotStore(directory, key, domain)
        self._legacy = LegacySnapshot(directory, key, domain)
        self._registry = registry
        self._pending = pending
        self._claims = claims
        self._tokens = tokens
        self._ports = ports
        self._supervisor = supervisor
        self._now = now
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="held-names")
        self._task: asyncio.Task[None] | None = None
        self._frozen: list[_Frozen] | None = None
        self._written_changes = -1
        """Value of ``Registry.changes`` at the last write; -1 if the table has to be written in any case."""
        self._written_at = float("-inf")
        self._is_damaged = False
        """True if the database has to be created again before it is written."""
        self._is_imported = False
        """True once the file of an older version is no longer needed."""
        self._warned = ""
        """The last warning, which is not repeated."""

    # At the start.

    async def restore(self) -> None:
        """Keep the names of the table (``pending``) for clients that were connected until a moment ago and may
        still have them. Call it before clients and visitors are accepted."""
        snapshot = await self._in_thread(self._read)
        if snapshot is None or not snapshot.entries:
            return
        count = 0
        for entry in snapshot.entries:
            if abs(self._now() - entry.last_connected) <= MAX_AGE and self._is_allowed(entry.record):
                sock = self._port_of(entry.record)
                await self._pending.add(
                    entry.record, sock, seconds=RETURN_TIMEOUT, last_connected=entry.last_connected
                )
                count += 1
        logger.info("%d of %d names of the last run are kept for their clients", count, len(snapshot.entries))

    def _read(self) -> HeldNames | None:
        """Return the newer of the snapshots in the table and in the file of an older version."""
        found: list[HeldNames] = []
        for source in (self._store, self._legacy):
            try:
                snapshot = source.read()
            except ConfigError as error:
                self._is_damaged = self._is_damaged or isinstance(error, DamagedDatabaseError)
                self._warn(error)
            else:
                found += [snapshot] if snapshot is not None else []
        return max(found, key=lambda snapshot: snapshot.written_at, default=None)

    def _is_allowed(self, name: TunnelRecord) -> bool:
        """Return True if the owner of a name would still get it."""
        tokens, owner = self._tokens, self._claims.owner(name.name)
        identity = tokens.identity(name.owner)
        if identity is None:
            return False
        if RANDOM_LABEL.fullmatch(name.name):
            return owner is None  # otherwise it is banned: random names cannot be claimed
        return owner == name.owner and tokens.name_refusal(identity, name.name) is None

    def _port_of(self, name: TunnelRecord) -> socket.socket | None:
        """Return a listening socket for the TCP port of a tunnel; None if it has none or may not have it now."""
        port = name.port
        if not port:
            return None
        identity = self._tokens.identity(name.owner)
        allowed = None if identity is None else identity.permissions.tcp_ports
        may = self._claims.is_free_to(name.owner, port) and (allowed is None or port in allowed)
        sock = self._ports.bind_exact(port, name.owner) if may else None
        if sock is None:
            logger.info("%s is kept for its client without port %d, which is not available", name.name, port)
        return sock

    # While it serves.

    def start(self) -> None:
        """Begin to write the held names whenever they change."""
        self._task = self._supervisor.keep_running(self._run, WORK)

    def stop_writing(self) -> None:
        """Stop writing, because a successor writes the table from now on."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def freeze(self) -> None:
        """Use the names that are held now for the last write, because the edge ends the sessions from now on.

        Names that clients release or the operator withdraws after this call are still left out.
        """
        self._frozen = [_Frozen(tunnel, tuple(tunnel.backends), self._entry(tunnel)) for tunnel in self._registry]

    async def close(self) -> None:
        """Write the held names for the last time. Call it before the sessions are closed."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
            await self._attempt(is_last=True)
        await asyncio.to_thread(self._end_thread)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            is_due = loop.time() >= self._written_at + STAMP_INTERVAL
            if is_due or self._written_changes != self._registry.changes:
                await self._attempt(is_last=False)
            await asyncio.sleep(POLL_INTERVAL)

    async def _attempt(self, *, is_last: bool) -> None:
        """Write the changes; log the error if that fails."""
        try:
            try:
                await self._write(is_last=is_last)
            except DamagedDatabaseError as error:
                self._warn(error)
                self._is_damaged = True
                await self._write(is_last=is_last)
        except ConfigError as error:
            self._warn(error)
        except AnotherWriterError:
            self._warn(f"{self._store.path} is written by another edge with this state directory.")

    async def _write(self, *, is_last: bool) -> None:
        if self._is_damaged:
            # Nothing of value is lost: all names that are held now are written again.
            await self._in_thread(self._store.discard)
            self._is_damaged, self._written_changes = False, -1
        changes, at = self._registry.changes, self._now()
        if is_last or changes != self._written_changes:
            entries = self._entries()
            await self._in_thread(lambda: self._write_entries(entries, at, is_last=is_last))
            is_written = True
        else:
            is_written = await self._in_thread(lambda: self._store.stamp(at))
        self._written_changes = changes if is_written else -1
        self._written_at = asyncio.get_running_loop().time()

    def _entries(self) -> list[SnapshotEntry]:
        if self._frozen is not None:
            return [frozen.entry for frozen in self._frozen if frozen.is_held]
        return [self._entry(tunnel) for tunnel in self._registry]

    def _entry(self, tunnel: Tunnel) -> SnapshotEntry:
        last_connected = 0 if tunnel.backends else round(self._pending.last_connected(tunnel))
        return SnapshotEntry(TunnelRecord.of(tunnel, tunnel.tcp_port), last_connected)

    # The thread of the table.

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _write_entries(self, entries: list[SnapshotEntry], at: float, *, is_last: bool) -> None:
        if not self._store.write(entries, at=at, is_last=is_last):
            self._warn(f"More names are held than {self._store.path} can store.")
        if not self._is_imported:
            self._legacy.remove()
            self._is_imported = True

    def _end_thread(self) -> None:
        self._thread.shutdown()
        self._store.close()

    def _warn(self, what: object) -> None:
        """Log a warning, once."""
        if self._warned != str(what):
            self._warned = str(what)
            logger.warning("%s After a restart, visitors are refused until their clients have reconnected.", what)
