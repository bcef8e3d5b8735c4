"""An edge that is killed comes back, and so does everybody who was there."""

import contextlib
import signal
import socket
import threading
import time

import pytest

import quictunnel
from tests.harness.echo_origin import EchoOrigin, echoes
from tests.harness.edge_process import start_edge
from tests.load.background import arrivals_at, churn_beside, nothing_left
from tests.load.churn import in_between
from tests.netlab.rig import percentile

CLIENTS = 50
AWAY = 2.0
WITHIN = 5.0
"""Seconds for 95 % of them, from the moment at which the edge is there again."""
PATIENCE = 30.0
RATE = 20
"""Newcomers of about a second."""


@pytest.mark.alone
@pytest.mark.slow
def test_fifty_clients_are_back_within_seconds_after_a_crash(tmp_path, engines):
    """The clients send nothing, so each has to notice the crash by itself. Visitors who come while there is no
    edge find no listener; those who come later wait."""
    with EchoOrigin() as origin, contextlib.ExitStack() as stack:
        edge = start_edge(tmp_path / "state")
        port = edge.environ["QUICTUNNEL_EDGE"].rpartition(":")[2]
        clients, tunnels = [], []
        for _ in range(CLIENTS):
            client = stack.enter_context(edge.client())
            clients.append(client)
            forwarding = quictunnel.forward(origin.port, unencrypted=True, client=client)
            tunnels.append(stack.enter_context(forwarding))
        addresses = [tunnel.tcp_socket for tunnel in tunnels]
        assert all(is_served(address) for address in addresses)
        churn = stack.enter_context(churn_beside(edge, *tunnels))
        churn.wait_for(RATE)
        churn.edge_leaves()
        killed = time.monotonic()
        assert edge.stop(signal.SIGKILL) == -signal.SIGKILL
        time.sleep(AWAY)  # the length of the outage
        edge = start_edge(
            tmp_path / "state", "--quic", f"127.0.0.1:{port}", "--https", f"127.0.0.1:{tunnels[0].port}"
        )
        begun = time.monotonic()
        delays: list[float] = []
        churn.edge_follows(arrivals_at(edge, lambda: len(delays)))
        waiting = [
            threading.Thread(target=lambda address=address: delays.append(served_at(address) - begun))
            for address in addresses
        ]
        for thread in waiting:
            thread.start()
        for thread in waiting:
            thread.join()
        assert len(delays) == CLIENTS  # at their own names and ports
        p50, p95 = percentile(delays, 0.5), percentile(delays, 0.95)
        print(f"{CLIENTS} clients: served again after p50 {p50:.1f} s, p95 {p95:.1f} s, all {max(delays):.1f} s")
        assert p95 <= WITHIN
        churn.wait_for(RATE)
        churn.finish(in_between(killed, begun))
        nothing_left(edge, *clients)
        stack.close()
        assert edge.stop() == 0


def is_served(address):
    try:
        with socket.create_connection(address, timeout=PATIENCE) as visitor:
            return echoes(visitor)
    except OSError:
        return False


def served_at(address):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if is_served(address):
            return time.monotonic()
        time.sleep(0.05)  # between two tries
    raise AssertionError(f"nobody serves {address}")
