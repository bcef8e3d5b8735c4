"""The table of the connection's states."""

from __future__ import annotations

from quictunnel.connection.state import TRANSITIONS, ConnectionState, ConnectionStateMachine
from quictunnel.events import STATES


def test_every_state_is_in_the_table_and_can_be_reached():
    assert set(TRANSITIONS) == set(ConnectionState)
    reached = {ConnectionState.CONNECTING}
    while more := set().union(*(TRANSITIONS[state] for state in reached)) - reached:
        reached |= more
    assert reached == set(ConnectionState)


def test_users_know_every_state():
    assert {state.value for state in ConnectionState} | {"draining"} == STATES


def test_a_closed_connection_stays_closed():
    assert TRANSITIONS[ConnectionState.CLOSED] == frozenset()
    assert all(
        ConnectionState.CLOSED in after for before, after in TRANSITIONS.items() if before.value != "closed"
    )


def test_state_change_is_reported_once():
    told: list[tuple[str, str]] = []
    machine = ConnectionStateMachine(lambda *event: told.append(event))
    machine.enter(ConnectionState.CONNECTED, "first")
    machine.enter(ConnectionState.CONNECTED, "again")
    assert told == [("connected", "first")]


def test_a_change_of_the_network_does_not_revive_what_failed():
    told: list[tuple[str, str]] = []
    machine = ConnectionStateMachine(lambda *event: told.append(event))
    machine.enter(ConnectionState.FAILED, "it cannot work")
    machine.enter(ConnectionState.MIGRATING, "the network changed")
    assert machine.state is ConnectionState.FAILED
    assert told == [("failed", "it cannot work")]
