"""The live display, drawn on a recorded console."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from quictunnel.cli.formatting import count_of, elapsed, milliseconds, size, span
from quictunnel.cli.live_reporter import (
    MAX_EVENTS,
    MAX_EVENTS_BESIDE,
    MAX_REQUESTS,
    MAX_SAMPLES,
    LiveReporter,
    Palette,
    Timed,
    event_text,
    facts,
    request_texts,
)
from quictunnel.cli.reporter import OpenedTunnel
from quictunnel.cli.request_lines import RequestBatch, request_line
from quictunnel.events import ClientEvent, Snapshot
from quictunnel.inspect.request_queue import RequestSummary
from quictunnel.tunnel import Tunnel

QUIET = Snapshot("connected", 0, 0, 0, 0, 0.0123, "aioquic")
OPENED = OpenedTunnel(Tunnel("x7k2.tunnel.localhost", 8443), 8000, has_tcp=False)


PLAIN = Palette(has_colour=False)


def drawn(opened: OpenedTunnel, snapshot: Snapshot, width: int = 80, outage: str = "") -> list[str]:
    return facts(opened, snapshot, ("", ""), outage=outage, width=width, palette=PLAIN)


def test_display_shows_url_and_counts() -> None:
    busy = Snapshot("connected", 3, 57, 1_234_567, 30_000_000_000, 0.0123, "aioquic")
    opened = OpenedTunnel(Tunnel("x7k2.tunnel.localhost", 8443, "edge.example.com", 20001), 22, has_tcp=True)
    assert drawn(opened, busy) == [
        "quictunnel   Press Ctrl-C to stop",
        "",
        "Status      connected · 12 ms · aioquic",
        "Public      https://x7k2.tunnel.localhost:8443",
        "TCP         edge.example.com:20001",
        "Forwards    localhost:22",
        "Visitors    3 now · 57 in total",
        "Traffic     1.2 MB in · 30.0 GB out",
    ]


def test_without_tcp_and_without_a_round_trip() -> None:
    text = "\n".join(drawn(OPENED, Snapshot("reconnecting", 0, 0, 0, 0, None, "aioquic")))
    assert "Status      reconnecting · aioquic" in text
    assert "TCP" not in text


def test_narrow_terminal_keeps_the_url_whole() -> None:
    lines = drawn(OPENED, QUIET, width=30)
    joined = "".join(line.strip() for line in lines)
    assert "https://x7k2.tunnel.localhost:8443" in joined
    assert max(map(len, lines)) <= 30


def test_event_is_one_line_as_it_is() -> None:
    assert event_text(Timed("12:00:01", "[red]boo[/red] :smile:"), 80, PLAIN) == "12:00:01  [red]boo[/red] :smile:"
    assert event_text(Timed("12:00:01", "word " * 50), 30, PLAIN) == "12:00:01  word word word word…"


def test_a_lost_connection_is_the_state() -> None:
    lines = drawn(OPENED, QUIET, outage="Connection lost, reconnecting (12 s); 8 visitors wait")
    assert "Status      Connection lost, reconnecting (12 s); 8 visitors wait" in lines


def reporter_on(
    snapshots: list[Snapshot], columns: int = 80, rows: int = 24, clock: list[float] | None = None
) -> tuple[LiveReporter, io.StringIO]:
    out = io.StringIO()
    now = clock or [100.0]
    reporter = LiveReporter(
        out,
        lambda: snapshots[-1],
        has_colour=False,
        terminal=lambda: os.terminal_size((columns, rows)),
        clock=lambda: now[0],
    )
    return reporter, out


def last_screen(out: io.StringIO) -> list[str]:
    """Return the lines of the last drawing, without control sequences."""
    drawing = out.getvalue().rpartition("quictunnel   Press")[2]
    return [line.removeprefix("\x1b[2K") for line in drawing.partition("\x1b[J")[0].splitlines()[1:]]


def summary(path: str, status: int = 200, visitor: str = "203.0.113.9") -> RequestSummary:
    return RequestSummary("http", visitor, "GET", path, status, 0.004)


def test_the_last_requests_that_fit_are_below_the_facts() -> None:
    reporter, out = reporter_on([QUIET], rows=16)
    reporter.opened(OPENED)
    try:
        for number in range(2 * MAX_REQUESTS):
            reporter.requests(RequestBatch([summary(f"/path/{number}")], 0))
        for number in range(MAX_EVENTS):
            reporter.event(ClientEvent("warning", f"event {number}", 0.0))
        reporter.tick()
        lines = last_screen(out)
        assert len(lines) == 16 - 2, "all rows but the title and the cursor's"
        assert lines[-1].endswith("  GET /path/199 200 4 ms 203.0.113.9")
        events = [line.partition("  ")[2] for line in lines if "event" in line]
        assert events == [f"event {number}" for number in range(MAX_EVENTS - MAX_EVENTS_BESIDE, MAX_EVENTS)]
        assert len(reporter._requests) == MAX_REQUESTS
    finally:
        reporter.closed()


def test_the_screen_in_the_documents_is_what_is_drawn() -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/run-watch-diagnose.md").read_text()
    shown = page.partition("draws it -->\n```text\n")[2].partition("\n```")[0].splitlines()
    snapshot = Snapshot("connected", 2, 57, 1_200_000, 31_400_000, 0.012, "native")
    requests = [
        Timed("12:00:01", request_line(summary("/hello"))),
        Timed("12:00:02", request_line(RequestSummary("http", "198.51.100.7", "POST", "/api/orders", 201, 0.038))),
        Timed(
            "12:00:03",
            request_line(RequestSummary("raw", "203.0.113.9", seconds=12, bytes_in=1_200_000, bytes_out=3000)),
        ),
    ]
    opened = OpenedTunnel(Tunnel("my-app.tunnel.example.com", 443), 8000, has_tcp=False)
    assert [*drawn(opened, snapshot), "", *request_texts(requests, 80, PLAIN)] == shown


def test_requests_that_are_too_many_are_counted() -> None:
    reporter, out = reporter_on([QUIET])
    reporter.opened(OPENED)
    reporter.requests(RequestBatch([summary("/"), summary("/longer", 404)], 480))
    reporter.tick()
    first, second, third = last_screen(out)[-3:]
    assert first.endswith("  GET /       200 4 ms 203.0.113.9")
    assert second.endswith("  GET /longer 404 4 ms 203.0.113.9")
    assert third.endswith("  + 480 more requests")
    reporter.closed()


def test_at_40_columns_the_time_of_day_is_left_out() -> None:
    reporter, out = reporter_on([QUIET], columns=40)
    reporter.opened(OPENED)
    reporter.requests(RequestBatch([summary("/a/path/that/is/much/too/long/for/it")], 0))
    reporter.tick()
    assert last_screen(out)[-1] == "GET /a/path/that/i… 200 4 ms 203.0.113.9"
    reporter.closed()


def test_display_is_drawn_only_on_change() -> None:
    snapshots = [QUIET]
    reporter, out = reporter_on(snapshots)
    reporter.opened(OPENED)
    try:
        before = out.tell()
        for _ in range(100):
            reporter.tick()
        assert out.tell() == before
        snapshots.append(Snapshot("connected", 1, 1, 5, 5, 0.0123, "aioquic"))
        reporter.tick()
        assert "1 now" in out.getvalue()[before:]
    finally:
        reporter.closed()


def test_events_in_a_burst_are_drawn_together() -> None:
    clock = [100.0]
    reporter, out = reporter_on([QUIET], clock=clock)
    reporter.opened(OPENED)
    before = out.tell()
    for number in range(1000):
        reporter.event(ClientEvent("warning", f"event {number}", 0.0))
    assert out.tell() == before
    clock[0] += 1
    reporter.event(ClientEvent("warning", "the last", 0.0))
    assert "the last" in last_screen(out)[-1]
    reporter.closed()


def test_display_restores_the_cursor_and_keeps_few_events() -> None:
    reporter, out = reporter_on([QUIET])
    reporter.opened(OPENED)
    for number in range(MAX_EVENTS + 5):
        reporter.event(ClientEvent("visitor", f"visitor-{number}\x1b[2J", 0.0))
    reporter.closing()
    last = out.getvalue().rpartition("Press Ctrl-C to stop")[2]
    reporter.closed()
    text = out.getvalue()
    assert "visitor-4" not in last
    assert all(f"visitor-{number}" in last for number in range(5, MAX_EVENTS + 5))
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    assert "\x1b[?1049h" not in text, "no alternate screen: what was shown stays"
    assert "visitor-1\x1b[2J" not in text
    assert text.rstrip().endswith("Closed.")


def test_tunnel_that_never_opened_draws_nothing() -> None:
    reporter, out = reporter_on([QUIET])
    reporter.tick()
    reporter.closed()
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_949, "99.9 kB"),
        (99_950, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (1_500_000_000, "1.5 GB"),
        (10**18, "1000000 TB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


def test_rates_over_the_last_moments_and_what_the_link_went_through() -> None:
    now = [100.0]
    snapshots = [QUIET]
    reporter, out = reporter_on(snapshots, columns=100, clock=now)

    def look(seconds: float, bytes_out: int, **more: int) -> str:
        now[0] += seconds
        snapshots.append(Snapshot("connected", 0, 0, 0, bytes_out, 0.0123, "aioquic", **more))
        before = out.tell()
        reporter.tick()
        return out.getvalue()[before:]

    reporter.opened(OPENED)
    try:
        assert " out at 500 B/s" in look(1.0, 1000), "over two seconds, of which one has passed"
        assert " out at 1.0 kB/s" in look(1.0, 2000)
        assert " out at 5.0 kB/s" in look(2.0, 12_000)
        assert " at " not in look(10.0, 12_000)
        assert "resumed once · moved to another network 3 times" in look(1.0, 12_000, resumed=1, migrated=3)
        for number in range(500):
            look(0.0, 12_000 + number)
        assert len(reporter._samples) == MAX_SAMPLES
    finally:
        reporter.closed()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (7199, "119 min"), (7200, "2 hours"), (172_800, "2 days")],
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0004, "<1 ms"),
        (0.0044, "4 ms"),
        (0.999, "999 ms"),
        (0.9996, "1.0 s"),
        (9.94, "9.9 s"),
        (9.96, "9 s"),
        (90, "1 min"),
    ],
)
def test_durations_of_requests(seconds: float, text: str) -> None:
    assert elapsed(seconds) == text


def test_counts() -> None:
    assert [count_of(count, "visitor") for count in (0, 1, 2)] == ["0 visitors", "1 visitor", "2 visitors"]


@pytest.mark.parametrize(("seconds", "text"), [(0.0004, "0.4 ms"), (0.0099, "9.9 ms"), (0.0123, "12 ms")])
def test_round_trips(seconds: float, text: str) -> None:
    assert milliseconds(seconds) == text


def test_a_refused_visitor_is_no_second_reason() -> None:
    """The client's event has the reason, once."""
    refused = RequestSummary("refused", "203.0.113.9", note="Nobody listens on port 8000; visitors are refused.")
    assert request_line(refused).text() == "visitor 203.0.113.9 refused"
