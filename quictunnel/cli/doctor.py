"""``quictunnel doctor``: what was found, line by line as it is found."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from typing import TYPE_CHECKING, Final

from quictunnel.doctor.runner import examine
from quictunnel.shared import output

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterable

    from quictunnel.doctor.result import Finding

WELL: Final = 0
ILL: Final = 1
MISCONFIGURED: Final = 2
WIDTH: Final = 16
"""Columns of the longest check's name, and one."""
MAX_TEXT: Final = 400
"""Characters of a message or remedy that are shown; ours are shorter, with what they quote."""
_COLOURS: Final = {"ok": "32", "warn": "33", "fail": "31", "skip": "2"}


def doctor(options: Namespace) -> int:
    """The command. Exit status: 0 when tunnels work, be it with warnings; 1 when something failed, 2 when all that
    failed is the client's own configuration."""
    return show(
        examine(options.port, edge_address=options.edge, ca=options.ca, token_file=options.token_file),
        as_json=options.json,
    )


def show(findings: Iterable[Finding], *, as_json: bool) -> int:
    """Print each when it comes; the exit status for all."""
    failed: list[Finding] = []
    has_colour = not as_json and output.has_colour(sys.stdout, os.environ)
    for finding in findings:
        if finding.verdict == "fail":
            failed.append(finding)
        print(line_of_json(finding) if as_json else lines_of(finding, has_colour=has_colour), flush=True)
    if not failed:
        return WELL
    return MISCONFIGURED if all(finding.is_configuration for finding in failed) else ILL


def line_of_json(finding: Finding) -> str:
    fields = dataclasses.asdict(finding)
    fields["message"], fields["remedy"] = _plain(finding.message), _plain(finding.remedy)
    return json.dumps(fields)


def lines_of(finding: Finding, *, has_colour: bool) -> str:
    verdict = f"{finding.verdict:<5}"
    if has_colour:
        verdict = f"\x1b[{_COLOURS[finding.verdict]}m{verdict}\x1b[0m"
    line = f"{verdict}{finding.check:<{WIDTH}}{_plain(finding.message)}"
    return line if not finding.remedy else f"{line}\n     {'':<{WIDTH}}-> {_plain(finding.remedy)}"


def _plain(text: str) -> str:
    """One bounded line without anything that a terminal would obey."""
    return "".join(character if character.isprintable() else " " for character in text[:MAX_TEXT])
