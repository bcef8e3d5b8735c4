"""Signals of an edge: each handler runs once a signal, at once, and only for as long as the edge runs."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge_server import signals as signals_module
from edge_server.reload import ReloadOutcome, Reloads
from edge_server.signals import Signals
from quictunnel.shared.event_loop import new_event_loop
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edge_server.config.edge_config import EdgeConfig, Reading

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals of Unix")

RUNS = 20
TIMEOUT = 10
ALL = tuple(
    getattr(signal, f"SIG{name}")
    for name in ("TERM", "INT", "HUP", "USR1", "USR2")
    if hasattr(signal, f"SIG{name}")
)

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(params=[new_event_loop, asyncio.new_event_loop], ids=["product", "asyncio"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Return a function that says whether there is a terminal from now on."""
    return lambda exists: monkeypatch.setattr(signals_module, "has_terminal", lambda: exists)


async def settle() -> None:
    """Let the loop handle everything that it has been woken for."""
    handled = asyncio.Event()
    asyncio.get_running_loop().call_soon_threadsafe(handled.set)
    await handled.wait()
    for _ in range(5):
        await asyncio.sleep(0)


def switches(status: str) -> list[str]:
    """Return the lines on how often a thread began to wait."""
    return [line for line in status.splitlines() if "ctxt_switches" in line]


@pytest.fixture
def send_when_loop_waits() -> Iterator[Callable[[int], None]]:
    """Return a function that sends a signal to a new thread as soon as the main thread waits."""
    main = Path(f"/proc/self/task/{threading.main_thread().native_id}/status")
    threads, seen = [], [""]

    def is_waiting() -> bool:
        """Return True if the main thread has slept since the last call, between which this thread ran nothing."""
        seen.append(main.read_text())
        return "State:\tS" in seen[-1] and switches(seen[-1]) == switches(seen[-2])

    def send(number: int) -> None:
        eventually(is_waiting, "the loop does not wait")
        signal.pthread_kill(threading.get_ident(), number)

    def start(number: int) -> None:
        threads.append(threading.Thread(target=send, args=(number,)))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join(TIMEOUT)


@ON_LINUX
@pytest.mark.parametrize("number", ALL, ids=lambda number: number.name)
def test_a_signal_that_follows_another_closely_counts_once(runner, monkeypatch, send_when_loop_waits, number):
    """A second signal, between the loop's read of the first one's byte and the first one's handler."""
    calls: list[str] = []
    monkeypatch.setattr(signals_module, "start_successor", lambda: calls.append("SIGUSR2"))
    monkeypatch.setattr(Signals, "_stop", lambda _: calls.append("stop"))
    monkeypatch.setattr(Signals, "_hang_up", lambda _: calls.append("SIGHUP"))
    monkeypatch.setattr(Signals, "_dump", lambda _: calls.append("SIGUSR1"))

    async def receive() -> None:
        with Signals().installed():
            for count in range(1, RUNS + 1):
                send_when_loop_waits(signal.SIGWINCH)
                async with asyncio.timeout(TIMEOUT):
                    await followed.wait()
                followed.clear()
                await settle()
                assert len(calls) == count

    followed = asyncio.Event()

    def follow(*_: object) -> None:
        signal.raise_signal(number)
        runner.get_loop().call_soon_threadsafe(followed.set)

    before = signal.signal(signal.SIGWINCH, follow)
    try:
        runner.run(receive())
    finally:
        signal.signal(signal.SIGWINCH, before)
    assert len(set(calls)) == 1


@ON_LINUX
def test_a_signal_to_another_thread_wakes_the_waiting_loop_at_once(runner, send_when_loop_waits):
    async def receive() -> None:
        signals = Signals()
        with signals.installed():
            loop = asyncio.get_running_loop()
            begin = loop.time()
            send_when_loop_waits(signal.SIGTERM)
            await asyncio.wait_for(signals.stop.wait(), TIMEOUT)
            assert loop.time() - begin < TIMEOUT / 2

    runner.run(receive())


def test_the_second_sigterm_or_sigint_forces_the_end(runner):
    async def send() -> None:
        signals = Signals()
        with signals.installed():
            signal.raise_signal(signal.SIGINT)
            await settle()
            assert signals.stop.is_set()
            assert not signals.force_stop.is_set()
            signal.raise_signal(signal.SIGINT)
            await asyncio.wait_for(signals.force_stop.wait(), TIMEOUT)

    runner.run(send())


def test_hang_ups_of_a_closed_terminal_never_force_the_end(runner, terminal):
    """A shell and the kernel may both send one. systemd sends one with SIGTERM at the end of a login session."""

    async def send() -> None:
        terminal(True)
        signals = Signals()
        terminal(False)
        with signals.installed():
            for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
                signal.raise_signal(number)
                await settle()
            assert signals.stop.is_set()
            assert not signals.reload.is_set()
            assert not signals.force_stop.is_set()
            signal.raise_signal(signal.SIGTERM)
            await asyncio.wait_for(signals.force_stop.wait(), TIMEOUT)

    runner.run(send())


@pytest.mark.parametrize("exists", [True, False])
def test_a_hang_up_with_the_terminal_as_before_is_a_reload(runner, terminal, exists):
    async def send() -> None:
        terminal(exists)
        signals = Signals()
        with signals.installed():
            signal.raise_signal(signal.SIGHUP)
            await asyncio.wait_for(signals.reload.wait(), TIMEOUT)
            assert not signals.stop.is_set()

    runner.run(send())


def test_the_previous_handlers_and_wakeup_descriptor_are_restored(runner):
    async def install() -> None:
        before = [signal.getsignal(number) for number in ALL]
        descriptor = wakeup_descriptor()
        with Signals().installed():
            assert wakeup_descriptor() != -1
            assert not set(before) & {signal.getsignal(number) for number in ALL}
        assert [signal.getsignal(number) for number in ALL] == before
        assert wakeup_descriptor() == descriptor

    before = [signal.getsignal(number) for number in ALL]
    runner.run(install())
    assert [signal.getsignal(number) for number in ALL] == before


def wakeup_descriptor() -> int:
    """Return the descriptor that signals are written to, or -1."""
    descriptor = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(descriptor)
    return descriptor


# Reloads while the edge drains.

REFUSED = "the configuration is not read again: the edge is draining"


async def no_change(_config: EdgeConfig) -> ReloadOutcome:
    raise AssertionError("nothing may be applied")


@pytest.mark.parametrize("begins", ["before the drain", "during the drain"])
async def test_a_reload_that_a_drain_prevents_is_logged(caplog, begins):
    caplog.set_level(logging.WARNING)
    requested, reading, may_end = asyncio.Event(), threading.Event(), threading.Event()

    def read() -> Reading:
        reading.set()
        may_end.wait(TIMEOUT)
        raise AssertionError("the result is not used")

    reloads = Reloads(no_change, read, requested)
    serving = asyncio.create_task(reloads.run())
    if begins == "before the drain":
        requested.set()
        await asyncio.to_thread(reading.wait, TIMEOUT)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    draining = asyncio.create_task(reloads.refuse())
    if begins == "during the drain":
        requested.set()
    await settle()
    assert caplog.messages == [REFUSED]
    requested.set()
    await settle()
    assert caplog.messages == [REFUSED] * 2
    draining.cancel()
    may_end.set()
