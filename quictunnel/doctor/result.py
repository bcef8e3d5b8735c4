"""What one look found: a verdict, a sentence, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warn", "fail", "skip"]
"""
ok      as it should be
warn    a tunnel works, but not as well as it might
fail    a tunnel does not work, or not for this port
skip    not looked at, because something before it makes it senseless
"""


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    """What was looked at, in a word or two."""
    verdict: Verdict
    message: str
    """One sentence. May quote what others sent, so whoever prints it makes it printable."""
    remedy: str = ""
    """What to do; empty when there is nothing to do."""
    is_configuration: bool = False
    """A failure that lies in the client's own configuration: the edge's address, the token, the authority."""


def ok(check: str, message: str) -> Finding:
    return Finding(check, "ok", message)


def warn(check: str, message: str, remedy: str) -> Finding:
    return Finding(check, "warn", message, remedy)


def fail(check: str, message: str, remedy: str, *, is_configuration: bool = False) -> Finding:
    return Finding(check, "fail", message, remedy, is_configuration)


def skip(check: str, message: str) -> Finding:
    return Finding(check, "skip", message)
