"""No address gets more than three times what came from it before it has shown that it receives (RFC 9000 section
8), and a client whose router gave it another port is found again all the same."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from quictunnel.transport.engine import Received
from quictunnel.transport.engines import create_engine
from tests.transport.engine_pair import CLIENT, EDGE, Pair, forge, settings_for, stream_frame
from tests.transport.engine_pairings import engines

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["engines"]

SPOOFED = [(f"9.9.9.{number}", 53) for number in range(64)]
PING = b"\x01"
MTU = 1472


@pytest.fixture
def pair(paths: dict[str, Path], engines: tuple[str, str]) -> Pair:
    names = dict(zip(("client", "edge"), engines, strict=True))
    more = {"largest_datagram": MTU}
    client, edge = (create_engine(settings_for(side, paths, **more), name) for side, name in names.items())
    pair = Pair(client, edge)  # type: ignore[arg-type]  # whatever engines
    pair.client_address = ("8.8.4.4", 50_000)  # may move to any public address
    return pair


class TrafficCount:
    """Bytes that the edge received from each address and sent to it."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.got: Counter[tuple] = Counter()
        self.sent: Counter[tuple] = Counter()

    def deliver(self, datagram: bytes, address: tuple[str, int]) -> None:
        self.got[address] += len(datagram)
        self.pair.edge.engine.receive([Received(datagram, len(datagram), address)], self.pair.now)
        self.let_edge_send()

    def let_edge_send(self) -> None:
        pair = self.pair
        due = pair.edge.engine.timeout()
        if due is not None and due <= pair.now:
            pair.edge.engine.expire(pair.now)
        pair.edge.collect()
        bursts = list(pair.edge.engine.transmit(pair.now))
        for burst in bursts:
            self.sent[burst.address] += sum(map(len, burst.parts))
        pair.deliver(pair.edge, bursts)

    def check(self) -> None:
        spoofed = [address for address in self.sent if address != self.pair.client_address]
        assert {address: self.sent[address] / max(1, self.got[address]) for address in spoofed} == {
            address: pytest.approx(1.5, abs=1.5) for address in spoofed
        }
        assert all(self.sent[address] <= 3 * self.got[address] for address in spoofed)


def client_says(pair: Pair) -> list[bytes]:
    return [
        joined[at : at + burst.segment]
        for burst in pair.client.engine.transmit(pair.now)
        for joined in [b"".join(burst.parts)]
        for at in range(0, len(joined), burst.segment)
    ]


@pytest.mark.parametrize("addresses", [1, 8, 9, 64])
@pytest.mark.parametrize("has_data", [False, True], ids=["idle", "bulk"])
def test_pings_with_spoofed_addresses(pair: Pair, addresses: int, has_data: bool):
    """The connection seems to move with each; the edge may have a window of bytes to send."""
    client, edge = pair.connect()
    pair.settle(2)
    stream = edge.open()
    traffic = TrafficCount(pair)
    for number in range(200):
        pair.now += 0.003
        if has_data:
            edge.write(stream, bytes(64 * 1024))
        client.ping()
        for datagram in client_says(pair):
            traffic.deliver(datagram, SPOOFED[number % addresses])
    for _ in range(100):  # what time-outs bring
        pair.now += 0.05
        traffic.let_edge_send()
    assert traffic.sent
    traffic.check()


def forged(pair: Pair, traffic: TrafficCount, frames: Callable[[int], bytes], count: int = 100) -> None:
    for number in range(count):
        pair.now += 0.003
        traffic.deliver(forge(pair.connection, frames(number)), SPOOFED[number % 10])
    for _ in range(100):
        pair.now += 0.05
        traffic.let_edge_send()
    traffic.check()


NUMBERS = [
    pytest.param(lambda n: b"\x1a" + n.to_bytes(8, "big"), id="challenges"),
    pytest.param(lambda n: PING + b"\x1a" + n.to_bytes(8, "big"), id="challenges of a new path"),
    pytest.param(lambda n: PING + b"\x1b" + n.to_bytes(8, "big"), id="answers to nothing"),
    pytest.param(lambda n: b"".join(b"\x1b" + (n * 99 + i).to_bytes(8, "big") for i in range(99)), id="guesses"),
    pytest.param(lambda n: PING, id="pings"),
    pytest.param(lambda n: stream_frame(0, n, b"x"), id="bytes of a stream"),
]


@pytest.mark.parametrize("frames", NUMBERS)
@pytest.mark.parametrize("has_data", [False, True], ids=["idle", "bulk"])
def test_frames_from_another_address(pair: Pair, engines: tuple[str, str], frames, has_data: bool):
    if engines[0] != "aioquic":
        pytest.skip("packets can be forged with the keys of an aioquic client")
    client, edge = pair.connect()
    pair.settle(2)
    client.open()
    if has_data:
        edge.write(edge.open(), bytes(400_000))
    forged(pair, TrafficCount(pair), frames)


def test_close_towards_a_silent_address(pair: Pair, engines: tuple[str, str]):
    if engines[0] != "aioquic":
        pytest.skip("packets can be forged with the keys of an aioquic client")
    _, edge = pair.connect()
    traffic = TrafficCount(pair)
    traffic.deliver(forge(pair.connection, PING), SPOOFED[0])
    edge.close(0, "x" * 200)
    traffic.let_edge_send()
    for _ in range(100):
        traffic.deliver(forge(pair.connection, PING)[:21], SPOOFED[0])
    traffic.check()


@pytest.mark.parametrize("flights", [1, 5])
def test_a_first_flight_without_retry(paths: dict[str, Path], engines: tuple[str, str], flights: int):
    edge = create_engine(settings_for("edge", paths, retry=False), engines[1])
    client = create_engine(settings_for("client", paths), engines[0])
    pair = Pair(client, edge)  # type: ignore[arg-type]  # whatever engines
    traffic = TrafficCount(pair)
    pair.connection = client.connect(EDGE, "edge.test", pair.now)
    pair.client_address = ("192.0.2.99", 1)  # nobody hears it
    said = client_says(pair)
    for _ in range(flights):
        for datagram in said:
            traffic.deliver(datagram, CLIENT)
        pair.now += 0.4
    for _ in range(100):
        pair.now += 0.05
        traffic.let_edge_send()
    assert traffic.sent[CLIENT] > 1000
    traffic.check()


# Clients that are elsewhere indeed.


def move(pair: Pair, delay: float = 0.02) -> None:
    """Nothing that is sent to the old port arrives any more."""
    for link in (pair.up, pair.down):
        link.delay, link.rate = delay, 5e6
    pair.move_client((pair.client_address[0], 50_001))


def is_found(pair: Pair) -> bool:
    return pair.edge.connections[-1].address == pair.client_address


def test_a_quiet_client_is_found_with_one_ping(pair: Pair):
    client, edge = pair.connect()
    stream = edge.open()
    edge.write(stream, b"x")
    pair.settle(2)
    move(pair)
    client.ping()
    pair.settle(0.1)  # a challenge there and back
    edge.write(stream, bytes(100_000))
    pair.settle(0.5)
    assert is_found(pair)
    assert len(pair.client.received[stream]) == 100_001


def test_a_client_that_says_a_few_bytes_is_found_at_once(pair: Pair):
    client, edge = pair.connect()
    stream = edge.open()
    edge.write(stream, b"x")
    pair.settle(2)
    move(pair)
    client.write(stream, b"a key")
    pair.settle(0.15)
    assert is_found(pair)
    edge.write(stream, bytes(100_000))
    pair.settle(0.5)
    assert len(pair.client.received[stream]) == 100_001


@pytest.mark.parametrize("has_stragglers", [False, True], ids=["silent", "stragglers"])
def test_a_download_goes_on_after_one_ping(pair: Pair, has_stragglers: bool):
    """The edge's window is full of what was lost, and the client has nothing to say but that it is there, and
    perhaps what it has received before."""
    for link in (pair.up, pair.down):
        link.delay, link.rate = 0.02, 5e6
    client, edge = pair.connect()
    stream = edge.open()

    def write(seconds: float) -> int:
        until = pair.now + seconds
        while pair.now < until:
            edge.write(stream, bytes(256 * 1024))
            pair.settle(0.01)
        return len(pair.client.received[stream])

    write(1.0)
    if not has_stragglers:
        pair.down.down = True
        pair.settle(0.05)
        pair.down.down = False
    move(pair)
    before = write(1.0)  # its engine may have found out by itself
    client.ping()
    assert write(1.0) > before + 1_000_000
    assert is_found(pair)
