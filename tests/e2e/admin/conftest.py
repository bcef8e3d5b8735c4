"""Fixtures of the tests of the operator's API: an edge with traffic, and its operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.harness.admin_client import OperatedStage, Operator
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def shared(engines) -> Iterator[OperatedStage]:
    with OperatedStage() as stage:
        yield stage


@pytest.fixture
def stage(shared: OperatedStage) -> Iterator[OperatedStage]:
    yield shared
    shared.close_ends()
    eventually(lambda: shared.edge.server.visitors == 0, "visitors were left")


@pytest.fixture
def operator(stage: OperatedStage) -> Operator:
    return stage.operator
