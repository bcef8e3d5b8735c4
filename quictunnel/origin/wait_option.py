"""How long somebody is willing to wait for the local service."""

from __future__ import annotations

import math
from typing import Final

from quictunnel.errors import InvalidError

USUAL_WAIT: Final = 60.0
"""Seconds that ``wait=True`` means: what a server takes that loads a model or compiles its pages first."""
MAX_WAIT: Final = 86_400.0
"""Seconds that may be asked for: whoever waits for a day has made a mistake."""


def patience(wait: float | bool) -> float:  # the argument of forward(), which is asked for so
    """The argument ``wait`` of ``forward()`` in seconds, 0 for not at all. Raises InvalidError."""
    if isinstance(wait, bool):
        return USUAL_WAIT if wait else 0.0
    if not isinstance(wait, int | float):
        raise InvalidError(f"wait should be a number of seconds, True or False, not {type(wait).__name__}.")
    if not (math.isfinite(wait) and 0 <= wait <= MAX_WAIT):
        raise InvalidError(f"wait should be between 0 and {MAX_WAIT:.0f} seconds, not {wait}.")
    return float(wait)
