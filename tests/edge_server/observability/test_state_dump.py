"""The whole state in one file."""

from __future__ import annotations

import asyncio
import json
import stat
from typing import TYPE_CHECKING

import pytest

from edge_server.observability import state_dump
from edge_server.tunnels.visitor_log import VisitorConnection

if TYPE_CHECKING:
    from edge_server.observability.introspection import Introspection


@pytest.fixture
def engine() -> str:
    """Whichever there is."""
    return "auto"


async def written(introspection: Introspection, caplog: pytest.LogCaptureFixture) -> str:
    """Return the line of the log about a dump that was asked for."""
    with caplog.at_level("INFO", "edge_server.observability.state_dump"):
        state_dump.write_dump(introspection)
        async with asyncio.timeout(10):
            while not caplog.messages:  # noqa: ASYNC110 - what is waited for is another thread's doing
                await asyncio.sleep(0.002)
    return caplog.messages[-1]


async def test_dump_is_bounded_and_counts_omissions(introspection: Introspection, caplog):
    for number in range(state_dump.MAX_ENTRIES + 5):
        introspection.visitor_log.begin(
            VisitorConnection("192.0.2.1", number, "tcp", tunnel_name="name", owner="owner")
        )
    path = introspection.config.state_dir / state_dump.FILE_NAME
    assert await written(introspection, caplog) == f"the state of the edge was written to {path}"
    state = json.loads(path.read_text())
    assert state["visitors"]["total"] == state_dump.MAX_ENTRIES + 5
    assert state["visitors"]["left_out"] == 5
    assert len(state["visitors"]["entries"]) == state_dump.MAX_ENTRIES
    assert path.stat().st_size < 1024 * 1024
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    introspection.visitor_log.active.clear()


async def test_the_next_takes_its_place(introspection: Introspection, caplog):
    path = introspection.config.state_dir / state_dump.FILE_NAME
    path.write_text("of before")
    await written(introspection, caplog)
    assert json.loads(path.read_text())["visitors"]["total"] == 0
    assert [entry.name for entry in introspection.config.state_dir.iterdir() if "dump" in entry.name] == [
        state_dump.FILE_NAME
    ]


async def test_unwritable_dump_file_is_reported(introspection: Introspection, caplog):
    (introspection.config.state_dir / state_dump.FILE_NAME).mkdir()
    assert "could not be written: " in await written(introspection, caplog)


def test_before_it_serves_there_is_nothing(caplog):
    state_dump.refuse_dump()
    assert caplog.messages == ["no state was dumped: the edge does not serve yet"]
