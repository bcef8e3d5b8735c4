"""The holder of a ticket takes its name and port over from a session that still looks alive; an old holder does
not take them back."""

import asyncio
import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from quictunnel import Client, InvalidError, Tunnel, forward
from quictunnel.connection.edge_connection import EdgeConnection
from quictunnel.connection.leases import ClientLease
from quictunnel.connection.manager import SUSPECT_AFTER
from quictunnel.connection.options import ForwardOptions
from quictunnel.origin.dial import Origin
from quictunnel.transport.engine import CloseCause
from tests.harness.echo_origin import EchoOrigin
from tests.harness.edge_process import embedded_edge
from tests.harness.waiting import LONG_TIMEOUT, eventually
from tests.load.background import churn_beside, nothing_left
from tests.load.churn import Churn, in_between

DEATHS = 8


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
        with contextlib.suppress(ConnectionError):  # the visitor has left
            await writer.wait_closed()


def hears(address: tuple[str, int]) -> bytes:
    with socket.create_connection(address, timeout=10) as visitor:
        said = b""
        while data := visitor.recv(100):
            said += data
    return said


async def take_over(client: Client, ticket: bytes, port: int) -> ClientLease:
    """A Bind with somebody's ticket, as a restarted client would send it."""
    loop, manager = client.loop_thread_and_manager()

    async def ask() -> ClientLease:
        loop = asyncio.get_running_loop()
        lease = ClientLease(
            1, ForwardOptions(port=port, unencrypted=True), Origin(port), loop.create_future(), ticket=ticket
        )
        manager.leases._by_number[1] = lease
        await manager._wait_connected()
        manager.leases.request(manager._connection.session, lease)
        await lease.answer
        return lease

    return await asyncio.wrap_future(loop.submit(ask()))


async def wait_until_failed(client: Client) -> None:
    """Until the client has given up for good."""
    loop, manager = client.loop_thread_and_manager()

    async def wait() -> None:
        await asyncio.wait([manager._session_task])

    await asyncio.wrap_future(loop.submit(wait()))


async def finish(churn: Churn, *takeovers: tuple[float, float]) -> None:
    """End the load. Asserts that nobody failed but who was in at one of the ``takeovers``, each from a moment to
    another, and that whoever came after the last of them heard the newest."""
    moments = [in_between(*takeover) for takeover in takeovers]
    await asyncio.to_thread(churn.wait_for, 10)
    visitors = await asyncio.to_thread(churn.finish, lambda visitor: any(was_in(visitor) for was_in in moments))
    over = takeovers[-1][1]
    assert {visitor.heard for visitor in visitors if visitor.is_newcomer and visitor.began > over} == {"new"}


@pytest.mark.parametrize("times", [1, 5])
async def test_the_newest_holder_of_a_ticket_wins_at_once(times: int) -> None:
    with embedded_edge() as edge:
        async with Origins(b"old") as old_port, Origins(b"new") as new_port:
            old = Client.from_config(edge.client_config)
            async with (
                forward(old_port, unencrypted=True, client=old) as tunnel,
                churn_beside(edge, tunnel, conversation="greeting") as churn,
            ):
                assert await asyncio.to_thread(hears, tunnel.tcp_socket) == b"old"
                ticket = old.loop_thread_and_manager()[1].leases.get(1).ticket
                newer, taken = [], []
                for _ in range(times):
                    newer.append(Client.from_config(edge.client_config))
                    begun = time.monotonic()
                    lease = await take_over(newer[-1], ticket, new_port)
                    assert Tunnel(*lease.answer.result()) == tunnel
                    ticket = lease.ticket
                    taken.append((begun, time.monotonic()))
                    assert await asyncio.to_thread(hears, tunnel.tcp_socket) == b"new"
                await finish(churn, *taken)
                await asyncio.to_thread(nothing_left, edge)
                assert edge.server.tunnel_count == 1
                for loser in (old, *newer[:-1]):
                    await wait_until_failed(loser)
                    assert loser.snapshot().state == "failed"
            for client in (old, *newer):
                client.close()


async def force_resume(client: Client) -> None:
    """Have the client's session go on with another link, as if nothing had come over the one it has."""
    loop, manager = client.loop_thread_and_manager()

    async def doubt() -> None:
        manager._connection.mark_suspect(SUSPECT_AFTER)
        manager._wake.set()

    await asyncio.wrap_future(loop.submit(doubt()))
    await asyncio.to_thread(
        eventually, lambda: client.snapshot().resumed == 1 and client.state == "connected", timeout=LONG_TIMEOUT
    )


async def out_of_reach(client: Client) -> threading.Event:
    """Lose the client's link, and have it dial only when the event that is returned is set."""
    loop, manager = client.loop_thread_and_manager()
    gate = threading.Event()
    dial = manager._dialer.dial

    async def dial_later(*patience: float) -> EdgeConnection:
        await asyncio.to_thread(gate.wait, 20)
        return await dial(*patience)

    async def lose() -> None:
        manager._dialer.dial = dial_later
        manager._connection._link.closed(CloseCause.TIMEOUT, 0, "")
        manager._connection._endpoint.abort()  # without a goodbye

    await asyncio.wrap_future(loop.submit(lose()))
    await asyncio.to_thread(eventually, lambda: client.state == "away", timeout=LONG_TIMEOUT)
    return gate


@pytest.mark.parametrize("is_away", [False, True])
async def test_older_program_that_has_once_resumed_does_not_win(*, is_away: bool) -> None:
    """With a link, and without one, in which case it hears of the newer one when it dials."""
    with embedded_edge() as edge:
        async with Origins(b"old") as old_port, Origins(b"new") as new_port:
            old, newer = Client.from_config(edge.client_config), Client.from_config(edge.client_config)
            async with (
                forward(old_port, unencrypted=True, client=old) as tunnel,
                churn_beside(edge, tunnel, conversation="greeting") as churn,
            ):
                await force_resume(old)
                gate = await out_of_reach(old) if is_away else None
                begun = time.monotonic()
                await take_over(newer, old.loop_thread_and_manager()[1].leases.get(1).ticket, new_port)
                over = time.monotonic()
                if gate is not None:
                    gate.set()
                await wait_until_failed(old)
                assert newer.state == "connected"
                assert await asyncio.to_thread(hears, tunnel.tcp_socket) == b"new"
                await finish(churn, (begun, over))
                await asyncio.to_thread(nothing_left, edge, newer)
            for client in (old, newer):
                client.close()


class Halting:
    """A TLS visitor that stops in mid-handshake: the edge has answered, its own last word is unsaid."""

    def __init__(self, ca: Path, tunnel: Tunnel) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=str(ca))
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=tunnel.host)
        self._sock = socket.create_connection(("127.0.0.1", tunnel.port), timeout=10)
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                self._tls.do_handshake()
                return
            self._sock.sendall(self._outgoing.read())
            self._incoming.write(self._sock.recv(65536))

    def finish(self) -> bytes:
        """Complete it; what is heard then."""
        self._sock.sendall(self._outgoing.read())
        said = b""
        with self._sock:
            while data := self._sock.recv(65536):
                self._incoming.write(data)
                with contextlib.suppress(ssl.SSLWantReadError):
                    while piece := self._tls.read(100):
                        said += piece
        return said


async def test_a_visitor_in_its_handshake_moves_with_the_name() -> None:
    with embedded_edge() as edge:
        async with Origins(b"old") as old_port, Origins(b"new") as new_port:
            old, newer = Client.from_config(edge.client_config), Client.from_config(edge.client_config)
            async with (
                forward(old_port, unencrypted=True, client=old) as tunnel,
                churn_beside(edge, tunnel, conversation="greeting") as churn,
            ):
                visitor = await asyncio.to_thread(Halting, edge.server.ca, tunnel)
                begun = time.monotonic()
                await take_over(newer, old.loop_thread_and_manager()[1].leases.get(1).ticket, new_port)
                over = time.monotonic()
                assert await asyncio.to_thread(visitor.finish) == b"new"
                await finish(churn, (begun, over))
                await asyncio.to_thread(nothing_left, edge, newer)
            for client in (old, newer):
                client.close()


async def test_a_ticket_from_before_does_not_take_the_name_back() -> None:
    with embedded_edge() as edge:
        async with Origins(b"old") as old_port, Origins(b"new") as new_port:
            old, newer, third = (Client.from_config(edge.client_config) for _ in range(3))
            newest = Client.from_config(edge.client_config)
            async with (
                forward(old_port, unencrypted=True, client=old) as tunnel,
                churn_beside(edge, tunnel, conversation="greeting") as churn,
            ):
                begun = time.monotonic()
                first = old.loop_thread_and_manager()[1].leases.get(1).ticket
                lease = await take_over(newer, first, new_port)
                await take_over(newest, lease.ticket, new_port)
                over = time.monotonic()
                with pytest.raises(InvalidError, match="another program has used"):
                    await take_over(third, first, old_port)
                assert await asyncio.to_thread(hears, tunnel.tcp_socket) == b"new"
                await finish(churn, (begun, over))
                await asyncio.to_thread(nothing_left, edge, newest)
            for client in (old, newer, newest, third):
                client.close()


@pytest.mark.slow
def test_a_client_that_is_killed_and_started_again_keeps_its_address(tmp_path) -> None:
    """The edge thinks each time that the one before is still there. Who comes before the next one is there is lost
    with it, and nobody else."""
    with embedded_edge() as edge, EchoOrigin() as origin, contextlib.ExitStack() as stack:
        config = edge.client_config
        environment = os.environ | {
            "QUICTUNNEL_EDGE": config.edge,
            "QUICTUNNEL_TOKEN": config.token.reveal(),
            "QUICTUNNEL_CA": str(config.ca),
        }
        command = [sys.executable, "-m", "quictunnel", "tcp", str(origin.port), "--json"]
        command += ["--ticket", str(tmp_path / "ticket")]

        def start() -> tuple[subprocess.Popen, Tunnel]:
            client = stack.enter_context(
                subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(client.kill)
            ready = json.loads(client.stdout.readline())
            until_written(tmp_path / "ticket")
            return client, Tunnel(*ready["tls_socket"], *ready["tcp_socket"])

        client, tunnel = start()
        churn = stack.enter_context(churn_beside(edge, tunnel))
        gone = []
        for _ in range(DEATHS):
            churn.wait_for(2)
            killed = time.monotonic()
            client.kill()
            client, again = start()
            assert again == tunnel
            gone.append(in_between(killed, time.monotonic()))
        churn.wait_for(2)
        churn.finish(lambda visitor: any(was_in(visitor) for was_in in gone))
        nothing_left(edge)
        assert edge.server.tunnel_count == 1
        assert edge.server.client_count <= 2


def until_written(path: Path) -> None:
    """The ticket is written beside what the client says; whoever kills it at that moment has the one before."""
    deadline = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
