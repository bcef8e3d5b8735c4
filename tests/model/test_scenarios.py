"""Faults that the model has found, as scenarios step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from quictunnel.errors import EdgeUnavailableError
from tests.model.scenario import Scenario, new_scenario

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def scenario() -> Iterator[Scenario]:
    with new_scenario() as made:
        yield made


def test_visitor_within_the_round_trip_of_a_resume(scenario: Scenario) -> None:
    program = scenario.program()
    first = scenario.visitor(program)
    scenario.carry()
    scenario.redial(program)
    late = scenario.visitor(program)
    scenario.carry(0.5)
    assert scenario.served(first)
    assert scenario.served(late)
    scenario.check()


def test_preface_does_not_overtake_the_welcome(scenario: Scenario) -> None:
    program = scenario.program()
    link = scenario.redial(program)
    late = scenario.visitor(program)
    assert link.server is not None
    for piece in link.server.pieces():
        if piece[1] != 0:  # a stream for a visitor, before the control stream
            scenario.call(link.server.deliver, piece)
    scenario.carry(0.5)
    assert scenario.served(late)
    scenario.check()


@pytest.mark.parametrize("who", ["visitor", "origin"])
def test_a_leaver_within_the_round_trip_of_a_resume(scenario: Scenario, who: str) -> None:
    program = scenario.program()
    visitor = scenario.visitor(program)
    scenario.carry()
    scenario.redial(program)
    leaver, other = visitor.ends if who == "visitor" else reversed(visitor.ends)
    scenario.call(leaver.reset)
    scenario.carry(1)
    assert other.was_reset
    scenario.check()


def test_visitors_who_reset_before_their_preface_arrived_leave_nothing(scenario: Scenario) -> None:
    program = scenario.program()
    visitor = scenario.visitor(program)
    scenario.call(visitor.peer.reset)
    link = scenario.link(program)
    assert link.server is not None
    scenario.call(link.server.deliver, ("reset", 1))
    later = scenario.visitor(program)
    scenario.carry()
    assert scenario.served(later)
    scenario.check()


def test_a_stop_that_overtakes_the_preface_is_not_forgotten(scenario: Scenario) -> None:
    """RESET_STREAM comes too late: all bytes and the end of the direction were on their way and arrive."""
    program = scenario.program()
    visitor = scenario.visitor(program)
    scenario.call(visitor.peer.end)
    scenario.call(visitor.peer.reset)
    server = scenario.link(program).server
    assert server is not None
    for kind in ("stop", "data"):
        scenario.call(server.deliver, (kind, 1))
    scenario.check()


def test_an_older_program_that_was_away_does_not_take_its_name_back(scenario: Scenario) -> None:
    older = scenario.program()
    scenario.lose(older)
    newer = scenario.program(older.ticket)
    scenario.carry(1)
    scenario.carry(1)
    assert newer.manager.state == "connected"
    assert scenario.served_now(newer)


def test_resumed_older_program_does_not_retake_its_name(scenario: Scenario) -> None:
    older = scenario.program()
    scenario.redial(older)
    scenario.carry(1)
    assert older.manager.counters.resumed == 1
    newer = scenario.program(older.ticket)
    for _ in range(5):
        scenario.carry(1)
    assert (older.manager.state, newer.manager.state) == ("failed", "connected")
    assert scenario.served_now(newer)


def test_a_takeover_within_the_round_trip_of_a_resume(scenario: Scenario) -> None:
    program = scenario.program()
    visitor = scenario.visitor(program)
    scenario.carry()
    scenario.redial(program)
    edge = scenario.system.edge
    assert edge is not None
    names = scenario.call(edge.hand_over)
    scenario.call(scenario.system.start_edge, names)
    scenario.carry(0.5)
    assert scenario.served(visitor)
    scenario.check()


def test_a_bind_that_is_not_answered_is_an_error_and_is_taken_back(scenario: Scenario) -> None:
    program = scenario.start()
    for _ in range(4):
        for end in scenario.network.links[-1].ends:
            for piece in end.pieces():
                scenario.call(end.deliver, piece)
        if program.manager.state == "connected":
            break
    scenario.loop.advance(11)
    assert isinstance(program.error, EdgeUnavailableError)
    scenario.carry(1)
    edge = scenario.system.edge
    assert edge is not None
    assert edge.tunnel_count == 0


def test_bind_lost_with_its_link_is_repeated(scenario: Scenario) -> None:
    program = scenario.program()
    edge = scenario.system.edge
    assert edge is not None
    names = edge.noted_names(is_last=False)
    scenario.call(edge.kill)
    scenario.call(scenario.system.start_edge, names)
    # A new session with the new edge: the Bind is under way when its first link is lost.
    link = scenario.redial(program)
    assert link.server is not None
    scenario.call(link.server.deliver, ("data", 0))
    assert program.manager.state == "connected"
    scenario.lose(program)
    scenario.carry(1)
    scenario.carry(1)
    scenario.carry(1)
    assert scenario.served_now(program)


def test_release_without_a_link_closes_the_name(
    scenario: Scenario,
) -> None:
    program = scenario.program()
    scenario.lose(program)
    serving, scenario.network.serving = scenario.network.serving, None
    scenario.system.release(program, then_bind=True)
    scenario.loop.advance(11)
    assert isinstance(program.error, EdgeUnavailableError)
    scenario.network.serving = serving
    for _ in range(5):
        scenario.carry(1)
    edge = scenario.system.edge
    assert edge is not None
    assert edge.tunnel_count == 0


def test_lost_name_is_reported_on_the_next_link(scenario: Scenario) -> None:
    older = scenario.program(kind="name")
    scenario.lose(older)
    scenario.loop.advance(0.5)
    scenario.network.links[-1].is_paused = True
    newer = scenario.program(older.ticket)
    assert not older.has_lost  # that was said on the link that is lost
    scenario.network.mend()
    for _ in range(6):
        scenario.carry(1)
    assert [kind for _, kind, _ in older.events].count("lost") == 1
    scenario.redial(older)  # told again, and it knows
    scenario.carry(1)
    assert [kind for _, kind, _ in older.events].count("lost") == 1
    assert scenario.served_now(newer)
    scenario.check()


def test_recovered_link_is_not_suspect(scenario: Scenario) -> None:
    program = scenario.program()
    scenario.link(program).is_paused = True
    scenario.loop.advance(11)
    assert program.manager.state == "suspect"
    scenario.link(program).is_paused = False
    for _ in range(10):
        scenario.carry(1)
    assert program.manager.state == "connected"


def test_new_bind_after_a_release_is_the_newest(scenario: Scenario) -> None:
    first = scenario.program(kind="name")
    second = scenario.program(first.ticket)
    scenario.carry()
    assert first.has_lost
    assert scenario.served_now(second)
    scenario.system.release(first, then_bind=True)
    for _ in range(7):  # its last visitor may finish first
        scenario.carry(1)
    assert second.has_lost
    assert scenario.served_now(first)
    scenario.restart()
    for _ in range(5):
        scenario.carry(1)
    assert scenario.served_now(first)


@pytest.mark.parametrize("how", ["close", "kill", "release"])
def test_leaving_pool_member_keeps_the_others_visitors(scenario: Scenario, how: str) -> None:
    leaver = scenario.program(kind="pool")
    stayer = scenario.program(leaver.ticket)
    visitors = [scenario.visitor(leaver) for _ in range(4)]
    scenario.carry()
    of_stayer = [visitor for visitor in visitors if visitor.client_session is stayer.session]
    assert len(of_stayer) == 2
    if how == "release":
        scenario.system.release(leaver, then_bind=False)
    else:
        scenario.call(getattr(leaver, how))
    for _ in range(8):  # until nothing was heard of one that is killed for long enough
        scenario.carry(1)
    assert all(scenario.served(visitor) for visitor in of_stayer)
    assert all(scenario.served_now(stayer) for _ in range(3))
    scenario.check()


def test_data_for_a_refusing_member_reaches_the_next(scenario: Scenario) -> None:
    first = scenario.program(kind="pool")
    scenario.program(first.ticket)
    visitor = scenario.visitor(first)
    scenario.network.deliver_all(scenario.system)
    scenario.call(visitor.peer.send, 300)
    scenario.network.deliver_all(scenario.system)
    (dial,) = scenario.system.dials
    scenario.call(scenario.system.refuse, dial)
    scenario.carry()
    assert visitor.origin is not None
    assert visitor.client_session is not dial.program.session
    assert visitor.origin.received == 300
    assert scenario.served(visitor)
    scenario.check()


@pytest.mark.parametrize("how", ["hand_over", "restart"])
def test_a_public_port_stays_the_tunnels(scenario: Scenario, how: str) -> None:
    program = scenario.program(kind="port")
    (port,) = scenario.system.ports.taken()
    if how == "hand_over":
        edge = scenario.system.edge
        assert edge is not None
        scenario.call(scenario.system.start_edge, scenario.call(edge.hand_over))
    else:
        scenario.restart()
    early = scenario.visitor_of_port(port)
    for _ in range(9):
        scenario.carry(1)
    assert scenario.served(early)
    assert scenario.served(scenario.visitor_of_port(port, seconds=0.1))
    assert scenario.system.ports.taken() == {port}
    assert early.client_session is program.session
    scenario.check()


@pytest.mark.parametrize("moment", ["away", "standing"])
def test_a_token_that_is_revoked_during_a_resume_ends_the_session(scenario: Scenario, moment: str) -> None:
    program = scenario.program(has_second_token=True)
    visitor = scenario.visitor(program)
    scenario.carry()
    if moment == "away":
        scenario.lose(program)
    else:
        scenario.redial(program)
    scenario.call(scenario.system.revoke)
    for _ in range(6):
        scenario.carry(1)
    assert program.manager.state == "refused"
    assert visitor.peer.was_reset
    edge = scenario.system.edge
    assert edge is not None
    assert (edge.tunnel_count, len(edge.services.sessions), edge.visitors) == (0, 0, 0)
    scenario.check()


@pytest.mark.parametrize("moment", ["away", "standing"])
def test_a_name_that_is_banned_during_a_resume_is_taken_away_alone(scenario: Scenario, moment: str) -> None:
    program = scenario.program(kind="port")
    visitor = scenario.visitor(program)
    scenario.carry()
    if moment == "away":
        scenario.lose(program)
    else:
        scenario.redial(program)
    scenario.call(scenario.system.ban, program.ticket)
    for _ in range(6):
        scenario.carry(1)
    assert program.has_lost
    assert program.manager.state == "connected"
    assert visitor.peer.was_reset
    edge = scenario.system.edge
    assert edge is not None
    assert (edge.tunnel_count, len(edge.services.sessions), edge.visitors) == (0, 1, 0)
    assert not scenario.system.ports.taken()
    scenario.check()
