"""The time from ``forward()`` to the first byte that a visitor receives over HTTPS.

    python -m perf.first_byte                # twenty of each

Cold: the first tunnel of a process that has only imported quictunnel. It needs a thread, an engine, a handshake
with the edge and a lease. Warm: another tunnel of the same client. Both end with a visitor's TCP and TLS
handshakes, its request, and the first byte of the origin's response. The edge runs in a process of its own on the
same machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import quictunnel
from perf.targets import line_of, running

if TYPE_CHECKING:
    from collections.abc import Iterator

ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
WARM_TUNNELS: Final = 5
"""Tunnels after the first, in each process."""


@contextlib.contextmanager
def origin() -> Iterator[int]:
    """Run a web server of one page during a ``with`` block; yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):  # the listener is closed in the end
                while True:
                    visitor, _ = listener.accept()
                    with visitor:
                        visitor.recv(65536)
                        visitor.sendall(ANSWER)

        threading.Thread(target=serve, daemon=True).start()
        yield int(listener.getsockname()[1])


def seconds_to_first_byte(port: int, ca: Path) -> float:
    """Open a tunnel to ``port``, visit it, and return the seconds until the first byte."""
    context = ssl.create_default_context(cafile=str(ca))
    begun = time.perf_counter()
    with quictunnel.forward(port) as tunnel:
        raw = socket.create_connection(("127.0.0.1", tunnel.port), timeout=10)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(raw, server_hostname=tunnel.host) as visitor:
            visitor.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert visitor.recv(1) == b"H"
            return time.perf_counter() - begun


def one_process() -> None:
    """Measure one cold tunnel and several warm ones, and print the seconds as JSON."""
    ca = Path(os.environ["QUICTUNNEL_CA"])
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(origin()) for _ in range(1 + WARM_TUNNELS)]
        print(json.dumps([seconds_to_first_byte(port, ca) for port in ports]))


def main() -> None:
    """Run the benchmark as the command line asks and print its results."""
    parser = argparse.ArgumentParser(description="Measure the time from forward() to the first public byte.")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        one_process()
        return
    with tempfile.TemporaryDirectory(prefix="quictunnel-perf-") as name:
        command = [sys.executable, "-m", "edge_server", "--state-dir", name, "--log-level", "warning"]
        command += ["--quic", "127.0.0.1:0", "--https", "127.0.0.1:0"]
        with running(command, stdout=subprocess.PIPE) as edge:
            line_of(edge, "Try:")
            lines = (Path(name) / "client.env").read_text().splitlines()
            environment = os.environ | dict(line.split("=", 1) for line in lines)
            again = [sys.executable, "-m", "perf.first_byte", "--inside"]
            runs = [
                json.loads(subprocess.run(again, env=environment, capture_output=True, check=True).stdout)
                for _ in range(options.times)
            ]
    for kind, values in (("cold", [run[0] for run in runs]), ("warm", [each for run in runs for each in run[1:]])):
        values.sort()
        print(f"{kind}: median {statistics.median(values) * 1000:.1f} ms, "
              f"from {values[0] * 1000:.1f} to {values[-1] * 1000:.1f}; {len(values)} tunnels")  # fmt: skip


if __name__ == "__main__":
    main()
