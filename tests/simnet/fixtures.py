"""Fixtures for a folder's ``conftest.py``, to test on the simulated network::

    from tests.simnet.fixtures import network, pytest_asyncio_loop_factories, virtual_time

A test that asks for ``network`` or ``virtual_time`` runs on a :class:`VirtualLoop`; the others run as ever.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.simnet.clock import VirtualLoop
from tests.simnet.socket import Network

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping


def pytest_asyncio_loop_factories(item: pytest.Function) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if {"network", "virtual_time"} & set(item.fixturenames):
        return {"virtual": VirtualLoop}
    return {"real": asyncio.new_event_loop}


@pytest.fixture
async def virtual_time() -> VirtualLoop:
    """The loop of a test in virtual time."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


@pytest.fixture
async def network(request: pytest.FixtureRequest, virtual_time: VirtualLoop) -> AsyncIterator[Network]:
    """A network that must be empty again when the test ends: all sockets closed, no task left. Its chance comes
    from ``seed``, where the test asks for one (see ``--seeds``)."""
    seed = request.getfixturevalue("seed") if "seed" in request.fixturenames else 1
    made = Network(virtual_time, seed)
    yield made
    made.close()
    left = [socket.local_address for socket in made.sockets]
    assert not left, f"sockets left open: {left}"
