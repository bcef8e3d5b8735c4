"""Fixture of engine pairings: every test that asks for ``engines`` runs on each pairing of client and edge
engine."""

from __future__ import annotations

import importlib.util
import itertools

import pytest

ENGINES = ("aioquic", "native")
HAS_NATIVE = importlib.util.find_spec("quictunnel_native") is not None
needs_native = pytest.mark.skipif(not HAS_NATIVE, reason="the wheel quictunnel-native is not installed")
PAIRINGS = [
    pytest.param(pair, id="-".join(pair), marks=[needs_native] if "native" in pair else [])
    for pair in itertools.product(ENGINES, repeat=2)
]


@pytest.fixture(params=PAIRINGS)
def engines(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The client's engine and the edge's."""
    pair: tuple[str, str] = request.param
    return pair


same_engines = pytest.mark.parametrize(
    "engines", [pairing for pairing in PAIRINGS if pairing.values[0][0] == pairing.values[0][1]]
)
aioquic_clients = pytest.mark.parametrize(
    "engines", [pairing for pairing in PAIRINGS if pairing.values[0][0] == "aioquic"]
)
"""For tests that forge packets with the keys of an aioquic client."""
each_engine = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[needs_native] if name == "native" else []) for name in ENGINES]
)
