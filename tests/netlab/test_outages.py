"""Visitors in flight survive what happens to the network between container and edge: real programs, a bad WAN.

Each visitor downloads and uploads at once, and every byte is checked by its SHA-256.
"""

from __future__ import annotations

import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.netlab.rig import Bulk, Keystrokes, Tunnelled, digest_of, download, upload

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from tests.netlab.fixture import StartLab

pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.usefixtures("pairing_in_force")]

MIB = 1024 * 1024
VISITORS = 100
"""One half downloads, the other uploads: 200 directions of TCP connections, of which each is checked."""
SIZE = MIB
IDLE_TIMEOUT = 30
"""Seconds without a word after which a link is dead; the engine's setting."""


class Crowd:
    """Visitors on their way while something happens."""

    def __init__(self, tunnel: Tunnelled, count: int = VISITORS) -> None:
        self.failures: list[str] = []
        self._threads = [
            threading.Thread(target=self._visit, args=(tunnel.visit(), download if number % 2 else upload))
            for number in range(count)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def _visit(self, sock: socket.socket, work: Callable[[socket.socket, int], bytes]) -> None:
        with sock:
            try:
                if work(sock, SIZE) != digest_of(SIZE):
                    self.failures.append(f"{work.__name__}: other bytes")
            except OSError as error:
                self.failures.append(f"{work.__name__}: {error!r}")

    def finish(self) -> None:
        for thread in self._threads:
            thread.join(240)
            assert not thread.is_alive()
        assert not self.failures, f"{len(self.failures)} broken: {self.failures[:5]}"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", [20, pytest.param(90, marks=pytest.mark.long)])
def test_nobody_breaks_in_a_black_hole(netlab: StartLab, tmp_path: Path, seconds: float) -> None:
    lab = netlab(delay_ms=25, rate_mbit=100)
    with Tunnelled(lab, tmp_path, patience=200) as tunnel, Bulk(tunnel.visit()) as bulk:
        crowd = Crowd(tunnel)
        crowd.start()
        time.sleep(1.5)  # they are in the middle of it
        with lab.blackout():
            time.sleep(seconds)  # the length of the outage
        back = bulk.first_after(time.monotonic(), timeout=30)
        crowd.finish()
        assert bulk.broke is None
    print(f"{seconds} s of black hole: bytes after {back * 1000:.0f} ms; {VISITORS} of {VISITORS} equal")
    if seconds > IDLE_TIMEOUT:  # else the link may have lived, or another been quicker
        assert tunnel.resumed
    assert back <= (1.5 if seconds <= IDLE_TIMEOUT else 5)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_nobody_breaks_while_the_client_is_frozen(netlab: StartLab, tmp_path: Path) -> None:
    lab = netlab(delay_ms=25, rate_mbit=100)
    with Tunnelled(lab, tmp_path, patience=200) as tunnel:
        crowd = Crowd(tunnel)
        crowd.start()
        time.sleep(1.5)  # they are in the middle of it
        tunnel.signal_client(signal.SIGSTOP)
        time.sleep(60)  # the length of the freeze
        tunnel.signal_client(signal.SIGCONT)
        crowd.finish()
    assert tunnel.resumed


@pytest.mark.long
def test_nobody_breaks_while_the_client_moves_every_second(netlab: StartLab, tmp_path: Path) -> None:
    lab = netlab(delay_ms=25, rate_mbit=100)
    with Tunnelled(lab, tmp_path) as tunnel, Bulk(tunnel.visit()) as bulk:
        crowd = Crowd(tunnel)
        crowd.start()
        bulk.wait_for(MIB, timeout=10)
        begun = time.monotonic()
        for _ in range(10):
            lab.move_client()
            time.sleep(1)  # the time between two moves
        stall = bulk.longest_pause(begun, time.monotonic())
        crowd.finish()
        assert bulk.broke is None
    print(f"ten moves: the longest stall took {stall * 1000:.0f} ms")
    assert stall <= 1


@pytest.mark.timeout(180)
def test_visitors_wait_for_a_client_that_is_away(netlab: StartLab, tmp_path: Path) -> None:
    lab = netlab(delay_ms=25, rate_mbit=100)
    with Tunnelled(lab, tmp_path, patience=100) as tunnel:
        with lab.blackout():
            time.sleep(IDLE_TIMEOUT + 8)  # until both sides have noticed; the client dials in vain
            early = tunnel.visit()
            time.sleep(1)  # waits already
        with early, tunnel.visit() as late:
            assert Keystrokes(early).run(3)
            assert Keystrokes(late).run(3)
    assert tunnel.resumed


def test_a_link_that_a_firewall_swallows_is_relieved(netlab: StartLab, tmp_path: Path) -> None:
    """Only this flow is dropped, as by a firewall that has had enough of it: waiting would be of no use."""
    lab = netlab(delay_ms=25, rate_mbit=100)
    with Tunnelled(lab, tmp_path) as tunnel, Bulk(tunnel.visit()) as bulk:
        crowd = Crowd(tunnel)
        crowd.start()
        bulk.wait_for(MIB, timeout=10)
        sockets = lab.client.run(["cat", "/proc/net/udp"]).stdout.splitlines()[1:]
        lab.edge.run(["nft", "add table inet firewall"])
        lab.edge.run(["nft", "add chain inet firewall in { type filter hook input priority 0; }"])
        for sock in sockets:
            port = int(sock.split()[1].rpartition(":")[2], 16)
            lab.edge.run(["nft", f"add rule inet firewall in udp sport {port} drop"])
        back = bulk.first_after(time.monotonic() + 0.5, timeout=20)
        crowd.finish()
        assert bulk.broke is None
    print(f"the flow was dropped: bytes after {back:.1f} s")
    assert tunnel.resumed
    assert any(event.get("state") == "suspect" for event in tunnel.said)
    assert back <= 8
