"""The ``wait`` option: seconds to wait for the local service."""

from __future__ import annotations

import math
from typing import Final

from quictunnel.errors import InvalidError

DEFAULT_WAIT: Final = 60.0
"""Seconds for ``wait=True``: enough for a server that first loads a model or compiles its pages."""
MAX_WAIT: Final = 86_400.0
"""Seconds of the longest wait: more than a day is a mistake."""


def wait_seconds(wait: float | bool) -> float:
    """Return the argument ``wait`` of ``forward()`` in seconds; 0 means no waiting.

    Raises:
        InvalidError: not a number, or outside 0 to MAX_WAIT.
    """
    if isinstance(wait, bool):
        return DEFAULT_WAIT if wait else 0.0
    if not isinstance(wait, int | float):
        raise InvalidError(f"wait should be a number of seconds, True or False, not {type(wait).__name__}.")
    if not (math.isfinite(wait) and 0 <= wait <= MAX_WAIT):
        raise InvalidError(f"wait should be between 0 and {MAX_WAIT:.0f} seconds, not {wait}.")
    return float(wait)
