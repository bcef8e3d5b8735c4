"""Report of a run in words."""

from __future__ import annotations

from functools import singledispatch

from tests.model.runner import Failure, Result

STORY = 100
"""Lines of a story that are shown."""


@singledispatch
def text_of(what: object) -> str:
    """Return lines for people."""
    raise TypeError(type(what))


@text_of.register
def _(result: Result) -> str:
    lines = [f"{result.steps} steps in {result.episodes} episodes"]
    for title, counts in (("rules", result.rules), ("states", result.reached)):
        lines.append(f"{title}:")
        lines += [f"  {count:8} {name}" for name, count in sorted(counts.items(), key=lambda item: -item[1])]
    return "\n".join(lines)


@text_of.register
def _(failure: Failure) -> str:
    again = f"python -m tests.model --episode {failure.seed}"
    if failure.engines is not None:
        again += f" --engines {'-'.join(failure.engines)}"
    lines = [f"BROKEN {failure.kind} ({len(failure.steps)} steps; again: {again})", f"  {failure.text}"]
    lines += [f"    {step}," for step in failure.steps]
    lines.append("  story:")
    lines += [f"    {line}" for line in failure.story[-STORY:]]
    return "\n".join(lines)
