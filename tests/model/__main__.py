"""Run the model by hand: ``python -m tests.model --steps 1000000 --seed 7``."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.model.runner import Episode, Failure, Result, run, shrink


def show(result: Result, seconds: float) -> None:
    """Print what was done and reached."""
    print(f"{result.steps} steps in {result.episodes} episodes, {seconds:.1f} s, {result.steps / seconds:.0f} a second")
    for title, counts in (("rules", result.rules), ("states", result.reached)):
        print(f"{title}:")
        for name, count in sorted(counts.items(), key=lambda item: -item[1]):
            print(f"  {count:8} {name}")


def tell(failure: Failure) -> None:
    """Print how a promise was broken."""
    print(f"BROKEN {failure.kind} (episode {failure.seed}, {len(failure.steps)} steps)\n  {failure.text}")
    for step in failure.steps:
        print(f"    {step},")
    print("  story:")
    for line in failure.story[-100:]:
        print(f"    {line}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Drive a model of the session at random.")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--episode", help="run this one episode alone, as a failure printed it")
    parser.add_argument("--go-on", action="store_true", help="do not stop at the first failure")
    parser.add_argument("--known", action="append", default=[], help="pass over faults of kinds that begin so")
    parser.add_argument("--no-shrink", action="store_true")
    parser.add_argument("--engines", help="CLIENT-EDGE: these engines over the simulated network")
    options = parser.parse_args()
    engines = None
    if options.engines:
        client, _, edge = options.engines.partition("-")
        engines = client, edge
    begun = time.perf_counter()
    if options.episode:
        episode = Episode(options.episode, options.known, engines)
        failure = episode.run()
        failures = [] if failure is None else [failure]
    else:
        result = run(options.steps, options.seed, known=options.known, engines=engines, stop_at_first=not options.go_on)
        show(result, time.perf_counter() - begun)
        failures = result.failures
        kinds = Counter(failure.kind for failure in failures)
        for kind, count in kinds.most_common():
            print(f"{count:6} x {kind}")
    told: set[str] = set()
    for failure in failures:
        if failure.kind not in told:
            told.add(failure.kind)
            tell(failure if options.no_shrink else shrink(failure, options.known))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
