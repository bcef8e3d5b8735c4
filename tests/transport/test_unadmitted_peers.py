"""Places for peers that have not been admitted: a network's share of them, on both engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from quictunnel.transport.engine import CloseCause, Closed, Connected, Received
from quictunnel.transport.engines import create_engine
from quictunnel.transport.engines.aioquic.unadmitted_peers import MIN_PLACE_TIME, UnadmittedPeers, source_of
from tests.transport.engine_pair import EDGE, settings_for
from tests.transport.engine_pairings import ENGINES, needs_native

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from quictunnel.transport.engine import Connection, Engine

PLACES = 8
OVERLOADED = 0x17
FLOODER = "203.0.113.66"
HONEST = "198.51.100.7"


class FloodRig:
    """An edge with few places, and clients at whatever address; nothing takes time but :attr:`now`."""

    def __init__(self, paths: dict[str, Path], name: str, **settings: object) -> None:
        more = {"max_unadmitted": PLACES, "eviction_code": OVERLOADED} | settings
        self.edge: Engine = create_engine(settings_for("edge", paths, **more), name)
        self.now = 1.0
        self.accepted: list[Connection] = []
        self._paths = paths
        self._port = 1024
        self._answers: dict[tuple, list[Received]] = {}

    def client(self, host: str, *, turns: int) -> Client:
        """A client that has exchanged so many flights with the edge; three complete the handshake after Retry."""
        self._port += 1
        client = Client(create_engine(settings_for("client", self._paths), "aioquic"), (host, self._port))
        client.engine.connect(EDGE, "edge.test", self.now)
        for _ in range(turns):
            self.exchange(client)
        return client

    def exchange(self, client: Client) -> None:
        self.edge.receive(
            [Received(data, len(data), client.address) for data in _sent(client.engine, self)], self.now
        )
        self.collect()
        for data, address in self.flush():
            self._answers.setdefault(address, []).append(Received(data, len(data), EDGE))
        client.engine.receive(self._answers.pop(client.address, []), self.now)
        client.events += [event for _, event in client.engine.poll()]

    def flush(self) -> Iterator[tuple[bytes, tuple]]:
        for burst in self.edge.transmit(self.now):
            joined = b"".join(burst.parts)
            for start in range(0, len(joined), burst.segment):
                yield joined[start : start + burst.segment], burst.address

    def collect(self) -> None:
        for connection, event in self.edge.poll():
            if isinstance(event, Connected):
                self.accepted.append(connection)

    @property
    def pending_handshakes(self) -> int:
        if self.edge.name == "native":
            return self.edge._engine.population()[1]  # type: ignore[attr-defined]
        return len(self.edge._unadmitted)  # type: ignore[attr-defined]


class Client:
    """Connection from an address of its own."""

    def __init__(self, engine: Engine, address: tuple[str, int]) -> None:
        self.engine = engine
        self.address = address
        self.events: list[object] = []

    @property
    def is_connected(self) -> bool:
        return any(isinstance(event, Connected) for event in self.events)

    @property
    def end(self) -> tuple[CloseCause, int] | None:
        ends = [(event.cause, event.code) for event in self.events if isinstance(event, Closed)]
        return ends[0] if ends else None


def _sent(engine: Engine, rig: FloodRig) -> list[bytes]:
    return [
        part
        for burst in engine.transmit(rig.now)
        for joined in [b"".join(burst.parts)]
        for part in [joined[at : at + burst.segment] for at in range(0, len(joined), burst.segment)]
    ]


STOPS = pytest.mark.parametrize("turns", [2, 4], ids=["half", "silent"])
"""A handshake that stops after the edge's flight, and a complete one without a Hello."""


@pytest.fixture(params=[pytest.param(name, marks=[needs_native] if name == "native" else []) for name in ENGINES])
def rig(request: pytest.FixtureRequest, paths: dict[str, Path]) -> FloodRig:
    return FloodRig(paths, request.param)


@STOPS
def test_flood_from_one_host_keeps_no_other_out(rig: FloodRig, turns: int):
    flood = [rig.client(FLOODER, turns=turns) for _ in range(PLACES * 3)]
    counters = rig.edge.counters
    assert counters.handshakes_begun == rig.pending_handshakes == PLACES
    assert counters.half_open_refused == PLACES * 2
    honest = [rig.client(f"198.51.{number}.7", turns=4) for number in range(PLACES // 2)]
    assert all(client.is_connected and client.end is None for client in honest)
    assert rig.pending_handshakes == PLACES
    assert rig.edge.counters.unadmitted_evicted == PLACES // 2
    if turns > 2:
        for client in flood[: PLACES // 2]:  # the oldest
            rig.exchange(client)
            assert client.end == (CloseCause.PEER, OVERLOADED)


@STOPS
def test_a_client_at_the_flooders_own_address_gets_in_after_a_while(rig: FloodRig, turns: int):
    """Behind one NAT nobody can tell them apart: the places that have been held for longest are given up."""
    for _ in range(PLACES * 2):
        rig.client(FLOODER, turns=turns)
    rig.now += MIN_PLACE_TIME
    assert rig.client(FLOODER, turns=4).is_connected
    assert rig.pending_handshakes == PLACES


def test_an_address_that_was_never_proven_is_not_counted(rig: FloodRig):
    """An attacker who forges an honest client's address does not make that client the largest holder."""
    for _ in range(PLACES * 4):
        rig.client(HONEST, turns=1)  # the Retry goes to the honest one
    assert rig.pending_handshakes == 0
    assert rig.edge.counters.retries_sent == PLACES * 4
    for _ in range(PLACES):
        rig.client(FLOODER, turns=4)
    assert rig.client(HONEST, turns=4).is_connected


@pytest.mark.parametrize("name", [pytest.param("native", marks=needs_native), "aioquic"])
def test_without_retry_all_addresses_are_one(paths: dict[str, Path], name: str):
    rig = FloodRig(paths, name, retry=False)
    for number in range(PLACES * 2):
        rig.client(f"198.51.{number}.7", turns=1)
    assert rig.pending_handshakes == PLACES
    assert rig.edge.counters.half_open_refused == PLACES


def test_an_admitted_client_needs_no_place(rig: FloodRig):
    for _ in range(PLACES * 3):
        client = rig.client(HONEST, turns=4)
        rig.accepted[-1].admit()
        rig.exchange(client)
        assert client.end is None
    assert rig.pending_handshakes == 0
    assert rig.edge.counters.half_open_refused == 0


def test_handshakes_that_are_given_up_at_once_are_as_few_as_others(rig: FloodRig):
    """The cost of a handshake is charged at its end: ending it soon does not buy another one."""
    for _ in range(PLACES * 3):
        client = rig.client(FLOODER, turns=4)
        if client.is_connected:
            rig.accepted[-1].close(0)
            rig.exchange(client)
    assert rig.edge.counters.handshakes_begun == PLACES
    assert rig.pending_handshakes == 0
    assert rig.client(HONEST, turns=4).is_connected
    rig.now += MIN_PLACE_TIME
    assert rig.client(FLOODER, turns=4).is_connected


def test_a_replaced_handshake_leaves_nothing(rig: FloodRig):
    for _ in range(PLACES):
        rig.client(FLOODER, turns=2)
    for number in range(PLACES // 2):
        rig.client(f"198.51.{number}.7", turns=4)
    if rig.edge.name == "native":
        assert rig.edge._engine.population() == (PLACES, PLACES)  # type: ignore[attr-defined]
    else:
        assert len(rig.edge._connections) == PLACES  # type: ignore[attr-defined]


# The places alone, as the reference engine has them.


def enter(peers: UnadmittedPeers[int], number: int, host: str, now: float) -> object:
    entry = peers.enter(number, (host, 1), now)
    return entry.evicted if entry.has_place else "refused"


def test_many_hosts_of_one_network_are_one_flood():
    peers: UnadmittedPeers[int] = UnadmittedPeers(64)
    for number in range(64):
        assert enter(peers, number, f"2001:db8:1:{number:x}::1", number / 1000) is None
    for number in range(30):
        assert enter(peers, 64 + number, f"2001:db8:{2 + number:x}::1", 0.1) == number


def test_equals_do_not_take_places_from_each_other_in_turn():
    peers: UnadmittedPeers[int] = UnadmittedPeers(8)
    for number in range(8):
        enter(peers, number, "192.0.2.1", 0.0)
    hosts = ("198.51.100.1", "192.0.2.1")
    taken = [enter(peers, 8 + turn, hosts[turn % 2], 0.5) != "refused" for turn in range(1000)]
    assert sum(taken) == 4


def test_kept_state_is_bounded():
    peers: UnadmittedPeers[int] = UnadmittedPeers(16)
    now = 0.0
    for number in range(20_000):
        now += number % 7 / 10_000
        enter(peers, number, f"10.{number % 7}.{number % 31}.1", now)
        if number % 3 == 0:
            peers.connection_ended(number - number % 5)
        if number % 11 == 0:
            peers.admit(number - number % 2)
        assert len(peers) <= len(peers._places) <= 16
        assert sum(map(len, peers._by_host.values())) == len(peers._places)
    for number in list(peers._places):
        peers.admit(number)
    assert not peers._ended
    assert not peers._by_host
    assert not peers._hosts
    assert not peers._networks.sizes


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.7", ("192.0.2.0/24", "192.0.2.7")),
        ("::ffff:192.0.2.7", ("192.0.2.0/24", "192.0.2.7")),
        ("2001:db8:1:2:3::4", ("2001:db8:1::/48", "2001:db8:1:2::/64")),
        ("fe80::1%eth0", ("fe80::/48", "fe80::/64")),
        ("client-1", ("client-1", "client-1")),
    ],
)
def test_addresses_are_grouped_by_network(address, source):
    assert source_of(address) == source
