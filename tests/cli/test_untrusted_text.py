"""Tests that text from an edge reaches a terminal only as printable lines."""

from __future__ import annotations

import io
import json
import logging
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from quictunnel.cli.json_reporter import JsonReporter
from quictunnel.cli.live_reporter import Palette, Timed, event_text, facts, request_texts
from quictunnel.cli.reporter import FINAL_EVENTS, OpenedTunnel, TextReporter, one_line, time_of_day
from quictunnel.cli.request_lines import RequestBatch, cells, request_line
from quictunnel.cli.status import lines_of_text
from quictunnel.cli.stderr_log import LineFormatter
from quictunnel.connection.leases import Leases
from quictunnel.connection.options import ForwardOptions
from quictunnel.errors import ProtocolError
from quictunnel.events import STATES, WARNING, ClientEvent, Snapshot
from quictunnel.inspect.request_queue import RequestSummary
from quictunnel.integrations.jupyter import TunnelDisplay
from quictunnel.shared.supervision import Supervisor
from quictunnel.status.model import Report, TunnelStatus
from quictunnel.tunnel import Tunnel
from quictunnel.wire import messages
from quictunnel.wire.messages import Bound
from tests.wire.test_peer_text import ANY_TEXT, is_plain

STYLES = re.compile(r"\x1b\[[0-9;]*m")
"""Escape sequences that the live reporter writes itself."""
SNAPSHOT = Snapshot("connected", 0, 0, 0, 0, None, "native")
HOSTS = st.one_of(ANY_TEXT, st.from_regex(r"[a-z0-9.:-]{1,40}", fullmatch=True))


def are_lines(text: str) -> bool:
    return all(map(is_plain, text.split("\n")))


async def show(host: str, unencrypted: str, said: list[str]) -> None:
    """As the client does with a Bound that came from the edge: everything that is shown of it."""
    leases = Leases(lambda _, message: said.append(message), Supervisor())
    lease = leases.add(ForwardOptions(port=8000), b"", None)
    other = Bound(lease.number, "host", 1, "", 0, b"")
    leases.handle_message(messages.decode(messages.encode(Bound(lease.number, host, 443, unencrypted, 1, b"t"))))
    tunnel = Tunnel(*lease.answer.result())
    opened = OpenedTunnel(tunnel, 8000, has_tcp=bool(unencrypted))
    plain, lines = io.StringIO(), io.StringIO()
    TextReporter(plain).opened(opened)
    JsonReporter(lines).opened(opened)
    said += [plain.getvalue(), lines.getvalue()]
    screen = facts(opened, SNAPSHOT, ("", ""), outage="", width=300, palette=Palette(has_colour=True))
    said.append(STYLES.sub("", "\n".join(screen)))
    said += [
        repr(tunnel),
        str(tunnel),
        tunnel.url,
        repr(TunnelDisplay(8000, tunnel)),
        TunnelDisplay(8000, tunnel)._repr_html_(),
    ]
    leases.handle_message(other)  # the tunnel has another address now, which is said


@given(host=HOSTS, unencrypted=HOSTS)
@settings(deadline=None, max_examples=150)
async def test_the_hosts_of_a_tunnel(host, unencrypted):
    said: list[str] = []
    try:
        await show(host, unencrypted, said)
    except ProtocolError:
        return
    assert len(said) >= 8
    for text in said:
        assert are_lines(text)


async def test_an_edge_as_it_should_be_is_shown():
    said: list[str] = []
    await show("app.example.com", "tcp.example.com", said)
    assert any("https://app.example.com" in text for text in said)


@given(message=ANY_TEXT, kind=st.sampled_from([*sorted(STATES), WARNING]))
@settings(deadline=None)
def test_events(message, kind):
    event = ClientEvent(kind, message, 0.0)
    plain, lines = io.StringIO(), io.StringIO()
    TextReporter(plain).event(event)
    JsonReporter(lines).event(event)
    shown = event_text(Timed(time_of_day(0), one_line(event.message)), 300, Palette(has_colour=True))
    assert lines.getvalue().count("\n") == 1
    # An error that says the same follows the last event of a tunnel.
    assert plain.getvalue().count("\n") == (0 if kind in FINAL_EVENTS else 1)
    assert kind in FINAL_EVENTS or are_lines(plain.getvalue())
    assert json.loads(lines.getvalue())["message"] == one_line(message)
    assert is_plain(STYLES.sub("", shown))


@given(method=ANY_TEXT, path=ANY_TEXT, visitor=ANY_TEXT, note=ANY_TEXT, width=st.integers(20, 200))
@settings(deadline=None)
def test_requests(method, path, visitor, note, width):
    """Whatever a request contains, it is one line that fits."""
    for kind in ("http", "raw", "http2", "refused"):
        summary = RequestSummary(kind, visitor, method[:20], path, 200, 0.1, note)
        plain, lines = io.StringIO(), io.StringIO()
        batch = RequestBatch([summary], 0)
        TextReporter(plain, None, width).requests(batch)
        JsonReporter(lines).requests(batch)
        assert plain.getvalue().count("\n") == lines.getvalue().count("\n") == 1
        assert is_plain(plain.getvalue().rstrip("\n"))
        assert cells(request_line(summary).text(width)) <= width
        (shown,) = request_texts([Timed("12:00:00", request_line(summary))], 200, Palette(has_colour=True))
        shown = STYLES.sub("", shown)
        assert is_plain(shown)
        assert cells(shown) <= 200


@given(ANY_TEXT)
@settings(deadline=None)
def test_the_log(message):
    record = logging.LogRecord("quictunnel", logging.WARNING, "x.py", 1, "%s", (message,), None)
    line = LineFormatter().format(record)
    assert is_plain(line), "one line, whatever is in it"


@given(ANY_TEXT)
@settings(deadline=None)
def test_text_of_another_process_is_plain_lines(text):
    listed = TunnelStatus(text, text, 1, text, text, text, None, 0, 0, 0, 0, 0.0)
    assert are_lines(lines_of_text(None, Report(1, text, text, [listed]), listed))
