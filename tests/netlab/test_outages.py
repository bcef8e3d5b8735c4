"""Visitors in flight survive what happens to the network between container and edge: real programs, a bad WAN.

Two hundred visitors send and receive at once, one downloads, and others come and leave all the time; every byte of
all of them is checked.
"""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.load.churn import nobody, waited
from tests.load.plan import RATE, WAITING_RATE
from tests.netlab.rig import Bulk, Tunnelled
from tests.netlab.visitors import ParallelTransfers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.netlab.fixture import StartLab
    from tests.netlab.lab import Lab

pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.usefixtures("pairing_in_force")]

KIB = 1024
VISITORS = 200
PATIENCE = 200.0
"""Seconds without a byte for which visitors and the origin wait: longer than every outage."""
IDLE_TIMEOUT = 30
"""Seconds without a word after which a link is dead; the engine's setting."""


@contextlib.contextmanager
def in_use(lab: Lab, directory: Path, *, will_be_away: bool = False) -> Iterator[tuple[Tunnelled, Bulk]]:
    """A tunnel with an endless download, newcomers and leavers; none of them fails but those who have waited as
    long as anybody does for a client that ``will_be_away``."""
    with (
        Tunnelled(lab, directory, patience=PATIENCE) as tunnel,
        Bulk(tunnel.visit()) as bulk,
        tunnel.churn(patience=PATIENCE, rate=WAITING_RATE if will_be_away else RATE) as churn,
    ):
        yield tunnel, bulk
        churn.finish(waited if will_be_away else nobody)
        assert bulk.broke is None


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "seconds", [pytest.param(2, marks=pytest.mark.long), pytest.param(5, marks=pytest.mark.long), 20,
                pytest.param(90, marks=pytest.mark.long)]
)  # fmt: skip
def test_connections_survive_a_black_hole(netlab: StartLab, tmp_path: Path, seconds: float) -> None:
    """Newcomers wait as well: on the link as long as that is not dead, then for ten seconds."""
    lab = netlab(delay_ms=25, rate_mbit=100)
    with (
        in_use(lab, tmp_path, will_be_away=seconds > IDLE_TIMEOUT) as (tunnel, bulk),
        ParallelTransfers(tunnel, VISITORS, 256 * KIB) as transfers,
    ):
        bulk.wait_for(64 * KIB, timeout=10)  # they are in the middle of it
        with lab.blackout():
            time.sleep(seconds)  # the length of the outage
        back = bulk.first_after(time.monotonic(), timeout=30)
        assert transfers.is_busy
        transfers.finish()
    print(f"{seconds} s of black hole: bytes after {back * 1000:.0f} ms; {VISITORS} of {VISITORS} equal")
    if seconds > IDLE_TIMEOUT:  # else the link may have lived, or another been quicker
        assert tunnel.resumed
    assert back <= (1.5 if seconds <= IDLE_TIMEOUT else 5)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_connections_survive_a_frozen_client(netlab: StartLab, tmp_path: Path) -> None:
    lab = netlab(delay_ms=25, rate_mbit=100)
    with (
        in_use(lab, tmp_path, will_be_away=True) as (tunnel, bulk),
        ParallelTransfers(tunnel, VISITORS, 256 * KIB) as transfers,
    ):
        bulk.wait_for(64 * KIB, timeout=10)
        tunnel.signal_client(signal.SIGSTOP)
        time.sleep(60)  # the length of the freeze
        tunnel.signal_client(signal.SIGCONT)
        back = bulk.first_after(time.monotonic(), timeout=30)
        assert transfers.is_busy
        transfers.finish()
    print(f"frozen for 60 s: bytes after {back * 1000:.0f} ms; {VISITORS} of {VISITORS} equal")
    assert tunnel.resumed


@pytest.mark.timeout(200)
@pytest.mark.parametrize("how", ["move_client", pytest.param("nat_rebind", marks=pytest.mark.long)])
def test_connections_survive_address_changes(netlab: StartLab, tmp_path: Path, how: str) -> None:
    """Another address of its own each time, or another port of the NAT before it."""
    lab = netlab(delay_ms=25, rate_mbit=100, nat=how == "nat_rebind")
    with in_use(lab, tmp_path) as (tunnel, bulk), ParallelTransfers(tunnel, VISITORS, 600 * KIB) as transfers:
        bulk.wait_for(64 * KIB, timeout=10)
        begun = time.monotonic()
        for _ in range(10):
            getattr(lab, how)()
            time.sleep(1)  # the time between two moves
        stall = bulk.longest_pause(begun, time.monotonic())
        assert transfers.is_busy
        transfers.finish()
    print(f"ten times {how}: the longest stall took {stall * 1000:.0f} ms; {VISITORS} of {VISITORS} equal")
    if how == "move_client":
        assert any(event.get("state") == "migrating" for event in tunnel.events)
    assert not tunnel.reconnected
    assert stall <= 1


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "trouble",
    [{"loss": 0.01}, {"loss": 0.05}, {"duplicate": 0.02}, {"corrupt": 0.02}, {"jitter_ms": 10, "reorder": True}],
    ids=["1 % lost", "5 % lost", "2 % twice", "2 % corrupt", "10 ms of jitter"],
)
def test_bytes_are_equal_on_a_bad_link_that_also_breaks(
    netlab: StartLab, tmp_path: Path, trouble: dict[str, Any]
) -> None:
    lab = netlab(delay_ms=25, rate_mbit=100, **trouble)
    with in_use(lab, tmp_path) as (tunnel, bulk), ParallelTransfers(tunnel, VISITORS, 64 * KIB) as transfers:
        bulk.wait_for(64 * KIB, timeout=30)
        lab.move_client()
        with lab.blackout():
            time.sleep(2)
        transfers.finish()


def test_a_link_that_a_firewall_swallows_is_relieved(netlab: StartLab, tmp_path: Path) -> None:
    """Only this flow is dropped, as by a firewall that has had enough of it: waiting would be of no use."""
    lab = netlab(delay_ms=25, rate_mbit=100)
    with in_use(lab, tmp_path) as (tunnel, bulk), ParallelTransfers(tunnel, VISITORS, 128 * KIB) as transfers:
        bulk.wait_for(64 * KIB, timeout=10)
        sockets = lab.client.run(["cat", "/proc/net/udp"]).stdout.splitlines()[1:]
        lab.edge.run(["nft", "add table inet firewall"])
        lab.edge.run(["nft", "add chain inet firewall in { type filter hook input priority 0; }"])
        for sock in sockets:
            port = int(sock.split()[1].rpartition(":")[2], 16)
            lab.edge.run(["nft", f"add rule inet firewall in udp sport {port} drop"])
        back = bulk.first_after(time.monotonic() + 0.5, timeout=20)
        transfers.finish()
    print(f"the flow was dropped: bytes after {back:.1f} s")
    assert tunnel.resumed
    assert any(event.get("state") == "suspect" for event in tunnel.events)
    assert back <= 8
