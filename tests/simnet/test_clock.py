"""The virtual clock."""

import asyncio
import time

import pytest

from tests.simnet.clock import DeadlockError, OverdueError, VirtualLoop, run


async def test_an_hour_passes_at_once(virtual_time: VirtualLoop) -> None:
    before, real = virtual_time.time(), time.monotonic()
    await asyncio.sleep(3600)
    assert virtual_time.time() - before == 3600
    assert time.monotonic() - real < 1


async def test_timers_fire_in_order_at_their_exact_times(virtual_time: VirtualLoop) -> None:
    start = virtual_time.time()
    times = [start + step * 0.1 for step in (3, 1, 2, 7)]
    fired: list[float] = []
    for when in times:
        virtual_time.call_at(when, lambda: fired.append(virtual_time.time()))
    await asyncio.sleep(1)
    assert fired == sorted(times)


async def test_ready_callbacks_run_before_time_advances(virtual_time: VirtualLoop) -> None:
    now = virtual_time.time()
    for _ in range(100):
        await asyncio.sleep(0)
    assert virtual_time.time() == now


async def test_asyncio_timeouts_are_virtual(virtual_time: VirtualLoop) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(60):
            await asyncio.sleep(61)


def test_a_deadlock_is_an_error_that_names_who_waits() -> None:
    async def wait_for_nobody() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(wait_for_nobody(), name="the lost one")
        await task

    with pytest.raises(DeadlockError, match=r"the lost one.*wait_for_nobody"):
        run(main())


def test_a_run_that_never_ends_is_cut_off() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        def again() -> None:
            loop.call_later(1, again)

        again()
        await asyncio.Event().wait()

    with pytest.raises(OverdueError, match=r"0\.05 s of real time"):
        run(main(), patience=0.05)


def test_threads_are_refused() -> None:
    with pytest.raises(RuntimeError, match="no place in virtual time"):
        run(asyncio.to_thread(print))


async def test_other_tests_run_on_an_ordinary_loop() -> None:
    assert not isinstance(asyncio.get_running_loop(), VirtualLoop)
