"""Runs of one edge, one after the other, in one state directory: what each writes, and what the next one keeps."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import TYPE_CHECKING, Any

from edge_server.auth.permissions import Identity, Permissions
from edge_server.auth.token_registry import TokenRegistry
from edge_server.auth.token_store import TokenStore
from edge_server.handoff.snapshot_entry import SnapshotEntry
from edge_server.handoff.snapshot_store import FILE, SnapshotStore
from tests.edge_server.tunnels.bind_rig import Client, build

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest

    from edge_server.tunnels.tunnel_record import TunnelRecord
    from tests.harness.manual_clock import ManualClock

KEY = bytes(range(32))
DOMAIN = "example.com"
RANDOM = "abcdefghijklmno2"


class EdgeRun:
    """Run of an edge."""

    def __init__(self, directory: Path, clock: ManualClock) -> None:
        self.services = dataclasses.replace(build(directory), tokens=TokenRegistry("", TokenStore(directory)))
        self.snapshot = self.services.make_snapshot(directory, KEY, clock)
        self.clients: list[Client] = []

    def client(self, identity: Identity) -> Client:
        self.clients.append(Client(self.services, identity))
        return self.clients[-1]

    async def write(self, *, is_last: bool = False) -> None:
        """Write the table, as the edge does all the time and at its stop."""
        await self.snapshot._write(is_last=is_last)

    async def end(self) -> None:
        """End the run without a last write."""
        await asyncio.sleep(0)  # what has just been given begins to listen
        for client in self.clients:
            client.bindings.release_all(for_good=False)
        self.services.pending.give_up_all()
        await self.snapshot.close()
        await self.services.close()
        await asyncio.sleep(0)

    def held(self) -> dict[str, int]:
        """Return the names that are held, with their ports."""
        return {lease.name: lease.tcp_port for lease in self.services.registry}


class EdgeRuns:
    """Runs of one edge, one after the other."""

    def __init__(self, directory: Path, clock: ManualClock) -> None:
        self.directory = directory
        self.clock = clock
        self.path = directory / FILE
        self._running: list[EdgeRun] = []

    async def begin(self) -> EdgeRun:
        """Start the edge, after the run before has ended."""
        await self.end()
        edge = EdgeRun(self.directory, self.clock)
        self._running.append(edge)
        await edge.snapshot.restore()
        return edge

    async def end(self) -> None:
        for edge in self._running:
            await edge.end()
        self._running.clear()

    def owner(self, **rights: Any) -> Identity:
        _, entry = TokenStore(self.directory).create(Permissions(**rights), "", 0)
        return entry.identity

    def store(self) -> SnapshotStore:
        return SnapshotStore(self.directory, KEY, DOMAIN)

    def forge(self, *records: TunnelRecord, is_last: bool = True) -> None:
        """Write these records, as somebody who has the key could."""
        store = self.store()
        store.write((SnapshotEntry(record, 0) for record in records), at=self.clock.now, is_last=is_last)
        store.close()

    def written(self) -> dict[str, SnapshotEntry]:
        """Return the entries in the table by name."""
        store = self.store()
        snapshot = store.read()
        store.close()
        return {} if snapshot is None else {entry.record.name: entry for entry in snapshot.entries}


def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[str]:
    """Yield the warnings of a test."""
    return (record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)
