"""What the model has found, told step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from quictunnel.errors import EdgeUnavailableError
from tests.model.scenario import Scenario, scenario

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def stage() -> Iterator[Scenario]:
    with scenario() as made:
        yield made


def test_a_newcomer_within_the_round_trip_of_a_resume(stage: Scenario) -> None:
    program = stage.program()
    first = stage.visitor(program)
    stage.carry()
    stage.redial(program)
    late = stage.visitor(program)
    stage.carry(0.5)
    assert stage.served(first)
    assert stage.served(late)
    stage.check()


def test_a_newcomer_whose_preface_would_overtake_the_welcome(stage: Scenario) -> None:
    program = stage.program()
    link = stage.redial(program)
    late = stage.visitor(program)
    assert link.server is not None
    for piece in link.server.pieces():
        if piece[1] != 0:  # a stream for a visitor, before the control stream
            stage.call(link.server.deliver, piece)
    stage.carry(0.5)
    assert stage.served(late)
    stage.check()


@pytest.mark.parametrize("who", ["visitor", "origin"])
def test_a_leaver_within_the_round_trip_of_a_resume(stage: Scenario, who: str) -> None:
    program = stage.program()
    visitor = stage.visitor(program)
    stage.carry()
    stage.redial(program)
    leaver, other = visitor.ends if who == "visitor" else reversed(visitor.ends)
    stage.call(leaver.reset)
    stage.carry(1)
    assert other.was_reset
    stage.check()


def test_visitors_who_reset_before_their_preface_arrived_leave_nothing(stage: Scenario) -> None:
    program = stage.program()
    visitor = stage.visitor(program)
    stage.call(visitor.peer.reset)
    link = stage.link(program)
    assert link.server is not None
    stage.call(link.server.deliver, ("reset", 1))
    later = stage.visitor(program)
    stage.carry()
    assert stage.served(later)
    stage.check()


def test_a_stop_that_overtakes_the_preface_is_not_forgotten(stage: Scenario) -> None:
    """RESET_STREAM comes too late: all bytes and the end of the direction were on their way and arrive."""
    program = stage.program()
    visitor = stage.visitor(program)
    stage.call(visitor.peer.end)
    stage.call(visitor.peer.reset)
    server = stage.link(program).server
    assert server is not None
    for kind in ("stop", "data"):
        stage.call(server.deliver, (kind, 1))
    stage.check()


def test_an_older_program_that_was_away_does_not_take_its_name_back(stage: Scenario) -> None:
    older = stage.program()
    stage.lose(older)
    newer = stage.program(older.ticket)
    stage.carry(1)
    stage.carry(1)
    assert newer.uplink.state == "connected"
    assert stage.served_now(newer)


def test_an_older_program_that_has_resumed_once_does_not_take_its_name_back(stage: Scenario) -> None:
    older = stage.program()
    stage.redial(older)
    stage.carry(1)
    assert older.uplink.turns.resumed == 1
    newer = stage.program(older.ticket)
    for _ in range(5):
        stage.carry(1)
    assert (older.uplink.state, newer.uplink.state) == ("failed", "connected")
    assert stage.served_now(newer)


def test_a_takeover_within_the_round_trip_of_a_resume(stage: Scenario) -> None:
    program = stage.program()
    visitor = stage.visitor(program)
    stage.carry()
    stage.redial(program)
    edge = stage.world.edge
    assert edge is not None
    names = stage.call(edge.hand_over)
    stage.call(stage.world.start_edge, names)
    stage.carry(0.5)
    assert stage.served(visitor)
    stage.check()


def test_a_bind_that_is_not_answered_is_an_error_and_is_taken_back(stage: Scenario) -> None:
    program = stage.start()
    for _ in range(4):
        for end in stage.network.links[-1].ends:
            for piece in end.pieces():
                stage.call(end.deliver, piece)
        if program.uplink.state == "connected":
            break
    stage.loop.advance(11)
    assert isinstance(program.error, EdgeUnavailableError)
    stage.carry(1)
    edge = stage.world.edge
    assert edge is not None
    assert edge.leases == 0


def test_a_name_that_a_new_session_asked_for_on_a_link_that_was_lost_is_asked_for_again(stage: Scenario) -> None:
    program = stage.program()
    edge = stage.world.edge
    assert edge is not None
    names = edge.names()
    stage.call(edge.kill)
    stage.call(stage.world.start_edge, names)
    # A new session with the new edge: the Bind is under way when its first link is lost.
    link = stage.redial(program)
    assert link.server is not None
    stage.call(link.server.deliver, ("data", 0))
    assert program.uplink.state == "connected"
    stage.lose(program)
    stage.carry(1)
    stage.carry(1)
    stage.carry(1)
    assert stage.served_now(program)


def test_a_link_that_is_well_again_is_not_called_suspect(stage: Scenario) -> None:
    program = stage.program()
    stage.link(program).is_paused = True
    stage.loop.advance(11)
    assert program.uplink.state == "suspect"
    stage.link(program).is_paused = False
    for _ in range(10):
        stage.carry(1)
    assert program.uplink.state == "connected"
