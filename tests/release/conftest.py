"""Fixtures of the tests of what a release consists of."""

import pytest

from tests.harness.wheels import Wheels, built_wheels


@pytest.fixture(scope="session")
def wheels(tmp_path_factory) -> Wheels:
    """The wheels of this tree, built once a run."""
    return built_wheels(tmp_path_factory)
