"""A client whose edge says several things in one breath, when it greets a session or goes on with one."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

import quictunnel
from quictunnel.connection.dialer import Dialer
from quictunnel.connection.edge_connection import EdgeConnection
from quictunnel.connection.manager import SUSPECT_AFTER
from quictunnel.transport.engine import CloseCause
from quictunnel.wire.codes import PROTOCOL_VERSION, BindCode, SessionCode
from quictunnel.wire.credit import INITIAL_WINDOW
from quictunnel.wire.messages import (
    SECRET_SIZE,
    AnyMessage,
    Bind,
    BindRefused,
    Credits,
    GoAway,
    Hello,
    ResumeState,
    Unbind,
    Welcome,
)
from tests.harness.hostile_peer import PROTOCOL, WINDOW, HostileEdge, ServedClient
from tests.harness.sockets import SOCKET_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path


KEY = bytes(SECRET_SIZE)


@pytest.fixture
async def scripted(tmp_path: Path) -> AsyncIterator[HostileEdge]:
    async with HostileEdge(tmp_path) as edge:
        yield edge


@pytest.fixture
def client(scripted: HostileEdge) -> Iterator[quictunnel.Client]:
    made = quictunnel.Client.from_config(scripted.client_config)
    yield made
    made.close()


def welcome(*, resumed: bool) -> Welcome:
    return Welcome(PROTOCOL_VERSION, WINDOW, 10, "scripted/1", KEY, resumed, 60, 0, 0)


class Greetings:
    """Greets as a script says, and remembers which secrets were shown."""

    def __init__(self, edge: HostileEdge, *greetings: Callable[[ServedClient], None]) -> None:
        self.shown: asyncio.Queue[bytes] = asyncio.Queue()
        self.count = 0
        edge.greetings.extend(self._greeting(each) for each in greetings)

    def _greeting(self, greet: Callable[[ServedClient], None]) -> Callable[[ServedClient, Hello], None]:
        def answer(served: ServedClient, hello: Hello) -> None:
            self.count += 1
            greet(served)
            self.shown.put_nowait(hello.session)

        return answer

    async def secret(self) -> bytes:
        """Return what the next client has shown."""
        async with asyncio.timeout(SOCKET_TIMEOUT):
            return await self.shown.get()


def greet_well(served: ServedClient) -> None:
    served.say(welcome(resumed=False))


def go_on(served: ServedClient) -> None:
    served.say(welcome(resumed=True), ResumeState([(1, 0, 0, 0)], True))


def go_on_and_close(served: ServedClient) -> None:
    go_on(served)
    asyncio.get_running_loop().call_later(0.05, served.connection.close, SessionCode.LINK_REPLACED, "")
    asyncio.get_running_loop().call_later(0.05, served.schedule_transmit)


def greet_and_leave(served: ServedClient) -> None:
    served.say(welcome(resumed=False), GoAway(30))


@asynccontextmanager
async def listening_origin() -> AsyncIterator[int]:
    """A local service that says it is ready, and then only listens; its port."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"ready")
        with suppress(ConnectionResetError):  # as its visitor may end
            await reader.read()
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


def make_the_link_look_sick(client: quictunnel.Client) -> None:
    """Have the client dial beside the link that it has."""
    manager, background = client._manager, client._loop_thread
    assert manager is not None
    assert background is not None

    def doubt() -> None:
        assert manager._connection is not None
        manager._connection.mark_suspect(SUSPECT_AFTER)
        manager._wake.set()

    background.loop.call_soon_threadsafe(doubt)


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> list[ServedClient]:
    """The edge refuses the first Bind because it leaves; the clients to whom it did."""
    real = ServedClient.hear
    clients: list[ServedClient] = []

    def hear(self: ServedClient, message: AnyMessage) -> None:
        if isinstance(message, Bind) and not clients:
            clients.append(self)
            self.say(BindRefused(message.lease, BindCode.CLOSING))
        else:
            real(self, message)

    monkeypatch.setattr(ServedClient, "hear", hear)
    return clients


async def test_goaway_in_the_packet_of_the_greeting_is_obeyed(
    scripted: HostileEdge, client: quictunnel.Client, refused: list[ServedClient]
) -> None:
    """The client dials for another session, of which it asks what the first has refused."""
    greetings = Greetings(scripted, greet_and_leave, greet_well)
    async with quictunnel.forward(9, client=client):
        assert await greetings.secret() == b""
        assert await greetings.secret() == b"", "a session that is to leave is not gone on with"
        (first,) = refused
        assert not first.over.done(), "the first session has ended before its visitors had finished"


async def test_link_lost_right_after_a_resume_loses_no_visitor(
    scripted: HostileEdge, client: quictunnel.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the greeting and the moment when the client relies on it."""
    real = Dialer._dial_address

    async def attempt(*of: Any, **options: Any) -> EdgeConnection:
        connection = await real(*of, **options)
        if connection.is_resumed and greetings.count == 2:
            await connection.link_lost.wait()
        return connection

    monkeypatch.setattr(Dialer, "_dial_address", attempt)
    greetings = Greetings(scripted, greet_well, go_on_and_close, go_on)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    origin = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with origin, quictunnel.forward(origin.sockets[0].getsockname()[1], client=client):
        served = await scripted.session()
        stream = served.visit()
        served.write(stream, b"question")
        await served.has_come(stream, b"question")
        make_the_link_look_sick(client)
        secrets = [await greetings.secret() for _ in range(3)]
        assert secrets == [b"", KEY, KEY], "the session was given up"


@pytest.mark.parametrize("silence", [0.0, SUSPECT_AFTER], ids=["old-link-was-well", "old-link-was-sick"])
async def test_link_lost_right_after_a_resume_is_replaced(
    scripted: HostileEdge, client: quictunnel.Client, monkeypatch: pytest.MonkeyPatch, silence: float
) -> None:
    """The session has left the old link, and the new one is gone before anybody relies on it."""
    real = EdgeConnection.greet

    async def greet(connection: EdgeConnection) -> None:
        if greetings.count == 2:
            assert manager._resumable._expiry is not None, "the session would wait for ever"
        await asyncio.wait([connection._greeted])
        if connection.is_resumed and greetings.count == 2:
            await connection.link_lost.wait()
            old = manager._connection
            assert old is not None
            old._link.unanswered_for = silence
        await real(connection)

    monkeypatch.setattr(EdgeConnection, "greet", greet)
    greetings = Greetings(scripted, greet_well, go_on_and_close, go_on)
    async with quictunnel.forward(9, client=client):
        manager = client._manager
        assert manager is not None
        make_the_link_look_sick(client)
        assert [await greetings.secret() for _ in range(3)] == [b"", KEY, KEY]


@pytest.mark.parametrize("is_answered", [True, False], ids=["resumed", "not-answered-yet"])
async def test_client_that_closes_during_a_resume_ends_its_session(
    scripted: HostileEdge, client: quictunnel.Client, monkeypatch: pytest.MonkeyPatch, *, is_answered: bool
) -> None:
    """The edge would else keep its names for somebody who does not come back."""
    real = Dialer._dial_address
    resumed = threading.Event()

    async def attempt(*of: Any, **options: Any) -> EdgeConnection:
        connection = await real(*of, **options)
        if connection.is_resumed:
            resumed.set()
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        return connection

    monkeypatch.setattr(Dialer, "_dial_address", attempt)
    greetings = Greetings(scripted, greet_well, go_on if is_answered else lambda _: None)
    async with quictunnel.forward(9, client=client):
        await scripted.session()
        make_the_link_look_sick(client)
        assert [await greetings.secret() for _ in range(2)] == [b"", KEY]
        if is_answered:
            assert await asyncio.to_thread(resumed.wait, SOCKET_TIMEOUT)
        closing = asyncio.create_task(asyncio.to_thread(client.close))
        second = await scripted.sessions.get()
        assert await second.end() == (CloseCause.PEER, SessionCode.CLOSED)
        await closing


@pytest.mark.parametrize("number", [0, 1], ids=["stream-that-is-here", "stream-that-is-new"])
async def test_data_before_the_resume_state_is_bounded_by_credit(
    scripted: HostileEdge, client: quictunnel.Client, number: int
) -> None:
    Greetings(scripted, greet_well, lambda served: served.say(welcome(resumed=True)))
    async with listening_origin() as port, quictunnel.forward(port, client=client):
        first = await scripted.session()
        await first.has_come(first.visit(), b"ready")
        make_the_link_look_sick(client)
        async with asyncio.timeout(SOCKET_TIMEOUT):
            second = await scripted.sessions.get()
        await second.heard(ResumeState)
        second.write(second.visit(number=number), bytes(INITIAL_WINDOW + 1))
        assert await second.end() == PROTOCOL


def answer_one_lease_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have edges hear what is said of other leases, and say nothing."""
    real = ServedClient.hear

    def hear(self: ServedClient, message: AnyMessage) -> None:
        if getattr(message, "lease", 1) == 1:
            real(self, message)
        else:
            self.messages.put_nowait(message)

    monkeypatch.setattr(ServedClient, "hear", hear)


async def test_lease_that_was_given_up_is_given_back_again_on_the_next_link(
    scripted: HostileEdge, client: quictunnel.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The edge has not answered the Bind, and the link that carried the Unbind is lost."""
    answer_one_lease_alone(monkeypatch)
    Greetings(scripted, greet_well, go_on)
    async with quictunnel.forward(9, client=client):
        first = await scripted.session()
        opening = asyncio.create_task(quictunnel.forward(10, client=client).__aenter__())
        while (await first.heard(Bind)).lease == 1:
            pass
        opening.cancel()
        assert (await first.heard(Unbind)).lease == 2
        make_the_link_look_sick(client)
        async with asyncio.timeout(SOCKET_TIMEOUT):
            second = await scripted.sessions.get()
        assert (await second.heard(Unbind)).lease == 2


async def test_tunnel_that_closes_is_not_asked_of_the_session_that_follows(
    scripted: HostileEdge, client: quictunnel.Client
) -> None:
    """Visitors of the closed tunnel still finish when the edge drains."""
    Greetings(scripted, greet_well, greet_well)

    async with listening_origin() as port, quictunnel.forward(9, client=client):
        closing = quictunnel.forward(port, client=client)
        await closing.__aenter__()
        first = await scripted.session()
        first.write(first.visit(2), b"question")
        await asyncio.wait_for(first.heard(Credits), SOCKET_TIMEOUT)
        close = asyncio.create_task(closing.__aexit__(None, None, None))
        await first.heard(Unbind)
        first.say(GoAway(30))
        second = await scripted.session()
        assert (await second.heard(Bind)).lease == 1
        async with quictunnel.forward(10, client=client):
            assert (await second.heard(Bind)).lease == 3, "the edge was asked for a tunnel that closes"
        await close
