"""``quictunnel doctor``: run all checks and print each result as soon as it is known."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from typing import TYPE_CHECKING, Final

import click

from quictunnel.cli.common_options import EDGE, EDGE_LOOKUP, JSON, target
from quictunnel.cli.reporter import one_line
from quictunnel.shared import output
from quictunnel.shared.command_line import Command

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from quictunnel.doctor.result import Finding

PASSED: Final = 0
"""Exit status without failed checks."""
FAILED: Final = 1
"""Exit status if a check failed that is not about the configuration."""
MISCONFIGURED: Final = 2
"""Exit status if only checks of the client's configuration failed."""
NAME_WIDTH: Final = 16
"""Columns of the longest check's name, and one."""
MAX_TEXT: Final = 400
"""Characters of a message or remedy to print; all texts are shorter, with their quotations."""
_COLOURS: Final = {"ok": "32", "warn": "33", "fail": "31", "skip": "2"}


@click.command(
    cls=Command,
    help="Check everything that a tunnel needs: engine, socket buffers, limits, local port, configuration, the "
    "edge's name, UDP, datagram size, handshake, certificate, clock, token, and the public address of a test "
    "tunnel. Each problem is printed with a remedy.",
    epilog=f"""\
Examples:
  quictunnel doctor           all checks but the local port
  quictunnel doctor 8000      all checks, with local port 8000
  quictunnel doctor --json    one JSON object a line: check, verdict (ok warn fail skip), remedy

Exit status:
  0  no check failed; there may be warnings
  1  a check failed
  2  only your configuration is wrong: no edge, a wrong address, token or authority
{EDGE_LOOKUP}""",
)
@click.argument("port", type=target, required=False, help="the local service to check, as for `quictunnel http`")
@EDGE
@JSON
def doctor(
    port: int | str | None,
    edge: str | None,
    ca: Path | None,
    token_file: Path | None,
    profile: str | None,
    *,
    as_json: bool,
) -> int:
    """Run ``quictunnel doctor`` and return its exit status. Warnings do not change it."""
    from quictunnel.doctor.runner import examine  # noqa: PLC0415  # loads all installed engines

    return show(examine(port, edge_address=edge, ca=ca, token_file=token_file, profile=profile), as_json=as_json)


def show(findings: Iterable[Finding], *, as_json: bool) -> int:
    """Print each finding as it arrives and return the exit status."""
    failed: list[Finding] = []
    has_colour = not as_json and output.has_colour(sys.stdout, os.environ)
    for finding in findings:
        if finding.verdict == "fail":
            failed.append(finding)
        print(line_of_json(finding) if as_json else lines_of(finding, has_colour=has_colour), flush=True)
    if not failed:
        return PASSED
    return MISCONFIGURED if all(finding.is_configuration for finding in failed) else FAILED


def line_of_json(finding: Finding) -> str:
    """Return a finding as one line of JSON."""
    fields = dataclasses.asdict(finding)
    fields["message"], fields["remedy"] = one_line(finding.message, MAX_TEXT), one_line(finding.remedy, MAX_TEXT)
    return json.dumps(fields)


def lines_of(finding: Finding, *, has_colour: bool) -> str:
    """Return a finding as one or two lines of text."""
    verdict = f"{finding.verdict:<5}"
    if has_colour:
        verdict = f"\x1b[{_COLOURS[finding.verdict]}m{verdict}\x1b[0m"
    line = f"{verdict}{finding.check:<{NAME_WIDTH}}{one_line(finding.message, MAX_TEXT)}"
    remedy = one_line(finding.remedy, MAX_TEXT)
    return f"{line}\n     {'':<{NAME_WIDTH}}-> {remedy}" if remedy else line
