"""Tests of malformed input to an edge, from unauthenticated peers and from clients: a clear refusal, and no harm
to others."""

from __future__ import annotations

import asyncio
import random
import socket

import pytest
from msgspec.structs import replace

import edge_server.clients.session
import quictunnel
from quictunnel.transport.engine import CloseCause
from quictunnel.wire.codes import PROTOCOL_VERSION, SessionCode
from quictunnel.wire.framing import frame
from quictunnel.wire.messages import (
    MAX_MESSAGE,
    MAX_NETWORKS,
    MAX_WINDOW,
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
from tests.harness.hostile_peer import HUGE_FRAME, PROTOCOL, WINDOW, HostileClient
from tests.harness.sockets import SOCKET_TIMEOUT, TcpEnd, is_reset, receive_all

# Tokens.


@pytest.mark.parametrize("token", ["wrong", "x" * 512])
def test_a_wrong_token_is_refused(rig, token):
    config = rig.edge.client_config
    with quictunnel.Client(config.edge, token=token, ca=config.ca) as client:
        with pytest.raises(quictunnel.AuthError) as raised:
            quictunnel.forward(1234, client=client).__enter__()
        assert token not in str(raised.value)
        assert rig.edge.server.tunnel_count == 1


async def test_an_empty_token_is_refused(hostile):
    async with hostile as client:
        client.say(Hello(PROTOCOL_VERSION, "", WINDOW, "hostile/1", b""))
        assert await client.end() == (CloseCause.PEER, SessionCode.UNAUTHORIZED)


async def test_a_wrong_token_buys_nothing_that_follows_it(rig, hostile):
    async with hostile as client:
        client.say(
            Hello(PROTOCOL_VERSION, "wrong", WINDOW, "hostile/1", b""),
            Bind(1, unencrypted=True, h2=False, ticket=b""),
        )
        assert await client.end() == (CloseCause.PEER, SessionCode.PROTOCOL)
        assert client.messages.empty()
        assert rig.edge.server.tunnel_count == 1


async def test_a_version_from_before_the_first_is_refused(rig, hostile):
    async with hostile as client:
        client.say(Hello(0, client.token, WINDOW, "hostile/1", b""))
        assert await client.end() == (CloseCause.PEER, SessionCode.VERSION)


# The control stream, at the edge.

CHANCE = random.Random(4)
SAID_FIRST = {
    "random bytes": CHANCE.randbytes(3000),
    "a frame of 2 GiB": HUGE_FRAME + bytes(100),
    "an empty frame": bytes(4),
    "a frame one byte too large": (MAX_MESSAGE + 1).to_bytes(4, "big") + bytes(10),
    "an unknown message": b"\x00\x00\x00\x02\x92\x63"[:4] + b"\x91\x63",
    "a message that is no array": b"\x00\x00\x00\x01\xc0",
    "HTTP": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "nesting": (2000).to_bytes(4, "big") + b"\x91" * 2000,
    "Bind before Hello": frame(Bind(1, unencrypted=True, h2=False, ticket=b"")),
    "Unbind before Hello": frame(Unbind(1)),
    "Credits before Hello": frame(Credits([(0, 0, 1)])),
    "Welcome": frame(Welcome(1, WINDOW, 1, "", b"", False, 0, 0, 0)),
    "GoAway": frame(GoAway(1)),
}


@pytest.mark.parametrize("framed", SAID_FIRST.values(), ids=SAID_FIRST.keys())
async def test_wrong_first_message_ends_the_session(hostile, framed):
    async with hostile as client:
        client.write(0, framed)
        assert await client.end() == PROTOCOL


def _wrong_afterwards() -> dict[str, bytes]:
    def framed(*messages: AnyMessage) -> bytes:
        return b"".join(map(frame, messages))

    bind = Bind(2, unencrypted=False, h2=False, ticket=b"")
    networks = ["10.0.0.0/8"] * (MAX_NETWORKS + 1)
    return {
        "random bytes": CHANCE.randbytes(100_000),
        "a frame of 2 GiB": HUGE_FRAME,
        "Hello again": framed(Hello(PROTOCOL_VERSION, "x", WINDOW, "", b"")),
        "Welcome": framed(Welcome(1, WINDOW, 1, "", b"", False, 0, 0, 0)),
        "Bound": framed(Bound(1, "a.test", 443, "", 0, b"")),
        "BindRefused": framed(BindRefused(1, 1)),  # type: ignore[arg-type]  # the same on the wire
        "Unbound": framed(Unbound(1)),
        "GoAway": framed(GoAway(0)),
        "one number for two leases": framed(bind, bind),
        "too many networks to allow": framed(replace(bind, allow=networks)),
        "too many networks to deny": framed(replace(bind, deny=networks)),
        "credit for a stream that never was": framed(Credits([(0, 0, WINDOW)])),
        "an oversized ticket": b"\x00\x00\x10\x09" + b"\x95\x03\x02\xc2\xc2\xc5\x10\x00" + bytes(4097 - 8 + 8),
    }


WRONG_AFTERWARDS = _wrong_afterwards()


@pytest.mark.parametrize("framed", WRONG_AFTERWARDS.values(), ids=WRONG_AFTERWARDS.keys())
async def test_wrong_later_message_ends_the_session(hostile, framed):
    async with hostile as client:
        await client.greet()
        client.write(0, framed)
        assert await client.end() == PROTOCOL


async def test_a_control_stream_that_ends_is_wrong(hostile):
    async with hostile as client:
        await client.greet()
        client.finish(0)
        assert await client.end() == PROTOCOL


async def test_a_control_stream_that_is_reset_is_wrong(hostile):
    async with hostile as client:
        await client.greet()
        client.connection.reset(0, 7)
        client.schedule_transmit()
        assert await client.end() == PROTOCOL


async def test_a_control_stream_that_is_not_wanted_is_wrong(hostile):
    async with hostile as client:
        await client.greet()
        client.connection.stop(0, 7)
        client.schedule_transmit()
        assert await client.end() == PROTOCOL


@pytest.mark.parametrize("greeted", [False, True])
async def test_a_client_may_open_no_second_stream(hostile, greeted):
    """QUIC's own limit refuses it (RFC 9000 section 4.6), as a transport error."""
    async with hostile as client:
        if greeted:
            await client.greet()
        client.write(client.open_beyond_limit(), b"hello")
        assert (await client.end())[0] in (CloseCause.PEER, CloseCause.PROTOCOL)


async def test_silence_after_the_handshake_has_a_deadline(hostile, monkeypatch):
    monkeypatch.setattr(edge_server.clients.session, "HELLO_TIMEOUT", 0.2)
    async with hostile as client:
        assert await client.end() == (CloseCause.PEER, SessionCode.TOO_SLOW)


async def test_a_hello_in_drops_has_the_same_deadline(hostile, monkeypatch):
    monkeypatch.setattr(edge_server.clients.session, "HELLO_TIMEOUT", 0.2)
    async with hostile as client:
        client.write(0, frame(client.good_hello)[:-1])
        assert await client.end() == (CloseCause.PEER, SessionCode.TOO_SLOW)


# Credit, at the edge.


async def visitor_of(client: HostileClient) -> tuple[int, TcpEnd]:
    """Connect a visitor that sends five bytes; return its stream number and its end."""
    await client.greet()
    bound = await client.lease()
    loop = asyncio.get_running_loop()
    sock = await loop.run_in_executor(
        None, socket.create_connection, (bound.unencrypted_host, bound.unencrypted_port)
    )
    visitor = TcpEnd(sock)
    visitor.send(b"hello")
    async with asyncio.timeout(SOCKET_TIMEOUT):
        stream = await client.opened.get()
    await client.has_come(stream, b"hello")
    return stream, visitor


IMPOSSIBLE_CREDIT = {
    "for bytes never sent": [(0, 6, WINDOW)],
    "for an end never sent": [(0, 5, WINDOW), (0, 6, WINDOW)],
    "beyond the largest window": [(0, 5, 5 + MAX_WINDOW + 1)],
    "taken back": [(0, 5, WINDOW + 5), (0, 4, WINDOW + 5)],
    "limit taken back": [(0, 5, WINDOW + 5), (0, 5, WINDOW + 4)],
    "limit below the first": [(0, 0, WINDOW - 1)],
    "for the next stream": [(1, 0, WINDOW)],
    "for the last stream of all": [((1 << 62) - 1, 0, WINDOW)],
}


@pytest.mark.parametrize("entries", IMPOSSIBLE_CREDIT.values(), ids=IMPOSSIBLE_CREDIT.keys())
async def test_credit_that_cannot_be_ends_the_session(hostile, entries):
    async with hostile as client:
        _, visitor = await visitor_of(client)
        client.say(Credits(entries))
        assert await client.end() == PROTOCOL
        assert await asyncio.to_thread(is_reset, visitor)
        visitor.sock.close()


async def test_credit_that_is_possible_is_taken(hostile):
    """So the ones above are refused for what is wrong with them."""
    async with hostile as client:
        stream, visitor = await visitor_of(client)
        client.say(Credits([(0, 5, 5 + MAX_WINDOW)]), Credits([(0, 5, 5 + MAX_WINDOW)]))
        visitor.send(b" again")
        visitor.finish()
        client.write(stream, b"yes")
        client.finish(stream)
        assert await asyncio.to_thread(receive_all, visitor) == b"yes"
        await client.has_come(stream, b"hello again")
        assert not client.over.done()
        visitor.sock.close()


async def test_bytes_beyond_the_credit_end_the_session(hostile):
    """A client that sends and sends to a visitor who does not read."""
    async with hostile as client:
        stream, visitor = await visitor_of(client)
        for _ in range(64):  # 64 MiB; the edge never grants so much
            client.write(stream, bytes(1 << 20))
        assert await client.end() == PROTOCOL
        assert await asyncio.to_thread(is_reset, visitor)
        visitor.sock.close()
