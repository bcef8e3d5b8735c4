"""Going on with somebody else's session, or with one's own in a way that cannot be."""

from __future__ import annotations

import asyncio
import random
import secrets
from typing import TYPE_CHECKING

import pytest

from edge_server.tunnels.tickets import Ticket, TicketSealer
from quictunnel.transport.engine import CloseCause
from quictunnel.wire.codes import SessionCode
from quictunnel.wire.messages import (
    MAX_TICKET,
    MAX_WINDOW,
    SECRET_SIZE,
    Bind,
    Bound,
    Credits,
    Hello,
    ResumeState,
    Unbind,
    Unbound,
    Welcome,
)
from tests.harness.hostile_peer import WINDOW, HostileClient, ReturningClient
from tests.harness.sockets import SOCKET_TIMEOUT
from tests.harness.tunnel_fixture import EmbeddedTunnel
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

PROTOCOL = (CloseCause.PEER, SessionCode.PROTOCOL)
SAID = 1000
AT_ONCE = 10
"""Guesses at the same time. They share one core with the edge, which waits some seconds for each Hello."""


@pytest.fixture(scope="module")
def rig(engines):
    with EmbeddedTunnel() as made:
        yield made


async def session_with_visitor(client: HostileClient) -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
    """A session with one visitor, who has said something: its secret, and the visitor."""
    client.say(client.good_hello)
    secret = (await client.heard(Welcome)).session
    bound = await client.lease()
    reader, writer = await asyncio.open_connection(bound.unencrypted_host, bound.unencrypted_port)
    writer.write(bytes(SAID))
    stream = await client.opened.get()
    await client.has_come(stream, bytes(SAID))
    return secret, reader, writer


def with_visitor(entry: tuple[int, int, int, int]) -> ResumeState:
    return ResumeState([entry], True)


@pytest.mark.slow
async def test_a_thousand_guesses_resume_nothing(rig: EmbeddedTunnel) -> None:
    config = rig.edge.client_config
    sessions = rig.edge.server.services.sessions
    async with HostileClient(config) as owner:
        secret, _, writer = await session_with_visitor(owner)
        begun, resumed = sessions.begun, sessions.resumed

        async def guess(number: int) -> None:
            wrong = secrets.token_bytes(SECRET_SIZE) if number % 2 else secret[: number % SECRET_SIZE] + bytes(1)
            async with ReturningClient(config) as thief:
                welcome = await thief.come_back(wrong)
            assert not welcome.resumed
            assert welcome.session != secret

        for start in range(0, 1000, AT_ONCE):
            await asyncio.gather(*(guess(start + number) for number in range(AT_ONCE)))
            owner.connection.ping()
            owner.schedule_transmit()
        assert (sessions.begun - begun, sessions.resumed - resumed) == (1000, 0)
        # The session has not noticed.
        assert not owner.over.done()
        writer.write(b"still here")
        await owner.has_come(max(owner.received), b"still here")
        writer.close()


def forgeries(ticket: bytes, chance: random.Random) -> Iterator[bytes]:
    """Tickets that are none: cut, bent in one bit, longer, of another key, of noise."""
    other = TicketSealer(bytes(32), "tunnel.localhost")
    while True:
        bent = bytearray(ticket)
        bent[chance.randrange(len(bent))] ^= 1 << chance.randrange(8)
        yield bytes(bent)
        yield ticket[: chance.randrange(len(ticket))]
        yield ticket + chance.randbytes(1)
        yield other.seal(Ticket("name", 20000, "owner", chance.randrange(100)))
        yield chance.randbytes(chance.randrange(1, MAX_TICKET))


@pytest.mark.slow
async def test_a_thousand_forged_tickets_take_no_name_and_no_port(
    rig: EmbeddedTunnel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # How many may be tried is another matter.
    monkeypatch.setattr(rig.edge.server.services.requests, "rate", 1e6)
    chance = random.Random(4)
    async with HostileClient(rig.edge.client_config) as owner, HostileClient(rig.edge.client_config) as thief:
        await owner.greet()
        held = await owner.lease()
        await thief.greet()
        forged = forgeries(held.ticket, chance)
        for number in range(1000):
            thief.say(Bind(number, unencrypted=number % 10 == 0, h2=False, ticket=next(forged)))
            bound = await thief.heard(Bound)
            assert bound.host != held.host
            assert bound.unencrypted_port != held.unencrypted_port
            thief.say(Unbind(number))
            await thief.heard(Unbound)
        # The owner has not noticed.
        assert not owner.over.done()
        reader, writer = await asyncio.open_connection(held.unencrypted_host, held.unencrypted_port)
        writer.write(b"still here")
        await owner.has_come(await owner.opened.get(), b"still here")
        writer.close()
        del reader


async def test_the_newest_link_has_the_session_and_an_older_one_nothing(rig: EmbeddedTunnel) -> None:
    config = rig.edge.client_config
    async with HostileClient(config) as first, ReturningClient(config) as second:
        secret, reader, writer = await session_with_visitor(first)
        assert (await second.come_back(secret)).resumed
        assert await first.end() == (CloseCause.PEER, SessionCode.LINK_REPLACED)
        standing = await second.heard(ResumeState)
        assert standing.entries == [(0, 0, 0, WINDOW), (1, 0, 0, 0)]  # and the number of the next stream
        second.say(with_visitor((0, SAID, SAID, SAID + WINDOW)))
        writer.write(b"more")
        stream = await second.opened.get()
        await second.has_come(stream, b"more")
        assert bytes(second.received[stream]).count(bytes(100)) == 0  # only what was not received before
        second.write(stream, b"an answer")
        assert await reader.readexactly(9) == b"an answer"
        writer.close()


async def test_link_closed_before_its_resume_state_keeps_the_session(rig: EmbeddedTunnel) -> None:
    """The client may never have received the Welcome."""
    config = rig.edge.client_config
    async with HostileClient(config) as first:
        secret, reader, writer = await session_with_visitor(first)
        async with ReturningClient(config) as second:
            assert (await second.come_back(secret)).resumed
            second.connection.close(SessionCode.DONE)
            second.schedule_transmit()
        async with ReturningClient(config) as third:
            assert (await third.come_back(secret)).resumed
            third.say(with_visitor((0, SAID, SAID, SAID + WINDOW)))
            stream = await third.opened.get()
            third.write(stream, b"an answer")
            assert await reader.readexactly(9) == b"an answer"
            writer.close()


async def test_client_of_version_1_is_spoken_to_in_its_version(rig: EmbeddedTunnel) -> None:
    async with HostileClient(rig.edge.client_config) as client:
        client.say(Hello(1, client.token, WINDOW, "hostile/1", b""))
        assert (await client.heard(Welcome)).version == 1
        assert (await client.lease()).port


async def test_a_secret_is_of_no_use_after_its_session(rig: EmbeddedTunnel) -> None:
    config = rig.edge.client_config
    async with HostileClient(config) as first:
        secret, _, writer = await session_with_visitor(first)
        writer.close()
    eventually(lambda: rig.edge.server.client_count == 1, "the session is still there")
    async with ReturningClient(config) as second:
        assert not (await second.come_back(secret)).resumed


async def test_session_of_a_closed_client_is_not_kept(rig: EmbeddedTunnel) -> None:
    """Although it had not said yet how it stands."""
    config = rig.edge.client_config
    async with HostileClient(config) as first, ReturningClient(config) as second:
        secret, reader, writer = await session_with_visitor(first)
        assert (await second.come_back(secret)).resumed
        second.connection.close(SessionCode.CLOSED)
        second.schedule_transmit()
        async with asyncio.timeout(SOCKET_TIMEOUT):
            with pytest.raises(ConnectionResetError):
                await reader.read()
        writer.close()
        assert rig.edge.server.services.sessions.away == 0


@pytest.mark.parametrize("is_away", [False, True])
async def test_secret_of_a_session_that_lost_its_name_is_refused(rig: EmbeddedTunnel, *, is_away: bool) -> None:
    """The program was restarted when its session lost its link, or just before: the older session must not take
    the name back."""
    config = rig.edge.client_config
    async with HostileClient(config) as older, HostileClient(config) as newer, ReturningClient(config) as back:
        older.say(older.good_hello)
        secret = (await older.heard(Welcome)).session
        ticket = (await older.lease()).ticket
        if is_away:
            async with ReturningClient(config) as lost:
                assert (await lost.come_back(secret)).resumed  # and leaves before it says how it stands
            eventually(lambda: rig.edge.server.services.sessions.away == 1, "the session is not away")
        await newer.greet()
        newer.say(Bind(1, unencrypted=True, h2=False, ticket=ticket))
        await newer.heard(Bound)
        back.show(secret)
        assert await back.end() == (CloseCause.PEER, SessionCode.SUPERSEDED)
        assert not newer.over.done()
        newer.say(Unbind(1))
        await newer.heard(Unbound)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param([with_visitor((0, SAID + 1, 0, WINDOW))], id="received what was not sent"),
        pytest.param([with_visitor((0, 1 << 61, 0, WINDOW))], id="received far beyond"),
        pytest.param([with_visitor((0, 10, 11, WINDOW))], id="consumed more than received"),
        pytest.param([with_visitor((0, 10, 10, 11 + MAX_WINDOW))], id="a window beyond the largest"),
        pytest.param([with_visitor((0, 10, 10, 10))], id="a limit taken back"),
        pytest.param([with_visitor((1, 0, 0, WINDOW))], id="a stream that never was"),
        pytest.param([ResumeState([(0, 0, 0, WINDOW)] * 2, True)], id="one stream twice"),
        pytest.param([ResumeState([(0, 0, 0, WINDOW)], False)] * 2, id="one stream in two messages"),
        pytest.param([Credits([(0, 0, WINDOW)])], id="credit before the standing"),
        pytest.param([ResumeState([], True)] * 2, id="two last ones"),
        pytest.param([ResumeState([], False)] * 20_000, id="an account without an end"),
    ],
)
async def test_a_standing_that_cannot_be(rig: EmbeddedTunnel, said) -> None:
    config = rig.edge.client_config
    async with HostileClient(config) as first, ReturningClient(config) as second:
        secret, reader, writer = await session_with_visitor(first)
        assert (await second.come_back(secret)).resumed
        second.say(*said)
        assert await second.end() == PROTOCOL
        with pytest.raises(ConnectionResetError):
            await reader.read()  # nothing is left of the session
        writer.close()
    eventually(lambda: rig.edge.server.client_count == 1, "the session is still there")
    rig.pair("tcp")


async def test_standings_without_being_asked(rig: EmbeddedTunnel) -> None:
    async with HostileClient(rig.edge.client_config) as client:
        await client.greet()
        client.say(ResumeState([], True))
        assert await client.end() == PROTOCOL
