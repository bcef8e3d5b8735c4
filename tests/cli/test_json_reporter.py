"""JSON events, compared exactly, because programs read them."""

from __future__ import annotations

import io
import json

from quictunnel.cli.json_reporter import JsonReporter
from quictunnel.cli.reporter import MAX_MESSAGE, OpenedTunnel
from quictunnel.events import ClientEvent
from quictunnel.tunnel import Tunnel

TLS = Tunnel("h.example.com", 8443)
TCP = Tunnel("h.example.com", 443, "edge.example.com", 20001)


def lines(*, tcp: bool = False, events: tuple[ClientEvent, ...] = ()) -> list[str]:
    out = io.StringIO()
    reporter = JsonReporter(out)
    reporter.note("for people")
    reporter.opened(OpenedTunnel(TCP if tcp else TLS, 8000, has_tcp=tcp))
    for event in events:
        reporter.event(event)
    reporter.tick()
    reporter.closing()
    reporter.closed()
    return out.getvalue().splitlines()


def test_ready_and_closed_exactly() -> None:
    ready, closed = lines()
    assert ready == (
        '{"event": "ready", "url": "https://h.example.com:8443", '
        '"tls_socket": ["h.example.com", 8443], "tcp_socket": null, "target": "localhost:8000"}'
    )
    assert closed == '{"event": "closed"}'


def test_ready_with_tcp_exactly() -> None:
    assert lines(tcp=True)[0] == (
        '{"event": "ready", "url": "https://h.example.com", '
        '"tls_socket": ["h.example.com", 443], "tcp_socket": ["edge.example.com", 20001], '
        '"target": "localhost:8000"}'
    )


def test_states_and_others() -> None:
    told = lines(
        events=(
            ClientEvent("reconnecting", "the edge went away", 1.5),
            ClientEvent("visitor", "one came", 2.5),
            ClientEvent("closed", "by us", 3.5),
        )
    )
    assert told[1:] == [
        '{"event": "state", "state": "reconnecting", "message": "the edge went away", "time": 1.5}',
        '{"event": "visitor", "message": "one came", "time": 2.5}',
        '{"event": "state", "state": "closed", "message": "by us", "time": 3.5}',
        '{"event": "closed"}',
    ]


def test_peer_text_is_one_bounded_line() -> None:
    told = lines(events=(ClientEvent("warning", "\x1b[2J\nboo\u2028" + "x" * 10_000, 0.0),))
    assert len(told) == 3
    message = json.loads(told[1])["message"]
    assert message.isprintable()
    assert len(message) == MAX_MESSAGE


def test_tunnel_that_never_opened_reports_nothing() -> None:
    out = io.StringIO()
    JsonReporter(out).closed()
    assert out.getvalue() == ""
