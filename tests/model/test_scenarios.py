"""Faults that the model has found, as scenarios step by step."""

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


def test_visitor_within_the_round_trip_of_a_resume(stage: Scenario) -> None:
    program = stage.program()
    first = stage.visitor(program)
    stage.carry()
    stage.redial(program)
    late = stage.visitor(program)
    stage.carry(0.5)
    assert stage.served(first)
    assert stage.served(late)
    stage.check()


def test_preface_does_not_overtake_the_welcome(stage: Scenario) -> None:
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
    assert newer.manager.state == "connected"
    assert stage.served_now(newer)


def test_an_older_program_that_has_resumed_once_does_not_take_its_name_back(stage: Scenario) -> None:
    older = stage.program()
    stage.redial(older)
    stage.carry(1)
    assert older.manager.counters.resumed == 1
    newer = stage.program(older.ticket)
    for _ in range(5):
        stage.carry(1)
    assert (older.manager.state, newer.manager.state) == ("failed", "connected")
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
        if program.manager.state == "connected":
            break
    stage.loop.advance(11)
    assert isinstance(program.error, EdgeUnavailableError)
    stage.carry(1)
    edge = stage.world.edge
    assert edge is not None
    assert edge.leases == 0


def test_bind_lost_with_its_link_is_repeated(stage: Scenario) -> None:
    program = stage.program()
    edge = stage.world.edge
    assert edge is not None
    names = edge.noted_names(is_last=False)
    stage.call(edge.kill)
    stage.call(stage.world.start_edge, names)
    # A new session with the new edge: the Bind is under way when its first link is lost.
    link = stage.redial(program)
    assert link.server is not None
    stage.call(link.server.deliver, ("data", 0))
    assert program.manager.state == "connected"
    stage.lose(program)
    stage.carry(1)
    stage.carry(1)
    stage.carry(1)
    assert stage.served_now(program)


def test_release_without_a_link_closes_the_name(
    stage: Scenario,
) -> None:
    program = stage.program()
    stage.lose(program)
    serving, stage.network.serving = stage.network.serving, None
    stage.world.release(program, then_bind=True)
    stage.loop.advance(11)
    assert isinstance(program.error, EdgeUnavailableError)
    stage.network.serving = serving
    for _ in range(5):
        stage.carry(1)
    edge = stage.world.edge
    assert edge is not None
    assert edge.leases == 0


def test_lost_name_is_reported_on_the_next_link(stage: Scenario) -> None:
    older = stage.program(kind="name")
    stage.lose(older)
    stage.loop.advance(0.5)
    stage.network.links[-1].is_paused = True
    newer = stage.program(older.ticket)
    assert not older.has_lost  # that was said on the link that is lost
    stage.network.mend()
    for _ in range(6):
        stage.carry(1)
    assert [kind for _, kind, _ in older.events].count("lost") == 1
    stage.redial(older)  # told again, and it knows
    stage.carry(1)
    assert [kind for _, kind, _ in older.events].count("lost") == 1
    assert stage.served_now(newer)
    stage.check()


def test_recovered_link_is_not_suspect(stage: Scenario) -> None:
    program = stage.program()
    stage.link(program).is_paused = True
    stage.loop.advance(11)
    assert program.manager.state == "suspect"
    stage.link(program).is_paused = False
    for _ in range(10):
        stage.carry(1)
    assert program.manager.state == "connected"


def test_a_program_that_asks_anew_for_a_name_that_it_gave_back_is_the_newest(stage: Scenario) -> None:
    first = stage.program(kind="name")
    second = stage.program(first.ticket)
    stage.carry()
    assert first.has_lost
    assert stage.served_now(second)
    stage.world.release(first, then_bind=True)
    for _ in range(7):  # its last visitor may finish first
        stage.carry(1)
    assert second.has_lost
    assert stage.served_now(first)
    stage.restart()
    for _ in range(5):
        stage.carry(1)
    assert stage.served_now(first)


@pytest.mark.parametrize("how", ["close", "kill", "release"])
def test_leaving_pool_member_keeps_the_others_visitors(stage: Scenario, how: str) -> None:
    leaver = stage.program(kind="pool")
    stayer = stage.program(leaver.ticket)
    visitors = [stage.visitor(leaver) for _ in range(4)]
    stage.carry()
    of_stayer = [visitor for visitor in visitors if visitor.client_session is stayer.session]
    assert len(of_stayer) == 2
    if how == "release":
        stage.world.release(leaver, then_bind=False)
    else:
        stage.call(getattr(leaver, how))
    for _ in range(8):  # until nothing was heard of one that is killed for long enough
        stage.carry(1)
    assert all(stage.served(visitor) for visitor in of_stayer)
    assert all(stage.served_now(stayer) for _ in range(3))
    stage.check()


def test_data_for_a_refusing_member_reaches_the_next(stage: Scenario) -> None:
    first = stage.program(kind="pool")
    stage.program(first.ticket)
    visitor = stage.visitor(first)
    stage.network.deliver_all(stage.world)
    stage.call(visitor.peer.send, 300)
    stage.network.deliver_all(stage.world)
    (dial,) = stage.world.dials
    stage.call(stage.world.refuse, dial)
    stage.carry()
    assert visitor.origin is not None
    assert visitor.client_session is not dial.program.session
    assert visitor.origin.received == 300
    assert stage.served(visitor)
    stage.check()


@pytest.mark.parametrize("how", ["hand_over", "restart"])
def test_a_public_port_stays_the_tunnels(stage: Scenario, how: str) -> None:
    program = stage.program(kind="port")
    (port,) = stage.world.ports.taken()
    if how == "hand_over":
        edge = stage.world.edge
        assert edge is not None
        stage.call(stage.world.start_edge, stage.call(edge.hand_over))
    else:
        stage.restart()
    early = stage.visitor_of_port(port)
    for _ in range(9):
        stage.carry(1)
    assert stage.served(early)
    assert stage.served(stage.visitor_of_port(port, seconds=0.1))
    assert stage.world.ports.taken() == {port}
    assert early.client_session is program.session
    stage.check()


@pytest.mark.parametrize("moment", ["away", "standing"])
def test_a_token_that_is_revoked_during_a_resume_ends_the_session(stage: Scenario, moment: str) -> None:
    program = stage.program(has_second_token=True)
    visitor = stage.visitor(program)
    stage.carry()
    if moment == "away":
        stage.lose(program)
    else:
        stage.redial(program)
    stage.call(stage.world.revoke)
    for _ in range(6):
        stage.carry(1)
    assert program.manager.state == "refused"
    assert visitor.peer.was_reset
    edge = stage.world.edge
    assert edge is not None
    assert (edge.leases, len(edge.services.sessions), edge.visitors) == (0, 0, 0)
    stage.check()


@pytest.mark.parametrize("moment", ["away", "standing"])
def test_a_name_that_is_banned_during_a_resume_is_taken_away_alone(stage: Scenario, moment: str) -> None:
    program = stage.program(kind="port")
    visitor = stage.visitor(program)
    stage.carry()
    if moment == "away":
        stage.lose(program)
    else:
        stage.redial(program)
    stage.call(stage.world.ban, program.ticket)
    for _ in range(6):
        stage.carry(1)
    assert program.has_lost
    assert program.manager.state == "connected"
    assert visitor.peer.was_reset
    edge = stage.world.edge
    assert edge is not None
    assert (edge.leases, len(edge.services.sessions), edge.visitors) == (0, 1, 0)
    assert not stage.world.ports.taken()
    stage.check()
