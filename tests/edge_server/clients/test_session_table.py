"""Tests of how many sessions a token may have, and which are evicted; without clients."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from edge_server.auth.permissions import Identity
from edge_server.clients import session_table
from edge_server.clients.session_table import SessionTable

if TYPE_CHECKING:
    from collections.abc import Iterator

HOLD = 30.0


class FakeSession:
    """Fake of a client as the session table sees it."""

    def __init__(self, sessions: SessionTable, key: str) -> None:
        self.identity = Identity(key)
        self.digest = b""
        self.is_over = False
        self._sessions = sessions

    def end_without_link(self, reason: str) -> None:
        self.is_over = True
        self._sessions.remove(self)  # type: ignore[arg-type]


class SessionTableRig:
    """Rig that opens sessions in a session table and records them."""

    def __init__(self) -> None:
        self.table = SessionTable(HOLD)
        self.sessions: dict[str, list[FakeSession]] = {}

    def try_connect(self, key: str) -> FakeSession | None:
        if not self.table.make_room(key):
            return None
        session = FakeSession(self.table, key)
        self.table.add(session)  # type: ignore[arg-type]
        self.sessions.setdefault(key, []).append(session)
        return session

    def connect(self, key: str) -> FakeSession:
        session = self.try_connect(key)
        assert session is not None
        return session

    def leave(self, session: FakeSession) -> None:
        """Let a client lose its link."""
        self.table.link_lost(session)  # type: ignore[arg-type]

    def reconnect(self, session: FakeSession) -> None:
        self.table.stop_away_timer(session)  # type: ignore[arg-type]


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> SessionTableRig:
    monkeypatch.setattr(session_table, "MAX_SESSIONS", 90)
    monkeypatch.setattr(session_table, "MAX_AWAY", 8)
    monkeypatch.setattr(session_table, "GUARANTEED_MIN", 2)
    return SessionTableRig()


def until_refused(rig: SessionTableRig, key: str) -> Iterator[FakeSession]:
    while (session := rig.try_connect(key)) is not None:
        yield session


async def test_token_cannot_take_all_sessions(rig: SessionTableRig):
    assert len(list(until_refused(rig, "bad"))) == 80
    assert rig.table.refused == 1
    words = "this token has 80 clients of the 90 that the edge can serve, its share"
    assert rig.table.refusal_reason("bad") == words
    assert len(list(until_refused(rig, "good"))) >= 2
    rig.sessions["bad"][0].end_without_link("test")
    rig.connect("another")


async def test_token_at_its_share_evicts_its_own_session_away(rig: SessionTableRig):
    mine = list(until_refused(rig, "a"))
    other = rig.connect("b")
    for session in (other, mine[3], mine[5]):
        rig.leave(session)
    rig.connect("a")
    assert [session for session in (other, *mine) if session.is_over] == [mine[3]]
    rig.reconnect(mine[5])
    assert rig.try_connect("a") is None
    assert not other.is_over


async def test_a_session_that_goes_on_needs_no_room(rig: SessionTableRig):
    mine = list(until_refused(rig, "a"))
    rig.leave(mine[0])
    rig.reconnect(mine[0])
    assert not mine[0].is_over
    assert rig.table.shares.held_by("a") == len(mine)


async def test_full_table_evicts_a_session_that_is_away(rig: SessionTableRig, monkeypatch: pytest.MonkeyPatch):
    for number in range(45):
        rig.connect(f"t{number}")
        rig.connect(f"t{number}")
    assert rig.table.shares.available == 0
    assert rig.try_connect("new") is None
    first, second = rig.sessions["t7"]
    only = rig.sessions["t3"][0]
    for session in (only, first, second):
        rig.leave(session)
    rig.connect("new")
    assert [first.is_over, second.is_over, only.is_over] == [True, False, False]


async def test_the_token_with_most_sessions_away_makes_room_first(rig: SessionTableRig):
    victim = rig.connect("good")
    rig.leave(victim)
    bad = [rig.connect("bad") for _ in range(40)]
    for session in bad:
        rig.leave(session)
    assert not victim.is_over
    assert [session for session in bad if not session.is_over] == bad[-7:]
    assert rig.table.away == 8
    rig.reconnect(victim)
    assert rig.table.away == 7


async def test_longest_away_session_is_evicted_among_equals(rig: SessionTableRig):
    sessions = [rig.connect(f"t{number}") for number in range(9)]
    for session in sessions:
        rig.leave(session)
    assert [session.is_over for session in sessions] == [True] + [False] * 8


async def test_superseded_session_gives_its_place_back(rig: SessionTableRig):
    session = rig.connect("a")
    rig.table.remember_superseded(session)  # type: ignore[arg-type]
    assert rig.table.shares.used == 1, "it is not over yet"
    session.end_without_link("test")
    assert rig.table.shares.used == 0


async def test_superseded_secrets_are_forgotten_with_their_token(rig: SessionTableRig):
    secrets = {}
    for key in "ab":
        session = FakeSession(rig.table, key)
        secrets[key] = rig.table.add(session)  # type: ignore[arg-type]
        rig.table.remember_superseded(session)  # type: ignore[arg-type]
        session.end_without_link("test")
    rig.table.forget_superseded(lambda key: key == "b")
    assert rig.table.is_superseded(secrets["a"], "a")
    assert not rig.table.is_superseded(secrets["b"], "b")
    assert rig.table._superseded.keys() == {"a"}


async def test_ended_sessions_leave_nothing(rig: SessionTableRig):
    for number, session in enumerate([rig.connect("ab"[number % 2]) for number in range(12)]):
        if number % 3:
            rig.leave(session)
        if number % 4 == 1:
            rig.reconnect(session)
        session.end_without_link("test")
        session.end_without_link("test")
    sessions = rig.table
    assert len(sessions) == sessions.away == sessions.shares.used == 0
    assert not sessions._away_of
    await asyncio.sleep(0)
