"""Many visitors at once, and more than there is room for."""

from __future__ import annotations

import socket
import statistics

import pytest

import quictunnel
from tests.harness.load_rig import LoadRig, more_rounds
from tests.harness.programs import need
from tests.harness.sockets import SOCKET_TIMEOUT, sockets_of
from tests.harness.waiting import eventually

pytestmark = pytest.mark.alone

KIB = 1024
MIB = 1024 * KIB


def knock(host: str, port: int) -> None:
    """Connect and wait for a word, which an origin that is asked nothing does not say."""
    # The reset may come before connect() has returned.
    with socket.create_connection((host, port), SOCKET_TIMEOUT) as sock:
        assert sock.recv(1), "a clean end is no refusal"


def test_a_thousand_visitors_at_once(tmp_path):
    """Half over HTTPS, half over plain TCP: all connected before the first asks, then all ask."""
    with LoadRig(tmp_path) as rig:
        before = sockets_of(rig.edge.pid), sockets_of(rig.client.pid)
        rig.do_checked("burst", count=1000, size=100 * KIB)
        eventually(lambda: (sockets_of(rig.edge.pid), sockets_of(rig.client.pid)) == before, "sockets are left")


@pytest.mark.slow
def test_idle_visitors_do_not_slow_a_busy_one(tmp_path):
    """Five thousand of them; the busy one keeps 70 % of the speed that it has alone in the same run."""
    size = 128 * MIB
    with LoadRig(tmp_path) as rig:
        rig.speed(size)
        ratios: list[float] = []
        while more_rounds(ratios, 0.7):
            alone = rig.speed(size)
            rig.do_checked("idle", count=4500, tls=False)
            rig.do_checked("idle", count=500, tls=True)
            ratios.append(rig.speed(size) / alone)
            rig.do_checked("ask_again")  # none of them was dropped
            rig.do("leave")
            eventually(lambda: sockets_of(rig.edge.pid) < 50, "visitors are left", timeout=30)
    print("beside 5,000 idle visitors:", [f"{ratio:.0%}" for ratio in ratios])
    assert statistics.median(ratios) >= 0.7


def test_visitors_beyond_the_cap_are_reset_and_tunnels_live_on(tmp_path):
    """An edge with few files, a hundred of them for visitors: those who are in stay in, those who come then
    are refused, and when somebody leaves there is room again."""
    prefix = (need("prlimit"), "--nofile=400:400", "--")
    with LoadRig(tmp_path, prefix=prefix) as rig:
        tunnel = rig.client.tunnel
        rig.do_checked("idle", count=90, tls=False)
        outcome = rig.do("idle", count=300, tls=False)
        refused = sum(outcome["errors"].values())
        assert 100 < refused < 300, outcome
        assert all(error.startswith("ConnectionResetError") for error in outcome["errors"]), outcome
        rig.do_checked("ask_again")
        with pytest.raises(ConnectionResetError):
            knock(*tunnel.tcp_socket)
        rig.do("leave")
        eventually(lambda: sockets_of(rig.edge.pid) < 50, "visitors are left")
        rig.do_checked("burst", count=50, size=KIB)


def test_silent_connections_cannot_take_all_descriptors(tmp_path):
    """Connections that say nothing, more of them than the edge may have files: visitors who are in go on, new
    tunnels can be made, and when the silent connections have gone everybody is served."""
    prefix = (need("prlimit"), "--nofile=400:400", "--")
    with LoadRig(tmp_path, prefix=prefix) as rig:
        rig.do_checked("idle", count=20, tls=False)
        rig.do_checked("idle", count=20, tls=True)
        silent_sockets = []
        for _ in range(500):
            silent_socket = socket.socket()
            silent_sockets.append(silent_socket)
            silent_socket.connect_ex(("127.0.0.1", rig.client.tunnel.port))  # beyond the bound it is reset at once
        try:
            rig.do_checked("ask_again")
            with (
                rig.edge.client() as second,
                quictunnel.forward(1234, unencrypted=True, client=second) as tunnel,
            ):
                assert tunnel.unencrypted_port
        finally:
            for silent_socket in silent_sockets:
                silent_socket.close()
        eventually(lambda: sockets_of(rig.edge.pid) < 100, "silent connections are left")
        rig.do_checked("burst", count=50, size=KIB)
