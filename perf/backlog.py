"""How many visitors the kernel keeps while the edge is busy: what net.core.somaxconn is for.

    python -m perf.backlog                      # 128, 1024 and 4096; bursts of 1,000; a minute (root)

Each burst comes at once to an edge that does nothing else, in a network namespace with that setting; each visitor
sends a ClientHello, and what counts is when the edge's first bytes have come. Whom the kernel has no room for
tries again after a second, and then after two more: that is what the slow ones have waited for, not the edge.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from perf.iperf import free_port
from perf.machine import Machine, own_loopback
from perf.targets import Target, ours

SOMAXCONN: Final = Path("/proc/sys/net/core/somaxconn")
"""Of the network namespace of whoever writes it."""
AGAIN: Final = 0.9
"""Seconds after which somebody has had to try again."""
PATIENCE: Final = 30.0
LOOPBACK_MTU: Final = 65536


def client_hello(name: str) -> bytes:
    going = ssl.MemoryBIO()
    connection = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), going, server_hostname=name)
    try:
        connection.do_handshake()
    except ssl.SSLWantReadError:
        return going.read()
    raise AssertionError("a handshake without an answer")


async def burst(edge: Target, count: int) -> list[float]:
    """Seconds that each of so many visitors waited for the edge's first bytes, in rising order."""
    hello = client_hello(edge.tls_host)

    async def visit() -> float:
        begun = time.perf_counter()
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(edge.host, edge.port)
            writer.write(hello)
            if not await reader.read(1):
                raise ConnectionError("the edge sent a visitor away")
            taken = time.perf_counter() - begun
        writer.transport.abort()
        return taken

    return sorted(await asyncio.gather(*(visit() for _ in range(count))))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 1024, 4096])
    parser.add_argument("--visitors", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        own_loopback("perf.backlog", LOOPBACK_MTU)
    print(f"busy before: {Machine().busy_before:.2f} of all cores; bursts of {options.visitors}")
    for size in options.sizes:
        SOMAXCONN.write_text(str(size))
        with (
            tempfile.TemporaryDirectory(prefix="quictunnel-perf-") as name,
            ours(free_port(), Path(name), tls=True) as edge,
        ):
            rounds = [asyncio.run(burst(edge, options.visitors)) for _ in range(options.rounds + 1)][1:]
        late = [sum(taken > AGAIN for taken in each) for each in rounds]
        p50, p99 = (statistics.median(each[int(share * len(each))] for each in rounds) for share in (0.5, 0.99))
        print(f"somaxconn {size}: p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms; "
              f"{statistics.median(late):.0f} had to try again ({min(late)} to {max(late)})")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
