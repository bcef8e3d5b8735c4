"""Names that an edge keeps for their clients when it is started again, and for how long."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from edge_server.handoff.snapshot import RETURN_TIMEOUT
from edge_server.handoff.snapshot_store import MAX_AGE
from edge_server.tunnels.options import TunnelOptions
from edge_server.tunnels.tunnel_record import TunnelRecord
from quictunnel.wire.codes import BindCode
from tests.edge_server.handoff.snapshot_rig import RANDOM

if TYPE_CHECKING:
    from tests.edge_server.handoff.snapshot_rig import EdgeRuns


async def test_name_options_and_port_are_kept_for_their_owner_alone(runs: EdgeRuns) -> None:
    owner, other = runs.owner(), runs.owner()
    edge = await runs.begin()
    client = edge.client(owner)
    given = client.got(1, unencrypted=True, allow=["127.0.0.0/8"])
    client.got(2, name="shop", unencrypted=True, tcp_port=17_042)
    client.got(3, name="plain", passthrough=True)
    before = edge.held()
    await edge.write(is_last=True)
    edge = await runs.begin()
    assert edge.held() == before
    tunnel = edge.services.registry.find(given.host.partition(".")[0])
    assert tunnel is not None
    assert (tunnel.backends, tunnel.options.allow, tunnel.owner) == ([], ["127.0.0.0/8"], owner.key)
    other_owner = edge.client(other)
    assert other_owner.ask(1, name="shop") is BindCode.NAME_TAKEN
    assert other_owner.ask(2, unencrypted=True, tcp_port=17_042) is BindCode.PORT_TAKEN
    assert other_owner.got(3, ticket=given.ticket, unencrypted=True).host != given.host
    again = edge.client(owner).got(1, ticket=given.ticket, unencrypted=True)
    assert (again.host, again.unencrypted_port) == (given.host, given.unencrypted_port)


async def test_a_name_is_kept_for_a_short_time(runs: EdgeRuns) -> None:
    edge = await runs.begin()
    edge.client(runs.owner()).got()
    await edge.write()
    edge = await runs.begin()
    (wait,) = edge.services.pending._waits.values()
    assert 0 <= asyncio.get_running_loop().time() + RETURN_TIMEOUT - wait.end.when() < 1


@pytest.mark.parametrize(("away", "is_kept"), [(MAX_AGE, True), (MAX_AGE + 1, False), (-MAX_AGE - 1, False)])
async def test_a_name_of_long_ago_is_not_kept(runs: EdgeRuns, away: float, is_kept: bool) -> None:
    edge = await runs.begin()
    edge.client(runs.owner()).got()
    await edge.write(is_last=True)
    runs.clock.now += away
    assert bool((await runs.begin()).held()) is is_kept


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
async def test_next_run_uses_a_clock_that_was_set(runs: EdgeRuns, jump: float) -> None:
    edge = await runs.begin()
    edge.client(runs.owner()).got()
    await edge.write()
    runs.clock.now += jump
    await edge.write()  # as it does each ten seconds
    assert (await runs.begin()).held()


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
async def test_time_of_a_client_does_not_depend_on_a_set_clock(
    runs: EdgeRuns, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    edge = await runs.begin()
    began = time.time()
    await edge.services.pending.add(
        TunnelRecord(RANDOM, "a", 1, TunnelOptions(), 0), None, last_connected=began - 20
    )
    (lease,) = edge.services.registry
    monkeypatch.setattr("edge_server.tunnels.pending.time.time", lambda: began + jump)
    assert edge.services.pending.last_connected(lease) == pytest.approx(began + jump - 20, abs=5)


async def test_restarts_in_a_row_do_not_keep_a_name_for_ever(runs: EdgeRuns) -> None:
    edge = await runs.begin()
    edge.client(runs.owner()).got()
    await edge.write(is_last=True)
    for _ in range(3):
        runs.clock.now += MAX_AGE / 3
        edge = await runs.begin()
        assert edge.held()
        edge.snapshot.freeze()
        await edge.write(is_last=True)
    runs.clock.now += 1
    assert not (await runs.begin()).held()
