"""Drives a target, by Atheris or by our own mutator."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.fuzz import mutator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LOOK: Final = 1000
"""Inputs between looks at the clock."""
SLOW: Final = 1.0
"""Seconds that no input may take."""
MEMORY: Final = 500
"""MiB that a process may have."""


def plainly(target: Callable[[bytes], None], seeds: list[bytes], *, count: int, seconds: float) -> int:
    """By our own mutator, until one of the two is reached; how many inputs that were."""
    until = time.monotonic() + seconds
    number = 0
    for number, data in enumerate(mutator.inputs(seeds), 1):
        began = time.perf_counter()
        try:
            target(data)
        except Exception:
            sys.stderr.write(f"input {number}: {data.hex()}\n")
            raise
        assert time.perf_counter() - began < SLOW, f"takes too long: {data.hex()}"
        if number >= count or (number % LOOK == 0 and time.monotonic() >= until):
            break
    return number


def by_coverage(target: Callable[[bytes], None], seeds: list[bytes], *, count: int, seconds: float) -> None:
    """By Atheris (libFuzzer); ends the process."""
    import atheris

    corpus = Path(tempfile.mkdtemp(prefix="quictunnel-fuzz-"))
    for number, seed in enumerate(seeds):
        (corpus / str(number)).write_bytes(seed)
    limits: Sequence[str] = (
        f"-runs={count if count < sys.maxsize else -1}",
        f"-max_total_time={int(seconds)}",
        f"-max_len={mutator.MAX_SIZE}",
        f"-timeout={int(SLOW)}",
        f"-rss_limit_mb={MEMORY}",
        "-print_final_stats=1",
    )
    atheris.Setup([sys.argv[0], *limits, str(corpus)], target)
    atheris.Fuzz()
