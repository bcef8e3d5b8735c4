"""Tests of how many sessions a token may have, and which are evicted; without clients."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from edge_server.auth.permissions import Identity
from edge_server.clients import session_table as room
from edge_server.clients.session_table import SessionTable

if TYPE_CHECKING:
    from collections.abc import Iterator

HOLD = 30.0


class FakeGuest:
    """Fake of a client as the session table sees it."""

    def __init__(self, sessions: SessionTable, key: str) -> None:
        self.identity = Identity(key)
        self.digest = b""
        self.is_over = False
        self._sessions = sessions

    def give_up(self) -> None:
        self.is_over = True
        self._sessions.remove(self)  # type: ignore[arg-type]


class Door:
    """Begins sessions, and remembers them."""

    def __init__(self) -> None:
        self.sessions = SessionTable(HOLD)
        self.guests: dict[str, list[FakeGuest]] = {}

    def come(self, key: str) -> FakeGuest | None:
        if not self.sessions.make_room(key):
            return None
        guest = FakeGuest(self.sessions, key)
        self.sessions.add(guest)  # type: ignore[arg-type]
        self.guests.setdefault(key, []).append(guest)
        return guest

    def came(self, key: str) -> FakeGuest:
        guest = self.come(key)
        assert guest is not None
        return guest

    def leave(self, guest: FakeGuest) -> None:
        """Let a client lose its link."""
        self.sessions.leave(guest)  # type: ignore[arg-type]

    def return_(self, guest: FakeGuest) -> None:
        self.sessions.come_back(guest)  # type: ignore[arg-type]


@pytest.fixture
async def door(monkeypatch: pytest.MonkeyPatch) -> Door:
    monkeypatch.setattr(room, "MAX_SESSIONS", 90)
    monkeypatch.setattr(room, "MAX_AWAY", 8)
    monkeypatch.setattr(room, "ALWAYS", 2)
    return Door()


def until_refused(door: Door, key: str) -> Iterator[FakeGuest]:
    while (guest := door.come(key)) is not None:
        yield guest


async def test_one_token_does_not_get_all_sessions(door: Door):
    assert len(list(until_refused(door, "bad"))) == 80
    assert door.sessions.refused == 1
    assert len(list(until_refused(door, "good"))) >= 2
    door.guests["bad"][0].give_up()
    door.came("another")


async def test_a_token_at_its_share_makes_room_with_its_own_session_that_is_away(door: Door):
    mine = list(until_refused(door, "a"))
    other = door.came("b")
    for guest in (other, mine[3], mine[5]):
        door.leave(guest)
    door.came("a")
    assert [guest for guest in (other, *mine) if guest.is_over] == [mine[3]]
    door.return_(mine[5])
    assert door.come("a") is None
    assert not other.is_over


async def test_a_session_that_goes_on_needs_no_room(door: Door):
    mine = list(until_refused(door, "a"))
    door.leave(mine[0])
    door.return_(mine[0])
    assert not mine[0].is_over
    assert door.sessions.shares.held_by("a") == len(mine)


async def test_with_no_place_left_at_all_a_newcomer_takes_that_of_a_session_that_is_away(
    door: Door, monkeypatch: pytest.MonkeyPatch
):
    for number in range(45):
        door.came(f"t{number}")
        door.came(f"t{number}")
    assert door.sessions.shares.left == 0
    assert door.come("new") is None
    first, second = door.guests["t7"]
    only = door.guests["t3"][0]
    for guest in (only, first, second):
        door.leave(guest)
    door.came("new")
    assert [first.is_over, second.is_over, only.is_over] == [True, False, False]


async def test_the_token_with_most_sessions_away_makes_room_first(door: Door):
    victim = door.came("good")
    door.leave(victim)
    bad = [door.came("bad") for _ in range(40)]
    for guest in bad:
        door.leave(guest)
    assert not victim.is_over
    assert [guest for guest in bad if not guest.is_over] == bad[-7:]
    assert door.sessions.away == 8
    door.return_(victim)
    assert door.sessions.away == 7


async def test_of_those_with_equally_many_the_one_away_for_longest_makes_room(door: Door):
    guests = [door.came(f"t{number}") for number in range(9)]
    for guest in guests:
        door.leave(guest)
    assert [guest.is_over for guest in guests] == [True] + [False] * 8


async def test_a_session_that_a_newer_one_superseded_gives_its_place_back(door: Door):
    guest = door.came("a")
    door.sessions.supersede(guest)  # type: ignore[arg-type]
    assert door.sessions.shares.used == 1, "it is not over yet"
    guest.give_up()
    assert door.sessions.shares.used == 0


async def test_what_was_superseded_is_forgotten_with_its_token(door: Door):
    secrets = {}
    for key in "ab":
        guest = FakeGuest(door.sessions, key)
        secrets[key] = door.sessions.add(guest)  # type: ignore[arg-type]
        door.sessions.supersede(guest)  # type: ignore[arg-type]
        guest.give_up()
    door.sessions.forget_superseded(lambda key: key == "b")
    assert door.sessions.is_superseded(secrets["a"], "a")
    assert not door.sessions.is_superseded(secrets["b"], "b")
    assert door.sessions._superseded.keys() == {"a"}


async def test_nothing_is_left_of_sessions_that_are_over(door: Door):
    for number, guest in enumerate([door.came("ab"[number % 2]) for number in range(12)]):
        if number % 3:
            door.leave(guest)
        if number % 4 == 1:
            door.return_(guest)
        guest.give_up()
        guest.give_up()
    sessions = door.sessions
    assert len(sessions) == sessions.away == sessions.shares.used == 0
    assert not sessions._away_of
    await asyncio.sleep(0)
