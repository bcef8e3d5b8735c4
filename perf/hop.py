"""The throughput of one QUIC stream between two processes, without TCP.

    python -m perf.hop                                  # each engine that is installed, and a plain TCP connection
    python -m perf.hop --engines native --seconds 5 --rounds 5
    python -m perf.hop --mtu 1500                       # in a loopback with Ethernet's MTU (root)

It is the upper limit of everything above an engine. All engines take a turn in each round. MB/s is the rate at the
receiver. CPU seconds are those of the whole process, so MB per CPU second is the rate that one core could send or
receive alone.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trustme

from perf.machine import MachineLoad, own_loopback
from quictunnel.shared.event_loop import new_event_loop
from quictunnel.transport.endpoint import Endpoint
from quictunnel.transport.engine import EngineSettings
from quictunnel.transport.engines import create_engine
from quictunnel.transport.udp import UdpSocket

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from quictunnel.transport.engine import CloseCause, Connection

NAME: Final = "hop.test"
ALPN: Final = "quictunnel-hop"
CHUNK: Final = bytes(64 * 1024)
HERE: Final = "127.0.0.1"


class Sink:
    """Base of both ends: counts received bytes."""

    def __init__(self) -> None:
        self.received = 0
        self.connection: Connection | None = None
        self.ready = asyncio.Event()
        self.over = asyncio.Event()

    def connected(self) -> None:
        """Record that the handshake is complete."""
        self.ready.set()

    def data(self, stream: int, chunks: list[bytes], *, end: bool) -> None:
        """Count received bytes."""
        del stream, end
        self.received += sum(map(len, chunks))

    def reset(self, stream: int, code: int) -> None:
        """Ignored."""

    def stopped(self, stream: int, code: int) -> None:
        """Ignored."""

    def writable(self, stream: int) -> None:
        """Ignored."""

    def streams_available(self) -> None:
        """Ignored."""

    def batch_ended(self) -> None:
        """Ignored."""

    def closed(self, cause: CloseCause, code: int, reason: str) -> None:
        """Record that the connection has ended."""
        del cause, code, reason
        self.over.set()


class Source(Sink):
    """The sending end: writes as fast as the engine accepts data."""

    endpoint: Endpoint

    def begin(self) -> None:
        """Open the stream and begin to write."""
        assert self.connection is not None
        stream = self.connection.open()
        assert stream is not None
        self.writable(stream)

    def writable(self, stream: int) -> None:
        """Write until the engine accepts no more."""
        assert self.connection is not None
        while self.connection.write(stream, CHUNK) == len(CHUNK):
            pass
        self.endpoint.schedule_transmit()


def settings(directory: Path, *, is_server: bool, largest: int) -> EngineSettings:
    """Return the engine settings of one end."""
    return EngineSettings(
        is_server=is_server,
        alpn=ALPN,
        certificate=directory / "leaf.pem" if is_server else None,
        private_key=directory / "leaf.key" if is_server else None,
        authority=None if is_server else directory / "ca.pem",
        largest_datagram=largest,
    )


async def receive(engine: str, directory: Path) -> None:
    """Run the accepting end: print the port, receive one connection, and report its bytes and cost."""
    udp = UdpSocket.bind((HERE, 0))
    made = create_engine(settings(directory, is_server=True, largest=udp.largest_datagram), engine)
    sink = Sink()

    def accept(connection: Connection) -> Sink:
        connection.admit()
        return sink

    endpoint = Endpoint(made, udp, on_connection=accept)
    print(endpoint.local_address[1], flush=True)
    await sink.ready.wait()
    cpu, begin = time.process_time(), time.monotonic()
    await sink.over.wait()
    report(sink.received, time.monotonic() - begin, time.process_time() - cpu)
    await endpoint.close(0)


async def send(engine: str, directory: Path, port: int, seconds: float) -> None:
    """Run the connecting end for ``seconds``."""
    udp = UdpSocket.bind((HERE, 0))
    made = create_engine(settings(directory, is_server=False, largest=udp.largest_datagram), engine)
    source = Source()
    source.endpoint = endpoint = Endpoint(made, udp)
    source.connection = endpoint.connect((HERE, port), NAME, source)
    await source.ready.wait()
    cpu, begin = time.process_time(), time.monotonic()
    source.begin()
    await asyncio.sleep(seconds)
    sent = source.connection.stats().bytes_sent
    report(sent, time.monotonic() - begin, time.process_time() - cpu)
    await endpoint.close(1)


def receive_tcp() -> None:
    """Receive over one TCP connection, for comparison without QUIC."""
    with socket.create_server((HERE, 0)) as server:
        print(server.getsockname()[1], flush=True)
        connection, _ = server.accept()
    cpu, begin, received, buffer = time.process_time(), time.monotonic(), 0, bytearray(1 << 18)
    with connection:
        while size := connection.recv_into(buffer):
            received += size
    report(received, time.monotonic() - begin, time.process_time() - cpu)


def send_tcp(port: int, seconds: float) -> None:
    """Send over one TCP connection for ``seconds``."""
    sent, cpu, begin = 0, time.process_time(), time.monotonic()
    with socket.create_connection((HERE, port)) as connection:
        while time.monotonic() < begin + seconds:
            connection.sendall(CHUNK)
            sent += len(CHUNK)
    report(sent, time.monotonic() - begin, time.process_time() - cpu)


def report(size: int, seconds: float, cpu: float) -> None:
    """Print the result of one end as JSON."""
    print(json.dumps({"bytes": size, "seconds": seconds, "cpu": cpu}), flush=True)


def on_a_loop(work: Coroutine[None, None, None]) -> None:
    """Run a coroutine on the event loop that clients and edges use."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(work)


def turn(engine: str, directory: Path, seconds: float) -> tuple[float, float, float]:
    """Run an engine once. Return MB/s, and MB per CPU second of the sender and of the receiver."""
    command = [sys.executable, "-m", "perf.hop", "--engines", engine, "--directory", str(directory)]
    with subprocess.Popen([*command, "--receive"], stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None
        port = receiver.stdout.readline().strip()
        sender = subprocess.run(
            [*command, "--send", port, "--seconds", str(seconds)], stdout=subprocess.PIPE, text=True, check=True
        )
        there = json.loads(receiver.stdout.readline())
    here = json.loads(sender.stdout)
    size = there["bytes"] / 1e6
    return size / there["seconds"], size / here["cpu"], size / there["cpu"]


def compare(engines: list[str], seconds: float, rounds: int) -> None:
    """Run all engines in turns and print a table."""
    authority = trustme.CA()
    leaf = authority.issue_cert(NAME)
    machine = MachineLoad()
    with tempfile.TemporaryDirectory(prefix="quictunnel-hop-") as name:
        directory = Path(name)
        authority.cert_pem.write_to_path(directory / "ca.pem")
        leaf.cert_chain_pems[0].write_to_path(directory / "leaf.pem")
        leaf.private_key_pem.write_to_path(directory / "leaf.key")
        runs = {engine: [] for engine in engines}  # type: dict[str, list[tuple[float, float, float]]]
        for number in range(rounds):
            for engine in [*engines[number % len(engines) :], *engines[: number % len(engines)]]:
                runs[engine].append(turn(engine, directory, seconds))
    print("one stream             MB/s   min   max   MB per CPU-second: sending  receiving")
    for engine, samples in runs.items():
        speed, sending, receiving = zip(*samples, strict=True)
        print(
            f"{engine:20} {statistics.median(speed):6.0f} {min(speed):5.0f} {max(speed):5.0f}"
            f" {statistics.median(sending):28.0f} {statistics.median(receiving):10.0f}"
        )
    print(f"medians of {rounds} rounds of {seconds} s")
    print(", ".join(f"{key} {value}" for key, value in machine.facts().items() if key != "engine"))


def main() -> None:
    """Run the benchmark as the command line asks and print its results."""
    here = [
        name
        for name in ("native", "aioquic")
        if name == "aioquic" or importlib.util.find_spec("quictunnel_native")
    ]
    parser = argparse.ArgumentParser(description="Measure one QUIC stream between two processes.")
    parser.add_argument("--engines", nargs="+", choices=["native", "aioquic", "tcp"], default=[*here, "tcp"])
    parser.add_argument("--seconds", type=float, default=3, help="of each run (default: 3)")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--mtu", type=int, help="of a loopback of its own (root; default: this machine's)")
    for hidden, kind in (("--directory", Path), ("--send", int)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    parser.add_argument("--receive", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    engine = options.engines[0]
    if options.receive:
        receive_tcp() if engine == "tcp" else on_a_loop(receive(engine, options.directory))
    elif options.send:
        if engine == "tcp":
            send_tcp(options.send, options.seconds)
        else:
            on_a_loop(send(engine, options.directory, options.send, options.seconds))
    elif options.mtu and not options.inside:
        own_loopback("perf.hop", options.mtu)
    else:
        compare(options.engines, options.seconds, options.rounds)


if __name__ == "__main__":
    main()
