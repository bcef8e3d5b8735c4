"""The holder of a ticket takes its name and port over from a session that still looks alive."""

import asyncio
import socket

import pytest

from quictunnel import Client, forward
from quictunnel.origin import Origin
from quictunnel.uplink import HeldLease
from tests.e2e.conftest import embedded_edge


class Origins:
    """Accepts everybody and says a word."""

    def __init__(self, word: bytes) -> None:
        self.word = word

    async def __aenter__(self) -> int:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        return self.server.sockets[0].getsockname()[1]

    async def __aexit__(self, *_) -> None:
        self.server.close()
        await self.server.wait_closed()

    async def serve(self, reader, writer) -> None:
        writer.write(self.word)
        writer.close()
        await writer.wait_closed()


def hears(address: tuple[str, int]) -> bytes:
    with socket.create_connection(address, timeout=10) as visitor:
        said = b""
        while data := visitor.recv(100):
            said += data
    return said


async def take_over(client: Client, ticket: bytes, port: int) -> HeldLease:
    """A Bind with somebody's ticket, as a restarted client would send it."""
    loop, uplink = client.reach()

    async def ask() -> HeldLease:
        lease = HeldLease(1, Origin(port), True, False, asyncio.get_running_loop().create_future(), ticket=ticket)
        uplink._leases[1] = lease
        await uplink._connected()
        uplink._ask(uplink._call, lease)
        await lease.answer
        return lease

    return await asyncio.wrap_future(loop.submit(ask()))


async def failed(client: Client) -> None:
    """Until the client has given up for good."""
    loop, uplink = client.reach()

    async def wait() -> None:
        await asyncio.wait([uplink._keeper])

    await asyncio.wrap_future(loop.submit(wait()))


@pytest.mark.parametrize("times", [1, 5])
async def test_the_newest_holder_of_a_ticket_wins_at_once(times: int) -> None:
    with embedded_edge() as edge:
        async with Origins(b"old") as old_port, Origins(b"new") as new_port:
            old = Client.from_config(edge.client_config)
            async with forward(old_port, unencrypted=True, client=old) as tunnel:
                assert await asyncio.to_thread(hears, tunnel.tcp_socket) == b"old"
                ticket = old.reach()[1]._leases[1].ticket
                newer = []
                for _ in range(times):
                    newer.append(Client.from_config(edge.client_config))
                    lease = await take_over(newer[-1], ticket, new_port)
                    assert lease.answer.result() == tunnel
                    assert await asyncio.to_thread(hears, tunnel.tcp_socket) == b"new"
                assert edge.server.leases == 1
                for loser in (old, *newer[:-1]):
                    await failed(loser)
                    assert loser.snapshot().state == "failed"
            for client in (old, *newer):
                client.close()
