"""Ready or not, and why."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from edge_server.certificates.context_store import validity_of
from edge_server.observability import metrics
from edge_server.observability.health import CACHE_TIME, Health, probe_error
from quictunnel.shared import supervision

if TYPE_CHECKING:
    from edge_server.observability import health
    from edge_server.observability.introspection import Introspection
    from edge_server.server import RunningEdge
    from quictunnel.transport.engine import Address

NOBODY = "127.0.0.1", 9


async def responding(_: Address) -> str:
    return ""


def failed_checks(readiness: health.Readiness) -> dict[str, str]:
    return {check.name: check.why for check in readiness.checks if not check.ok}


async def test_an_edge_that_serves_is_ready(introspection: Introspection):
    """The QUIC socket answers on either engine."""
    readiness = await Health(introspection).readiness()
    assert readiness.ready
    assert [check.name for check in readiness.checks] == ["serving", "certificate", "background", "udp"]
    assert introspection.endpoint.engine.counters.version_negotiations_sent == 1


async def test_draining_edge_is_not_ready_at_once(edge: RunningEdge, introspection: Introspection):
    ours = Health(introspection)
    assert (await ours.readiness()).ready
    await edge.drain()
    readiness = await ours.readiness()
    assert not readiness.ready
    assert failed_checks(readiness) == {"serving": "the edge is draining and accepts no new connections"}


async def test_expired_and_future_certificates_are_reported(introspection: Introspection):
    ends = validity_of(introspection.identity.read_bytes())
    for clock, word in ((ends.until, "expired at"), (ends.since - 1, "check the clock")):
        readiness = await Health(introspection, clock=lambda now=clock: now, probe=responding).readiness()
        assert word in failed_checks(readiness)["certificate"]


async def test_failed_background_work_is_reported_until_it_recovers(introspection: Introspection, monkeypatch):
    """By /readyz, by the figures, and by the log."""
    monkeypatch.setattr(supervision, "RESTART_PAUSE", 0.0)
    monkeypatch.setattr(supervision, "RECOVERY_TIME", 0.05)
    supervisor, failed, goes_on = introspection.supervisor, asyncio.Event(), asyncio.Event()

    async def work() -> None:
        if failed.is_set():
            await goes_on.wait()
            return
        failed.set()
        raise ValueError("a fault of ours")

    task = supervisor.keep_running(work, "counting sheep")
    await failed.wait()
    await asyncio.sleep(0)
    readiness = await Health(introspection, probe=responding).readiness()
    assert failed_checks(readiness) == {"background": "counting sheep fails: ValueError('a fault of ours')"}
    assert dict(metrics.read_metrics(introspection))["background_faults_total"] == {(): 1}
    while supervisor.failing:  # noqa: ASYNC110 - there is no event of a timer
        await asyncio.sleep(0.01)
    assert (await Health(introspection, probe=responding).readiness()).ready
    goes_on.set()
    await task


async def test_missing_tunnel_certificate_is_reported(introspection: Introspection, monkeypatch):
    monkeypatch.setattr(type(introspection.certificates.contexts), "validities", lambda _: [])
    readiness = await Health(introspection, probe=responding).readiness()
    assert failed_checks(readiness) == {"certificate": "there is no certificate for *.tunnel.localhost yet"}


async def test_unreadable_certificate_is_reported(introspection: Introspection):
    introspection.identity.unlink()
    readiness = await Health(introspection, probe=responding).readiness()
    assert "cannot be read" in failed_checks(readiness)["certificate"]


async def test_silent_quic_socket_is_reported(edge: RunningEdge, introspection: Introspection):
    """No event loop reads the socket any more."""
    introspection.udp.detach()
    begun = time.monotonic()
    readiness = await Health(introspection).readiness()
    assert failed_checks(readiness)["udp"].startswith("no response from UDP 127.0.0.1 port ")
    assert time.monotonic() - begun < 3


async def test_many_who_ask_cost_one_look(introspection: Introspection, monkeypatch):
    asked = []

    async def probe(_: Address) -> str:
        asked.append(1)
        await asyncio.sleep(0)
        return ""

    ours = Health(introspection, probe=probe)
    answers = await asyncio.gather(*(ours.readiness() for _ in range(100)))
    assert len(asked) == 1
    assert all(answer.ready for answer in answers)
    ours._cached_until -= CACHE_TIME
    await ours.readiness()
    assert len(asked) == 2


async def test_alive_says_since_when_and_how_late_the_loop_is(introspection: Introspection):
    life = Health(introspection, clock=lambda: introspection.started_at + 5).liveness()
    assert (life.alive, life.uptime_seconds) == (True, 5.0)
    assert 0 <= life.loop_lag_seconds < 10


async def test_probe_of_a_closed_port_says_so():
    assert "127.0.0.1 port 9" in await probe_error(NOBODY)
