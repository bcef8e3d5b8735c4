"""Gives this room's tests the fixture that every other room may import as well."""

from tests.netlab.fixture import netlab

__all__ = ["netlab"]
