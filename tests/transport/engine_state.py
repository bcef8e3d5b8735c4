"""State of an engine that no method of its interface reports."""

from __future__ import annotations

from typing import Any


def population(engine: Any) -> tuple[int, int]:
    """Return the numbers of connections and of those among them that are not admitted."""
    if engine.name == "native":
        connections, unadmitted = engine._engine.population()
        return int(connections), int(unadmitted)
    return len(engine._connections), len(engine._unadmitted)


def is_empty(engine: Any) -> bool:
    """Return True if the engine keeps nothing of any connection."""
    has_routes = engine.name == "aioquic" and bool(len(engine._routes) or engine._timers)
    return population(engine) == (0, 0) and engine.timeout() is None and not has_routes


def panics(engine: Any) -> int:
    """Return the number of panics of the native engine."""
    return int(engine._engine.counters()["panics"]) if engine.name == "native" else 0
