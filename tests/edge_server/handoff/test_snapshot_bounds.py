"""Bounds of the table of held names, and how tokens share its room."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from edge_server.handoff import snapshot_store
from edge_server.handoff.snapshot_entry import SnapshotEntry
from edge_server.handoff.snapshot_store import MAX_BYTES, MAX_WEIGHT, select_fairly
from edge_server.tunnels.options import TunnelOptions
from edge_server.tunnels.registry import weight_of
from edge_server.tunnels.tunnel import Tunnel
from edge_server.tunnels.tunnel_record import TunnelRecord
from quictunnel.wire.messages import CLIENT_ID_SIZE, MAX_HOST, MAX_NETWORKS
from tests.edge_server.handoff.snapshot_rig import warnings
from tests.edge_server.tunnels.bind_rig import new_backend

if TYPE_CHECKING:
    from edge_server.wiring import EdgeServices
    from tests.edge_server.handoff.snapshot_rig import EdgeRuns

NETWORKS = [f"2001:db8:1234:5678:9abc:def0:1234:{number:x}/128" for number in range(0x1000, 0x1000 + MAX_NETWORKS)]


def hold(services: EdgeServices, owner: str, names: list[str], terms: TunnelOptions) -> None:
    """Let an owner hold names, whatever its share."""
    for name in names:
        more: Any = {"admission": services.admission, "visitor_log": services.visitor_log, "options": terms}
        tunnel = Tunnel(name, owner=owner, **more)
        new_backend(tunnel)
        services.registry.add(tunnel)


def entries(owner: str, count: int, networks: int = 0) -> list[SnapshotEntry]:
    terms = TunnelOptions(allow=NETWORKS[:networks])
    return [SnapshotEntry(TunnelRecord(f"{owner}-{number}", owner, 1, terms, 0), 0) for number in range(count)]


async def test_names_with_many_networks_evict_no_other_tokens(
    runs: EdgeRuns, caplog: pytest.LogCaptureFixture
) -> None:
    """Names that the registry grants one token leave room for the names of others."""
    greedy, modest = runs.owner(), runs.owner()
    edge = await runs.begin()
    terms = TunnelOptions(allow=NETWORKS, deny=NETWORKS)
    granted = edge.services.registry.shares.max_for(greedy.key) // weight_of(terms)
    assert granted > 700
    hold(edge.services, greedy.key, [f"greedy-{number}" for number in range(granted)], terms)
    names = [f"modest-{number}" for number in range(10)]
    hold(edge.services, modest.key, names, TunnelOptions())
    for name in edge.held():
        edge.services.claims.claim(greedy.key if name.startswith("greedy") else modest.key, name)
    await edge.write(is_last=True)
    held = set((await runs.begin()).held())
    assert held >= set(names)
    assert len(held) == granted + len(names)
    assert not list(warnings(caplog))


async def test_more_names_than_there_is_room_for(runs: EdgeRuns, caplog: pytest.LogCaptureFixture) -> None:
    edge = await runs.begin()
    hold(edge.services, "a", [f"name-{number}" for number in range(MAX_WEIGHT + 1)], TunnelOptions())
    hold(edge.services, "b", ["other"], TunnelOptions())
    for is_last in (False, True):
        await edge.write(is_last=is_last)
    (warning,) = warnings(caplog)
    assert warning.startswith(f"More names are held than {runs.path} can store. After a restart, visitors")
    written = runs.written()
    assert len(written) == MAX_WEIGHT
    assert "other" in written


def test_the_longest_names_fit_into_the_bytes() -> None:
    """A lease counts once more for each 16 networks, so this is the most that a unit of weight takes."""
    terms = TunnelOptions(allow=["2001:db8:1234:5678:9abc:def0:1234:ffff/128"] * 15)
    assert weight_of(terms) == 1
    record = TunnelRecord(
        "x" * MAX_HOST, "o" * 64, 1 << 31, terms, 65_535, bytes(CLIENT_ID_SIZE), is_first_bind=True
    )
    row = 16 + snapshot_store.NONCE + 16 + len(msgspec.msgpack.encode(SnapshotEntry(record, 1 << 31)))
    assert row * MAX_WEIGHT <= MAX_BYTES


def count(selected: list[SnapshotEntry]) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in selected:
        found[each.record.owner] = found.get(each.record.owner, 0) + 1
    return found


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"a": (5, 0), "b": (5, 0)}, {"a": 5, "b": 5}),
        ({"a": (20, 0)}, {"a": 10}),
        ({"a": (20, 0), "b": (20, 0)}, {"a": 5, "b": 5}),
        ({"a": (20, 0), "b": (2, 0), "c": (20, 0)}, {"a": 4, "b": 2, "c": 4}),
        ({"a": (4, 64), "b": (5, 0)}, {"a": 1, "b": 5}),
        ({"a": (3, 64), "b": (20, 0)}, {"a": 1, "b": 5}),
        ({"a": (1, 64), "b": (20, 0), "c": (20, 0)}, {"b": 5, "c": 5}),
    ],
)
def test_owners_share_the_room(given: dict[str, tuple[int, int]], expected: dict[str, int]) -> None:
    """64 networks count as four names more."""
    everything = [each for owner, (number, networks) in given.items() for each in entries(owner, number, networks)]
    selected = select_fairly(everything, 10)
    assert count(selected) == expected
    assert select_fairly(everything, 10) == selected
    for owner in expected:
        mine = [each for each in selected if each.record.owner == owner]
        assert mine == entries(owner, *given[owner])[: len(mine)]
