"""Rates between two measurements, and the order of certificates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_server.admin.models import RateMeter, _urgency
from edge_server.admin.state_types import Certificate

if TYPE_CHECKING:
    from tests.harness.manual_clock import ManualClock


def test_a_rate_is_what_was_carried_by_the_time_that_passed(clock: ManualClock):
    meter = RateMeter(clock)
    clock.now += 2
    meter.measure(lambda: {"a": (200, 0), "b": (0, 1000)})
    assert (meter.rate("a"), meter.rate("b"), meter.rate("c")) == ((100, 0), (0, 500), (0, 0))
    clock.now += 0.5
    meter.measure(lambda: {"a": (10_000, 0)})
    assert meter.rate("a") == (100, 0), "too soon for another"
    clock.now += 0.5
    meter.measure(lambda: {"a": (300, 5)})
    assert meter.rate("a") == (100, 5)
    assert meter.rate("b") == (0, 0), "what is not held any more is forgotten"
    clock.now += 1
    meter.measure(lambda: {"a": (0, 0)})
    assert meter.rate("a") == (0, 0), "a tunnel that began anew"


def test_certificates_that_failed_or_expire_come_first():
    def certificate(name: str, expires_at: float | None, last_error: str = "") -> Certificate:
        return Certificate(names=[name], by_acme=True, expires_at=expires_at, last_error=last_error)

    certificates = [
        certificate("later", 300),
        certificate("soon", 100),
        certificate("failed", 400, "no answer"),
        certificate("ordered", None),
        certificate("missing", None, "no answer"),
    ]
    ordered = [certificate.names[0] for certificate in sorted(certificates, key=_urgency)]
    assert ordered == ["missing", "failed", "ordered", "soon", "later"]
