"""Places that are few: who gives one up."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest

from edge_server.resources.fair_places import MIN_PER_NETWORK, NETWORK_DIVISOR, FairPlaces
from edge_server.resources.peer_network import network_prefix, peer_prefix
from tests.harness.manual_clock import ManualClock


def places(limit: int, **more: int) -> FairPlaces[str]:
    return FairPlaces(limit, protected_for=1.0, clock=ManualClock(), **more)


def networks(count: int) -> list[str]:
    return [f"10.{number >> 8}.{number & 255}.1" for number in range(count)]


def test_no_place_is_taken_while_there_is_room():
    full = places(100)
    assert [full.acquire(f"visitor {number}", "10.0.0.1") for number in range(100)] == [None] * 100
    assert (len(full), full.evictions) == (100, 0)


def test_leaving_holder_frees_its_place():
    full = places(1)
    full.acquire("first", "10.0.0.1")
    full.release("first")
    full.release("first")
    assert full.acquire("second", "10.0.1.1") is None
    assert "first" not in full
    assert list(full) == ["second"]


@pytest.mark.parametrize("flood", ["10.9.9.9", "10.9.9.{}", "2001:db8:9::{:x}", "2001:db8:9:{:x}::1"])
def test_the_network_that_holds_the_most_gives_way(flood: str):
    """The flood comes from one address, a /24, a /64 or a /48. The others keep their places however long it
    lasts, and newcomers find one."""
    full = places(64)
    for number, host in enumerate(networks(20)):
        full.acquire(f"honest {number}", host)
    for number in range(500):
        loser = full.acquire(f"flood {number}", flood.format(number % 250))
        assert loser is None or loser.startswith("flood")
    for number, host in enumerate(networks(40)[20:]):
        assert (full.acquire(f"late {number}", host) or "").startswith("flood")
    assert sum(not each.startswith("flood") for each in full) == 40
    assert full.largest_network() == (network_prefix(flood.format(0)), 24)


def test_neighbour_of_a_flood_keeps_its_place():
    full = places(16)
    full.acquire("neighbour", "10.9.9.1")
    for number in range(100):
        full.acquire(f"flood {number}", "10.9.9.9")
    assert "neighbour" in full


def test_within_an_address_the_oldest_gives_way():
    """A flood keeps its places for as long as it can, an honest visitor for a round trip or two."""
    full = places(3)
    for number in range(3):
        full.acquire(f"{number}", "10.9.9.9")
    assert [full.acquire(f"{number}", "10.9.9.9") for number in range(3, 6)] == ["0", "1", "2"]


def test_distributed_flood_of_a_token_costs_others_nothing():
    """Also a browser of theirs, which has six connections from one address."""
    full = places(256)
    for number in range(6):
        full.acquire(f"browser {number}", "192.0.2.1", owner="victim", tunnel_name="site")
    for number, host in enumerate(networks(2000)):
        full.acquire(f"flood {number}", host, owner="famous", tunnel_name=f"{number % 50}")
    assert sum(each.startswith("browser") for each in full) == 6


def test_flood_from_one_network_spares_the_flooded_token():
    """A tunnel that is popular holds more than the flood, from many networks: the flood makes room."""
    full = places(256)
    for number, host in enumerate(networks(150)):
        full.acquire(f"popular {number}", host, owner="popular", tunnel_name="site")
    for number in range(500):
        full.acquire(f"flood {number}", "198.51.100.7", owner="other", tunnel_name="other")
    assert sum(each.startswith("popular") for each in full) == 150


def test_at_most_so_many_at_one_lease():
    full = places(100, limit_per_tunnel=5)
    for number in range(20):
        full.acquire(f"flood {number}", "198.51.100.7", owner="one", tunnel_name="one")
    assert [full.acquire(f"honest {n}", f"10.0.{n}.1", owner="one", tunnel_name="one") for n in range(2)] == [
        "flood 15",
        "flood 16",
    ]
    assert len(full) == 5
    assert full.acquire("elsewhere", "198.51.100.7", owner="one", tunnel_name="two") is None


def test_an_only_place_is_kept_for_a_while():
    """Of a crowd in which nobody has two, nobody loses one that was taken a moment ago: the newcomer has to go."""
    clock = ManualClock()
    full: FairPlaces[str] = FairPlaces(3, protected_for=1.0, clock=clock)
    for host in networks(3):
        full.acquire(host, host)
    assert full.acquire("too soon", "192.0.2.1") == "too soon"
    clock.now += 1.0
    assert full.acquire("later", "192.0.2.1") == networks(3)[0]


def test_another_token_does_not_wait_for_that():
    """A token whose visitors all come from different networks, as at a popular tunnel, still makes room for
    others."""
    full = places(16)
    for number, host in enumerate(networks(40)):
        full.acquire(f"famous {number}", host, owner="famous", tunnel_name="site")
    for number in range(8):
        assert (full.acquire(f"{number}", "192.0.2.1", owner="other", tunnel_name="") or "").startswith("famous")


def test_owner_of_a_place_may_be_set_later():
    full = places(64)
    for number, host in enumerate(networks(64)):
        full.acquire(host, host)
        full.assign(host, owner="famous" if number % 2 else f"owner {number}", tunnel_name="")
    full._clock.now += 1.0
    assert full.acquire("newcomer", "192.0.2.1") == networks(2)[1]


def test_holders_that_left_are_forgotten():
    full = places(8)
    for number, host in enumerate(networks(100)):
        full.acquire(host, host, owner=f"{number}", tunnel_name=f"{number}")
    for each in full:
        full.release(each)
    for groups in (full._by_source, full._by_target):
        assert (groups.size, groups._members, groups._by_size, groups._largest) == (0, {}, {}, 0)


LIMIT = 40


class NaivePlaces:
    """The same rules, by looking at everybody each time."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.all: dict[int, tuple[str, ...]] = {}

    def may_go(self) -> set[int]:
        network, address, owner, tunnel_name = range(4)
        held = Counter(fields[network] for fields in self.all.values())
        is_flood = max(held.values()) > max(MIN_PER_NETWORK, self.limit // NETWORK_DIVISOR)
        return self._of(list(self.all), [network, address] if is_flood else [owner, tunnel_name, network, address])

    def _of(self, among: list[int], order: list[int]) -> set[int]:
        """Return the members of the largest group of the largest group; any of several of one size."""
        if not order:
            return set(among)
        groups: dict[str, list[int]] = {}
        for each in among:
            groups.setdefault(self.all[each][order[0]], []).append(each)
        most = max(map(len, groups.values()))
        return set().union(*(self._of(group, order[1:]) for group in groups.values() if len(group) == most))


@pytest.mark.parametrize("seed", range(5))
def test_as_if_everybody_were_looked_at(seed: int):
    chance = random.Random(seed)
    full: FairPlaces[int] = FairPlaces(LIMIT, protected_for=0.0, clock=ManualClock())
    naive = NaivePlaces(LIMIT)
    for number in range(2000):
        host = f"10.0.{min(chance.randrange(12), chance.randrange(12))}.{chance.randrange(3)}"
        owner, tunnel_name = f"{min(chance.randrange(9), chance.randrange(9))}", f"{chance.randrange(2)}"
        naive.all[number] = (network_prefix(host), peer_prefix(host), owner, tunnel_name)
        loser = full.acquire(number, host, owner=owner, tunnel_name=tunnel_name)
        if len(naive.all) > naive.limit:
            assert loser in naive.may_go()
            del naive.all[loser]
        else:
            assert loser is None
        if chance.random() < 0.3:
            leaver = chance.choice(list(naive.all))
            full.release(leaver)
            del naive.all[leaver]
        if naive.all and chance.random() < 0.3:
            mover = chance.choice(list(naive.all))
            naive.all[mover] = (*naive.all[mover][:2], "9", "9")
            full.assign(mover, owner="9", tunnel_name="9")
    assert set(full) == set(naive.all)


def test_entry_costs_the_same_among_thousands():
    def cost(limit: int) -> float:
        full: FairPlaces[int] = FairPlaces(limit, protected_for=1.0, clock=ManualClock())
        for number in range(limit):
            full.acquire(number, f"10.{number & 63}.{number >> 6 & 63}.{number >> 12}")
        began = time.process_time()
        for number in range(limit, limit + 1000):
            full.acquire(number, f"10.{number & 63}.{number >> 6 & 63}.1")
        return time.process_time() - began

    assert min(cost(2048) / cost(64) for _ in range(3)) < 4
