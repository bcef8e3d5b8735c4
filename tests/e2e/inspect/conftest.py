"""A web application, and a tunnel to it with an inspector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.harness.inspected_tunnel import InspectedTunnel, Origin, inspect_tunnel, running_origin

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with running_origin() as origin:
        yield origin


@pytest.fixture
def inspected(edge, client, origin: Origin) -> Iterator[InspectedTunnel]:
    with inspect_tunnel(edge, client, origin) as inspected:
        yield inspected
