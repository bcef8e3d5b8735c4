"""The latency of a one-byte echo, and the number of echoes a second on one connection.

    python -m perf.echo PORT            # the origin: echoes on every connection

:func:`measure_delays` is the visitor: one connection, one byte at a time. First it sends each byte after the echo
of the last, to measure the maximum rate. Then it sends at a tenth of that rate, at fixed moments, as people and
programs do.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import threading
import time
from dataclasses import dataclass
from typing import Final

CLOSED_SECONDS: Final = 1.0
SHARE: Final = 0.1
"""Share of the maximum rate at which latencies are measured."""
MAX_RATE: Final = 500.0
"""Most bytes a second; above it the visitor's own sleep would dominate the measurement."""


@dataclass(frozen=True, slots=True)
class Delays:
    """Latencies of single bytes, in milliseconds."""

    rate: float
    """Bytes a second, one after the other."""
    p50: float
    p99: float
    p999: float


def measure_delays(host: str, port: int, *, seconds: float) -> Delays:
    """Measure the latency of an echo origin for ``seconds``."""
    with socket.create_connection((host, port), timeout=30) as visitor:
        visitor.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _once(visitor)
        begun, count = time.perf_counter(), 0
        while time.perf_counter() - begun < CLOSED_SECONDS:
            _once(visitor)
            count += 1
        rate = count / (time.perf_counter() - begun)
        interval = 1 / min(SHARE * rate, MAX_RATE)
        delays = []
        begun = time.perf_counter()
        for number in range(max(1, int(seconds / interval))):
            due = begun + number * interval
            time.sleep(max(0.0, due - time.perf_counter()))
            sent = time.perf_counter()
            _once(visitor)
            delays.append((time.perf_counter() - sent) * 1000)
    delays.sort()
    p50, p99, p999 = (delays[min(len(delays) - 1, int(share * len(delays)))] for share in (0.5, 0.99, 0.999))
    return Delays(rate, p50, p99, p999)


def _once(visitor: socket.socket) -> None:
    visitor.sendall(b"x")
    if not visitor.recv(1):
        raise ConnectionError("the origin closed the connection")


def _serve(visitor: socket.socket) -> None:
    visitor.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with visitor, contextlib.suppress(OSError):  # visitors leave without a clean end
        while data := visitor.recv(4096):
            visitor.sendall(data)


def main() -> None:
    """Run the echo origin until it is killed."""
    parser = argparse.ArgumentParser(description="Run an echo server.")
    parser.add_argument("port", type=int)
    with socket.create_server(("127.0.0.1", parser.parse_args().port)) as listener:
        print("echo ready", flush=True)
        while True:
            visitor, _ = listener.accept()
            threading.Thread(target=_serve, args=(visitor,), daemon=True).start()


if __name__ == "__main__":
    main()
