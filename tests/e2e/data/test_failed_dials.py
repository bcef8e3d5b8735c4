"""Dials that come to nothing."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

import quictunnel.connection.dialer
from quictunnel.config.client_config import ClientConfig, Secret
from quictunnel.connection.dialer import ADDRESS_STAGGER, Dialer
from quictunnel.connection.edge_connection import EdgeConnection
from quictunnel.errors import EdgeUnavailableError
from quictunnel.shared.supervision import Supervisor
from quictunnel.transport.engine import KIB, CloseCause, Limits
from quictunnel.wire.codes import PROTOCOL_VERSION, SessionCode
from quictunnel.wire.messages import Hello, Welcome
from tests.harness.hostile_peer import WINDOW, HostileEdge, ServedClient
from tests.harness.sockets import SOCKET_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from quictunnel.connection.manager import ConnectionManager
    from quictunnel.transport.engine import Address


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """An address at which nobody answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock


class DialOwner:
    """An owner of calls that never had a session."""

    def __init__(self) -> None:
        self.failed: list[EdgeConnection] = []

    def start_resuming(self, _: EdgeConnection) -> bytes:
        return b""

    def connection_failed(self, connection: EdgeConnection) -> None:
        self.failed.append(connection)


async def test_dial_cancelled_while_other_attempts_end_leaves_no_connection(
    tmp_path: Path, silent: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending = asyncio.Event()
    real = EdgeConnection.close

    async def close(connection: EdgeConnection) -> None:
        if connection.address == silent.getsockname():
            ending.set()
        await real(connection)

    monkeypatch.setattr(EdgeConnection, "close", close)

    def greet_late(served: ServedClient, _: Hello) -> None:
        greeting = Welcome(PROTOCOL_VERSION, WINDOW, 10, "late/1", b"", False, 0, 0, 0)
        asyncio.get_running_loop().call_later(2 * ADDRESS_STAGGER, served.say, greeting)

    async with HostileEdge(tmp_path) as edge:
        config = edge.client_config

        async def both_addresses(_: ClientConfig) -> list[Address]:
            return [config.address, silent.getsockname()]

        monkeypatch.setattr(quictunnel.connection.dialer, "resolve", both_addresses)
        edge.greetings.append(greet_late)
        dial_owner = DialOwner()
        owner: ConnectionManager = dial_owner  # type: ignore[assignment]  # as much of one as is asked
        dial = asyncio.create_task(Dialer(config, owner, Supervisor()).dial())
        async with asyncio.timeout(SOCKET_TIMEOUT):
            await ending.wait()
            dial.cancel()
            await asyncio.wait([dial])
            served = await edge.sessions.get()
        assert dial.cancelled()
        assert await served.end() == (CloseCause.PEER, SessionCode.DONE)
        # Else no other call might show the secret that this one has shown.
        assert {connection.address for connection in dial_owner.failed} == {silent.getsockname(), config.address}


async def test_fault_in_an_attempt_that_is_not_needed_any_more_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = ("127.0.0.1", 1), ("127.0.0.1", 2)

    async def both_addresses(_: ClientConfig) -> list[Address]:
        return [first, second]

    async def attempt(_: Dialer, _config: object, address: Address, *_more: float, is_first: bool) -> Address:
        if address == second:
            try:
                await asyncio.Event().wait()
            finally:
                raise ValueError("a fault of ours")
        await asyncio.sleep(0)
        return address

    monkeypatch.setattr(quictunnel.connection.dialer, "resolve", both_addresses)
    monkeypatch.setattr(Dialer, "_dial_address", attempt)
    owner: ConnectionManager = DialOwner()  # type: ignore[assignment]  # as much of one as is asked
    supervisor = Supervisor()
    config = ClientConfig(edge="127.0.0.1:1", token=Secret("t" * 16))
    assert await Dialer(config, owner, supervisor).dial() == first
    assert supervisor.failures == 1
    assert "a fault of ours" in caplog.text


async def test_edge_that_allows_no_stream_is_a_protocol_violation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with HostileEdge(tmp_path, Limits(streams=0, stream_window=KIB, connection_window=KIB)) as edge:
        owner: ConnectionManager = DialOwner()  # type: ignore[assignment]  # as much of one as is asked
        with pytest.raises(EdgeUnavailableError):
            await Dialer(edge.client_config, owner, Supervisor()).dial()
    assert "broke the protocol: no stream is allowed" in caplog.text
    assert not [record for record in caplog.records if record.exc_info]


async def test_the_error_names_the_address_that_did_not_answer(
    silent: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = f"127.0.0.1:{silent.getsockname()[1]}"

    async def only_the_second(config: ClientConfig) -> list[Address]:
        return [silent.getsockname()] if config.edge == second else []

    monkeypatch.setattr(quictunnel.connection.dialer, "resolve", only_the_second)
    config = ClientConfig(edge="192.0.2.1:1", more_edges=(second,), token=Secret("t" * 32))
    owner: ConnectionManager = DialOwner()  # type: ignore[assignment]  # as much of one as is asked
    with pytest.raises(EdgeUnavailableError, match=f"No answer from the edge at {second}"):
        await Dialer(config, owner, Supervisor()).dial(0.2)
