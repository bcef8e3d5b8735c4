"""The client's and the edge's lives where two things happen at once: closing while opening, two who open together,
an edge that leaves as it greets, visitors who leave while their origin is dialled."""

import asyncio
import contextlib
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

import quictunnel
from edge_server.auth import request_limit
from edge_server.clients import session
from edge_server.tunnels.bind import Bindings
from quictunnel.client import Client
from quictunnel.connection.edge_connection import EdgeConnection, resolve
from quictunnel.connection.options import ForwardOptions
from quictunnel.shared import event_loop
from quictunnel.transport.engine import CloseCause, Closed
from quictunnel.wire.codes import SessionCode
from quictunnel.wire.messages import Bind, Unbind, Welcome
from tests.harness.echo_origin import udp_sockets
from tests.harness.edge_process import embedded_edge
from tests.harness.hostile_peer import HostileClient
from tests.harness.programs import free_port
from tests.harness.waiting import eventually

PATIENCE = 5.0


@pytest.fixture
def edge():
    with embedded_edge() as edge:
        yield edge


@pytest.fixture
def client(edge):
    with Client.from_config(edge.client_config) as client:
        yield client


def is_open(address: tuple[str, int]) -> bool:
    with contextlib.suppress(ConnectionError):  # refused, or reset because it was in the queue of one that closes
        socket.create_connection(address).close()
        return True
    return False


def test_an_edge_that_leaves_as_it_greets_is_dialled_again(edge, client, monkeypatch):
    """The Welcome and the end in one batch of datagrams: both are told before whoever dialled wakes up."""
    told = EdgeConnection.session_message
    left = []

    def welcome_and_goodbye(self, message):
        told(self, message)
        if isinstance(message, Welcome) and not left:
            left.append(self)
            self.session.link.closed(CloseCause.PEER, SessionCode.GOING_AWAY, "")

    monkeypatch.setattr(EdgeConnection, "session_message", welcome_and_goodbye)
    with quictunnel.forward(free_port(), client=client) as tunnel:
        assert tunnel.host
    assert left


def test_several_who_open_at_once_share_one_session(edge):
    """A host name takes a moment to resolve, in which each finds that nobody has begun yet."""
    named = edge.client_config.edge.replace("127.0.0.1", "localhost")
    client = Client.from_config(replace(edge.client_config, edge=named))
    ports = [free_port() for _ in range(6)]
    opened, may_close = threading.Barrier(len(ports) + 1), threading.Event()

    def hold(port):
        with quictunnel.forward(port, client=client):
            opened.wait(PATIENCE)
            may_close.wait(PATIENCE)

    with client, ThreadPoolExecutor(len(ports)) as pool:
        done = [pool.submit(hold, port) for port in ports]
        opened.wait(PATIENCE)
        tasks = asyncio.all_tasks(event_loop.shared_loop().loop)
        assert [task.get_coro().__name__ for task in tasks].count("_keep_connected") == 1
        may_close.set()
        for each in done:
            each.result(PATIENCE)


@pytest.mark.parametrize("when", ["dialling", "asking"])
def test_closing_a_client_that_is_opening_ends_it_at_once(edge, client, monkeypatch, when):
    asked = threading.Event()
    if when == "asking":
        monkeypatch.setattr(Bindings, "bind", lambda self, *_, **__: asked.set())
    else:
        monkeypatch.setattr(session.ClientSession, "_authenticate", lambda self, hello: asked.set())
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(quictunnel.forward(free_port(), client=client).__enter__)
        assert asked.wait(PATIENCE)
        client.close()
        with pytest.raises(RuntimeError, match="closed"):
            opening.result(PATIENCE)
    eventually(lambda: edge.server.client_count == 0)


def test_a_client_closed_by_another_thread_before_it_began_to_open(edge, client):
    loop, held = client.loop_thread_and_manager()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.call(held.bind(ForwardOptions(port=free_port())))
    assert edge.server.client_count == 0


def test_closing_a_client_while_a_tunnel_drains(edge, client):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        forwarding = quictunnel.forward(listener.getsockname()[1], client=client, unencrypted=True)
        tunnel = forwarding.__enter__()
        with socket.create_connection(tunnel.tcp_socket, PATIENCE) as visitor:
            visitor.sendall(b"question")
            connection, _ = listener.accept()
            with connection, ThreadPoolExecutor(1) as pool:
                connection.recv(8)
                leaving = pool.submit(forwarding.__exit__, None, None, None)
                eventually(lambda: not is_open(tunnel.tcp_socket))
                client.close()
                leaving.result(PATIENCE)


def test_a_subscriber_may_close_the_client(edge, client):
    client.subscribe(lambda event: client.close() if event.kind == "connected" else None)
    with pytest.raises(RuntimeError, match="closed"):
        quictunnel.forward(free_port(), client=client).__enter__()
    eventually(lambda: edge.server.client_count == 0)


async def test_port_is_closed_although_its_close_was_cancelled(edge, client):
    async def body():
        nonlocal tunnel
        async with quictunnel.forward(free_port(), client=client, unencrypted=True) as tunnel:
            # The background thread is busy, so nothing of the leaving has run when the cancellation arrives.
            event_loop.shared_loop().loop.call_soon_threadsafe(time.sleep, 0.3)
            asyncio.current_task().cancel()

    tunnel = None
    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(body())
    await asyncio.to_thread(eventually, lambda: not is_open(tunnel.tcp_socket))


def granted(client) -> list[int]:
    """Return the numbers of the client's leases that the edge has granted."""
    manager = client._manager
    return [] if manager is None else [lease.number for lease in manager.leases if lease.ticket]


@pytest.mark.parametrize("how", [quictunnel.aopen, lambda *a, **b: quictunnel.forward(*a, **b).__aenter__()])
async def test_opening_again_at_once_after_a_cancellation_as_it_completes(edge, client, how):
    """The lease is granted and the caller's loop has not heard of it. Target and name are free again at once."""
    port = free_port()
    task = asyncio.create_task(how(port, name="again", client=client))
    await asyncio.sleep(0)
    eventually(lambda: granted(client))  # blocks this loop, not the client's
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    tunnel = await quictunnel.aopen(port, name="again", client=client)
    assert granted(client) == [2]
    await tunnel.aclose()
    assert tunnel.url.startswith("https://again.")


async def test_opening_again_at_once_after_a_cancellation_as_it_begins(edge, client):
    """The client's thread begins to open, to cancel and to open again in one go."""
    with quictunnel.forward(free_port(), client=client):  # connected
        port = free_port()
        event_loop.shared_loop().loop.call_soon_threadsafe(time.sleep, 0.1)
        task = asyncio.create_task(quictunnel.aopen(port, name="again", client=client))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        tunnel = await quictunnel.aopen(port, name="again", client=client)
        await tunnel.aclose()


def test_opening_again_at_once_after_an_interrupt_as_it_completes(edge, client, monkeypatch):
    def interrupted(self, work):
        call(self, work)
        raise KeyboardInterrupt

    call = event_loop.EventLoopThread.call
    port = free_port()
    with monkeypatch.context() as patch:
        patch.setattr(event_loop.EventLoopThread, "call", interrupted)
        with pytest.raises(KeyboardInterrupt):
            quictunnel.forward(port, name="again", client=client).__enter__()
    with quictunnel.forward(port, name="again", client=client) as tunnel:
        assert tunnel.url.startswith("https://again.")


@pytest.mark.parametrize("busy", [0, 0.1])
async def test_opening_again_at_once_after_a_cancelled_close(edge, client, busy):
    """Also if the client's thread is busy and begins to close, to cancel and to open in one go."""
    port = free_port()
    tunnel = await quictunnel.aopen(port, name="again", client=client)
    closing = asyncio.create_task(tunnel.aclose())
    event_loop.shared_loop().loop.call_soon_threadsafe(time.sleep, busy)
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    again = await quictunnel.aopen(port, name="again", client=client)
    await again.aclose()


def test_a_client_that_cannot_begin_leaves_no_socket(edge, tmp_path):
    (tmp_path / "ca.pem").write_text("no certificate")
    config = edge.client_config
    with Client(config.edge, token="token", ca=tmp_path / "ca.pem") as client:
        before = udp_sockets()
        errors = []
        for _ in range(3):
            with pytest.raises(quictunnel.ConfigError) as caught:
                quictunnel.forward(free_port(), client=client).__enter__()
            errors.append(caught)  # with everything that its traceback holds on to
        eventually(
            lambda: udp_sockets() <= before, timeout=PATIENCE
        )  # those of earlier tests may be closing meanwhile


def test_dial_ends_with_its_visitor(edge, client):
    """A listener whose queue is full answers nobody, and each attempt pins a socket until its time-out."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            waiting_socket = stack.enter_context(socket.socket())
            waiting_socket.setblocking(False)
            waiting_socket.connect_ex(listener.getsockname())
        forwarding = quictunnel.forward(listener.getsockname()[1], client=client, unencrypted=True)
        tunnel = stack.enter_context(forwarding)
        visits = client.loop_thread_and_manager()[1].visitors._dialling
        visitors = [socket.create_connection(tunnel.tcp_socket, PATIENCE) for _ in range(5)]
        eventually(lambda: len(visits) == len(visitors))
        for visitor in visitors:
            visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            visitor.sendall(b"x")
            visitor.close()
        # An edge that reads notices the reset; it looks at those that it does not read every five seconds.
        eventually(lambda: not visits, timeout=3)


def test_an_edge_that_drains_takes_no_new_clients(edge, client):

    async def dial():
        (address, *_) = await resolve(edge.client_config)
        await EdgeConnection(edge.client_config, NullEvents(), address).greet()

    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        forwarding = quictunnel.forward(listener.getsockname()[1], client=client, unencrypted=True)
        tunnel = stack.enter_context(forwarding)
        visitor = stack.enter_context(socket.create_connection(tunnel.tcp_socket, PATIENCE))
        visitor.sendall(b"question")
        connection = stack.enter_context(listener.accept()[0])
        connection.recv(8)
        draining = edge._background.submit(edge.server.drain())
        eventually(lambda: edge.server.client_count == 1 and not is_open(tunnel.tcp_socket))
        with pytest.raises(quictunnel.EdgeUnavailableError, match="shutting down"):
            event_loop.shared_loop().call(dial())
        draining.cancel()


class NullEvents:
    """Receiver of connection events that ignores all of them (a ConnectionHandler)."""

    def connection_message(self, connection, message):
        pass

    def connection_stream(self, stream):
        pass

    def connection_usable(self, connection):
        pass

    def connection_ended(self, connection, error):
        pass

    def start_resuming(self, connection):
        return b""

    def connection_away(self, connection, closed):
        return False


async def test_a_lease_that_ends_before_its_listener_began_leaves_no_socket(tmp_path):
    """Bind and the end of the session in one batch."""
    edge = await asyncio.to_thread(embedded_edge().__enter__)
    try:

        async def bind_and_go():
            config = edge.client_config
            (address, *_) = await resolve(config)
            connection = EdgeConnection(config, NullEvents(), address)
            await connection.greet()
            (client_session,) = edge.server.clients.sessions
            leased = asyncio.run_coroutine_threadsafe(bind_and_die(client_session), edge._background.loop)
            port = await asyncio.wrap_future(leased)
            await connection.close()
            return port

        async def bind_and_die(client_session):
            client_session.session_message(Bind(lease=1, unencrypted=True, h2=False, ticket=b""))
            (lease,) = client_session.bindings
            port = lease.tcp_port
            client_session.session_down(Closed(CloseCause.LOCAL, 0, ""))
            return port

        port = await asyncio.wrap_future(event_loop.shared_loop().submit(bind_and_go()))
        assert port
        await asyncio.to_thread(eventually, lambda: not is_open(("127.0.0.1", port)))
    finally:
        await asyncio.to_thread(edge.__exit__, None, None, None)


async def test_too_many_requests_end_the_session(monkeypatch):
    monkeypatch.setattr(request_limit, "REQUEST_BURST", 20.0)
    monkeypatch.setattr(request_limit, "REQUEST_RATE", 0.1)
    edge = await asyncio.to_thread(embedded_edge().__enter__)
    try:
        for asked in (40, 1):
            async with HostileClient(edge.client_config) as client:
                await client.greet()
                client.say(*[Unbind(1)] * asked)
                assert await client.end() == (CloseCause.PEER, SessionCode.TOO_MANY_REQUESTS)
    finally:
        await asyncio.to_thread(edge.__exit__, None, None, None)
