"""Reasons for which an edge refuses a visitor whose TCP connection no stream serves."""

from __future__ import annotations

import enum


class Refusal(enum.Enum):
    """Reason for a refusal that a visitor may know. A refusal without a reason is a reset."""

    NO_TUNNEL = enum.auto()
    """The name has no tunnel, or none for this visitor."""
    OFFLINE = enum.auto()
    """The client of the tunnel has no link, and did not return while the visitor waited."""
    AT_CAPACITY = enum.auto()
    """A limit on visitors is reached."""
    NO_ANSWER = enum.auto()
    """The client could not reach its origin."""
