"""After which errors a client dials again."""

from __future__ import annotations

import pytest

from quictunnel.connection.edge_identity import EdgeIdentityError
from quictunnel.connection.retry_policy import MAX_UNEXPECTED_ERRORS, RetryPolicy
from quictunnel.errors import AuthError, ConfigError, EdgeUnavailableError
from quictunnel.shared.supervision import Supervisor


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def policy(warnings: list[str]) -> RetryPolicy:
    return RetryPolicy(lambda kind, message: warnings.append(f"{kind}: {message}"), Supervisor())


def test_a_wrong_certificate_ends_the_first_dial_and_no_redial(policy, warnings):
    error = EdgeIdentityError("The certificate was not accepted.")
    assert policy.final_error(error, was_connected=False) is error
    assert warnings == []
    for _ in range(3):
        assert policy.final_error(error, was_connected=True) is None
    assert warnings == [
        "warning: The certificate was not accepted. It was accepted before, so this client dials again by itself."
    ]


@pytest.mark.parametrize("error", [AuthError("no"), ConfigError("wrong version")])
def test_a_refusal_by_the_edge_itself_is_final(policy, error):
    assert policy.final_error(error, was_connected=True) is error


def test_an_edge_that_is_away_is_dialled_again_for_ever(policy):
    for _ in range(100):
        assert policy.final_error(EdgeUnavailableError("away"), was_connected=False) is None


def test_a_fault_of_the_client_is_tried_again_until_it_repeats(policy, caplog):
    fault = RuntimeError("a bug")
    for _ in range(MAX_UNEXPECTED_ERRORS - 1):
        assert policy.final_error(fault, was_connected=True) is None
    policy.reset()
    for _ in range(MAX_UNEXPECTED_ERRORS - 1):
        assert policy.final_error(fault, was_connected=True) is None
    final = policy.final_error(fault, was_connected=True)
    assert "a bug" in str(final)
    assert caplog.text.count("RuntimeError: a bug") == 2 * MAX_UNEXPECTED_ERRORS - 1
