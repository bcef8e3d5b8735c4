"""The number of instructions per byte of the native engine, by callgrind: the same on a busy machine.

    python -m perf.instructions

Two engines in one process (native/examples/bulk.rs) transfer data, so the result is the sender's and
the receiver's work together. It is the difference of two runs of different lengths, without start and handshake.
valgrind does not support AVX-512, so encryption needs more instructions than outside. Compare the result only with
itself.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

from perf.targets import Missing, need

NATIVE: Final = Path(__file__).parents[1] / "native"
STREAMS: Final = (1, 32)
"""A single stream, and many that share the connection."""
SHORT, LONG = 2_000_000, 6_000_000
"""Bytes of all streams together."""


def per_byte(streams: int) -> float:
    """Return the instructions per byte. Raises Missing."""
    program = build()
    counts = [counted(program, streams, size // streams) for size in (SHORT, LONG)]
    return (counts[1] - counts[0]) / (LONG - SHORT)


def build() -> Path:
    """Build the program. Raises Missing, and CalledProcessError with cargo's message on standard error."""
    command = [need("cargo"), "build", "--quiet", "--locked", "--release", "--no-default-features"]
    subprocess.run([*command, "--example", "bulk"], cwd=NATIVE, check=True)
    return NATIVE / "target" / "release" / "examples" / "bulk"


def counted(program: Path, streams: int, size: int) -> int:
    """Run the program under callgrind and return its instructions."""
    tool = [need("valgrind"), "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    done = subprocess.run([*tool, program, str(streams), str(size)], check=True, capture_output=True, text=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if found is None:
        raise RuntimeError(f"callgrind printed no number: {done.stderr}")
    return int(found[1])


def main() -> None:
    """Run the benchmark as the command line asks and print its results."""
    try:
        for streams in STREAMS:
            print(f"{streams} streams: {per_byte(streams):.2f} instructions a byte")
    except Missing as lack:
        print(f"{lack} is needed and not installed")


if __name__ == "__main__":
    main()
