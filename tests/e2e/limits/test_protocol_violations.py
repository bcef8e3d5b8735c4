"""Tests of a client whose edge breaks the protocol: a clear end, and nothing of the local network revealed."""

from __future__ import annotations

import asyncio
import random
import socket

import pytest

import quictunnel
from quictunnel.connection import manager
from quictunnel.shared.backoff import Backoff
from quictunnel.wire.codes import StreamCode
from quictunnel.wire.framing import frame
from quictunnel.wire.messages import (
    AnyMessage,
    Bind,
    BindRefused,
    Bound,
    Credits,
    GoAway,
    Hello,
    Unbind,
    Unbound,
    Welcome,
)
from quictunnel.wire.preface import Preface, encode_preface
from tests.harness.hostile_peer import HUGE_FRAME, PROTOCOL, WINDOW, HostileEdge, ServedClient
from tests.harness.sockets import SOCKET_TIMEOUT

CHANCE = random.Random(4)


@pytest.fixture
async def origin():
    """A local service that echoes."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass  # the visitor's reset
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


@pytest.fixture
async def bad_edge(tmp_path):
    async with HostileEdge(tmp_path) as edge:
        yield edge


@pytest.fixture
def victim(bad_edge):
    client = quictunnel.Client.from_config(bad_edge.client_config)
    yield client
    client.close()


async def still_serves(edge: HostileEdge) -> None:
    """The client has dialled again by itself, and its tunnel works."""
    served = await edge.session()
    stream = served.visit()
    served.write(stream, b"anybody?")
    await served.has_come(stream, b"anybody?")
    # Else the tunnel would wait a second for it when it closes.
    served.connection.reset(stream, StreamCode.ABORTED)
    served.connection.stop(stream, StreamCode.ABORTED)
    served.schedule_transmit()


PREFACE = encode_preface(Preface(0, 1, False, "192.0.2.1", 1234))
BAD_PREFACES = {
    "empty": b"\x00",
    "garbage": b"\x05\xff\xff\xff\xff\xff",
    "not an array": b"\x01\xc0",
    "too many fields": bytes([len(PREFACE)]) + b"\x96" + PREFACE[2:] + b"\xc0",
    "negative lease": b"\x0c\x95\x00\xff\xc2\xa1a\xcd\x04\xd2\xc0\xc0\xc0"[:13],
    "a host of 65 characters": bytes([72]) + b"\x95\x00\x01\xc2\xd9\x41" + b"a" * 65 + b"\x01",
    "random bytes": b"\xff" + CHANCE.randbytes(255),
}


@pytest.mark.parametrize("preface", BAD_PREFACES.values(), ids=BAD_PREFACES.keys())
async def test_a_bad_preface_ends_the_session(bad_edge, victim, origin, preface):
    async with quictunnel.forward(origin, client=victim):
        served = await bad_edge.session()
        served.visit_raw(preface)
        assert await served.end() == PROTOCOL
        await still_serves(bad_edge)


async def test_a_stream_that_ends_in_its_preface_ends_the_session(bad_edge, victim, origin):
    async with quictunnel.forward(origin, client=victim):
        served = await bad_edge.session()
        served.finish(served.visit_raw(PREFACE[:-1]))
        assert await served.end() == PROTOCOL


async def test_a_stream_given_up_in_its_preface_is_nothing_bad(bad_edge, victim, origin):
    async with quictunnel.forward(origin, client=victim):
        served = await bad_edge.session()
        stream = served.visit_raw(PREFACE[:-1])
        served.connection.reset(stream, StreamCode.ABORTED)
        bad_edge.sessions.put_nowait(served)
        await still_serves(bad_edge)


async def test_a_preface_for_a_lease_that_is_gone_is_refused_alone(bad_edge, victim, origin):
    async with quictunnel.forward(origin, client=victim):
        served = await bad_edge.session()
        assert await served.is_reset(served.visit(lease=99)) == StreamCode.UNKNOWN_LEASE
        bad_edge.sessions.put_nowait(served)
        await still_serves(bad_edge)
        assert victim.snapshot().visitors_total == 1


async def test_two_streams_of_one_number_end_the_session(bad_edge, victim, origin):
    async with quictunnel.forward(origin, client=victim):
        served = await bad_edge.session()
        served.visit(number=5)
        served.visit(number=5)
        assert await served.end() == PROTOCOL


async def test_bytes_beyond_the_credit_end_the_session_at_the_client(bad_edge, victim):
    """To an origin that never reads: the credit stops, the edge does not."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        async with quictunnel.forward(deaf.getsockname()[1], client=victim):
            served = await bad_edge.session()
            stream = served.visit()
            for _ in range(64):
                served.write(stream, bytes(1 << 20))
            assert await served.end() == PROTOCOL


_WRONG_OF_AN_EDGE: dict[str, bytes] = {
    "random bytes": CHANCE.randbytes(3000),
    "a frame of 2 GiB": HUGE_FRAME,
    "an unknown message": b"\x00\x00\x00\x02\x91\x63",
    "Welcome again": frame(Welcome(1, WINDOW, 1, "", b"", False, 0, 0, 0)),
    "Hello": frame(Hello(1, "", WINDOW, "", b"")),
    "Bind": frame(Bind(1, unencrypted=False, h2=False, ticket=b"")),
    "Unbind": frame(Unbind(1)),
    "GoAway twice": frame(GoAway(1)) * 2,
    "Bound after GoAway": frame(GoAway(1)) + frame(Bound(1, "a.test", 443, "", 0, b"")),
    "credit for a stream that never was": frame(Credits([(0, 0, WINDOW)])),
}


@pytest.mark.parametrize("said", _WRONG_OF_AN_EDGE.values(), ids=_WRONG_OF_AN_EDGE.keys())
async def test_wrong_message_of_an_edge_ends_the_session(bad_edge, victim, origin, said):
    async with quictunnel.forward(origin, client=victim):
        served = await bad_edge.session()
        served.write(0, said)
        assert await served.end() == PROTOCOL
        await still_serves(bad_edge)


async def test_repeated_violations_increase_the_backoff(bad_edge, victim, origin, monkeypatch):
    waits = []

    class Counted(Backoff):
        def next(self, random: random.Random, limit: float | None = None) -> float:
            waits.append(self.ceiling)
            super().next(random, limit)
            return 0.01

    monkeypatch.setattr("quictunnel.connection.redial_schedule.Backoff", Counted)
    async with quictunnel.forward(origin, client=victim):
        for _ in range(4):
            served = await bad_edge.session()
            served.write(0, HUGE_FRAME)
            assert await served.end() == PROTOCOL
        await still_serves(bad_edge)
    assert waits[:4] == [0.2, 0.4, 0.8, 1.6]


async def test_answers_to_what_was_never_asked_change_nothing(bad_edge, victim, origin):
    async with quictunnel.forward(origin, client=victim):
        served = await bad_edge.session()
        served.say(Bound(99, "b.test", 1, "", 0, b""), BindRefused(98, 1), Unbound(97))  # type: ignore[arg-type]
        bad_edge.sessions.put_nowait(served)
        await still_serves(bad_edge)


async def test_an_edge_that_ends_the_control_stream_is_wrong(bad_edge, victim, origin):
    async with quictunnel.forward(origin, client=victim):
        served = await bad_edge.session()
        served.finish(0)
        assert await served.end() == PROTOCOL


async def test_an_edge_that_wants_another_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("quictunnel.connection.manager.CONNECT_TIMEOUT", 1.0)
    async with HostileEdge(tmp_path) as edge:
        monkeypatch.setattr("tests.harness.hostile_peer.PROTOCOL_VERSION", 77)
        with quictunnel.Client.from_config(edge.client_config) as client:
            opening = asyncio.create_task(_open(client))
            served = await asyncio.wait_for(edge.sessions.get(), SOCKET_TIMEOUT)
            assert await served.end() == PROTOCOL
            with pytest.raises(quictunnel.EdgeUnavailableError):
                await opening


async def test_edge_of_version_1_gets_version_1_binds(tmp_path, monkeypatch):
    """BindV2 is not among them."""
    async with HostileEdge(tmp_path) as edge:
        monkeypatch.setattr("tests.harness.hostile_peer.PROTOCOL_VERSION", 1)
        client = quictunnel.Client.from_config(edge.client_config)
        async with quictunnel.forward(9, client=client):
            served = await edge.session()
            said = [served.messages.get_nowait() for _ in range(served.messages.qsize())]
            assert [type(message) for message in said] == [Hello, Bind]
        await asyncio.to_thread(client.close)


async def _open(client: quictunnel.Client) -> None:
    async with quictunnel.forward(1234, client=client):
        raise AssertionError("bound at an edge of another version")


@pytest.mark.parametrize(
    "host",
    [None, "", "x\x1b]0;owned\x07\x1b[2J", "bank.example\r\n$ curl", "bank.example\u202e", "-oProxyCommand=x"],
)
async def test_bad_host_of_an_edge_opens_no_tunnel(bad_edge, victim, origin, monkeypatch, host):
    """``None``: the edge does not answer at all. The failure is an error of the package and shows nothing of the
    message."""
    monkeypatch.setattr(manager, "BIND_TIMEOUT", 0.5)

    honest = ServedClient.hear

    def hear(self: ServedClient, message: AnyMessage) -> None:
        if not isinstance(message, Bind):
            honest(self, message)
        elif host is not None:
            self.say(Bound(message.lease, host, 443, "", 0, b""))

    monkeypatch.setattr(ServedClient, "hear", hear)
    with pytest.raises(quictunnel.EdgeUnavailableError) as refused:
        async with quictunnel.forward(origin, client=victim):
            pytest.fail("there is a tunnel")
    assert "did not answer within" in str(refused.value)
