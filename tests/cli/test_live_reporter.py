"""The live display, drawn on a recorded console."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from quictunnel.cli.formatting import milliseconds, size, span
from quictunnel.cli.live_reporter import MAX_EVENTS, MAX_SAMPLES, LiveReporter, render
from quictunnel.cli.reporter import OpenedTunnel
from quictunnel.events import ClientEvent, Snapshot
from quictunnel.tunnel import Tunnel

QUIET = Snapshot("connected", 0, 0, 0, 0, 0.0123, "aioquic")
OPENED = OpenedTunnel(Tunnel("x7k2.tunnel.localhost", 8443), 8000, has_tcp=False)


def drawn(opened: OpenedTunnel, snapshot: Snapshot, *events: tuple[str, str], width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), record=True, width=width, force_terminal=True)
    console.print(render(opened, snapshot, events))
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_display_shows_url_and_counts() -> None:
    busy = Snapshot("connected", 3, 57, 1_234_567, 30_000_000_000, 0.0123, "aioquic")
    opened = OpenedTunnel(Tunnel("x7k2.tunnel.localhost", 8443, "edge.example.com", 20001), 22, has_tcp=True)
    assert drawn(opened, busy, ("12:00:01", "connected to the edge")) == [
        "quictunnel   Press Ctrl-C to stop",
        "",
        "Status      connected · 12 ms · aioquic",
        "Public      https://x7k2.tunnel.localhost:8443",
        "TCP         edge.example.com:20001",
        "Forwards    localhost:22",
        "Visitors    3 now · 57 in total",
        "Traffic     1.2 MB in · 30.0 GB out",
        "",
        "12:00:01  connected to the edge",
    ]


def test_without_tcp_and_without_a_round_trip() -> None:
    text = "\n".join(drawn(OPENED, Snapshot("reconnecting", 0, 0, 0, 0, None, "aioquic")))
    assert "Status      reconnecting · aioquic" in text
    assert "TCP" not in text


def test_narrow_terminal_keeps_the_url_whole() -> None:
    lines = drawn(OPENED, QUIET, ("12:00:01", "word " * 50), width=30)
    joined = "".join(line.strip() for line in lines)
    assert "https://x7k2.tunnel.localhost:8443" in joined
    assert sum("word" in line for line in lines) == 1


def test_text_from_elsewhere_is_not_markup() -> None:
    assert drawn(OPENED, QUIET, ("12:00:01", "[red]boo[/red] :smile:"))[-1] == "12:00:01  [red]boo[/red] :smile:"


def reporter_on(snapshots: list[Snapshot]) -> tuple[LiveReporter, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, width=80, height=24, force_terminal=True)
    return LiveReporter(console, lambda: snapshots[-1]), out


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


def test_display_restores_the_cursor_and_keeps_few_events() -> None:
    reporter, out = reporter_on([QUIET])
    reporter.opened(OPENED)
    for number in range(MAX_EVENTS + 5):
        reporter.event(ClientEvent("visitor", f"visitor-{number}\x1b[2J", 0.0))
    last = out.getvalue().rpartition("Press Ctrl-C to stop")[2]
    reporter.closing()
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
    out = io.StringIO()
    console = Console(file=out, width=100, height=24, force_terminal=True)
    reporter = LiveReporter(console, lambda: snapshots[-1], lambda: now[0])

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


@pytest.mark.parametrize(("seconds", "text"), [(0.0004, "0.4 ms"), (0.0099, "9.9 ms"), (0.0123, "12 ms")])
def test_round_trips(seconds: float, text: str) -> None:
    assert milliseconds(seconds) == text
