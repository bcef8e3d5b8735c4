"""The simulated network and pairs of sessions on it."""

import pytest

from tests.simnet.fixtures import network, pytest_asyncio_loop_factories, virtual_time
from tests.transport.engine_pairings import engines
from tests.transport.sessions.session_pair import WAN, SessionPair, StartPair, start_pair

__all__ = ["engines", "network", "pytest_asyncio_loop_factories", "start_pair", "virtual_time"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(1, metafunc.config.getoption("seeds") + 1))


@pytest.fixture
async def pair(start_pair: StartPair) -> SessionPair:
    """A session over a wide-area network, whose ends have greeted each other."""
    pair = start_pair(both=WAN.copy())
    await pair.greet()
    return pair
