"""The last hour of single tunnels, and the log records of a name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from edge_server.admin.history import MAX_SAMPLES
from edge_server.admin.models import Totals
from edge_server.admin.recent_errors import Record
from edge_server.admin.tunnel_detail import MAX_TUNNELS, TunnelHistory, mentions

if TYPE_CHECKING:
    from tests.harness.manual_clock import ManualClock


def tunnel(name: str, owner: str = "owner", since: float = 0.0) -> Any:
    """Return what the history reads of a registered tunnel."""
    return SimpleNamespace(name=name, owner=owner, since=since, total_visitors=0, past_in=0, past_out=0)


def test_samples_are_differences(clock: ManualClock):
    history, shop, now = TunnelHistory(clock), tunnel("shop"), Totals()
    history.sample([shop], {})
    shop.total_visitors, now.visitors, now.bytes_in, now.bytes_out = 2, 2, 100, 300
    history.sample([shop], {"shop": now})
    shop.past_in, shop.past_out, now.visitors, now.bytes_in, now.bytes_out = 100, 300, 1, 7, 8
    history.sample([shop], {"shop": now})
    found = [(each.visitors, each.came, each.bytes_in, each.bytes_out) for each in history.samples("shop")]
    assert found == [(0, 0, 0, 0), (2, 2, 100, 300), (1, 0, 7, 8)]
    history.sample([tunnel("shop", owner="another")], {})
    assert len(history.samples("shop")) == 1, "the next owner begins anew"
    history.sample([], {})
    assert history.samples("shop") == []


def test_an_hour_is_kept(clock: ManualClock):
    history, shop = TunnelHistory(clock), tunnel("shop")
    for _ in range(MAX_SAMPLES + 5):
        clock.now += 10
        history.sample([shop], {})
    samples = history.samples("shop")
    assert len(samples) == MAX_SAMPLES
    assert samples[-1].at == pytest.approx(clock.now)


def test_tokens_take_turns_when_there_are_many_tunnels(clock: ManualClock):
    history = TunnelHistory(clock)
    many = [tunnel(f"busy{number}", "busy", number) for number in range(2 * MAX_TUNNELS)]
    history.sample(many, {})
    assert len(history) == MAX_TUNNELS
    few = [tunnel(f"quiet{number}", "quiet", 1e6) for number in range(3)]
    history.sample([*many, *few], {})
    assert len(history) == MAX_TUNNELS
    assert all(history.samples(f"quiet{number}") for number in range(3))
    assert len(history.samples("busy0")) == 2, "those that are kept stay"


def test_records_of_a_name_are_whole_words():
    def record(message: str) -> Record:
        return Record(at=0.0, level="warning", logger="edge", message=message)

    assert mentions(record("shop is withdrawn"), "shop")
    assert mentions(record("no client of shop.example.com"), "shop")
    assert not mentions(record("workshop and shop-2 are gone"), "shop")
    assert not mentions(record("s.op"), "s*op")
