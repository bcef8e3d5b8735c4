"""Summaries of requests through a real tunnel, with the inspector and without it."""

from __future__ import annotations

import pytest

import quictunnel
from tests.harness.inspected_tunnel import InspectedTunnel, Origin
from tests.harness.programs import free_port
from tests.harness.waiting import eventually


@pytest.mark.parametrize("inspect", [False, True])
def test_requests_are_summarised_beside_the_inspector(edge, client, origin: Origin, *, inspect: bool) -> None:
    queue = quictunnel.RequestQueue()
    with quictunnel.forward(origin.port, client=client, inspect=inspect, on_request=queue) as tunnel:
        inspected = InspectedTunnel(edge, tunnel)
        inspected.curl("--data", "x", inspected.url("/json?sort=price"), inspected.url("/nothing"))
        with inspected.raw() as visitor:
            visitor.sendall(b"SSH-2.0-x\r\n")
            found: list[quictunnel.RequestSummary] = []
            eventually(lambda: found.extend(queue.take()) or len(found) == 3, "the connection is not reported")
        eventually(lambda: found.extend(queue.take()) or len(found) == 4, "not all are reported")
        if inspect:
            assert len(inspected.settled(3)) == 3
    assert [(each.method, each.path, each.status) for each in found[:2]] == [
        ("POST", "/json", 200),
        ("POST", "/nothing", 204),
    ]
    assert [(each.kind, each.is_open) for each in found[2:]] == [("raw", True), ("raw", False)]
    assert {each.visitor for each in found} == {"127.0.0.1"}
    assert 0 < found[0].seconds < 20


def test_refused_connection_is_summarised(edge, client) -> None:
    queue = quictunnel.RequestQueue()
    with quictunnel.forward(free_port(), client=client, on_request=queue) as tunnel:
        inspected = InspectedTunnel(edge, tunnel)
        assert inspected.curl(inspected.url("/")).startswith(b"502")
    (summary,) = queue.take()
    assert summary.kind == "refused"
    assert "Nobody listens on port" in summary.note
