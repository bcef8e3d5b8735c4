"""Tests of the connection manager's redial times, on a virtual clock."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from quictunnel.config.client_config import ClientConfig, Secret
from quictunnel.connection.manager import ConnectionManager
from quictunnel.connection.redial_schedule import MIN_STEADY_TIME
from quictunnel.errors import EdgeUnavailableError
from quictunnel.wire.messages import GoAway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.simnet.clock import VirtualLoop

DRAIN = 5.0
"""Seconds for which an edge waits for its visitors."""


class Edge:
    """A Dialler, and what it reaches: an edge that is there or not."""

    engine = ""

    def __init__(self) -> None:
        self.dials: list[float] = []
        """Times of the dials that it answered."""
        self.first: list[bool] = []
        """For each dial, whether it was the first one."""
        self.answered = asyncio.Event()

    async def dial(self, _patience: float, *, is_first: bool) -> Any:
        self.dials.append(asyncio.get_running_loop().time())
        self.first.append(is_first)
        self.answered.set()

        async def close() -> None:
            """Nothing is open."""

        return SimpleNamespace(
            address=("127.0.0.1", 1),
            is_resumed=False,
            is_usable=True,
            session=None,
            unanswered_for=0.0,
            activate=lambda: None,
            grace=None,
            close=close,
        )

    async def dial_in_parallel(self, *_: object) -> None:
        """An edge that leaves refuses."""


@pytest.fixture
async def manager_and_edge(virtual_time: VirtualLoop) -> AsyncIterator[tuple[ConnectionManager, Edge]]:
    config = ClientConfig(edge="127.0.0.1:1", token=Secret("t" * 16))
    manager, edge = ConnectionManager(config, lambda *_: None), Edge()
    manager._dialer = edge  # type: ignore[assignment]
    manager._schedule.random = SimpleNamespace(uniform=lambda _, most: most)  # type: ignore[assignment]  # the worst of luck
    task = asyncio.create_task(manager._keep_connected())
    yield manager, edge
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def restart(manager: ConnectionManager, edge: Edge, lasted: float) -> float:
    """Of an edge that waits for its visitors before it ends; the seconds until its client dials the next."""
    await edge.answered.wait()
    edge.answered.clear()
    await asyncio.sleep(lasted)
    connection = manager._connection
    assert connection is not None
    manager.connection_message(connection, GoAway(30))
    await asyncio.sleep(DRAIN)
    ended = asyncio.get_running_loop().time()
    manager.connection_ended(connection, EdgeUnavailableError("it is gone"))
    await edge.answered.wait()
    return edge.dials[-1] - ended


async def test_an_edge_that_took_its_time_to_leave_is_followed_at_once(
    manager_and_edge: tuple[ConnectionManager, Edge],
) -> None:
    """The dials while it did say nothing about the one that is started next."""
    assert await restart(*manager_and_edge, lasted=MIN_STEADY_TIME) == pytest.approx(
        manager_and_edge[0]._schedule._backoff.first
    )


async def test_repeated_restarts_do_not_shorten_the_backoff(
    manager_and_edge: tuple[ConnectionManager, Edge],
) -> None:
    pauses = [await restart(*manager_and_edge, lasted=MIN_STEADY_TIME / 4) for _ in range(3)]
    assert pauses == pytest.approx([6.4, 15.0, 15.0])


async def test_a_client_that_was_connected_does_not_probe_a_closed_port(
    manager_and_edge: tuple[ConnectionManager, Edge],
) -> None:
    """An edge that restarts has its port closed for a moment; only a first dial ends then."""
    await restart(*manager_and_edge, lasted=MIN_STEADY_TIME)
    assert manager_and_edge[1].first == [True, False]
