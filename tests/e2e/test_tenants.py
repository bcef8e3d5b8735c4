"""One tenant against the others: a token without limits, which is what `token create` makes, takes what it can."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

import pytest

import quictunnel
from edge_server import binding, registry, sessions
from edge_server.config import EdgeConfig
from edge_server.rights import requests
from edge_server.rights.identity import Rights
from edge_server.rights.store import Store
from edge_server.server import EdgeServer
from quictunnel.config import ClientConfig, Secret
from quictunnel.transport.engine import CloseCause
from quictunnel.wire.codes import BindCode, SessionCode
from quictunnel.wire.messages import Bind, BindRefused, Bound, Welcome
from tests import pairing
from tests.e2e.hostile import HostileClient, Returning

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

FEW = 27
PORTS = range(21_400, 21_436)


@pytest.fixture
async def edge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[EdgeServer]:
    """One with little of everything, on the loop of the test."""
    monkeypatch.setattr(sessions, "MAX_SESSIONS", FEW)
    monkeypatch.setattr(sessions, "MAX_AWAY", 4)
    monkeypatch.setattr(sessions, "ALWAYS", 2)
    monkeypatch.setattr(registry, "MAX_LEASES", 90)
    monkeypatch.setattr(registry, "ALWAYS", 2)
    monkeypatch.setattr(binding, "MAX_MEMBERS", 3)
    edge = EdgeServer(
        EdgeConfig(
            state_dir=tmp_path,
            quic=("127.0.0.1", 0),
            https=("127.0.0.1", 0),
            tcp_ports=PORTS,
            grace=1.0,
            engine=pairing.edge_engine(),
        )
    )
    await edge.start()
    yield edge
    await edge.stop()


def token_of(edge: EdgeServer) -> ClientConfig:
    """Of another tenant, as the command makes it by default."""
    store = Store(edge.config.state_dir)
    token, _ = store.create(Rights(), "", int(time.time()))
    store.close()
    assert edge._house is not None
    edge._house.tokens.refresh()
    return ClientConfig(
        edge=edge.quic_address, token=Secret(token), ca=edge.ca, engine=os.environ[pairing.VARIABLE]
    )


async def begin(config: ClientConfig) -> tuple[HostileClient, bytes]:
    """A session, and its secret."""
    client = await HostileClient(config).__aenter__()
    client.say(client.good_hello)
    return client, (await client.heard(Welcome)).session


async def ask(client: HostileClient, *binds: Bind) -> list[Bound | BindCode]:
    client.say(*binds)
    answers: list[Bound | BindCode] = []
    async with asyncio.timeout(15):
        while len(answers) < len(binds):
            message = await client.messages.get()
            if isinstance(message, Bound):
                answers.append(message)
            elif isinstance(message, BindRefused):
                answers.append(message.code)
    return answers


async def end(*clients: HostileClient) -> None:
    await asyncio.gather(*(client.__aexit__() for client in clients))


async def test_sessions_of_one_token_leave_some_to_others_and_may_be_resumed(edge: EdgeServer):
    bad, good = token_of(edge), token_of(edge)
    begun = [await begin(bad) for _ in range(FEW * 8 // 9)]
    refused = await HostileClient(bad).__aenter__()
    refused.say(refused.good_hello)
    assert await refused.end() == (CloseCause.PEER, SessionCode.OVERLOADED)
    other, _ = await begin(good)
    # The honest redial of a client of that token: its session has its place.
    back = await Returning(bad).__aenter__()
    assert (await back.come_back(begun[0][1])).resumed
    await end(refused, other, back, *(client for client, _ in begun))


async def test_a_real_client_comes_in_when_there_is_room_for_its_token_again(edge: EdgeServer):
    mine = token_of(edge)
    begun = [(await begin(mine))[0] for _ in range(FEW * 8 // 9)]

    def open_one() -> str:
        with quictunnel.Client.from_config(mine) as client, quictunnel.forward(9, client=client) as tunnel:
            return tunnel.url

    assert edge._house is not None
    async with asyncio.timeout(15):
        opening = asyncio.create_task(asyncio.to_thread(open_one))
        while not edge._house.sessions.refused:  # noqa: ASYNC110 - a counter has no event
            await asyncio.sleep(0.01)
        await end(begun.pop())
        assert (await opening).startswith("https://")
    await end(*begun)


async def test_ports_and_tunnels_of_one_token_leave_some_to_others(edge: EdgeServer):
    bad, good = token_of(edge), token_of(edge)
    (first, _), (second, _), (other, _) = await begin(bad), await begin(bad), await begin(good)
    with_port = [Bind(number, True, False, b"") for number in range(len(PORTS) + 4)]
    answers = await ask(first, *with_port)
    got = [answer for answer in answers if isinstance(answer, Bound)]
    assert len(got) == len(PORTS) * 8 // 9
    assert set(answers) - set(got) == {BindCode.NO_PORT}
    plain = await ask(second, *(Bind(number, False, False, b"") for number in range(70)))
    assert sum(isinstance(answer, Bound) for answer in plain) == 80 - len(got)
    assert plain[-1] is BindCode.TOO_MANY
    (theirs,) = await ask(other, Bind(1, True, False, b""))
    assert isinstance(theirs, Bound)
    # What the token has it may have again: by its ticket, as a program does that was started again.
    again, _ = await begin(bad)
    (mine,) = await ask(again, Bind(1, True, False, got[3].ticket))
    assert isinstance(mine, Bound)
    assert (mine.host, mine.unencrypted_port) == (got[3].host, got[3].unencrypted_port)
    await end(first, second, other, again)


async def test_networks_count_and_pools_have_an_end(edge: EdgeServer):
    (client, _), (other, _) = await begin(token_of(edge)), await begin(token_of(edge))
    networks = [f"2001:db8:{number:x}::/48" for number in range(64)]
    answers = await ask(client, *(Bind(n, False, False, b"", allow=networks, deny=networks) for n in range(12)))
    assert sum(isinstance(answer, Bound) for answer in answers) == 8  # each counts as nine
    mine = token_of(edge)
    same = [await begin(mine) for _ in range(4)]
    shared = [(await ask(each, Bind(1, False, False, b"", name="pool", pool=True)))[0] for each, _ in same]
    assert [isinstance(answer, Bound) for answer in shared] == [True, True, True, False]
    assert shared[-1] is BindCode.TOO_MANY
    await end(client, other, *(each for each, _ in same))


async def test_sessions_of_one_token_that_are_away_push_out_no_others(edge: EdgeServer):
    bad, good = token_of(edge), token_of(edge)
    victim, secret = await begin(good)
    house = edge._house
    assert house is not None

    async def lose_link(config: ClientConfig, secret: bytes) -> None:
        """Come back, and leave before anything else was said, as a client does whose link breaks then."""
        before = house.sessions.away
        back = await Returning(config).__aenter__()
        assert (await back.come_back(secret)).resumed
        await back.__aexit__()
        async with asyncio.timeout(5):
            while before == house.sessions.away < sessions.MAX_AWAY:  # noqa: ASYNC110 - likewise
                await asyncio.sleep(0.01)

    await lose_link(good, secret)
    gone = []
    for _ in range(8):
        client, theirs = await begin(bad)
        gone.append(client)
        await lose_link(bad, theirs)
    assert house.sessions.given_up > 0, "the table was full"
    back = await Returning(good).__aenter__()
    assert (await back.come_back(secret)).resumed
    await end(victim, back, *gone)


async def test_requests_that_are_more_work_use_a_budget_up_sooner(
    edge: EdgeServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(requests, "BURST", 20.0)
    monkeypatch.setattr(requests, "RATE", 0.1)
    networks = [f"2001:db8:{number:x}::/48" for number in range(64)]
    for binds, is_ended in ((6, False), (7, True)):
        client, _ = await begin(token_of(edge))
        client.say(*(Bind(n, False, False, b"", allow=networks, deny=networks) for n in range(binds)))
        if is_ended:
            assert await client.end() == (CloseCause.PEER, SessionCode.TOO_MANY_REQUESTS)
        else:
            assert len([await client.heard(Bound) for _ in range(binds)]) == binds
        await end(client)
