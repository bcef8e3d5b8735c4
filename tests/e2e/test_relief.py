"""A second link beside one that looks sick: whatever the edge makes of it, and whenever the client hears of that,
the session goes on."""

from __future__ import annotations

import asyncio

import pytest

import quictunnel
from quictunnel.observation import STATES
from quictunnel.wire.codes import PROTOCOL_VERSION, SessionCode
from quictunnel.wire.messages import SECRET, AnyMessage, Hello, Standing, Welcome
from tests.e2e.conftest import free_port
from tests.e2e.hostile import PATIENCE, WINDOW, HostileEdge, ServedClient

KEY = bytes(range(SECRET))


def welcome(*, resumed: bool) -> Welcome:
    return Welcome(PROTOCOL_VERSION, WINDOW, 10, "hostile/1", KEY, resumed, 120, 0, 0)


class Holding(ServedClient):
    """Greets newcomers with a session that may be resumed; who shows its secret is answered by the test."""

    def hear(self, message: AnyMessage) -> None:
        if not isinstance(message, Hello):
            super().hear(message)
            return
        self.messages.put_nowait(message)
        if not message.session:
            self.say(welcome(resumed=False))

    def resume(self) -> None:
        self.say(welcome(resumed=True), Standing([], True))

    def replace(self) -> None:
        self.connection.close(SessionCode.REPLACED)
        self.wake()


@pytest.fixture
async def edge(tmp_path, monkeypatch, engines):
    monkeypatch.setattr("tests.e2e.hostile.ServedClient", Holding)
    monkeypatch.setattr("quictunnel.uplink.SUSPICION", 0.0)  # every link looks sick
    async with HostileEdge(tmp_path) as edge:
        yield edge


async def next_that_shows_the_secret(edge: HostileEdge) -> Holding:
    async with asyncio.timeout(PATIENCE):
        served = await edge.sessions.get()
    assert isinstance(served, Holding)
    assert (await served.heard(Hello)).session == KEY
    return served


async def until_connected(client: quictunnel.Client) -> None:
    async with asyncio.timeout(PATIENCE):
        while client.state != "connected":
            assert client.state in STATES - {"failed", "refused", "closed"}
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("order", ["the old link first", "the new link first"])
async def test_the_edge_takes_the_second_link(edge, monkeypatch, order: str) -> None:
    with quictunnel.Client.from_config(edge.client_config) as client:
        async with quictunnel.forward(free_port(), client=client):
            first = await edge.session()
            second = await next_that_shows_the_secret(edge)
            monkeypatch.setattr("quictunnel.uplink.SUSPICION", 100.0)
            if order == "the old link first":
                first.replace()
                await asyncio.sleep(0.1)  # the client has heard of it
                second.resume()
            else:
                second.resume()
                first.replace()
            await second.heard(Standing)
            await until_connected(client)
            assert client.snapshot().resumed == 1


async def test_the_edge_took_a_second_link_that_the_client_gave_up(edge, monkeypatch) -> None:
    """Its answer was lost: what is heard is only that the old link is no more."""
    monkeypatch.setattr("quictunnel.uplink.URGENT", 0.3)
    with quictunnel.Client.from_config(edge.client_config) as client:
        async with quictunnel.forward(free_port(), client=client):
            first = await edge.session()
            second = await next_that_shows_the_secret(edge)
            await second.end()  # the client has lost its patience
            first.replace()
            third = await next_that_shows_the_secret(edge)
            monkeypatch.setattr("quictunnel.uplink.SUSPICION", 100.0)
            third.resume()
            await third.heard(Standing)
            await until_connected(client)
            assert client.snapshot().resumed == 1


async def test_a_link_that_is_well_again_does_not_end_a_dial_that_showed_the_secret(edge, monkeypatch) -> None:
    with quictunnel.Client.from_config(edge.client_config) as client:
        async with quictunnel.forward(free_port(), client=client):
            await edge.session()
            second = await next_that_shows_the_secret(edge)
            monkeypatch.setattr("quictunnel.uplink.SUSPICION", 100.0)  # from now on the first one looks well
            await asyncio.sleep(1.5)  # longer than between two looks
            assert not second.over.done()
            second.resume()
            await second.heard(Standing)
            await until_connected(client)
