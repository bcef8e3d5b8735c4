"""Tests of the request limit of an identity."""

from __future__ import annotations

import pytest

from edge_server.auth import request_limit
from edge_server.auth.request_limit import REQUEST_BURST, REQUEST_RATE, request_cost, request_limiter
from quictunnel.wire.messages import Bind, Unbind
from tests.harness.manual_clock import ManualClock


def test_a_burst_and_then_the_rate():
    clock = ManualClock()
    made = request_limiter(clock)
    assert sum(made.try_take("a") for _ in range(5000)) == pytest.approx(REQUEST_BURST, abs=1)
    assert made.try_take("b")
    allowed = 0
    for _ in range(5000):
        clock.now += 0.001
        allowed += made.try_take("a")
    assert allowed == pytest.approx(5 * REQUEST_RATE, abs=2)
    clock.now += REQUEST_BURST / REQUEST_RATE
    assert sum(made.try_take("a") for _ in range(5000)) == pytest.approx(REQUEST_BURST, abs=1)


NETWORKS = [f"2001:db8:{number:x}::/48" for number in range(64)]


@pytest.mark.parametrize(
    ("request_", "work"),
    [
        (Unbind(1), 1.0),
        (Bind(1, False, False, b""), 1.0),
        (Bind(1, False, False, b"", allow=NETWORKS, deny=NETWORKS), 3.0),
        (Bind(1, True, False, b""), 2.0),
        (Bind(1, False, False, b"", domain="app.example.org"), 5.0),
    ],
)
def test_a_request_counts_by_its_work(request_: Bind | Unbind, work: float):
    assert request_cost(request_) == work
    made = request_limiter(ManualClock())
    assert sum(made.try_take("a", work) for _ in range(5000)) == pytest.approx(REQUEST_BURST / work, abs=1)


def test_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(request_limit, "MAX_TRACKED", 3)
    made = request_limiter(ManualClock())
    for name in "abcdef":
        assert made.try_take(name)
    assert len(made._full_at) == 3
