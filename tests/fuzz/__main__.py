"""``python -m tests.fuzz TARGET``: see the package."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import resource
import sys
import time
from typing import Final

from tests.fuzz import driver

FOR_EVER: Final = 10_000_000.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Bytes of all kinds for one target.")
    parser.add_argument("target", help="client-hello, control, preface, credit, ticket, proxy or names")
    parser.add_argument("--count", type=int, default=sys.maxsize, help="end after so many inputs")
    parser.add_argument("--seconds", type=float, default=FOR_EVER, help="end after so long")
    parser.add_argument("--plain", action="store_true", help="by our own mutator, also where Atheris is installed")
    options = parser.parse_args()
    has_atheris = not options.plain and importlib.util.find_spec("atheris") is not None
    with contextlib.ExitStack() as stack:
        if has_atheris:
            import atheris

            stack.enter_context(atheris.instrument_imports(include=["edge_server", "quictunnel"]))
        # Here, so that what they load is instrumented.
        from tests.fuzz.seeds import seeds_of
        from tests.fuzz.targets import TARGETS
    target = TARGETS.get(options.target)
    if target is None:
        parser.error(f"the targets are {', '.join(TARGETS)}")
    seeds = seeds_of(options.target)
    if has_atheris:
        driver.by_coverage(target, seeds, count=options.count, seconds=options.seconds)
        return
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    number = driver.plainly(target, seeds, count=options.count, seconds=options.seconds)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{options.target}: {number} inputs from {len(seeds)} seeds, none uncaught")
    print(f"{time.monotonic() - began:.0f} s, {grown} KiB more memory")


if __name__ == "__main__":
    main()
