"""The time that a UDP socket's buffer lasts while nobody reads it: the effect of net.core.rmem_max.

    python -m perf.buffers                          # common sizes, 100 Mbit/s, five rounds; a minute
    python -m perf.buffers --sizes 208 4096 --rate 500

A busy event loop reads nothing. Datagrams that arrive meanwhile wait in the buffer, or are lost. Each round sends
at the rate to a socket that is not read, until the kernel counts the first loss, and reports the payload that
fitted. Datagrams have 1,200 bytes and arrive joined (GRO), as from a fast network, or one by one, which needs more
of the buffer. The results do not depend on the speed of the machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Final

from quictunnel.transport.udp import Transmit, UdpSocket

SIZE: Final = 1200
BURST: Final = 10
MAX_SENT: Final = 64 * 1024 * 1024
"""Bytes after which a socket without losses is taken to have no limit."""


def drops(socket: UdpSocket) -> int:
    """Return the datagrams of this socket that the kernel has dropped (/proc/net/udp, the last column)."""
    port = f":{socket.local_address[1]:04X}"
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(port):
            return int(fields[-1])
    raise SystemExit("the socket is not listed in /proc/net/udp; this needs Linux")


def buffered_bytes(size: int, rate: float, *, joined: bool) -> int:
    """Return the bytes of payload that fit into a buffer of ``size`` bytes."""
    to, sender = UdpSocket.bind(("127.0.0.1", 0), buffer=size), UdpSocket.bind(("127.0.0.1", 0), gso=joined)
    try:
        burst = Transmit((bytes(SIZE * BURST),), SIZE, to.local_address)
        sent, begun = 0, time.perf_counter()
        while not drops(to) and sent < MAX_SENT:
            sender.send([burst])
            sent += SIZE * BURST
            time.sleep(max(0.0, begun + sent / rate - time.perf_counter()))
        return sent - SIZE * BURST
    finally:
        to.close()
        sender.close()


def main() -> None:
    """Run the benchmark as the command line asks and print its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[208, 1024, 4096], help="KiB")
    parser.add_argument("--rate", type=float, default=100, help="Mbit/s")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rate = options.rate * 1e6 / 8
    kinds = [(size, joined) for joined in (True, False) for size in options.sizes]
    found: dict[tuple[int, bool], list[int]] = {kind: [] for kind in kinds}
    for _ in range(options.rounds):
        for (size, joined), fits in found.items():
            fits.append(buffered_bytes(size * 1024, rate, joined=joined))
    print(f"| buffer | datagrams | payload that fits | at {options.rate:g} Mbit/s | of the first |")
    print("|---|---|---|---|---|")
    least = statistics.median(found[kinds[0]])
    for (size, joined), fits in found.items():
        middle = statistics.median(fits)
        how = "joined" if joined else "one by one"
        span = f"{middle / 1024:.0f} KiB ({min(fits) / 1024:.0f} to {max(fits) / 1024:.0f})"
        print(f"| {size} KiB | {how} | {span} | {middle / rate * 1000:.0f} ms | {middle / least:.1f} |")


if __name__ == "__main__":
    main()
