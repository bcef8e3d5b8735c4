"""The engines of a tunnel's client and edge."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

from tests.transport.engine_pairings import ENGINES, HAS_NATIVE, needs_native

if TYPE_CHECKING:
    from collections.abc import Sequence

VARIABLE: Final = "QUICTUNNEL_ENGINE"


class Pairing(NamedTuple):
    """The engine of the client and the engine of the edge."""

    client: str
    edge: str


ALL: Final = {"-".join(pair): Pairing(*pair) for pair in itertools.product(ENGINES, repeat=2)}
USUAL: Final = "native-native" if HAS_NATIVE else "aioquic-aioquic"

in_force: Pairing | None = None
"""The pairing of the current test; the fixture ``pairing_in_force`` sets it."""


def edge_engine() -> str:
    """Return the engine of an edge that a test starts."""
    assert in_force is not None, "starts an edge without the fixture pairing_in_force"
    return in_force.edge


def parameters(wanted: Sequence[str] | None, *, every: bool) -> list[object]:
    """Return parameters for pytest: the ``wanted`` pairings, else the usual one, or all of them with ``every``.

    Pairings that need a missing wheel are skipped visibly.
    """
    if wanted is None:
        names = list(ALL) if every else [USUAL]
    else:
        names = [name for name in ALL if name in wanted or "all" in wanted]
    return [pytest.param(ALL[name], id=name, marks=[needs_native] if "native" in name else []) for name in names]
