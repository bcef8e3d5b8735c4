"""The pytest face of the lab. Another room's conftest imports it: ``from tests.netlab.fixture import netlab``."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Protocol, Unpack

import pytest

from tests.netlab.lab import Lab, missing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.netlab.link import Settings

_missing_once = functools.cache(missing)  # the answer does not change within a run


class StartLab(Protocol):
    """Function that the fixture gives: starts a lab with the given settings, as often as it is called."""

    def __call__(self, *, nat: bool = False, **settings: Unpack[Settings]) -> Lab:
        """Start a lab; it ends with the test."""
        ...


@pytest.fixture
def netlab() -> Iterator[StartLab]:
    """Start labs that end with the test, or skip and say what this machine lacks."""
    if lack := _missing_once():
        pytest.skip(f"netlab: {lack}")
    with contextlib.ExitStack() as stack:

        def start(*, nat: bool = False, **settings: Unpack[Settings]) -> Lab:
            return stack.enter_context(Lab(nat=nat, **settings))

        yield start
