"""A second link beside one that looks sick: whichever the client hears of first, that the second was taken or that
the first is no more, the session goes on, and nobody of those who come and leave meanwhile fails."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

import pytest

import quictunnel
from edge_server.clients.session import ClientSession
from tests.harness.echo_origin import EchoOrigin
from tests.harness.edge_process import embedded_edge
from tests.harness.udp_relay import Flow, Relay
from tests.harness.waiting import LONG_TIMEOUT, eventually
from tests.load.background import churn_beside, nothing_left

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from edge_server.embedded import EmbeddedEdge
    from quictunnel.transport.link import Link
    from quictunnel.wire.messages import Hello

LOOKS = 1.5
"""Seconds: longer than between two looks of a client at its links."""


@pytest.fixture
def edge(engines: object) -> Iterator[EmbeddedEdge]:
    with embedded_edge() as edge:
        yield edge


@pytest.fixture
def relay(edge: EmbeddedEdge) -> Iterator[Relay]:
    with Relay(edge.client_config.edge) as relay:
        yield relay


@pytest.fixture
async def client(edge: EmbeddedEdge, relay: Relay) -> AsyncIterator[quictunnel.Client]:
    """With a visitor who stays, and others who come and leave, of whom none fails."""
    config = dataclasses.replace(edge.client_config, edge=relay.address)
    with quictunnel.Client.from_config(config) as client, EchoOrigin() as origin:
        async with quictunnel.forward(origin.port, client=client, unencrypted=True) as tunnel:
            reader, writer = await asyncio.open_connection(*tunnel.tcp_socket)
            async with churn_beside(edge, tunnel) as churn:
                yield client
                assert client.snapshot().resumed == 1
                await asyncio.to_thread(churn.wait_for, 5)
                await asyncio.to_thread(churn.finish)
            writer.write(b"still here")
            assert await reader.readexactly(10) == b"still here"
            writer.close()
            await writer.wait_closed()
            await asyncio.to_thread(nothing_left, edge, client)


@pytest.fixture
def relieved(
    monkeypatch: pytest.MonkeyPatch, relay: Relay
) -> Callable[[Callable[[Flow, Flow], None]], asyncio.Event]:
    """Has the link look sick until the edge has heard of the second one. What is given is then done with the first
    and the second, before the edge says a word about it; the event follows."""
    real = ClientSession.resume

    def relieve(meanwhile: Callable[[Flow, Flow], None]) -> asyncio.Event:
        loop, happened = asyncio.get_running_loop(), asyncio.Event()

        def resume(self: ClientSession, link: Link, hello: Hello) -> None:
            if not happened.is_set():
                monkeypatch.setattr("quictunnel.connection.manager.SUSPECT_AFTER", 100.0)
                meanwhile(*relay.flows)
                loop.call_soon_threadsafe(happened.set)
            real(self, link, hello)

        monkeypatch.setattr(ClientSession, "resume", resume)
        monkeypatch.setattr("quictunnel.connection.manager.SUSPECT_AFTER", 0.0)
        return happened

    return relieve


async def until_resumed(client: quictunnel.Client) -> None:
    def is_resumed() -> bool:
        assert client.state not in ("failed", "refused", "closed")
        return client.snapshot().resumed == 1 and client.state == "connected"

    await asyncio.to_thread(eventually, is_resumed, timeout=LONG_TIMEOUT)


@pytest.mark.parametrize("late", [0, 1], ids=["new-link-first", "old-link-first"])
async def test_the_edge_takes_the_second_link(client, relay, relieved, late: int) -> None:
    """Of the two things that the edge says then, one is late."""
    async with asyncio.timeout(15):
        await relieved(lambda *flows: flows[late].hold()).wait()
    if late == 0:
        await until_resumed(client)
    else:
        # The old link is no more.
        await asyncio.to_thread(eventually, client._manager._link_lost_event.is_set, timeout=LONG_TIMEOUT)
    relay.flows[late].release()
    await until_resumed(client)
    assert len(relay.flows) == 2


async def test_the_edge_took_a_second_link_that_the_client_gave_up(client, relay, relieved, monkeypatch) -> None:
    """The Welcome was lost: the client learns only that the old link has ended."""
    monkeypatch.setattr("quictunnel.connection.manager.URGENT_DIAL_TIMEOUT", 0.5)
    await relieved(lambda _, second: second.lose()).wait()
    await until_resumed(client)
    assert len(relay.flows) == 3


async def test_recovered_link_does_not_cancel_a_resuming_dial(client, relay, relieved) -> None:
    def hold(*flows: Flow) -> None:
        for flow in flows:
            flow.hold()

    await relieved(hold).wait()
    await asyncio.sleep(LOOKS)  # in which the old link looks well
    relay.flows[1].release()
    relay.flows[0].release()
    await until_resumed(client)
    assert len(relay.flows) == 2
