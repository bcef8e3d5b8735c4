"""Visitors who come and leave beside a test: a generator in a process of its own, judged and counted here.

    with Churn(plan, popen, watched=lambda: arrivals(dump_of(edge.pid, edge.state_dir))) as churn:
        ...  # something fails
        churn.finish()

Every visitor is served or leaves by itself; a test that allows for more says which visitors may fail. That the
load arrived is read at the edge: fewer than :data:`LEAST` a second fail the test.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from edge_server.ingress.admission import MAX_WAIT
from tests.harness.waiting import eventually
from tests.load.plan import FinishedVisitor, Plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

LEAST: Final = 20.0
"""Visitors a second that have to arrive at the edge."""
SHORTEST: Final = 1.0
"""Seconds of arrivals, at least, of which a rate says something."""
FIRST: Final = 5
"""Visitors that have ended when a test goes on: the generator works, and some are in the middle of it."""
START_TIMEOUT: Final = 30.0
ROOT: Final = Path(__file__).parents[2]


def nobody(visitor: FinishedVisitor) -> bool:
    """Return False: no visitor may fail."""
    return False


def waited(visitor: FinishedVisitor) -> bool:
    """Return True if a visitor was in for as long as the edge has visitors wait for a client."""
    return visitor.seconds >= MAX_WAIT - 0.1


def in_between(start: float, end: float) -> Callable[[FinishedVisitor], bool]:
    """Return a condition that holds for visitors that were connected between two moments."""
    return lambda visitor: visitor.began <= end and visitor.ended >= start


class Churn:
    """A running load; ends with its ``with`` block, or before in :meth:`finish`."""

    def __init__(
        self,
        plan: Plan,
        popen: Callable[..., subprocess.Popen[str]] = subprocess.Popen,
        *,
        watched: Callable[[], int],
        in_flight: int = 0,
        least: float = LEAST,
    ) -> None:
        """``popen``: starts the program where its visitors come from; ``watched``: counts those who have come to
        the edge, by its own figures, without those of the test's own, of whom so many may be ``in_flight``;
        ``least``: visitors a second that have to arrive there."""
        self.finished: list[FinishedVisitor] = []
        """Visitors that have ended."""
        self._plan = plan
        self._popen = popen
        self._read = watched
        self._in_flight = in_flight
        self._least = least
        self._came_before = 0
        self._since = 0.0
        self._rates: list[float] = []
        self._arrived = 0
        self._is_finished = False

    def __enter__(self) -> Self:
        words = json.dumps(dataclasses.asdict(self._plan))
        self._watch_from_now()
        self._process = self._popen(
            [sys.executable, "-m", "tests.load.generator", words],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()
        try:
            eventually(lambda: len(self.finished) >= FIRST, "no visitor of the load has ended", START_TIMEOUT)
        except BaseException:
            self._kill()
            raise
        self._watch_from_now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_finished:
            return
        try:
            if error is None:
                self.finish()
        finally:
            self._kill()

    async def __aenter__(self) -> Self:
        """For tests on a loop of their own, which goes on meanwhile."""
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(self, *raised: object) -> None:
        await asyncio.to_thread(self.__exit__, *raised)  # type: ignore[arg-type]

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.finished.append(FinishedVisitor(**json.loads(line)))

    def _kill(self) -> None:
        self._process.kill()
        self._end()

    def _end(self) -> int:
        self._is_finished = True
        status = self._process.wait(self._plan.patience + START_TIMEOUT)
        self._thread.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        return status

    # The edge's account.

    def edge_leaves(self) -> None:
        """Count what has arrived at the edge so far, which is about to be gone, but not before there was time for
        it. Asserts that it was enough."""
        time.sleep(max(0.0, self._since + SHORTEST - time.monotonic()))
        count = self._read() - self._came_before
        seconds = time.monotonic() - self._since
        self._arrived += count
        self._rates.append(count / seconds)
        assert count + self._in_flight >= self._least * seconds, (
            f"only {count / seconds:.1f} visitors a second arrived at the edge"
        )

    def edge_follows(self, watched: Callable[[], int], came_before: int = 0) -> None:
        """Have another edge's figures count from now on. It has just been started, so that they begin at zero, or
        ``came_before``: so many have come already."""
        self._read = watched
        self._came_before = came_before
        self._since = time.monotonic()

    def _watch_from_now(self) -> None:
        self._came_before = self._read()
        self._since = time.monotonic()

    # Its outcome.

    def wait_for(self, count: int, timeout: float = START_TIMEOUT) -> None:
        """Wait until so many newcomers more, who came from now on, have been served."""
        now = time.monotonic()

        def enough() -> bool:
            served = [each for each in tuple(self.finished) if each.began > now and each.is_newcomer]
            return sum(not each.failure for each in served) >= count

        eventually(enough, f"{count} newcomers were not served within {timeout} s", timeout)

    def finish(self, spared: Callable[[FinishedVisitor], bool] = nobody) -> list[FinishedVisitor]:
        """Begin no more visitors and wait for the last of them. Asserts that none failed but those ``spared``, and
        that enough arrived; returns all."""
        self.edge_leaves()
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._end() == 0
        newcomers = [visitor for visitor in self.finished if visitor.is_newcomer]
        failed = [visitor for visitor in self.finished if visitor.failure]
        refused = sum(visitor.is_newcomer for visitor in failed)
        print(
            f"beside it {len(newcomers)} newcomers: {len(newcomers) - refused} served, {refused} not, "
            f"the longest {max(visitor.seconds for visitor in newcomers):.1f} s; "
            f"{len(self.finished) - len(newcomers)} leavers; {self._arrived} arrived at the edge, "
            f"{min(self._rates):.0f} a second"
        )
        for failure, count in collections.Counter(visitor.failure for visitor in failed).most_common(5):
            print(f"  {count} of them: {failure}")
        wrong = [visitor for visitor in failed if not spared(visitor)]
        assert not wrong, f"{len(wrong)} of {len(self.finished)} visitors failed: {wrong[:3]}"
        return self.finished
