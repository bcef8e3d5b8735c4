"""Run the model by hand: ``python -m tests.model --steps 1000000 --seed 7``."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections import Counter

from tests.model.report import text_of
from tests.model.runner import Episode, run, shrink
from tests.model.states import missing


def main() -> int:
    parser = argparse.ArgumentParser(description="Drive a model of the session at random.")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--episode", help="run this one episode alone, as a failure printed it")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first failure")
    parser.add_argument("--known", action="append", default=[], help="pass over faults of kinds that begin so")
    parser.add_argument("--no-shrink", action="store_true")
    parser.add_argument("--engines", help="CLIENT-EDGE: these engines over the simulated network")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was done so far is told
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
        result = run(
            options.steps, options.seed, known=options.known, engines=engines, stop_at_first=not options.keep_going
        )
        seconds = time.perf_counter() - begun
        print(
            f"{text_of(result)}\n{seconds:.1f} s, {result.steps / seconds:.0f} steps a second, seed {options.seed}"
        )
        for state in missing(result.reached, is_scripted=engines is None):
            print(f"never reached: {state}")
        failures = result.failures
        kinds = Counter(failure.kind for failure in failures)
        for kind, count in kinds.most_common():
            print(f"{count:6} x {kind}")
    told: set[str] = set()
    for failure in failures:
        if failure.kind not in told:
            told.add(failure.kind)
            print(f"after {failure.after} steps, episode {failure.seed}: {failure.kind}")
            print(text_of(failure if options.no_shrink else shrink(failure, options.known)))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
