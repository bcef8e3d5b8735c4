"""The model finds faults that are put into the product on purpose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from edge_server.clients.session import ClientSession
from edge_server.clients.session_table import SessionTable
from edge_server.tunnels import bind_policy
from edge_server.tunnels.registry import Registry
from edge_server.tunnels.tunnel import Tunnel
from quictunnel.connection.leases import Leases
from quictunnel.transport.session import Session
from quictunnel.transport.stream import Stream
from quictunnel.wire import control_state
from quictunnel.wire.messages import ResumeState
from quictunnel.wire.send_buffer import SendBuffer
from tests.model.known import KNOWN
from tests.model.report import text_of
from tests.model.runner import run

if TYPE_CHECKING:
    from collections.abc import Callable

    Plant = Callable[[pytest.MonkeyPatch], None]

STEPS: Final = 20_000
"""Most steps until each of them is found; most of them take some hundreds or thousands."""

SEED: Final = "b"
"""Seed with which all planted faults are found soon."""


def carries_before_the_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """A visitor is let in before both sides know how they stand."""
    monkeypatch.setattr(Session, "is_ready", property(lambda session: not session.is_away))


def tells_nobody_of_those_who_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The edge does not say that a visitor left during a resume."""
    monkeypatch.setattr(Session, "aborted_without_quic_stream", lambda session, stream: None)


def forgets_which_program_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """An older program may take the name from its newer self."""
    monkeypatch.setattr(SessionTable, "is_superseded", lambda sessions, secret, key: False)
    monkeypatch.setattr(bind_policy, "is_older_client", lambda bind, ticket, held: False)


def drops_accounts_when_leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    """An account is against the protocol once the edge has said that it leaves."""
    # A copy, for deleting and restoring a row would change the order that docs/PROTOCOL.md shows.
    row = (control_state.Phase.DRAINING, control_state.Side.CLIENT, ResumeState)
    monkeypatch.setattr(
        control_state,
        "TRANSITIONS",
        {key: after for key, after in control_state.TRANSITIONS.items() if key != row},
    )


def begins_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream goes on one byte too late on a new link."""
    rewind = SendBuffer.rewind
    monkeypatch.setattr(
        SendBuffer, "rewind", lambda buffer, offset: rewind(buffer, min(offset + (offset > 0), buffer.end))
    )


def asks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease is not asked for again in a new session."""
    ask = Leases.request
    monkeypatch.setattr(
        Leases,
        "request",
        lambda leases, session, lease: None if lease.is_wanted else ask(leases, session, lease),
    )


def never_sends_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """An end that was under way when a link was lost is not said again."""
    take_in = Stream.on_resume_state

    def forget(stream: Stream, received: int, consumed: int, limit: int) -> None:
        was_given = stream._sender.is_end_given
        take_in(stream, received, consumed, limit)
        stream._sender.is_end_given = stream._sender.is_end_given or was_given

    monkeypatch.setattr(Stream, "on_resume_state", forget)


def forgets_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Visitors who wait are not let in when a client comes."""
    monkeypatch.setattr(Tunnel, "serve_waiting", lambda tunnel: None)


def forgets_who_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client whose session is over goes on as one of those that serve its tunnel."""
    remove_backend = Registry.remove_backend
    monkeypatch.setattr(
        Registry,
        "remove_backend",
        lambda registry, tunnel, backend: len(tunnel.backends) == 1 and remove_backend(registry, tunnel, backend),
    )


def serves_whoever_was_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that is revoked ends no session."""
    monkeypatch.setattr(ClientSession, "check_rights", lambda client: None)


@pytest.mark.parametrize(
    ("plant", "kinds"),
    [
        (carries_before_the_account, "an honest peer is called hostile"),
        (tells_nobody_of_those_who_left, "a visitor that does not end|a stream that only the client knows"),
        (forgets_which_program_asks, "a program lost its name to an older one|the newest holder lost"),
        (drops_accounts_when_leaving, "an honest peer is called hostile"),
        (begins_too_late, "wrong bytes|a fault inside|an honest peer is called hostile"),
        (asks_once, "a name that nobody has|a program was not told that its name is gone"),
        (never_sends_an_end, "a visitor that does not end|a clean end short of bytes"),
        (forgets_who_waits, "a visitor waits although its client has a link"),
        (
            forgets_who_serves,
            "a visitor waits although its client has a link|a program that has died is called well",
        ),
        (serves_whoever_was_let_in, "a name that was withdrawn is held|clients that do not come back"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_planted_fault_is_found(plant: Plant, kinds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    expected = tuple(kinds.split("|"))
    result = run(STEPS, SEED, known=[kind for kind in KNOWN if not kind.startswith(expected)])
    print(f"{result.failures[0].kind if result.failures else 'nothing'} after {result.steps} steps")
    assert result.failures
    assert result.failures[0].kind.startswith(expected), text_of(result.failures[0])
