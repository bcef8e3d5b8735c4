"""Many visitors at the same moment, as after an outage, at a local service whose queue is short."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

import quictunnel
from quictunnel.connection.dial_queue import MAX_CONCURRENT_DIALS
from tests.harness.edge_process import embedded_edge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

QUEUE = 5
"""Connections that the service lets wait for it, as ``http.server`` does."""
EARLY = QUEUE + 1 + 2 * MAX_CONCURRENT_DIALS
"""Visitors that fill the queue, and more that wait than may begin together."""
VISITORS = 60
BUSY = 1.15
"""Seconds for which the service takes none: the system has asked again once, after one second. It asks once more
after another two."""


async def greeting_of(tunnel: quictunnel.Tunnel) -> bytes:
    reader, writer = await asyncio.open_connection(*tunnel.tcp_socket)
    try:
        return await reader.read(5)
    finally:
        writer.close()


async def greet(listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while True:
        served, _ = await loop.sock_accept(listener)
        with served:
            await loop.sock_sendall(served, b"hello")


@pytest.fixture
async def service(engines: object) -> AsyncIterator[tuple[quictunnel.Tunnel, socket.socket]]:
    """A tunnel, and the listening socket of a service that accepts nobody yet."""
    with (
        embedded_edge() as edge,
        socket.create_server(("127.0.0.1", 0), backlog=QUEUE) as listener,
        quictunnel.Client.from_config(edge.client_config) as client,
    ):
        listener.setblocking(False)
        async with quictunnel.forward(listener.getsockname()[1], client=client, unencrypted=True) as tunnel:
            yield tunnel, listener


async def test_burst_of_visitors_reaches_a_short_backlog(service) -> None:
    """The service speaks first, so a connection of which its kernel knows nothing would wait for ever."""
    tunnel, listener = service
    visitors = [asyncio.create_task(greeting_of(tunnel)) for _ in range(VISITORS)]
    await asyncio.sleep(BUSY)
    serving = asyncio.create_task(greet(listener))
    async with asyncio.timeout(20):
        assert await asyncio.gather(*visitors) == [b"hello"] * VISITORS
    serving.cancel()


async def test_silent_service_delays_only_concurrent_dials(service) -> None:
    """Visitors who come when the service works again do not wait for the kernel's next retry of earlier ones."""
    tunnel, listener = service
    early = [asyncio.create_task(greeting_of(tunnel)) for _ in range(EARLY)]
    await asyncio.sleep(BUSY)
    serving = asyncio.create_task(greet(listener))
    async with asyncio.timeout(1.5):
        assert await greeting_of(tunnel) == b"hello"
    async with asyncio.timeout(20):
        await asyncio.gather(*early)
    serving.cancel()
