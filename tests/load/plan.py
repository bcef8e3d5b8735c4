"""The words that the load generator and the test that starts it exchange, as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NEWCOMERS: Final = ("ask", "ask and end")
"""Roles of visitors that are to be served."""
LEAVERS: Final = (
    "leave at once",
    "leave in the handshake",
    "leave unanswered",
    "leave in the answer",
    "leave ended",
)
"""Roles of visitors that end by a reset, each at another moment."""
RATE: Final = 50.0
"""Visitors a second, one of five a leaver."""
WAITING_RATE: Final = 25.0
"""Visitors a second beside a client that is away for more than five seconds: one lease has 256 places for visitors
who wait, and all those of ten seconds are to find one."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Plan of a load: targets, number of visitors, and their conversations."""

    targets: list[tuple[str, int, str, int]]
    """Host name and port for TLS, at 127.0.0.1, and host and port for TCP; an empty host: the other one alone."""
    ca: str
    """Path of the authority that TLS visitors trust; empty where there are none."""
    conversation: str = "echo"
    """``echo``: the origin says everything back behind ``prefix``; ``http``: it answers ``GET /word`` with hello;
    ``greeting``: it says a word and ends; ``banner``: it speaks first, ``prefix`` at least, and keeps open."""
    prefix: str = ""
    rate: float = RATE
    seed: int = 1
    patience: float = 60.0
    """Seconds after which a visitor has failed."""


@dataclass(frozen=True, slots=True)
class FinishedVisitor:
    """A visitor that has ended."""

    role: str
    """:data:`NEWCOMERS` or :data:`LEAVERS`."""
    tls: bool
    began: float
    """time.monotonic, which all processes of a machine share."""
    ended: float
    failure: str = ""
    """The error that ended a newcomer, or a leaver before it left; empty where all was well."""
    heard: str = ""
    """The greeting, in such a conversation."""

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def is_newcomer(self) -> bool:
        return self.role in NEWCOMERS
