"""The number of connections that the kernel accepts while the edge is busy: the effect of net.core.somaxconn.

    python -m perf.backlog                      # 128, 1024 and 4096; bursts of 1,000; a minute (root)

Each burst reaches an otherwise idle edge at once, in a network namespace with that setting. Each visitor sends a
ClientHello; its time ends with the edge's first bytes. A visitor for which the kernel has no room retries after a
second, and again after two more. The slow ones have waited for that, not for the edge.
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
from perf.machine import MachineLoad, own_loopback
from perf.targets import Target, ours

SOMAXCONN: Final = Path("/proc/sys/net/core/somaxconn")
"""The setting of the writer's network namespace."""
RETRY_DELAY: Final = 0.9
"""Seconds after which a visitor must have retried its SYN."""
TIMEOUT: Final = 30.0
LOOPBACK_MTU: Final = 65536


def client_hello(name: str) -> bytes:
    """Return a ClientHello for a server name."""
    going = ssl.MemoryBIO()
    connection = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), going, server_hostname=name)
    try:
        connection.do_handshake()
    except ssl.SSLWantReadError:
        return going.read()
    raise AssertionError("the handshake needs no answer")


async def burst(edge: Target, count: int) -> list[float]:
    """Open ``count`` connections at once. Return the seconds until the first bytes of the edge, sorted."""
    hello = client_hello(edge.tls_host)

    async def visit() -> float:
        begun = time.perf_counter()
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_connection(edge.host, edge.port)
            writer.write(hello)
            if not await reader.read(1):
                raise ConnectionError("the edge rejected a visitor")
            taken = time.perf_counter() - begun
        writer.transport.abort()
        return taken

    return sorted(await asyncio.gather(*(visit() for _ in range(count))))


def main() -> int:
    """Run the benchmark as the command line asks and print its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 1024, 4096])
    parser.add_argument("--visitors", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        own_loopback("perf.backlog", LOOPBACK_MTU)
    print(f"busy before: {MachineLoad().busy_before:.2f} of all cores; bursts of {options.visitors}")
    for size in options.sizes:
        SOMAXCONN.write_text(str(size))
        with (
            tempfile.TemporaryDirectory(prefix="quictunnel-perf-") as name,
            ours(free_port(), Path(name), tls=True) as edge,
        ):
            rounds = [asyncio.run(burst(edge, options.visitors)) for _ in range(options.rounds + 1)][1:]
        late = [sum(taken > RETRY_DELAY for taken in each) for each in rounds]
        p50, p99 = (statistics.median(each[int(share * len(each))] for each in rounds) for share in (0.5, 0.99))
        print(f"somaxconn {size}: p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms; "
              f"{statistics.median(late):.0f} had to retry ({min(late)} to {max(late)})")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
