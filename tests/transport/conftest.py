"""Gives this room's tests the simulated network; see ``tests/simnet/fixtures.py``."""

from tests.simnet.fixtures import network, pytest_asyncio_loop_factories, virtual_time

__all__ = ["network", "pytest_asyncio_loop_factories", "virtual_time"]
