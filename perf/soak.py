"""A long run of streams and bytes in minutes: memory must not grow, and no state may be left.

    python -m perf.soak                                   # 1,000,000 streams, then 50 GiB; two or three minutes
    python -m perf.soak --streams 0 --bytes 100G          # bytes alone
    python -m perf.soak --engine aioquic                  # 500,000 streams, then 4 GiB
    python -m perf.soak --loss 0.01                       # 1 % of all bursts is lost

Two engines run in one process (pair.py). Their time is virtual. A million streams thus take the 24 hours that they
would take at twelve visitors a second, and every timer in between expires.

- Streams begin with a preface and end in each of the ways of ``StreamEnding``. The end of every half must be
  reported, and no stream, event or connection may be left.
- Bytes are transferred by one stream after another, from either side in turn, and compared; with 8 GiB or more
  even beyond offset 2**32. The engines' counters must match the bytes handed over, and keys must be updated in
  time.

RSS is sampled twenty times, each time after a garbage collection. After a tenth of the work it may grow by at most
``--growth``: 8 MiB are 9 bytes for each of a million streams. A failure ends the run with one line and exit
code 1.
"""

from __future__ import annotations

import argparse
import collections
import enum
import gc
import importlib.util
import os
import random
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import trustme

from perf.pair import NAME, EngineEnd, Failed, Pair
from quictunnel.transport.engine import TRUSTED
from quictunnel.wire.preface import Preface, encode_preface

MIB: Final = 1024**2
GIB: Final = 1024**3
GROWTH: Final = 8 * MIB
SAMPLES: Final = 20
WARM_UP: Final = 2
"""Samples after which memory must not grow."""
AMOUNTS: Final = {"native": (1_000_000, 50 * GIB), "aioquic": (500_000, 4 * GIB)}
PACE: Final = 86_400 / 1_000_000
"""Virtual seconds from one stream to the next."""
ROUND: Final = 100
"""Streams that are open at once. The pause until the next round is shorter than the idle timeout."""
REQUEST, ANSWER = bytes(200), bytes(3000)
REFUSED: Final = 4
KEY_PACKETS: Final = 1 << 16
"""Packets under one key, instead of 2**21, so that keys are updated in short runs as well."""
KEY_UPDATE_BYTES: Final = 64 * MIB
PERIOD: Final = 65_521
"""A prime, so that shifted bytes are detected."""
CHUNK: Final = 64 * 1024
PATTERN: Final = random.Random(1).randbytes(PERIOD) * 66
"""Payload pattern, one period more than the connection's window, which bounds the data delivered at once."""


class StreamEnding(enum.Enum):
    """The way in which a stream ends. The edge opens it for a visitor; the client is the origin's side."""

    CLEAN = enum.auto()
    HALF_CLOSE = enum.auto()
    """The visitor ends its side first and continues to read."""
    ABORT = enum.auto()
    """The visitor leaves in the middle of the answer: resets and stops."""
    REFUSE = enum.auto()
    """The origin is not available: the client resets and stops."""
    UNREAD = enum.auto()
    """The client stops the request, and answers nevertheless."""
    STILLBORN = enum.auto()
    """Aborted before anything was sent."""
    EMPTY = enum.auto()
    """Two ends and no bytes."""


ENDINGS: Final = [StreamEnding.CLEAN] * 5 + [StreamEnding.HALF_CLOSE] * 3 + list(StreamEnding)[2:]
ANSWERED: Final = {StreamEnding.CLEAN, StreamEnding.HALF_CLOSE, StreamEnding.UNREAD}


def ending_of(stream: int) -> StreamEnding:
    """Return the ending of a stream. Both sides derive it from the number, whatever arrives."""
    return ENDINGS[(stream >> 2) % len(ENDINGS)]


class Edge(EngineEnd):
    """The side of the visitors."""

    answered = 0
    """Bytes of answers, except of aborted streams."""

    def visit(self) -> None:
        """Open the next stream and send the request."""
        number, stream = self.opened, self.begin()
        ending = ending_of(stream)
        if ending is not StreamEnding.EMPTY:
            preface = Preface(stream=number, lease=1, tls=False, host="203.0.113.77", port=50_000)
            self.connection.write(stream, encode_preface(preface) + REQUEST)
        if ending is StreamEnding.STILLBORN:
            self.abort(stream)
        elif ending in {StreamEnding.HALF_CLOSE, StreamEnding.EMPTY}:
            self.finish(stream)

    def data(self, stream: int, chunks: list[bytes], *, end: bool) -> None:
        """Count the answer, or abort in the middle of it."""
        if ending_of(stream) is StreamEnding.ABORT:
            self.abort(stream)
            return
        self.answered += sum(map(len, chunks))
        if end and self.is_sending(stream):
            self.finish(stream)


class Client(EngineEnd):
    """The side of the origin."""

    def data(self, stream: int, chunks: list[bytes], *, end: bool) -> None:
        """Answer a request, or refuse it."""
        del chunks
        ending = ending_of(stream)
        if ending is StreamEnding.REFUSE:
            self.abort(stream, REFUSED)
        elif self.is_sending(stream) and (end or ending not in {StreamEnding.HALF_CLOSE, StreamEnding.EMPTY}):
            if ending is not StreamEnding.EMPTY:
                self.connection.write(stream, ANSWER)
            if ending is StreamEnding.UNREAD:
                self.stop(stream, REFUSED)
            if ending is not StreamEnding.ABORT:
                self.finish(stream)


class Bulk(EngineEnd):
    """Either side, with many bytes on few streams."""

    offset = size = received = 0

    def push(self, size: int) -> None:
        """Send ``size`` bytes on a new stream."""
        self.offset, self.size = 0, size
        self.writable(self.begin())

    def writable(self, stream: int) -> None:
        """Write until the engine accepts no more."""
        while self.offset < self.size:
            start = self.offset % PERIOD
            part = PATTERN[start : start + min(CHUNK, self.size - self.offset)]
            taken = self.connection.write(stream, part)
            self.offset += taken
            if taken < len(part):
                return
        self.finish(stream)

    def data(self, stream: int, chunks: list[bytes], *, end: bool) -> None:
        """Compare received bytes with the pattern."""
        for chunk in chunks:
            if not PATTERN.startswith(chunk, self.received % PERIOD):
                raise Failed(f"{len(chunk):,} bytes from offset {self.received:,} are not what was sent")
            self.received += len(chunk)
        if end and self.is_sending(stream):
            self.finish(stream)

    def has(self, size: int) -> bool:
        """Return True if ``size`` bytes have arrived."""
        return self.received >= size


class MemoryMonitor:
    """Samples the memory and the speed of a run. Raises Failed if memory has grown."""

    def __init__(self, total: int, unit: str, size: int, growth: int) -> None:
        self.total, self.size, self.growth = total, size, growth
        self.samples: list[int] = []
        self.done, self.at = 0, time.process_time()
        print(f"{unit:>12} {'RSS MiB':>9} {unit + '/CPU-s':>14}")

    @property
    def due(self) -> int:
        """The amount of work at which the next sample is due."""
        return self.total * (len(self.samples) + 1) // SAMPLES

    def sample(self, done: int) -> None:
        """Take a sample when ``done`` units of work are complete."""
        seconds = time.process_time() - self.at
        gc.collect()
        rss = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        self.samples.append(rss)
        speed = (done - self.done) / self.size / seconds
        print(f"{done / self.size:12,.0f} {rss / MIB:9.1f} {speed:14,.0f}", flush=True)
        grown = rss - self.samples[:WARM_UP][-1]
        if grown > self.growth:
            raise Failed(f"RSS grew by {grown / MIB:.1f} MiB after the first tenth")
        self.done, self.at = done, time.process_time()


def visits(engine: str, directory: Path, count: int, *, growth: int, loss: float, slots: int) -> None:
    """Run ``count`` streams."""
    trusted = replace(TRUSTED, streams=slots)
    edge = Edge(engine, directory, is_server=True, trusted=trusted)
    client = Client(engine, directory, is_server=False, trusted=trusted)
    pair = Pair(edge, client, loss=loss)
    monitor, begin = MemoryMonitor(count, "streams", 1, growth), pair.now
    while edge.opened < count:
        number = min(ROUND, count - edge.opened)
        for _ in range(number):
            edge.visit()
        pair.until(lambda: not (edge.open or client.open), f"the round until stream {edge.opened:,}")
        pair.advance(number * PACE)
        if edge.opened >= monitor.due:
            monitor.sample(edge.opened)
    endings = collections.Counter(ending_of(4 * number) for number in range(count))
    expected = sum(endings[ending] for ending in ANSWERED) * len(ANSWER)
    if edge.answered != expected:
        raise Failed(f"{edge.answered:,} bytes of answers arrived, {expected:,} were expected")
    hours = (pair.now - begin) / 3600
    pair.close()
    print(
        f"{hours:.1f} virtual hours:", ", ".join(f"{number:,} {ending.name}" for ending, number in endings.items())
    )
    print(
        "events:",
        ", ".join(f"{number:,} {name}" for name, number in (edge.event_counts + client.event_counts).items()),
    )


def bulk(engine: str, directory: Path, amount: int, *, growth: int, loss: float) -> None:
    """Transfer ``amount`` bytes."""
    how = {"key_update_packets": KEY_PACKETS}
    sides = (Bulk(engine, directory, is_server=True, **how), Bulk(engine, directory, is_server=False, **how))
    pair = Pair(*sides, loss=loss)
    monitor = MemoryMonitor(amount, "MiB", MIB, growth)
    done = streams = 0
    while done < amount:
        size = 5 * GIB if amount >= 8 * GIB and not streams else min(GIB, -(-amount // 4))
        size, what = min(size, amount - done), f"stream {streams} of {size:,} bytes"
        sender, receiver = sides[:: -1 if streams % 2 else 1]
        receiver.received = 0
        sender.push(size)
        while monitor.due <= done + size:
            pair.until(partial(receiver.has, monitor.due - done), what)
            monitor.sample(done + receiver.received)
        pair.until(lambda: not any(side.open for side in sides), what)
        done, streams = done + size, streams + 1
    packets = [side.connection.stats().packets_sent for side in sides]
    lost = sum(side.connection.stats().packets_lost for side in sides)
    pair.close()
    total = sum(side.sent for side in sides)
    print(f"{streams} streams; {total:,} bytes of datagrams, {sum(packets):,} packets, {lost:,} lost;", end=" ")
    print(f"{sum(number // KEY_PACKETS for number in packets)} key updates were due", end=" ")


def check_key_updates(engine: str, directory: Path) -> None:
    """Check that keys are updated in time. quinn-proto does not report it, so the peer is aioquic, which counts
    updates."""
    rate = KEY_PACKETS // 4
    edge = Bulk(engine, directory, is_server=True, key_update_packets=rate)
    client = Bulk("aioquic", directory, is_server=False)
    pair = Pair(edge, client)
    edge.push(KEY_UPDATE_BYTES)
    pair.until(lambda: not (edge.open or client.open), "the stream that counts key updates")
    due = edge.connection.stats().packets_sent // rate
    seen: int = client.connection.quic.one_rtt.updates  # type: ignore[attr-defined]  # it is aioquic's
    pair.close()
    # quinn-proto does one of its own among the first thousand packets.
    if not due <= seen <= due + 1:
        raise Failed(f"{seen} key updates were seen, {due} were due")
    print(f"(aioquic counted {seen} of {due})")


def amount_of(text: str) -> int:
    """Parse an amount; ``100G`` is 100 * 2**30."""
    exponent = "KMG".find(text[-1:].upper()) + 1
    return int(float(text[:-1] if exponent else text) * 1024**exponent)


def main() -> None:
    """Run the benchmark as the command line asks and print its results."""
    here = "native" if importlib.util.find_spec("quictunnel_native") else "aioquic"
    parser = argparse.ArgumentParser(description="Check that memory does not grow over many streams.")
    parser.add_argument("--engine", choices=list(AMOUNTS), default=here, help=f"default: {here}")
    parser.add_argument("--streams", type=int, help="0: none (default: 1,000,000; aioquic: 500,000)")
    parser.add_argument("--bytes", type=amount_of, help="with K, M or G; 0: none (default: 50G; aioquic: 4G)")
    parser.add_argument("--growth", type=amount_of, default=GROWTH, help="maximum growth of memory (default: 8M)")
    parser.add_argument("--slots", type=int, default=TRUSTED.streams, help="streams that a peer may have open")
    parser.add_argument("--loss", type=float, default=0.0, help="part of the bursts that is lost (default: 0)")
    options = parser.parse_args()
    engine, growth, loss = options.engine, options.growth, options.loss
    asked = zip((options.streams, options.bytes), AMOUNTS[engine], strict=True)
    streams, size = (default if wanted is None else wanted for wanted, default in asked)
    authority = trustme.CA()
    leaf = authority.issue_cert(NAME)
    with tempfile.TemporaryDirectory(prefix="quictunnel-soak-") as name:
        directory = Path(name)
        authority.cert_pem.write_to_path(directory / "ca.pem")
        leaf.cert_chain_pems[0].write_to_path(directory / "leaf.pem")
        leaf.private_key_pem.write_to_path(directory / "leaf.key")
        try:
            if streams:
                visits(engine, directory, streams, growth=growth, loss=loss, slots=options.slots)
            if size:
                bulk(engine, directory, size, growth=growth, loss=loss)
                check_key_updates(engine, directory)
        except Failed as failure:
            sys.exit(f"soak: {failure}")


if __name__ == "__main__":
    main()
