"""Mutations of seeds where Atheris is not installed: bits, bytes, runs, lengths, and pieces of other inputs."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_SIZE: Final = 20_000
KEPT: Final = 2000
"""Inputs that are mutated further."""
EDGES: Final = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    1 << 31,
    (1 << 32) - 1,
    (1 << 62) - 1,
    (1 << 64) - 1,
)


def inputs(seeds: list[bytes], seed: int = 1) -> Iterator[bytes]:
    """Without end; the same for the same seed."""
    chance = random.Random(seed)
    pool = [*seeds, b""]
    while True:
        data = bytearray(chance.choice(pool))
        for _ in range(chance.choice((1, 1, 2, 4, 16))):
            _mutate(data, chance, pool)
        made = bytes(data[:MAX_SIZE])
        if len(pool) < KEPT:
            pool.append(made)
        elif chance.random() < 0.01:
            pool[chance.randrange(len(seeds), KEPT)] = made
        yield made


def _mutate(data: bytearray, chance: random.Random, pool: list[bytes]) -> None:
    place = chance.randrange(len(data) + 1)
    match chance.randrange(7):
        case 0 if data:
            data[place % len(data)] ^= 1 << chance.randrange(8)
        case 1 if data:
            data[place % len(data)] = chance.randrange(256)
        case 2:
            data[place:place] = chance.randbytes(chance.choice((1, 2, 5, 100)))
        case 3:
            del data[place : place + chance.choice((1, 2, 5, 100))]
        case 4:
            size = chance.choice((1, 2, 4, 8))
            data[place : place + size] = (chance.choice(EDGES) & ((1 << 8 * size) - 1)).to_bytes(size, "big")
        case 5:
            other = chance.choice(pool)
            start = chance.randrange(len(other) + 1)
            data[place:place] = other[start : start + chance.choice((1, 4, 30, 500))]
        case _:
            data[place:place] = data[place : place + chance.choice((1, 4, 30, 500))]
