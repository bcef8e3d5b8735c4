"""Gives this room's tests a clock in their own hand."""

from tests.simnet.fixtures import pytest_asyncio_loop_factories, virtual_time

__all__ = ["pytest_asyncio_loop_factories", "virtual_time"]
