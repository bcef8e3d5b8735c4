"""How long a byte takes there and back, and how many of them one visitor gets through in a second.

    python -m perf.echo PORT            # the origin: gives back what it gets, on every connection

The visitor is :func:`ask`: one connection, one byte at a time. First as fast as answers come, for the maximum;
then at a tenth of that rate, at moments that do not depend on the answers, as people and programs do.
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
"""Of the maximum rate, at which delays are measured."""
MAX_RATE: Final = 500.0
"""Bytes a second, at most: beyond it the visitor's own sleeping is what is measured."""


@dataclass(frozen=True, slots=True)
class Delays:
    """Of single bytes, in milliseconds."""

    rate: float
    """Bytes a second, one after the other."""
    p50: float
    p99: float
    p999: float


def ask(host: str, port: int, *, seconds: float) -> Delays:
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
        raise ConnectionError("the origin hung up")


def _serve(visitor: socket.socket) -> None:
    visitor.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with visitor, contextlib.suppress(OSError):  # whoever has had enough just leaves
        while data := visitor.recv(4096):
            visitor.sendall(data)


def main() -> None:
    parser = argparse.ArgumentParser(description="Gives back what it gets.")
    parser.add_argument("port", type=int)
    with socket.create_server(("127.0.0.1", parser.parse_args().port)) as listener:
        print("echo ready", flush=True)
        while True:
            visitor, _ = listener.accept()
            threading.Thread(target=_serve, args=(visitor,), daemon=True).start()


if __name__ == "__main__":
    main()
