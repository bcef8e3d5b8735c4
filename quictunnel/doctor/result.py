"""Result of one check: verdict, message and remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warn", "fail", "skip"]
"""
ok      no problem
warn    a tunnel works, but with a limitation
fail    a tunnel does not work, or not for this port
skip    not checked, because an earlier check failed
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check."""

    check: str
    """Name of the check, one or two words."""
    verdict: Verdict
    message: str
    """Result in one sentence. It may quote a peer, so the printing code must escape it."""
    remedy: str = ""
    """Action for the user; empty if none is needed."""
    is_configuration: bool = False
    """True for a failure of the client's configuration: the edge's address, the token or the authority."""


def ok(check: str, message: str) -> Finding:
    """Return a finding without a problem."""
    return Finding(check, "ok", message)


def warn(check: str, message: str, remedy: str) -> Finding:
    """Return a finding about a limitation."""
    return Finding(check, "warn", message, remedy)


def fail(check: str, message: str, remedy: str, *, is_configuration: bool = False) -> Finding:
    """Return a finding about a failure."""
    return Finding(check, "fail", message, remedy, is_configuration)


def skip(check: str, message: str) -> Finding:
    """Return a finding for a skipped check."""
    return Finding(check, "skip", message)
