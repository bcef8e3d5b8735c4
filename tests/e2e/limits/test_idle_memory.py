"""Tests of the memory of an idle visitor: resident memory of edge and client, each a process of its own."""

from __future__ import annotations

import pytest

from tests.harness.load_rig import LoadRig

pytestmark = pytest.mark.alone

KIB = 1024
COUNT = 2000

# Kibibytes that an idle visitor may cost.
EDGE_TLS, EDGE_TCP, CLIENT = 40, 8, 6


@pytest.mark.parametrize(("tls", "edge_allowed"), [(False, EDGE_TCP), (True, EDGE_TLS)], ids=["tcp", "tls"])
def test_an_idle_visitor_is_cheap(tmp_path, tls, edge_allowed):
    """Visitors who have asked for something, were answered, and stay."""
    with LoadRig(tmp_path) as rig:
        rig.do_checked("idle", count=100, tls=tls)  # what is allocated once
        before = rig.memory()
        rig.do_checked("idle", count=COUNT, tls=tls)
        cost = {k: (v - before[k]) / COUNT / KIB for k, v in rig.memory().items()}
        print({k: f"{v:.1f} KiB" for k, v in cost.items()})
        assert cost["edge"] <= edge_allowed, cost
        assert cost["client"] <= CLIENT, cost
