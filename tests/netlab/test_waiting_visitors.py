"""Visitors who come, and some who leave, while the client is out of reach: nothing is measured, so others may run
beside it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.load.churn import waited
from tests.load.plan import WAITING_RATE
from tests.netlab.rig import Keystrokes, Tunnelled
from tests.netlab.test_outages import IDLE_TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.netlab.fixture import StartLab

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("pairing_in_force")]


@pytest.mark.early
@pytest.mark.timeout(180)
def test_visitors_wait_for_a_client_that_is_away(netlab: StartLab, tmp_path: Path) -> None:
    lab = netlab(delay_ms=25, rate_mbit=100)
    with Tunnelled(lab, tmp_path, patience=100) as tunnel, tunnel.churn(patience=100, rate=WAITING_RATE) as churn:
        with lab.blackout():
            time.sleep(IDLE_TIMEOUT + 8)  # until both sides have noticed; the client dials in vain
            early = tunnel.visit()
            time.sleep(1)  # waits already
        with early, tunnel.visit() as late:
            assert Keystrokes(early).run(3)
            assert Keystrokes(late).run(3)
        churn.finish(waited)
    assert tunnel.resumed
    assert any(event.get("state") == "away" for event in tunnel.events)
