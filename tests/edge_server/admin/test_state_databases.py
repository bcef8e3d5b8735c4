"""The thread of the databases for the operator's page."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from edge_server.admin.state_databases import StateDatabases
from edge_server.auth.permissions import Permissions
from edge_server.auth.token_store import TokenStore

if TYPE_CHECKING:
    from pathlib import Path


async def test_what_was_requested_is_done_before_the_databases_close(tmp_path: Path):
    databases = StateDatabases(tmp_path)
    may_go = threading.Event()
    blocked = asyncio.create_task(databases.run(may_go.wait))
    creating = asyncio.create_task(databases.run(databases.tokens.create, Permissions(), "Ada", 1))
    await asyncio.sleep(0)
    creating.cancel()  # its connection ends; the change is made all the same
    with pytest.raises(asyncio.CancelledError):
        await creating
    databases.close()
    databases.close()
    may_go.set()
    await databases.wait_closed()
    assert await blocked
    assert databases.tokens._database._connection is None
    assert [entry.note for entry in TokenStore(tmp_path).entries()] == ["Ada"]
    with pytest.raises(RuntimeError):
        await databases.run(databases.tokens.entries)


async def test_edges_own_connection_notices_a_change(tmp_path: Path):
    of_the_edge = TokenStore(tmp_path)
    of_the_edge.create(Permissions(), "first", 1)
    before = of_the_edge.changes()
    databases = StateDatabases(tmp_path)
    _, entry = await databases.run(databases.tokens.create, Permissions(), "second", 2)
    assert of_the_edge.changes() != before
    assert of_the_edge.entries()[-1].key == entry.key
    of_the_edge.close()
    await databases.wait_closed()
