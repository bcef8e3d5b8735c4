"""Tests of the check that a domain points to the edge, as far as names can be resolved."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from edge_server.config.edge_config import parse
from edge_server.tunnels import domain_check
from edge_server.tunnels.domain_check import (
    MAX_CACHED,
    MAX_CHECKS,
    MAX_CHECKS_PER_OWNER,
    DomainCheck,
    addresses_from,
    system_addresses,
)
from edge_server.wiring import domain_check_of
from quictunnel.errors import ConfigError
from tests.edge_server.certificates.acme.pebble import Names, names

if TYPE_CHECKING:
    from collections.abc import Iterator


class Resolver:
    """Knows some names; asked of others it fails."""

    def __init__(self, **known: str) -> None:
        self.known = {name.replace("_", "."): frozenset(addresses.split()) for name, addresses in known.items()}
        self.asked: list[str] = []

    async def __call__(self, name: str) -> frozenset[str]:
        self.asked.append(name)
        try:
            return self.known[name]
        except KeyError:
            raise OSError("no such name") from None


def test_without_a_resolver_everything_points_here():
    assert asyncio.run(DomainCheck().points_here("app.example.com"))


async def test_single_common_address_is_enough():
    resolver = Resolver(
        edge_example="192.0.2.1 2001:db8::1", a_example="2001:db8::1 192.0.2.9", b_example="192.0.2.9"
    )
    domains = DomainCheck(["", "edge.example", "192.0.2.7"], resolver)
    assert await domains.points_here("a.example")
    assert not await domains.points_here("b.example")
    assert not await domains.points_here("nowhere.example")
    resolver.known["c.example"] = frozenset(["192.0.2.7"])
    assert await domains.points_here("c.example")


async def test_edge_without_known_addresses_accepts_domains():
    assert await DomainCheck(["edge.example"], Resolver(b_example="192.0.2.9")).points_here("b.example")


async def test_a_resolver_that_fails_takes_nothing_away_from_its_owner():
    resolver = Resolver(edge_example="192.0.2.1", b_example="192.0.2.9")
    domains = DomainCheck(["edge.example"], resolver)
    assert await domains.points_here("mine.example", is_known=True)
    assert not await domains.points_here("b.example", is_known=True), "it does point elsewhere"


async def test_positive_answers_are_cached():
    resolver = Resolver(edge_example="192.0.2.1", a_example="192.0.2.1")
    domains = DomainCheck(["edge.example"], resolver)
    assert await domains.points_here("a.example")
    resolver.asked.clear()
    assert await domains.points_here("a.example")
    assert resolver.asked == []
    for number in range(MAX_CACHED):
        resolver.known[f"n{number}"] = frozenset(["192.0.2.1"])
        await domains.points_here(f"n{number}")
    resolver.asked.clear()
    await domains.points_here("a.example")
    assert "a.example" in resolver.asked, "no more are remembered than may be"


@pytest.mark.parametrize(("owners", "places"), [(60, MAX_CHECKS), (1, MAX_CHECKS_PER_OWNER)])
async def test_so_many_are_looked_up_at_once_and_none_for_ever(
    monkeypatch: pytest.MonkeyPatch, owners: int, places: int
):
    monkeypatch.setattr(domain_check, "LOOKUP_TIMEOUT", 0.02)
    now, most = 0, 0

    async def slow(_: str) -> frozenset[str]:
        nonlocal now, most
        now += 1
        most = max(most, now)
        try:
            await asyncio.Event().wait()
        finally:
            now -= 1
        return frozenset()

    domains = DomainCheck(["192.0.2.1"], slow)
    found = await asyncio.gather(
        *(
            domains.points_here(f"n{number}.example", owner=f"o{number % owners}")
            for number in range(3 * MAX_CHECKS)
        )
    )
    assert not any(found)
    assert most == places
    assert now == 0
    assert not domains._slots_of_owner


async def test_slow_lookups_delay_only_their_owner():
    never, answers = asyncio.Event(), {"edge.example": "192.0.2.1", "good.example": "192.0.2.1"}

    async def resolve(name: str) -> frozenset[str]:
        if name not in answers:
            await never.wait()
        return frozenset((answers[name],))

    domains = DomainCheck(["edge.example"], resolve)
    slow = [
        asyncio.create_task(domains.points_here(f"n{number}.example", owner="slow"))
        for number in range(2 * MAX_CHECKS)
    ]
    await asyncio.sleep(0)
    async with asyncio.timeout(2):
        assert await domains.points_here("good.example", owner="another")
    for task in slow:
        task.cancel()
    await asyncio.wait(slow)
    assert not domains._slots_of_owner


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Names]:
    with names(tmp_path_factory.mktemp("names")) as found:
        yield found


async def test_a_name_server_of_the_operators_choice(server: Names):
    server.point("far.example.org", "203.0.113.5")
    addresses = addresses_from(("127.0.0.1", server.dns))
    assert await addresses("far.example.org") == {"203.0.113.5"}
    server.break_("broken.example.org")
    with pytest.raises(OSError, match=r"broken\.example\.org"):
        await addresses("broken.example.org")
    config = parse(["--domain", "tunnel.example.com", "--resolver", f"127.0.0.1:{server.dns}"])
    assert not await domain_check_of(config).points_here("far.example.org")
    assert await domain_check_of(config).points_here("near.example.org")
    skips = parse(["--domain", "tunnel.example.com", "--resolver", "127.0.0.1:1", "--skip-domain-check"])
    assert await domain_check_of(skips).points_here("far.example.org")


async def test_name_server_may_be_given_by_name(server: Names):
    server.point("far.example.org", "203.0.113.5")
    assert await addresses_from(("localhost", server.dns))("far.example.org") == {"203.0.113.5"}
    with pytest.raises(ConfigError, match=r"--resolver nowhere\.invalid cannot be found"):
        addresses_from(("nowhere.invalid", 53))


async def test_the_systems_own_resolver():
    assert "127.0.0.1" in await system_addresses("127.0.0.1")
    with pytest.raises(OSError, match=r"(?i)name|resol|address|node"):
        await system_addresses("nowhere.invalid")


@pytest.mark.parametrize(
    ("https", "is_ours"), [("198.51.100.7:443", False), ("0.0.0.0:443", False), ("8.8.4.4:443", True)]
)
def test_an_address_of_the_public_network_is_the_edges_own(https: str, is_ours: bool):
    own = domain_check_of(
        parse(["--domain", "t.example.com", "--https", https, "--public-host", "p.example.com"])
    )._own_names
    assert own[:3] == ["p.example.com", "t.example.com", "edge.t.example.com"]
    assert (https.partition(":")[0] in own) is is_ours


async def test_names_that_hang_in_the_systems_resolver_hold_up_no_other_work(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(domain_check, "LOOKUP_TIMEOUT", 0.02)
    release = threading.Event()
    monkeypatch.setattr("edge_server.tunnels.domain_check.socket.getaddrinfo", lambda *_: release.wait(10) and [])
    domains = DomainCheck(["192.0.2.1"], system_addresses)
    try:
        found = await asyncio.gather(
            *(domains.points_here(f"n{number}.example", owner="slow") for number in range(24))
        )
        assert not any(found)
        async with asyncio.timeout(2):
            await asyncio.to_thread(lambda: None)
    finally:
        release.set()
