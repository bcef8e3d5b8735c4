"""Episodes from a seed, and the shortest story of a failure."""

from __future__ import annotations

import gc
import random
import traceback
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.model.invariants import check_step, settle
from tests.model.program import KINDS
from tests.model.rules import COMMON
from tests.model.scripted_network import ScriptedNetwork
from tests.model.scripted_rules import SCRIPTED
from tests.model.simnet_network import SimnetNetwork
from tests.model.simnet_rules import SIMNET
from tests.model.stepped_loop import SteppedLoop
from tests.model.system import ModelSystem
from tests.model.tcp import BrokenError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from tests.model.network import Network

Step = tuple[str, int, int, int]

EPISODE = 250
"""Steps of an episode."""
SPAN = 1 << 16


@dataclass
class Failure:
    """A promise that was broken, and how to see it again."""

    kind: str
    text: str
    seed: str
    steps: list[Step]
    story: list[str] = field(default_factory=list)
    engines: tuple[str, str] | None = None
    after: int = 0
    """Steps of the whole run until it was found."""


@dataclass
class Result:
    """Result of some episodes."""

    steps: int = 0
    episodes: int = 0
    rules: Counter[str] = field(default_factory=Counter)
    reached: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)


class Episode:
    """Episode: one system from its beginning to its end."""

    def __init__(self, seed: str, known: Collection[str] = (), engines: tuple[str, str] | None = None) -> None:
        """``engines``: those of clients and edges, over the simulated network; None: scripted links."""
        self.seed = seed
        self.known = known
        self.engines = engines
        self.rules = COMMON | (SCRIPTED if engines is None else SIMNET)
        self.is_told = False
        """Every event belongs to the story."""
        self.applied: list[Step] = []
        self.reached: Counter[str] = Counter()

    def run(self, steps: Sequence[Step] | None = None, length: int = EPISODE) -> Failure | None:
        """Apply ``steps``, or as many as ``length`` drawn from the seed, and let everything come to its end."""
        loop = SteppedLoop()
        chance = random.Random(self.seed)
        try:
            luck = random.Random(f"{self.seed} network")
            network: Network = (
                ScriptedNetwork(loop, luck) if self.engines is None else SimnetNetwork(loop, luck, self.engines)
            )
            system = ModelSystem(loop, network, self.seed, self.known)
            self.reached = system.reached
            network.reach = system.reach
            network.note = system.note if self.is_told else None
            with system.in_force():
                try:
                    loop.call(system.start_edge, [])
                    first = random.Random(f"{self.seed} first")
                    loop.call(system.start_program, None, first.choice(KINDS), first.random() < 0.25)
                    if steps is None:
                        self._draw(system, chance, length)
                    else:
                        for step in steps:
                            self._apply(system, step)
                    system.note("-> settle")
                    settle(system)
                except BrokenError as broken:
                    return Failure(
                        broken.kind, str(broken), self.seed, self.applied, list(system.story), self.engines
                    )
                except Exception as error:  # noqa: BLE001  whatever it is, it is a finding
                    text = "".join(traceback.format_exception(error)[-4:])
                    kind = f"a fault inside: {type(error).__name__}"
                    return Failure(kind, text, self.seed, self.applied, list(system.story), self.engines)
                finally:
                    self._take_down(loop)
                    network.close()
        finally:
            loop.close()
        return None

    def _draw(self, system: ModelSystem, chance: random.Random, length: int) -> None:
        names = list(self.rules)
        weights = [weight for weight, _ in self.rules.values()]
        while len(self.applied) < length:
            name = chance.choices(names, weights)[0]
            self._apply(system, (name, chance.randrange(SPAN), chance.randrange(SPAN), chance.randrange(SPAN)))

    def _apply(self, system: ModelSystem, step: Step) -> None:
        name, *numbers = step
        self.applied.append(step)
        system.note(f"-> {step}")
        if self.rules[name][1](system, *numbers):
            check_step(system)
        else:
            self.applied.pop()
            system.story.pop()

    @staticmethod
    def _take_down(loop: SteppedLoop) -> None:
        """Cancel what an episode that failed has left."""
        import asyncio

        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.set_exception_handler(lambda *_: None)
        for timer in loop.timers:
            timer.cancel()
        loop.settle()


def shrink(failure: Failure, known: Collection[str] = (), budget: int = 1500) -> Failure:
    """Leave steps out as long as the same promise is broken."""
    steps, best = failure.steps, failure
    size = max(1, len(steps) // 2)
    while size and budget > 0:
        start = 0
        while start < len(steps) and budget > 0:
            budget -= 1
            found = Episode(failure.seed, known, failure.engines).run(steps[:start] + steps[start + size :])
            if found is not None and found.kind == failure.kind:
                steps, best = found.steps, found
            else:
                start += size
        size //= 2
    last = Episode(failure.seed, known, failure.engines)
    last.is_told = True
    return last.run(steps) or best


def run(
    steps: int,
    seed: int | str,
    *,
    known: Collection[str] = (),
    engines: tuple[str, str] | None = None,
    stop_at_first: bool = True,
) -> Result:
    """Run episodes until so many steps are done, somebody interrupts, or a promise is broken."""
    result = Result()
    gc.freeze()
    while result.steps < steps:
        episode = Episode(f"{seed}/{result.episodes}", known, engines)
        try:
            failure = episode.run()
        except KeyboardInterrupt:
            break
        result.episodes += 1
        result.steps += len(episode.applied)
        result.rules.update(step[0] for step in episode.applied)
        result.reached.update(episode.reached)
        if failure is not None:
            failure.after = result.steps
            result.failures.append(failure)
            if stop_at_first:
                break
    return result
