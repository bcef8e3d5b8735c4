"""Fixtures: an edge with a well-behaved client, and a client that breaks the protocol."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from tests.harness.hostile_peer import HostileClient
from tests.harness.tunnel_fixture import EmbeddedTunnel, no_leftovers
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def shared_rig(engines):
    with EmbeddedTunnel() as made:
        yield made


@pytest.fixture
def rig(shared_rig: EmbeddedTunnel, caplog: pytest.LogCaptureFixture) -> Iterator[EmbeddedTunnel]:
    """An edge with a good client on it, which is as good afterwards: the same session, still serving; and an
    edge's log without a traceback or a long line."""
    session = shared_rig.client_session
    caplog.set_level(logging.INFO)
    with no_leftovers(shared_rig):
        yield shared_rig
        eventually(lambda: shared_rig.edge.server.client_count == 1, "a hostile client is still there")
        assert shared_rig.client_session is session
        for kind in ("tcp", "tls"):
            shared_rig.pair(kind)
    assert shared_rig.edge.server.introspection.endpoint.faults == 0
    for record in caplog.records:
        assert not record.exc_info, record
        assert len(record.getMessage()) < 500
        assert record.levelno < logging.ERROR, record


@pytest.fixture
def hostile(rig: EmbeddedTunnel) -> HostileClient:
    """To be entered by the test, on its own loop."""

    class Maker:
        async def __aenter__(self) -> HostileClient:
            self.client = HostileClient(rig.edge.client_config)
            return await self.client.__aenter__()

        async def __aexit__(self, *error: object) -> None:
            await self.client.__aexit__(*error)

    return Maker()  # type: ignore[return-value]
