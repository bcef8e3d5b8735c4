"""Tests of what may happen to a certificate manager while it works: revocation, stop and cancellation."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from edge_server.certificates.acme.errors import AcmeError
from edge_server.certificates.acme.quota import MAX_ORDERS, ORDER_PERIOD
from tests.edge_server.certificates.acme.fake_certificates import issue
from tests.edge_server.certificates.acme.renewal_rig import DAY, RenewalRig

if TYPE_CHECKING:
    from tests.harness.manual_clock import ManualClock


async def test_token_that_is_revoked_while_its_order_runs(rig: RenewalRig, clock: ManualClock):
    """The certificate is used until it expires, and is not renewed; without one the name is forgotten."""
    for name in ("a.example.com", "b.example.com"):
        rig.want(name)
    rig.manager._start_due()
    rig.wanted.clear()
    rig.manager._start_due()
    assert rig.manager.status("a.example.com") is not None, "an order in progress is not forgotten"
    rig.fulfil("a.example.com")
    rig.fulfil("b.example.com", AcmeError("no"))
    assert rig.due() == []
    assert rig.certificates.covers("a.example.com", h2=False)
    assert rig.manager.status("b.example.com") is None
    assert set(rig.manager._quota.state.names) == {"a.example.com", "b.example.com"}, "both were ordered"
    clock.now += 91 * DAY
    assert rig.due() == []
    assert rig.manager.statuses == []


async def test_two_names_due_at_once_share_the_last_place_of_the_quota(rig: RenewalRig, clock: ManualClock):
    for _ in range(MAX_ORDERS - 1):
        rig.manager._quota.begin("x.example.org", "x", is_new=False, now=clock.now)
    for name in ("a.example.com", "b.example.com"):
        rig.want(name, owner=name)
    rig.manager._start_due()
    assert list(rig.worker.orders) == ["a.example.com"]
    clock.now += ORDER_PERIOD
    rig.manager._start_due()
    assert list(rig.worker.orders) == ["a.example.com", "b.example.com"]


async def test_start_that_a_stop_overtakes_orders_nothing(rig: RenewalRig):
    rig.want("a.example.com")
    starting = asyncio.create_task(rig.manager.start())
    await asyncio.sleep(0)
    rig.manager.stop_orders()
    await starting
    await asyncio.sleep(0)
    assert rig.worker.orders == {}
    await rig.manager.close()


@pytest.mark.parametrize("method", ["load", "start", "close"])
async def test_cancelled_step_leaves_a_manager_that_can_be_closed(rig: RenewalRig, method: str):
    rig.store.save(issue("a.example.com", now=rig.clock.now))
    if method == "close":
        await rig.manager.start()
    step = asyncio.create_task(getattr(rig.manager, method)())
    await asyncio.sleep(0)
    step.cancel()
    await asyncio.wait([step])
    assert rig.manager.statuses == []
    await rig.manager.close()
    assert rig.worker.is_stopping


async def test_result_after_the_stop_is_still_used(rig: RenewalRig):
    """The edge serves its visitors until they have left."""
    rig.want("a.example.com")
    rig.manager._start_due()
    rig.manager.stop_orders()
    rig.fulfil("a.example.com")
    assert rig.certificates.covers("a.example.com", h2=False)
