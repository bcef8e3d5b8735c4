"""Sessions that are traced on request, as they lose their links and have others: without any QUIC."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from edge_server.clients.qlog import DIRECTORY, QlogTracing
from quictunnel.transport.qlog import NotTracedError, Tracer

if TYPE_CHECKING:
    from pathlib import Path


class Trace:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_cut = False


class Endpoint:
    """Fake endpoint with the tracing calls."""

    def __init__(self) -> None:
        self.traces: dict[object, Trace] = {}
        self.everything: Tracer | None = None
        self.refusal = ""
        self.number = 0

    def trace(self, tracer: Tracer | None) -> None:
        self.everything = tracer

    def trace_one(self, connection: object, tracer: Tracer) -> Trace:
        if self.refusal:
            raise NotTracedError(self.refusal)
        self.number += 1
        return self.traces.setdefault(connection, Trace(tracer.directory / str(self.number)))

    def untrace_one(self, connection: object) -> None:
        self.traces.pop(connection, None)

    def trace_of(self, connection: object) -> Trace | None:
        return self.traces.get(connection)


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


@pytest.fixture
def tracing(endpoint: Endpoint, tmp_path: Path) -> QlogTracing:
    return QlogTracing(endpoint, tmp_path)


@pytest.fixture
def client() -> Any:
    link = SimpleNamespace(connection="one")
    return SimpleNamespace(session=SimpleNamespace(link=link, is_away=False), trace=None, peer="192.0.2.1")


def go_on(client: Any, connection: str) -> None:
    client.session.is_away = False
    client.session.link.connection = connection
    if client.trace is not None:
        client.trace.resume()


def test_files_go_where_those_of_all_go(tracing: QlogTracing, client: Any, tmp_path: Path):
    assert tracing.begin(client) == tmp_path / DIRECTORY / "1"
    tracing.trace_all(Tracer(tmp_path / "all"))
    go_on(client, "two")
    assert tracing.file_of(client) == tmp_path / "all" / "2"
    tracing.trace_all(None)
    go_on(client, "three")
    assert tracing.file_of(client) == tmp_path / DIRECTORY / "3"
    assert tracing.end(client) == tmp_path / DIRECTORY / "3"


def test_session_away_is_traced_on_its_return(tracing: QlogTracing, client: Any, endpoint: Endpoint):
    client.session.is_away = True
    assert tracing.begin(client) is None
    assert tracing.is_chosen(client)
    assert not endpoint.traces
    go_on(client, "two")
    assert set(endpoint.traces) == {"two"}


def test_trace_withdrawn_while_away_does_not_begin(tracing: QlogTracing, client: Any, endpoint: Endpoint):
    tracing.begin(client)
    client.session.is_away = True
    tracing.end(client)
    go_on(client, "two")
    assert not endpoint.traces


def test_truncated_trace_does_not_continue(tracing: QlogTracing, client: Any, endpoint: Endpoint):
    tracing.begin(client)
    endpoint.traces.pop("one").is_cut = True
    assert not tracing.is_chosen(client)
    go_on(client, "two")
    assert not endpoint.traces
    tracing.begin(client)
    assert tracing.is_chosen(client), "asked again it does"


def test_a_link_that_can_have_no_file_ends_it(
    tracing: QlogTracing, client: Any, endpoint: Endpoint, caplog: pytest.LogCaptureFixture
):
    tracing.begin(client)
    endpoint.refusal = "There are 64 qlog files."
    go_on(client, "two")
    assert "is no longer traced: There are 64 qlog files." in caplog.text
    assert not tracing.is_chosen(client)
    with pytest.raises(NotTracedError):
        tracing.begin(client)
    assert not tracing.is_chosen(client)


def test_a_directory_that_cannot_be_is_no_fault(tracing: QlogTracing, client: Any, tmp_path: Path):
    (tmp_path / DIRECTORY).write_text("")
    with pytest.raises(NotTracedError, match="cannot be made"):
        tracing.begin(client)
