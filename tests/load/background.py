"""The shared load beside tests with an edge in a process of its own, or in this one, and clients in this one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quictunnel.shared import event_loop
from tests.harness.edge_process import EdgeProcess
from tests.load.churn import Churn
from tests.load.client_state import held_by
from tests.load.leftovers import arrivals, dump_of, dump_of_embedded, left_at, settled
from tests.load.plan import RATE, Plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    import quictunnel
    from edge_server.embedded import EmbeddedEdge

    AnyEdge = EdgeProcess | EmbeddedEdge

PATIENCE = 40.0


def state_of(edge: AnyEdge) -> dict[str, Any]:
    """Return an edge's state dump, with its metrics."""
    if isinstance(edge, EdgeProcess):
        return dump_of(edge.pid, edge.state_dir)
    return dump_of_embedded(edge)


def ca_of(edge: AnyEdge) -> Path:
    return edge.ca if isinstance(edge, EdgeProcess) else edge.server.ca


def arrivals_at(edge: AnyEdge, others: Callable[[], int] = lambda: 0) -> Callable[[], int]:
    """Return a function that counts who has come to this edge, without ``others`` that the test has brought."""
    return lambda: arrivals(state_of(edge)) - others()


def churn_beside(
    edge: AnyEdge,
    *tunnels: quictunnel.Tunnel,
    conversation: str = "echo",
    patience: float = PATIENCE,
    rate: float = RATE,
    others: Callable[[], int] = lambda: 0,
    in_flight: int = 0,
) -> Churn:
    """Newcomers and leavers at these tunnels; ``others``: as in :func:`arrivals_at`, of whom so many may be
    ``in_flight``."""
    targets = [(each.host, each.port, each.unencrypted_host, each.unencrypted_port) for each in tunnels]
    plan = Plan(targets, str(ca_of(edge)), conversation, rate=rate, patience=patience)
    return Churn(plan, watched=arrivals_at(edge, others), in_flight=in_flight)


def nothing_left(edge: AnyEdge, *clients: quictunnel.Client) -> None:
    """Wait until nothing of any visitor is left at an edge and its clients; all have gone."""

    def left() -> dict[str, int]:
        found = {f"edge: {name}": count for name, count in left_at(state_of(edge)).items()}
        for client in clients:
            assert client._manager is not None
            held = event_loop.shared_loop().call(held_by(client._manager))
            del held["tasks"]  # other tests' clients live on the same loop
            found |= {f"client: {name}": found.get(f"client: {name}", 0) + count for name, count in held.items()}
        return found

    settled(left)
