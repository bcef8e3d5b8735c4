"""Fixtures of the tests of the operator's API: an edge with traffic, and its operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.harness.admin_client import AdminClient, AdminTunnel
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def shared_rig(engines) -> Iterator[AdminTunnel]:
    with AdminTunnel() as rig:
        yield rig


@pytest.fixture
def rig(shared_rig: AdminTunnel) -> Iterator[AdminTunnel]:
    yield shared_rig
    shared_rig.close_ends()
    eventually(lambda: shared_rig.edge.server.visitors == 0, "visitors were left")


@pytest.fixture
def operator(rig: AdminTunnel) -> AdminClient:
    return rig.operator
