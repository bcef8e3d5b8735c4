"""``quictunnel status``: the tunnels that this user has open on this machine."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Final

import click
import msgspec

from quictunnel.cli.common_options import JSON
from quictunnel.cli.formatting import milliseconds, rate, size, span
from quictunnel.cli.reporter import one_line
from quictunnel.errors import ConfigError
from quictunnel.shared.command_line import Command

if TYPE_CHECKING:
    from quictunnel.status.client import Rate
    from quictunnel.status.model import Report, TunnelStatus

RATE_WINDOW: Final = 0.5
"""Seconds over which a rate is measured; the command waits for them."""
FOUND: Final = 0
"""Exit status if a tunnel of a running program is listed."""
NONE_FOUND: Final = 1
"""Exit status if there is none."""
NONE_FOUND_TEXT: Final = "No program of this user has a tunnel on this machine. `quictunnel http PORT` opens one."


@click.command(
    cls=Command,
    help="List the tunnels of all running programs of this user on this machine, also those that have failed: "
    "public address, local port, state of the connection, visitors, bytes and rates.",
    epilog="""\
Examples:
  quictunnel status                        for people
  quictunnel status --json | jq -r .url    for programs: a line for each tunnel, a JSON object

Exit status:
  0  at least one tunnel is listed, in any state
  1  there is none

Programs started with QUICTUNNEL_STATUS=off are not listed.
""",
)
@JSON
def status(*, as_json: bool) -> int:
    """Run ``quictunnel status`` and return its exit status.

    Raises:
        ConfigError: the directory of the status sockets cannot be read.
    """
    from quictunnel.status.client import key, sample  # noqa: PLC0415  # loads asyncio

    try:
        seen = sample(RATE_WINDOW)
    except OSError as error:
        raise ConfigError(f"The running clients cannot be listed: {error.strerror or error}.") from None
    for sentence in seen.result.errors:
        print(one_line(sentence), file=sys.stderr)
    if seen.result.unqueried:
        print(f"{seen.result.unqueried} more processes were not queried.", file=sys.stderr)
    pairs = [(report, tunnel) for report in seen.result.reports for tunnel in report.tunnels]
    for report, tunnel in pairs:
        show = json_line if as_json else lines_of_text
        print(show(seen.rates.get(key(report, tunnel)), report, tunnel))
    if not as_json:
        for report in seen.result.reports:
            if report.unlisted:
                print(f"... and {report.unlisted} more of process {report.pid}")
    if not pairs:
        print(NONE_FOUND_TEXT, file=sys.stderr)
    return FOUND if pairs else NONE_FOUND


def json_line(passing: Rate | None, report: Report, tunnel: TunnelStatus) -> str:
    """Return a tunnel as a JSON object; rates in bytes a second."""
    return json.dumps(
        msgspec.to_builtins(tunnel)
        | {
            "rate_in": None if passing is None else passing.inward,
            "rate_out": None if passing is None else passing.outward,
            "uptime": max(0.0, time.time() - tunnel.since),
            "pid": report.pid,
            "program": report.program,
            "software": report.software,
        }
    )


def lines_of_text(passing: Rate | None, report: Report, tunnel: TunnelStatus) -> str:
    """Return a tunnel as three lines of text."""
    rate_in, rate_out = (passing.inward, passing.outward) if passing is not None else (0, 0)
    also = f" and {tunnel.tcp}" if tunnel.tcp else ""
    link = [tunnel.state, *([milliseconds(tunnel.rtt)] if tunnel.rtt is not None else []), tunnel.engine]
    passed = f"{size(tunnel.bytes_in)} in at {rate(rate_in)}, {size(tunnel.bytes_out)} out at {rate(rate_out)}"
    lines = [
        f"{tunnel.url}{also} -> {tunnel.target or f'localhost:{tunnel.port}'}",
        f"  {', '.join(link)}; up {span(time.time() - tunnel.since)}; by {report.program}, process {report.pid}",
        f"  visitors {tunnel.visitors_now} now, {tunnel.visitors_total} in total; {passed}",
    ]
    return "\n".join(map(one_line, lines))
