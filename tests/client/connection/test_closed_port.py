"""A closed UDP port is noticed at once; one that is open and does not answer is not."""

from __future__ import annotations

import asyncio
import socket

import pytest

from quictunnel.connection import closed_port
from quictunnel.connection.closed_port import MAX_PROBES, PROBE, wait_until_refused
from tests.harness.programs import free_port


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_closed_port(host: str) -> None:
    async with asyncio.timeout(5):
        assert await wait_until_refused((host, free_port()))


async def test_a_port_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_port, "PROBE_INTERVAL", 0.01)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        assert not await wait_until_refused(silent.getsockname())
        silent.setblocking(False)
        received = [silent.recv(100) for _ in range(MAX_PROBES)]
        assert received == [PROBE] * MAX_PROBES
        with pytest.raises(BlockingIOError):
            silent.recv(100)
