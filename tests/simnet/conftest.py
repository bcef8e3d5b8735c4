"""Gives this room's tests the fixtures that every other room may import as well."""

from tests.simnet.fixtures import network, pytest_asyncio_loop_factories, virtual_time

__all__ = ["network", "pytest_asyncio_loop_factories", "virtual_time"]
