"""A client's requests while its session closes: a real services, and a connection that only takes."""

from __future__ import annotations

import asyncio
import dataclasses
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from edge_server.auth.permissions import Identity, Permissions
from edge_server.clients.session import ClientSession
from edge_server.tunnels.domain_check import DomainCheck
from quictunnel.transport.engine import CloseCause
from quictunnel.wire.codes import SessionCode
from quictunnel.wire.control_state import Phase
from quictunnel.wire.messages import Bind, Unbind
from tests.edge_server.tunnels.bind_rig import build

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ADDRESS = "192.0.2.1"
ASKED = Bind(1, unencrypted=False, h2=False, ticket=b"", domain="shop.example.org", passthrough=True)


class SessionRig:
    """A client that has asked for a domain, and the answer of the resolver."""

    def __init__(self, directory: Path) -> None:
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()
        services = dataclasses.replace(build(directory), domains=DomainCheck([ADDRESS], self._resolve))
        connection: Any = SimpleNamespace(
            address=("127.0.0.1", 1), close=lambda *_: None, write=lambda _, data: len(data)
        )
        self.client = ClientSession(services.session_context, connection, lambda: None, lambda _: None)
        self.client.identity = Identity("a", Permissions(domains=None))
        self.client._deadline.cancel()
        self.client.session.link._control_state.phase = Phase.OPEN

    async def _resolve(self, _: str) -> frozenset[str]:
        self.asked.set()
        await self.answer.wait()
        return frozenset((ADDRESS,))

    async def look_up(self) -> asyncio.Task[None]:
        self.client.session_message(ASKED)
        await self.asked.wait()
        assert self.client._domain_lookup is not None
        return self.client._domain_lookup


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[SessionRig]:
    made = SessionRig(tmp_path)
    yield made
    made.client.session.link.closed(CloseCause.LOCAL, 0, "")
    await asyncio.sleep(0)


async def test_domain_is_granted_to_an_open_session(rig: SessionRig):
    """So the ones below get nothing for what has happened meanwhile."""
    looking = await rig.look_up()
    rig.answer.set()
    await looking
    assert [lease.name for lease in rig.client.bindings] == [ASKED.domain]


async def test_domain_that_is_forbidden_during_its_check_is_refused(
    rig: SessionRig, monkeypatch: pytest.MonkeyPatch
):
    """The operator narrows the token while the resolver is asked."""
    before = rig.client.identity
    narrowed = Identity("a", Permissions(domains=()))
    monkeypatch.setattr(rig.client._context.tokens, "current", lambda _: narrowed)
    looking = await rig.look_up()
    assert rig.client.check_rights() == before
    assert rig.client.check_rights() is None, "it is changed once"
    rig.answer.set()
    await looking
    assert not list(rig.client.bindings)


async def test_answer_for_a_closing_session_grants_nothing(rig: SessionRig):
    """The client broke the protocol, and its link is about to be down."""
    looking = await rig.look_up()
    rig.client.session.close(SessionCode.PROTOCOL)
    rig.answer.set()
    await looking
    assert not list(rig.client.bindings)


async def test_a_client_that_asks_too_much_is_looked_up_for_no_more(rig: SessionRig):
    looking = await rig.look_up()
    while not rig.client.session.link.is_closing:
        rig.client.session_message(Unbind(9))
    await asyncio.wait([looking])
    assert looking.cancelled()


async def test_requests_that_wait_are_not_served_when_the_session_closes(rig: SessionRig):
    rig.client._is_paced = True
    rig.client.session_message(Bind(2, unencrypted=False, h2=False, ticket=b""))
    assert rig.client._requests, "it waits for its turn"
    rig.client.session.close(SessionCode.PROTOCOL)
    rig.client._serve_next()
    assert not list(rig.client.bindings)
    assert not rig.client._requests
