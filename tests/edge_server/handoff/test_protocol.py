"""Tests of the handoff protocol: the messages of two edges, and the messages that they refuse."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from edge_server.handoff import protocol
from edge_server.handoff.predecessor import HandoffListener
from edge_server.handoff.protocol import (
    MAX_NAMES,
    SOCKET,
    HandoffChannel,
    HandoffError,
    HandoffNames,
    HandoffOffer,
    HandoffReady,
    HandoffRefusal,
    HandoffRequest,
    in_parts,
)
from edge_server.handoff.successor import request_handoff
from edge_server.storage.edge_lock import EdgeLock
from edge_server.tunnels.options import TunnelOptions
from edge_server.tunnels.tunnel_record import TunnelRecord
from quictunnel.errors import ConfigError
from quictunnel.wire.messages import MAX_NETWORKS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

pytestmark = pytest.mark.skipif(not protocol.IS_SUPPORTED, reason="edges hand over on Linux only")


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    """Something to hand over."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]


def in_use(directory: Path) -> int:
    return len(list(directory.iterdir()))


DESCRIPTORS = Path("/proc/self/fd")


def names(count: int) -> list[TunnelRecord]:
    return [TunnelRecord(f"name{number}", "owner", number, TunnelOptions(), 0) for number in range(count)]


def hands_over(
    sockets: list[socket.socket], held: list[list[TunnelRecord]], with_them: Sequence[socket.socket] = ()
) -> Callable[[HandoffChannel], Awaitable[None]]:
    async def hand_over(channel: HandoffChannel) -> None:
        await channel.send(HandoffOffer("a.test", 7), sockets)
        message, _ = await channel.receive()
        assert message == HandoffReady()
        for number, part in enumerate(held):
            await channel.send(HandoffNames(part, number == len(held) - 1), with_them)

    return hand_over


async def test_offer_arrives_whole(tmp_path: Path, sockets: list[socket.socket]) -> None:
    held = [names(MAX_NAMES), names(2)]
    offer = HandoffListener(tmp_path, hands_over(sockets, held))
    assert stat.S_IMODE((tmp_path / SOCKET).stat().st_mode) == 0o600
    inherited = await request_handoff(tmp_path)
    assert inherited is not None
    assert (inherited.domain, inherited.cid_prefix) == ("a.test", 7)
    found = [inherited.https, inherited.udp, inherited.pipe]
    assert [sock.getsockname() for sock in found] == [sock.getsockname() for sock in sockets]
    assert [name for name, _ in await inherited.accept()] == held[0] + held[1]
    inherited.close()
    assert in_use(tmp_path) == 1
    offer.close()
    assert in_use(tmp_path) == 0


async def test_sockets_arrive_with_their_names(tmp_path: Path, sockets: list[socket.socket]) -> None:
    port = sockets[0].getsockname()[1]
    held = [
        TunnelRecord("plain", "o", 1, TunnelOptions(), 0),
        TunnelRecord("tcp", "o", 2, TunnelOptions(passthrough=True, allow=["::1/128"]), port),
        TunnelRecord("h2", "o", 3, TunnelOptions(h2=True), 0),
    ]
    offer = HandoffListener(tmp_path, hands_over(sockets, [held], sockets[:1]))
    inherited = await request_handoff(tmp_path)
    assert inherited is not None
    found = await inherited.accept()
    assert [name for name, _ in found] == held
    assert [None if sock is None else sock.getsockname()[1] for _, sock in found] == [None, port, None]
    for _, sock in found:
        if sock is not None:
            sock.close()
    inherited.close()
    offer.close()


async def test_announced_acme_socket_arrives(tmp_path: Path, sockets: list[socket.socket]) -> None:
    """Of an edge that has one for validators."""
    with socket.create_server(("127.0.0.1", 0)) as acme_socket:

        async def hand_over(channel: HandoffChannel) -> None:
            await channel.send(HandoffOffer("a.test", 7, has_acme_http=True), [*sockets, acme_socket])

        offer = HandoffListener(tmp_path, hand_over)
        inherited = await request_handoff(tmp_path)
        assert inherited is not None
        assert inherited.acme_http is not None
        assert inherited.acme_http.getsockname() == acme_socket.getsockname()
        inherited.close()
        assert inherited.acme_http.fileno() == -1
        offer.close()


async def test_the_lock_is_handed_over(tmp_path: Path, sockets: list[socket.socket]) -> None:
    lock = EdgeLock.acquire(tmp_path, "")
    before = in_use(DESCRIPTORS)

    async def hand_over(channel: HandoffChannel) -> None:
        assert channel.peer_takes_lock
        await channel.send(HandoffOffer("a.test", 7, has_lock=True), [*sockets, lock])

    listener = HandoffListener(tmp_path, hand_over)
    refused, taken = await request_handoff(tmp_path), await request_handoff(tmp_path)
    assert refused is not None
    assert taken is not None
    refused.close()
    descriptor = taken.channel.take_lock()
    assert descriptor is not None
    assert taken.channel.take_lock() is None
    successor = EdgeLock(descriptor)
    assert not os.get_inheritable(descriptor)
    taken.close()
    lock.release()
    with pytest.raises(ConfigError, match="already runs"):
        EdgeLock.acquire(tmp_path, "")
    successor.release()
    listener.close()
    assert in_use(DESCRIPTORS) == before - 1
    EdgeLock.acquire(tmp_path, "").release()


async def test_a_successor_without_the_lock_is_offered_none(tmp_path: Path, sockets: list[socket.socket]) -> None:
    """An older edge, whose request has one field, would refuse an offer with one descriptor more."""
    asked: list[bool] = []

    async def hand_over(channel: HandoffChannel) -> None:
        asked.append(channel.peer_takes_lock)
        await channel.send(HandoffOffer("a.test", 7), sockets)

    listener = HandoffListener(tmp_path, hand_over)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(str(tmp_path / SOCKET))
        client.setblocking(False)
        client.send(msgspec.msgpack.encode([1, protocol.VERSION]))
        heard = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 1000), 5)
    assert isinstance(msgspec.msgpack.decode(heard, type=protocol.Message), HandoffOffer)
    assert asked == [False]
    listener.close()


async def test_names_with_the_most_networks_fit_into_messages(
    tmp_path: Path, sockets: list[socket.socket]
) -> None:
    networks = [f"{'ffff:' * 7}{number:04x}/128" for number in range(0x1000, 0x1000 + MAX_NETWORKS)]
    terms = TunnelOptions(allow=networks, deny=networks)
    held = [(TunnelRecord("n" * 63, "o" * 64, 1, terms, 0), None) for _ in range(MAX_NAMES)]
    parts = in_parts(held)
    offer = HandoffListener(tmp_path, hands_over(sockets, [[name for name, _ in part] for part in parts]))
    inherited = await request_handoff(tmp_path)
    assert inherited is not None
    assert await inherited.accept() == held
    inherited.close()
    offer.close()


def test_names_fill_as_few_messages_as_possible() -> None:
    assert in_parts([]) == [[]]
    assert [len(part) for part in in_parts([(name, None) for name in names(2 * MAX_NAMES + 1)])] == [64, 64, 1]


async def test_sockets_are_not_inherited_by_child_processes(tmp_path: Path, sockets: list[socket.socket]) -> None:
    port = sockets[0].getsockname()[1]
    offer = HandoffListener(
        tmp_path, hands_over(sockets, [[TunnelRecord("tcp", "o", 1, TunnelOptions(), port)]], sockets[:1])
    )
    inherited = await request_handoff(tmp_path)
    assert inherited is not None
    ((_, listener),) = await inherited.accept()
    assert listener is not None
    for sock in (inherited.https, inherited.udp, inherited.pipe, listener):
        assert not sock.get_inheritable()
    listener.close()
    inherited.close()
    offer.close()


async def test_takeover_without_a_listener_fails(tmp_path: Path) -> None:
    assert await request_handoff(tmp_path) is None
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left_behind:
        left_behind.bind(str(tmp_path / SOCKET))
    assert await request_handoff(tmp_path) is None


async def test_a_directory_far_below(tmp_path: Path, sockets: list[socket.socket]) -> None:
    """The address of a Unix socket has 108 bytes."""
    deep = tmp_path / ("d" * 200)
    deep.mkdir()
    offer = HandoffListener(deep, hands_over(sockets, [[]]))
    inherited = await request_handoff(deep)
    assert inherited is not None
    assert await inherited.accept() == []
    inherited.close()
    offer.close()


async def test_older_edge_does_not_remove_the_socket_of_a_newer(
    tmp_path: Path, sockets: list[socket.socket]
) -> None:
    older = HandoffListener(tmp_path, hands_over(sockets, [[]]))
    newer = HandoffListener(tmp_path, hands_over(sockets, [names(1)]))
    older.close()
    inherited = await request_handoff(tmp_path)
    assert inherited is not None
    assert len(await inherited.accept()) == 1
    inherited.close()
    newer.close()


async def assert_handoff_refused(directory: Path, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        await request_handoff(directory)


async def test_a_refusal_is_passed_on(tmp_path: Path) -> None:
    async def refuse(channel: HandoffChannel) -> None:
        await channel.send(HandoffRefusal("it is stopping"))

    offer = HandoffListener(tmp_path, refuse)
    await assert_handoff_refused(tmp_path, "does not hand over: it is stopping")
    offer.close()


async def test_second_takeover_is_refused(tmp_path: Path, sockets: list[socket.socket]) -> None:
    offer = HandoffListener(tmp_path, hands_over(sockets, [[]]))
    first = await request_handoff(tmp_path)
    assert first is not None
    await assert_handoff_refused(tmp_path, "another edge is taking over already")
    assert await first.accept() == []
    first.close()
    offer.close()


@pytest.mark.parametrize(
    "said",
    [
        b"\xff",
        msgspec.msgpack.encode(HandoffReady()),
        msgspec.msgpack.encode(HandoffRequest(99)),
        b"x" * (protocol.MAX_MESSAGE + 1),
    ],
    ids=["noise", "out of turn", "another version", "too long"],
)
async def test_malformed_request_is_refused_and_the_next_served(
    tmp_path: Path, sockets: list[socket.socket], said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    offer = HandoffListener(tmp_path, hands_over(sockets, [[]]))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(str(tmp_path / SOCKET))
        client.setblocking(False)
        client.send(said)
        heard = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 1000), 5)
    assert heard == b"" or isinstance(msgspec.msgpack.decode(heard, type=protocol.Message), HandoffRefusal)
    inherited = await request_handoff(tmp_path)
    assert inherited is not None
    await inherited.accept()
    inherited.close()
    offer.close()


async def test_a_successor_that_fails_leaves_things_as_they_were(
    tmp_path: Path, sockets: list[socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    ends: list[str] = []

    async def hand_over(channel: HandoffChannel) -> None:
        try:
            await hands_over(sockets, [[]])(channel)
        except HandoffError as error:
            ends.append(str(error))
            raise
        ends.append("over")

    offer = HandoffListener(tmp_path, hand_over)
    first = await request_handoff(tmp_path)
    assert first is not None
    first.close()
    second = await request_handoff(tmp_path)
    while not ends:
        await asyncio.sleep(0)
        second = second or await request_handoff(tmp_path)
    assert ends[0] == "it closed the connection"
    offer.close()
    if second is not None:
        second.close()


async def test_silent_successor_times_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(protocol, "STEP_TIMEOUT", 0.05)

    async def sleep(_post: HandoffChannel) -> None:
        await asyncio.Event().wait()

    offer = HandoffListener(tmp_path, sleep)
    await assert_handoff_refused(tmp_path, "it did not respond within")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.connect(str(tmp_path / SOCKET))
        silent.setblocking(False)
        assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(silent, 1000), 5) == b""
    offer.close()


async def test_sockets_that_do_not_belong_to_a_message_are_closed(
    tmp_path: Path, sockets: list[socket.socket]
) -> None:
    before = in_use(DESCRIPTORS)
    offer = HandoffListener(tmp_path, hands_over(sockets, [names(1)], sockets))
    inherited = await request_handoff(tmp_path)
    assert inherited is not None
    with pytest.raises(HandoffError, match="did not send its names"):
        await inherited.accept()
    inherited.close()
    offer.close()
    assert in_use(DESCRIPTORS) == before
