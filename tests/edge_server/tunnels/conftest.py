"""The services that the tests of binding ask."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.edge_server.tunnels.bind_rig import build, made

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from edge_server.wiring import EdgeServices


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[EdgeServices]:
    services = build(tmp_path)
    yield services
    for bindings in made:
        await asyncio.sleep(0)  # what has just been given begins to listen
        bindings.release_all(for_good=True)
    made.clear()
    services.pending.give_up_all()
    services.claims.close()
    await asyncio.sleep(0)
