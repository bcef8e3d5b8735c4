"""File descriptors: what they are shared out to, and what is said when there are few."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from edge_server.ingress.admission import Admission
from edge_server.ingress.tcp_ports import ACCEPTS_PER_ITERATION, TcpPorts, accept_from, try_listen
from edge_server.resources import descriptor_budget
from edge_server.resources.descriptor_budget import (
    LOG_INTERVAL,
    MACOS_FILES,
    MAX_FILES,
    MAX_HANDSHAKES,
    MIN_FILES,
    MIN_RESERVE,
    RESERVE,
    RESERVE_DIVISOR,
    WARN_FILES,
    DescriptorBudget,
    ShortageLog,
    descriptor_limit,
    watch_for_free_descriptors,
)
from quictunnel.errors import ConfigError
from tests.harness.waiting import soon


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("limit", [1, 96, 256, 300, 1024, 20_000, 1_000_000])
def test_all_visitors_together_leave_a_reserve(limit: int):
    budget = DescriptorBudget.of(limit)
    assert 1 <= budget.handshakes <= MAX_HANDSHAKES
    assert budget.visitors >= 1
    if limit >= MIN_FILES:
        assert budget.handshakes + budget.visitors + budget.ports <= limit - MIN_RESERVE
        assert min(budget.handshakes, budget.ports) >= 9
        assert budget.visitors >= 3 * budget.handshakes
    if limit >= RESERVE_DIVISOR * RESERVE:
        assert budget.handshakes + budget.visitors + budget.ports == limit - RESERVE


def test_tcp_ports_of_leases_take_no_descriptors_of_visitors():
    """However many the range has; one token gets a part of those that there are."""
    ports = TcpPorts("127.0.0.1", range(20_000, 30_000), lambda: 0.0, max_ports=DescriptorBudget.of(256).ports)
    taken = [ports.bind("one") for _ in range(40)]
    others = [ports.bind("other") for _ in range(40)]
    held = [sock for sock in (*taken, *others) if sock is not None]
    assert len(held) <= DescriptorBudget.of(256).ports
    assert any(others)
    for sock in held:
        sock.close()


def test_ten_thousand_fit_into_twenty_thousand_files(monkeypatch):
    monkeypatch.setattr("edge_server.ingress.admission.descriptor_limit", lambda: 20_000)
    assert Admission().cap >= 10_000


def test_the_limit_that_macos_has_by_default_serves_a_hundred_visitors():
    budget = DescriptorBudget.of(256)
    assert budget.visitors > 100
    assert budget.handshakes > 40


class TestWhatIsSaid:
    def test_too_few_descriptors_to_serve(self):
        with pytest.raises(ConfigError, match=rf"only {MIN_FILES - 1} files.*at least {MIN_FILES}.*ulimit -n"):
            DescriptorBudget.of(MIN_FILES - 1).check()

    @pytest.mark.parametrize(("limit", "level"), [(WARN_FILES - 1, logging.WARNING), (WARN_FILES, logging.DEBUG)])
    def test_at_the_start(self, limit: int, level: int, caplog: pytest.LogCaptureFixture):
        with caplog.at_level(logging.DEBUG):
            DescriptorBudget.of(limit).log()
        (record,) = caplog.records
        assert record.levelno == level
        assert f"{limit} file descriptors: places for " in record.getMessage()
        assert ("LimitNOFILE" in record.getMessage()) == (level == logging.WARNING)

    def test_of_a_shortage_once_a_minute(self, caplog: pytest.LogCaptureFixture):
        now = [0.0]
        shortage = ShortageLog(lambda: now[0])
        for now[0] in [0.0, *(1.0 + second / 100 for second in range(1000)), LOG_INTERVAL]:
            shortage.report("places are scarce", lambda: "of 5")
        shortage.report("something else", lambda: "of 6")
        assert [record.getMessage() for record in caplog.records] == [
            "places are scarce (1 times since the last such line): of 5",
            "places are scarce (1001 times since the last such line): of 5",
            "something else (1 times since the last such line): of 6",
        ]


class TestDescriptorLimit:
    @pytest.fixture
    def limits(self, monkeypatch):
        """Says what the system allows and remembers what was asked of it."""
        seen = []

        def say(soft: int, hard: int, most: int = sys.maxsize) -> list:
            def set_limit(_: int, pair: tuple[int, int]) -> None:
                if pair[0] > most:
                    raise ValueError("current limit exceeds maximum limit")
                seen.append(pair)

            monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
            monkeypatch.setattr(resource, "setrlimit", set_limit)
            return seen

        return say

    def test_the_soft_limit_is_raised_to_the_hard_one(self, limits):
        seen = limits(1024, 4096)
        assert descriptor_limit() == 4096
        assert seen == [(4096, 4096)]

    def test_a_limit_that_is_as_high_as_it_may_be(self, limits):
        seen = limits(4096, 4096)
        assert descriptor_limit() == 4096
        assert seen == []

    def test_no_hard_limit(self, limits):
        seen = limits(1024, resource.RLIM_INFINITY)
        assert descriptor_limit() == MAX_FILES
        assert seen == [(MAX_FILES, resource.RLIM_INFINITY)]

    @pytest.mark.parametrize("soft", [256, 2560])
    def test_macos_where_there_is_no_hard_limit_and_the_kernel_has_one(self, limits, soft: int):
        seen = limits(soft, resource.RLIM_INFINITY, most=MACOS_FILES)
        assert descriptor_limit() == MACOS_FILES
        assert seen == [(MACOS_FILES, resource.RLIM_INFINITY)]

    def test_no_limit_at_all(self, limits):
        limits(resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        assert descriptor_limit() == MACOS_FILES

    def test_a_limit_that_may_not_be_raised(self, limits):
        seen = limits(256, 4096, most=0)
        assert descriptor_limit() == 256
        assert seen == []

    def test_more_than_an_edge_can_use(self, limits):
        limits(1 << 30, 1 << 30)
        assert descriptor_limit() == MAX_FILES


async def test_exhausted_descriptors_are_logged(monkeypatch, caplog: pytest.LogCaptureFixture):
    """Neither asyncio nor uvloop says so where an operator would see it."""
    monkeypatch.setattr(descriptor_budget, "PROBE_INTERVAL", 0.01)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = os.open(os.devnull, os.O_RDONLY)
    watch = asyncio.create_task(watch_for_free_descriptors(ShortageLog()))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken, hard))
        await soon(lambda: caplog.records != [])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(taken)
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
    assert "no file descriptor is free" in caplog.text


async def test_loop_turn_accepts_few_connections():
    """A thousand who connect at once are not a thousand descriptors before anybody can refuse one."""
    made: list[asyncio.BaseTransport] = []
    open_at_first: list[int] = []

    class Visitor(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            if not made:
                open_at_first.append(open_files())
            made.append(transport)

    listening = try_listen("127.0.0.1", 0)
    assert listening is not None
    server = await accept_from(listening, Visitor)
    visitors = [socket.socket() for _ in range(300)]
    for visitor in visitors:
        visitor.setblocking(False)
        visitor.connect_ex(listening.getsockname())
    before = open_files()
    await soon(lambda: len(made) == 300)
    assert open_at_first[0] - before <= 2 * (ACCEPTS_PER_ITERATION + 1)
    for transport in made:
        transport.abort()
    for visitor in visitors:
        visitor.close()
    server.close()
    await server.wait_closed()
