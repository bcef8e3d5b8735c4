"""Tests of the network monitor, with the clock and the addresses supplied by the test."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from quictunnel.connection import network_monitor
from quictunnel.connection.network_monitor import (
    CHECK_INTERVAL,
    DEBOUNCE_TIME,
    SUSPEND_THRESHOLD,
    NetworkChange,
    NetworkMonitor,
    source_address,
)
from tests.netlab.lab import missing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.simnet.clock import VirtualLoop

EDGE = ("192.0.2.1", 4433)


class FakeMachine:
    """A machine with one address, and a clock that can jump."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.address: str | None = "10.0.0.1"
        self.slept = 0.0
        self.changes: list[NetworkChange] = []
        self._loop = loop

    def clock(self) -> float:
        return self._loop.time() + self.slept

    def watch(self) -> NetworkMonitor:
        watch = NetworkMonitor(self.changes.append, clock=self.clock, source=lambda _: self.address)
        watch.watch_route_to(EDGE)
        return watch


@pytest.fixture
def machine(virtual_time: VirtualLoop, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMachine]:
    monkeypatch.setattr(network_monitor, "_subscribe", lambda: None)
    return FakeMachine(virtual_time)


async def test_another_address_is_noticed_within_a_second(machine: FakeMachine) -> None:
    watch = machine.watch()
    await asyncio.sleep(5 * CHECK_INTERVAL)
    assert machine.changes == []
    machine.address = "10.0.0.2"
    await asyncio.sleep(CHECK_INTERVAL)
    assert machine.changes == [NetworkChange.ADDRESS]
    await asyncio.sleep(5 * CHECK_INTERVAL)
    assert machine.changes == [NetworkChange.ADDRESS]
    watch.close()
    machine.address = "10.0.0.3"
    await asyncio.sleep(5 * CHECK_INTERVAL)
    assert machine.changes == [NetworkChange.ADDRESS]


async def test_no_way_at_all_is_not_a_move_and_neither_is_the_old_one_again(machine: FakeMachine) -> None:
    watch = machine.watch()
    machine.address = None
    await asyncio.sleep(3 * CHECK_INTERVAL)
    machine.address = "10.0.0.1"
    await asyncio.sleep(3 * CHECK_INTERVAL)
    assert machine.changes == []
    machine.address = None
    await asyncio.sleep(3 * CHECK_INTERVAL)
    machine.address = "10.0.0.9"
    await asyncio.sleep(CHECK_INTERVAL)
    assert machine.changes == [NetworkChange.ADDRESS]
    watch.close()


async def test_sleep_is_noticed_and_a_busy_moment_is_not(machine: FakeMachine) -> None:
    watch = machine.watch()
    machine.slept += SUSPEND_THRESHOLD
    await asyncio.sleep(2 * CHECK_INTERVAL)
    assert machine.changes == []
    machine.slept += 3600
    await asyncio.sleep(2 * CHECK_INTERVAL)
    assert machine.changes == [NetworkChange.SUSPENDED]
    watch.close()


async def test_without_an_edge_there_is_nothing_to_move_from(machine: FakeMachine) -> None:
    watch = NetworkMonitor(machine.changes.append, clock=machine.clock, source=lambda _: machine.address)
    machine.address = "10.0.0.2"
    await asyncio.sleep(3 * CHECK_INTERVAL)
    assert machine.changes == []
    watch.close()


class Netlink:
    """Says as often as it is told that something changed."""

    def __init__(self, messages: list[bytes | OSError]) -> None:
        self.messages = messages

    def recv(self, _size: int) -> bytes:
        if not self.messages:
            raise BlockingIOError
        word = self.messages.pop(0)
        if isinstance(word, OSError):
            raise word
        return word


async def test_a_storm_of_reports_is_one_reaction_at_a_time(machine: FakeMachine) -> None:
    watch = machine.watch()
    watch._netlink = netlink = Netlink([])  # type: ignore[assignment]
    for number in range(1000):
        netlink.messages = [b"x"] * 10
        machine.address = f"10.0.{number // 250}.{number % 250}"
        watch._on_netlink()
    assert machine.changes == [NetworkChange.ADDRESS]
    await asyncio.sleep(DEBOUNCE_TIME)  # what came meanwhile is looked at once more
    assert machine.changes == [NetworkChange.ADDRESS] * 2
    for _ in range(10):
        netlink.messages = [OSError("ENOBUFS")]
        watch._on_netlink()
        await asyncio.sleep(DEBOUNCE_TIME)
    assert machine.changes[2:] == [NetworkChange.OFF_ROUTE]
    watch._netlink = None
    watch.close()


def test_the_address_towards_a_peer() -> None:
    assert source_address(("127.0.0.1", 9)) == "127.0.0.1"
    assert source_address(("255.255.255.255", 9)) is None  # not allowed without asking for it


@pytest.mark.skipif(missing() is not None, reason=f"needs a network namespace: {missing()}")
def test_linux_says_it_at_once() -> None:
    """In a namespace of its own: an address is added, and the watch tells."""
    program = (
        "import asyncio, subprocess, time\n"
        "from quictunnel.connection.network_monitor import NetworkMonitor\n"
        "async def main():\n"
        "    seen = asyncio.Queue()\n"
        "    watch = NetworkMonitor(seen.put_nowait)\n"
        "    assert watch._netlink is not None\n"
        "    begun = time.monotonic()\n"
        "    subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)\n"
        "    print((await asyncio.wait_for(seen.get(), 5)).name, time.monotonic() - begun)\n"
        "    watch.close()\n"
        "asyncio.run(main())\n"
    )
    unshare = shutil.which("unshare")
    assert unshare is not None
    done = subprocess.run(
        [unshare, "--net", sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    word, seconds = done.stdout.split()
    assert word == "OFF_ROUTE"
    assert float(seconds) < CHECK_INTERVAL / 2
