"""How many instructions the native engine takes for a byte, by callgrind: the same number on a busy machine.

    python -m perf.instructions

Two engines in one process (native/examples/bulk.rs), so it is the sender's and the receiver's work together.
Two runs of different lengths; what counts is their difference, without start and handshake. valgrind knows no
AVX-512, so encryption takes more of them than it does outside; it is compared with nothing but itself.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

from perf.targets import Missing, need

NATIVE: Final = Path(__file__).parents[1] / "native"
STREAMS: Final = (1, 32)
"""One that is alone, and many that take turns."""
SHORT, LONG = 2_000_000, 6_000_000
"""Bytes of all streams together."""


def per_byte(streams: int) -> float:
    """Instructions for each byte. Raises Missing."""
    program = build()
    counts = [counted(program, streams, size // streams) for size in (SHORT, LONG)]
    return (counts[1] - counts[0]) / (LONG - SHORT)


def build() -> Path:
    """Raises Missing, and CalledProcessError with what cargo said on standard error."""
    command = [need("cargo"), "build", "--quiet", "--locked", "--release", "--no-default-features"]
    subprocess.run([*command, "--example", "bulk"], cwd=NATIVE, check=True)
    return NATIVE / "target" / "release" / "examples" / "bulk"


def counted(program: Path, streams: int, size: int) -> int:
    tool = [need("valgrind"), "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    done = subprocess.run([*tool, program, str(streams), str(size)], check=True, capture_output=True, text=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if found is None:
        raise RuntimeError(f"callgrind said no number: {done.stderr}")
    return int(found[1])


def main() -> None:
    try:
        for streams in STREAMS:
            print(f"{streams} streams: {per_byte(streams):.2f} instructions a byte")
    except Missing as lack:
        print(f"{lack} is needed and not installed")


if __name__ == "__main__":
    main()
