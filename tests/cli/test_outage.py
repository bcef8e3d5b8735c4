"""Sentences about a lost connection: seconds, visitors who wait, and visitors who were lost."""

from __future__ import annotations

import io

import pytest

from quictunnel.cli.outage import REMINDER_INTERVAL, Outage
from quictunnel.cli.reporter import TextReporter
from quictunnel.events import ClientEvent, Snapshot


class Client:
    """Outage with a clock and figures that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.visitors = self.lost = 0
        self.outage = Outage(self.snapshot, lambda: self.now)

    def snapshot(self) -> Snapshot:
        return Snapshot("any", self.visitors, 0, 0, 0, None, "stand-in", visitors_lost=self.lost)

    def event(self, kind: str, message: str = "of the client") -> str | None:
        return self.outage.message(ClientEvent(kind, message, 0.0))


@pytest.fixture
def client() -> Client:
    return Client()


def test_a_connection_that_resumes(client: Client) -> None:
    client.visitors = 8
    client.lost = 5  # in an earlier outage
    assert client.outage.status() == ""
    assert client.event("warning", "timed out") == "timed out"
    assert client.event("away") == "Connection lost, reconnecting; 8 visitors wait"
    client.now += 12
    assert client.outage.status() == "Connection lost, reconnecting (12 s); 8 visitors wait"
    client.visitors = 1
    assert client.outage.status() == "Connection lost, reconnecting (12 s); 1 visitor waits"
    client.now += 2
    assert client.event("resuming") is None
    assert client.event("resumed") is None
    assert client.event("warning", "another matter") == "another matter"
    assert client.event("connected") == "Connected again after 14 s; no open connection of a visitor was lost"
    assert client.outage.status() == ""
    assert client.event("connected", "as usual") == "as usual"


def test_a_session_that_cannot_resume_loses_its_visitors(client: Client) -> None:
    client.visitors = 3
    assert client.event("away") == "Connection lost, reconnecting; 3 visitors wait"
    client.now += 130
    client.visitors, client.lost = 0, 3
    assert client.event("reconnecting") is None
    assert client.outage.status() == "Connection lost, reconnecting (2 min); 3 visitors were lost"
    assert client.event("connected") == "Connected again after 2 min; 3 visitors were lost"


def test_one_visitor_is_lost(client: Client) -> None:
    client.event("reconnecting")
    client.now += 3
    client.lost = 1
    assert client.event("connected") == "Connected again after 3 s; 1 visitor was lost"


def test_an_edge_that_does_not_answer_for_a_while(client: Client) -> None:
    client.visitors = 2
    assert client.event("suspect") == "The edge does not answer, dialling again; 2 visitors wait"
    client.now += 2
    assert (
        client.event("connected") == "The edge answers again after 2 s; no open connection of a visitor was lost"
    )


def test_an_edge_that_does_not_answer_at_all(client: Client) -> None:
    client.event("suspect")
    client.now += 5
    assert client.event("away") == "Connection lost, reconnecting (5 s)"
    client.now += 5
    assert client.event("connected") == "Connected again after 10 s; no open connection of a visitor was lost"


def test_the_end_of_the_client_in_an_outage(client: Client) -> None:
    client.event("reconnecting")
    assert client.event("refused", "the token was revoked") == "the token was revoked"


def test_plain_lines_repeat_it_each_minute(client: Client) -> None:
    out = io.StringIO()
    reporter = TextReporter(out, client.outage)
    reporter.tick()
    reporter.event(ClientEvent("away", "", 0.0))
    reporter.event(ClientEvent("reconnecting", "", 0.0))
    for _ in range(int(2.5 * REMINDER_INTERVAL)):
        client.now += 1
        reporter.tick()
    reporter.event(ClientEvent("connected", "", 0.0))
    assert [line.partition("  ")[2] for line in out.getvalue().splitlines()] == [
        "Connection lost, reconnecting",
        "Connection lost, reconnecting (1 min)",
        "Connection lost, reconnecting (2 min)",
        "Connected again after 2 min; no open connection of a visitor was lost",
    ]
