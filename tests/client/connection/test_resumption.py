"""Tests of how long a session without a link is resumable, on a virtual clock."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from quictunnel.connection.resumption import ResumableSession
from quictunnel.errors import ProtocolError
from quictunnel.transport.engine import CloseCause, Closed
from quictunnel.transport.session import Session
from quictunnel.wire.codes import PROTOCOL_VERSION
from quictunnel.wire.control_state import Side
from quictunnel.wire.messages import SECRET_SIZE, Welcome

if TYPE_CHECKING:
    from quictunnel.connection.edge_connection import EdgeConnection
    from tests.simnet.clock import VirtualLoop

HOLD = 30
LOST = Closed(CloseCause.TIMEOUT, 0, "")


class Owner:
    """Keeps the session at the loss of its link, and remembers its end."""

    def __init__(self) -> None:
        self.session = Session(Side.CLIENT, self, lambda: None)  # type: ignore[arg-type]  # as much as is asked
        self.ends = 0

    def session_away(self, _: Closed) -> bool:
        return True

    def session_down(self, _: Closed) -> None:
        self.ends += 1

    def connection(self) -> EdgeConnection:
        welcome = Welcome(PROTOCOL_VERSION, 1, 1, "", bytes(SECRET_SIZE), False, HOLD, 0, 0)
        connection: Any = SimpleNamespace(session=self.session, welcome=welcome)
        return connection


@pytest.fixture
async def owner(virtual_time: VirtualLoop) -> Owner:
    return Owner()


@pytest.fixture
async def resumable(owner: Owner) -> ResumableSession:
    made = ResumableSession()
    owner.session.link_down(LOST)
    assert made.save_lost_session(owner.connection(), LOST)
    return made


async def test_a_session_that_gets_no_link_in_time_ends(resumable: ResumableSession, owner: Owner):
    await asyncio.sleep(HOLD - 1)
    assert not owner.ends
    await asyncio.sleep(2)
    assert owner.ends == 1
    assert resumable.session is None


async def test_connection_that_sent_the_secret_in_time_may_still_resume(resumable: ResumableSession, owner: Owner):
    connection = owner.connection()
    assert resumable.start_resuming(connection) == bytes(SECRET_SIZE)
    await asyncio.sleep(2 * HOLD)
    assert not owner.ends
    assert resumable.session_to_resume(connection) is owner.session
    resumable.forget_session()
    assert resumable.session is None
    assert not owner.ends


async def test_expired_session_ends_with_its_next_link(resumable: ResumableSession, owner: Owner):
    """The next connection went on with the session; its time ran out, and it failed before it was used."""
    connection = owner.connection()
    resumable.start_resuming(connection)
    owner.session.is_away = False
    await asyncio.sleep(2 * HOLD)
    owner.session.link_down(LOST)
    resumable.connection_failed(connection)
    assert owner.ends == 1
    assert resumable.session is None


async def test_expired_session_is_not_resumed(resumable: ResumableSession, owner: Owner):
    connection, next_connection = owner.connection(), owner.connection()
    resumable.start_resuming(connection)
    await asyncio.sleep(2 * HOLD)
    resumable.connection_failed(connection)
    assert resumable.start_resuming(next_connection) == b""
    with pytest.raises(ProtocolError):
        resumable.session_to_resume(next_connection)


async def test_expiry_of_one_session_does_not_end_the_next(resumable: ResumableSession, owner: Owner):
    connection = owner.connection()
    resumable.start_resuming(connection)
    await asyncio.sleep(2 * HOLD)
    resumable.forget_session()
    owner.session.link_down(LOST)
    assert resumable.save_lost_session(connection, LOST)
    resumable.start_resuming(connection)
    resumable.connection_failed(connection)
    assert not owner.ends
    await asyncio.sleep(HOLD + 1)
    assert owner.ends == 1
