"""Tests of tenant isolation: a client with an unrestricted token, the default of `token create`, takes what it
can."""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import TYPE_CHECKING, Any

import pytest

import quictunnel
from edge_server.auth.permissions import Permissions
from edge_server.auth.token_store import TokenStore
from edge_server.clients import session_table
from edge_server.config.edge_config import EdgeConfig
from edge_server.startup import start_edge
from edge_server.storage.steady_clock import steady
from edge_server.tunnels import bind_policy, registry
from edge_server.tunnels.ownership_store import OwnershipStore as ClaimStore
from quictunnel.config.client_config import ClientConfig, Secret
from quictunnel.transport.engine import CloseCause
from quictunnel.wire import credit
from quictunnel.wire.codes import BindCode, SessionCode
from quictunnel.wire.messages import Bind, BindRefused, Bound, Welcome
from tests.harness import engine_pairing
from tests.harness.hostile_peer import HostileClient, ReturningClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from edge_server.server import RunningEdge

FEW = 27
PORTS = 36
begun: list[HostileClient] = []
"""Clients of the test that runs, which has not ended them yet."""


@pytest.fixture
async def edge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[RunningEdge]:
    """Edge with small limits, on the event loop of the test."""
    monkeypatch.setattr(session_table, "MAX_SESSIONS", FEW)
    monkeypatch.setattr(session_table, "MAX_AWAY", 4)
    monkeypatch.setattr(session_table, "GUARANTEED_MIN", 2)
    monkeypatch.setattr(registry, "MAX_LEASES_PER_EDGE", 90)
    monkeypatch.setattr(registry, "GUARANTEED_MIN", 2)
    monkeypatch.setattr(bind_policy, "MAX_BACKENDS", 3)
    first = random.randrange(10_000, 30_000)  # tests run side by side
    edge = await start_edge(
        EdgeConfig(
            state_dir=tmp_path,
            quic=("127.0.0.1", 0),
            https=("127.0.0.1", 0),
            tcp_ports=range(first, first + PORTS),
            grace=1.0,
            engine=engine_pairing.edge_engine(),
        )
    )
    yield edge
    await end(*begun)
    await edge.stop()


def token_of(edge: RunningEdge, **rights: Any) -> ClientConfig:
    """Of another tenant, as the command makes it by default."""
    store = TokenStore(edge.config.state_dir)
    token, _ = store.create(Permissions(**rights), "", int(time.time()))
    store.close()
    edge.services.tokens.refresh()
    return ClientConfig(
        edge=edge.quic_address, token=Secret(token), ca=edge.ca, engine=os.environ[engine_pairing.VARIABLE]
    )


async def begin(config: ClientConfig) -> tuple[HostileClient, bytes]:
    """A session, and its secret."""
    client = await HostileClient(config).__aenter__()
    begun.append(client)
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
    for client in clients:
        if client in begun:
            begun.remove(client)
    await asyncio.gather(*(client.__aexit__() for client in clients))


async def test_sessions_of_one_token_leave_some_to_others_and_may_be_resumed(edge: RunningEdge):
    bad, good = token_of(edge), token_of(edge)
    clients = [await begin(bad) for _ in range(FEW * 8 // 9)]
    refused = await HostileClient(bad).__aenter__()
    refused.say(refused.good_hello)
    assert await refused.end() == (CloseCause.PEER, SessionCode.OVERLOADED)
    other, _ = await begin(good)
    # The honest redial of a client of that token: its session has its place.
    back = await ReturningClient(bad).__aenter__()
    assert (await back.come_back(clients[0][1])).resumed
    await end(refused, other, back, *(client for client, _ in clients))


async def test_client_reconnects_when_its_token_has_room_again(edge: RunningEdge):
    mine = token_of(edge)
    clients = [(await begin(mine))[0] for _ in range(FEW * 8 // 9)]

    def open_one() -> str:
        with quictunnel.Client.from_config(mine) as client, quictunnel.forward(9, client=client) as tunnel:
            return tunnel.url

    async with asyncio.timeout(15):
        opening = asyncio.create_task(asyncio.to_thread(open_one))
        while not edge.services.sessions.refused:  # noqa: ASYNC110 - a counter has no event
            await asyncio.sleep(0.01)
        await end(clients.pop())
        assert (await opening).startswith("https://")
    await end(*clients)


async def test_ports_and_tunnels_of_one_token_leave_some_to_others(edge: RunningEdge):
    bad, good = token_of(edge), token_of(edge)
    (first, _), (second, _), (other, _) = await begin(bad), await begin(bad), await begin(good)
    with_port = [Bind(number, True, False, b"") for number in range(PORTS + 4)]
    answers = await ask(first, *with_port)
    got = [answer for answer in answers if isinstance(answer, Bound)]
    assert len(got) == PORTS * 8 // 9
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


async def test_networks_count_and_pools_have_an_end(edge: RunningEdge):
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


async def test_sessions_of_one_token_that_are_away_push_out_no_others(edge: RunningEdge):
    bad, good = token_of(edge), token_of(edge)
    victim, secret = await begin(good)
    services = edge.services

    async def lose_link(config: ClientConfig, secret: bytes) -> None:
        """Come back, and leave before anything else was said, as a client does whose link breaks then."""
        before = services.sessions.away
        back = await ReturningClient(config).__aenter__()
        assert (await back.come_back(secret)).resumed
        await back.__aexit__()
        async with asyncio.timeout(5):
            while before == services.sessions.away < session_table.MAX_AWAY:  # noqa: ASYNC110 - likewise
                await asyncio.sleep(0.01)

    await lose_link(good, secret)
    gone = []
    for _ in range(8):
        client, theirs = await begin(bad)
        gone.append(client)
        await lose_link(bad, theirs)
    assert services.sessions.given_up > 0, "the table was full"
    back = await ReturningClient(good).__aenter__()
    assert (await back.come_back(secret)).resumed
    await end(victim, back, *gone)


async def test_requests_that_are_more_work_use_a_budget_up_sooner(
    edge: RunningEdge, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(edge.services.requests, "burst", 20.0)
    monkeypatch.setattr(edge.services.requests, "rate", 0.1)
    networks = [f"2001:db8:{number:x}::/48" for number in range(64)]
    for binds, is_ended in ((6, False), (7, True)):
        client, _ = await begin(token_of(edge))
        client.say(*(Bind(n, False, False, b"", allow=networks, deny=networks) for n in range(binds)))
        if is_ended:
            assert await client.end() == (CloseCause.PEER, SessionCode.TOO_MANY_REQUESTS)
        else:
            assert len([await client.heard(Bound) for _ in range(binds)]) == binds
        await end(client)


async def test_memory_that_a_download_used_is_given_back(edge: RunningEdge, monkeypatch: pytest.MonkeyPatch):
    """Windows that have grown, in both directions."""
    monkeypatch.setattr(credit, "GROWTH_SECONDS", 10.0)
    size, services = 8 << 20, edge.services
    assert services is not None

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1 << 20)
        writer.write(bytes(size))
        await writer.drain()
        writer.close()

    origin = await asyncio.start_server(answer, "127.0.0.1", 0)
    client = quictunnel.Client.from_config(token_of(edge))
    forwarding = quictunnel.forward(origin.sockets[0].getsockname()[1], unencrypted=True, client=client)
    tunnel = await asyncio.to_thread(forwarding.__enter__)
    reader, writer = await asyncio.open_connection(*tunnel.tcp_socket)
    writer.write(bytes(1 << 20))
    used = read = 0
    while chunk := await reader.read(1 << 20):
        read += len(chunk)
        used = max(used, services.memory.shares.used)
    assert read == size
    assert used > 0, "no window has grown"
    await asyncio.to_thread(forwarding.__exit__, None, None, None)
    await asyncio.to_thread(client.close)
    writer.close()
    origin.close()
    async with asyncio.timeout(10):
        while services.memory.shares.used:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.01)
    assert not services.memory.shares._held


MONTHS = 60 * 86_400.0


async def wait_for_refreshes(edge: RunningEdge, count: int = 3) -> None:
    """Wait until the edge has looked at its clock, its tokens and its claims so often."""
    store = edge.services.claims._store
    looked, changes = 0, store.changes

    def counting() -> int:
        nonlocal looked
        looked += 1
        return changes()

    store.changes = counting  # type: ignore[method-assign]
    async with asyncio.timeout(10):
        while looked < count:  # noqa: ASYNC110 - what is waited for happens in another thread
            await asyncio.sleep(0.01)
    del store.changes  # type: ignore[method-assign]


async def test_a_clock_that_jumps_for_a_moment_ends_nothing(edge: RunningEdge, caplog: pytest.LogCaptureFixture):
    """Claims, a live session of a token with an end, and its next session."""
    services = edge.services
    limited = token_of(edge, expires=int(time.time() + MONTHS / 2))
    (client, _), (away, _) = await begin(limited), await begin(token_of(edge))
    (held,) = await ask(client, Bind(1, True, False, b"", name="held", tcp_port=edge.config.tcp_ports[5]))
    assert isinstance(held, Bound)
    await ask(away, Bind(1, False, False, b"", name="left"))
    await end(away)
    for wrong in (MONTHS, -MONTHS):
        # What the edge is told of the time at its next looks; and it has run for days.
        services.clock._wall = lambda wrong=wrong: time.time() + wrong
        services.clock._since -= 10 * 86_400.0
        await wait_for_refreshes(edge)
        watch = edge.change_watcher
        watch._seen_at -= 7200.0
        await wait_for_refreshes(edge)
        again, _ = await begin(limited)
        await end(again)
        services.clock._wall = time.time
        await wait_for_refreshes(edge)
    assert not client.over.done()
    assert "the system's clock jumped by 5184000 s" in caplog.text
    assert all(services.claims.owner(what) for what in ("held", "left", f":{edge.config.tcp_ports[5]}"))
    store = ClaimStore(edge.config.state_dir)
    assert {claim.subject for claim in store.claims()} == {"held", "left", f":{edge.config.tcp_ports[5]}"}
    store.close()
    await end(client)


async def test_names_unused_for_a_month_are_freed(edge: RunningEdge):
    """By a clock that has gone on evenly for a day; what is held stays."""
    services = edge.services
    (client, _), (away, _) = await begin(token_of(edge)), await begin(token_of(edge))
    (held,) = await ask(client, Bind(1, True, False, b"", name="held", tcp_port=edge.config.tcp_ports[5]))
    assert isinstance(held, Bound)
    await ask(away, Bind(1, False, False, b"", name="left"))
    await end(away)
    await wait_for_refreshes(edge)
    services.clock._steady = lambda: steady() + MONTHS
    services.clock._wall = lambda: time.time() + MONTHS
    edge.change_watcher._seen_at -= 7200.0
    await wait_for_refreshes(edge)
    assert services.claims.owner("left") is None
    assert services.claims.owner("held") == services.claims.owner(f":{edge.config.tcp_ports[5]}") is not None
    await end(client)
