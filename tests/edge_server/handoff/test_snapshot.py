"""What an edge notes of the names that it holds, and for whom the next one keeps them."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import stat
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from edge_server.auth.permissions import Identity, Permissions
from edge_server.auth.token_registry import TokenRegistry
from edge_server.auth.token_store import TokenStore
from edge_server.handoff import snapshot
from edge_server.handoff.snapshot import (
    FILE,
    HEAD,
    MAX_AGE,
    RETURN,
    STAMP,
    VERSION,
    Sheet,
    SnapshotEntry,
)
from edge_server.tunnels.lease import Lease
from edge_server.tunnels.options import TunnelOptions
from edge_server.tunnels.ownership_store import OwnershipStore as ClaimStore
from edge_server.tunnels.tunnel_record import TunnelRecord
from quictunnel.wire.codes import BindCode
from tests.edge_server.tunnels.bind_rig import Client, build

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from edge_server.wiring import EdgeServices
    from tests.edge_server.conftest import Clock

KEY = bytes(range(32))
RANDOM = "abcdefghijklmno2"


class Edge:
    """One run of it."""

    def __init__(self, directory: Path, clock: Clock, *, now: float | None = None) -> None:
        clock.now = clock.now if now is None else now
        self.path = directory / FILE
        self.services = dataclasses.replace(build(directory), tokens=TokenRegistry("", TokenStore(directory)))
        self.last_held = self.services.make_snapshot(directory, KEY, clock)
        self.clients: list[Client] = []

    def client(self, identity: Identity) -> Client:
        self.clients.append(Client(self.services, identity))
        return self.clients[-1]

    async def note(self, *, is_last: bool = False) -> None:
        """As it does all the time, and at its stop."""
        await self.last_held._look(is_last=is_last)

    async def end(self) -> None:
        """Nothing of it is left but what it has written."""
        await asyncio.sleep(0)  # what has just been given begins to listen
        for client in self.clients:
            client.holdings.release_all(for_good=False)
        self.services.pending.give_up_all()
        await self.last_held.close()
        await self.services.close()
        await asyncio.sleep(0)

    def held(self) -> dict[str, int]:
        """Names and their ports."""
        return {lease.name: lease.tcp_port for lease in self.services.registry}


class Runs:
    """Of one edge, one after the other."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self.directory = directory
        self.clock = clock
        self.path = directory / FILE
        self._running: list[Edge] = []

    async def begin(self) -> Edge:
        """It is started, after the one before has ended."""
        await self.end()
        edge = Edge(self.directory, self.clock)
        self._running.append(edge)
        await edge.last_held.expect()
        return edge

    async def end(self) -> None:
        for edge in self._running:
            await edge.end()
        self._running.clear()

    def owner(self, **rights: Any) -> Identity:
        _, entry = TokenStore(self.directory).create(Permissions(**rights), "", 0)
        return entry.identity

    def forge(self, *names: TunnelRecord, is_last: bool = True) -> None:
        """By somebody who has the key."""
        sheet = Sheet(is_last, [SnapshotEntry(name, 0) for name in names])
        cipher, nonce = snapshot.AESGCM(KEY), bytes(snapshot.NONCE)
        sealed = cipher.encrypt(nonce, msgspec.msgpack.encode(sheet), HEAD + VERSION + b"example.com")
        self.path.write_bytes(HEAD + VERSION + nonce + sealed)
        os.utime(self.path, (self.clock.now,) * 2)


@pytest.fixture
async def runs(tmp_path: Path, clock: Clock) -> AsyncIterator[Runs]:
    runs = Runs(tmp_path, clock)
    yield runs
    await runs.end()


async def test_a_name_its_terms_and_its_port_are_kept_for_their_owner_alone(runs: Runs) -> None:
    owner, other = runs.owner(), runs.owner()
    edge = await runs.begin()
    client = edge.client(owner)
    given = client.got(1, unencrypted=True, allow=["127.0.0.0/8"])
    client.got(2, name="shop", unencrypted=True, tcp_port=17_042)
    client.got(3, name="plain", passthrough=True)
    before = edge.held()
    await edge.note(is_last=True)
    edge = await runs.begin()
    assert edge.held() == before
    lease = edge.services.registry.find(given.host.partition(".")[0])
    assert lease is not None
    assert (lease.session, lease.terms.allow, lease.owner) == (None, ["127.0.0.0/8"], owner.key)
    stranger = edge.client(other)
    assert stranger.ask(1, name="shop") is BindCode.NAME_TAKEN
    assert stranger.ask(2, unencrypted=True, tcp_port=17_042) is BindCode.PORT_TAKEN
    assert stranger.got(3, ticket=given.ticket, unencrypted=True).host != given.host
    again = edge.client(owner).got(1, ticket=given.ticket, unencrypted=True)
    assert (again.host, again.unencrypted_port) == (given.host, given.unencrypted_port)


async def test_it_is_kept_for_a_short_time(runs: Runs) -> None:
    edge = await runs.begin()
    edge.client(runs.owner()).got()
    await edge.note()
    edge = await runs.begin()
    (wait,) = edge.services.pending._waits.values()
    assert 0 <= asyncio.get_running_loop().time() + RETURN - wait.end.when() < 1


@pytest.mark.parametrize(("away", "is_kept"), [(MAX_AGE, True), (MAX_AGE + 1, False), (-MAX_AGE - 1, False)])
async def test_who_was_there_long_ago_is_not_waited_for(runs: Runs, away: float, is_kept: bool) -> None:
    edge = await runs.begin()
    edge.client(runs.owner()).got()
    await edge.note(is_last=True)
    runs.clock.now += away
    assert bool((await runs.begin()).held()) is is_kept


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
async def test_a_clock_that_was_set_while_it_ran_is_what_the_next_one_goes_by(runs: Runs, jump: float) -> None:
    edge = await runs.begin()
    edge.client(runs.owner()).got()
    await edge.note()
    runs.clock.now += jump
    await edge.note()  # as it does each ten seconds
    assert (await runs.begin()).held()


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
async def test_how_long_a_client_has_been_away_is_no_matter_of_the_clock(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    edge = await runs.begin()
    began = time.time()
    await edge.services.pending.add(TunnelRecord(RANDOM, "a", 1, TunnelOptions(), 0), None, left=began - 20)
    (lease,) = edge.services.registry
    monkeypatch.setattr("edge_server.tunnels.pending.time.time", lambda: began + jump)
    assert edge.services.pending.left(lease) == pytest.approx(began + jump - 20, abs=5)


async def test_an_edge_that_is_started_again_and_again_does_not_wait_for_ever(runs: Runs) -> None:
    edge = await runs.begin()
    edge.client(runs.owner()).got()
    await edge.note(is_last=True)
    for _ in range(3):
        runs.clock.now += MAX_AGE / 3
        edge = await runs.begin()
        assert edge.held()
        edge.last_held.stopping()
        await edge.note(is_last=True)
    runs.clock.now += 1
    assert not (await runs.begin()).held()


async def test_a_file_that_stays_the_same_says_that_its_edge_is_there(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written when something changed, stamped otherwise."""
    edge = await runs.begin()
    edge.client(runs.owner()).got()
    await edge.note()
    written = runs.path.stat()
    assert stat.S_IMODE(written.st_mode) == 0o600
    runs.clock.now += STAMP
    await edge.note()
    stamped = runs.path.stat()
    assert (stamped.st_ino, stamped.st_mtime) == (written.st_ino, runs.clock.now)
    edge.client(runs.owner()).got()
    await edge.note()
    assert runs.path.stat().st_ino != stamped.st_ino
    assert {path.name for path in runs.directory.iterdir() if FILE in path.name} == {FILE}


async def test_a_file_that_is_another_edges_or_gone_is_written_again(runs: Runs) -> None:
    edge = await runs.begin()
    edge.client(runs.owner()).got()
    await edge.note()
    for meddle in (runs.path.unlink, lambda: (runs.path.rename(f"{runs.path}-"), runs.path.write_bytes(b"x"))):
        meddle()
        await edge.note()  # notices
        await edge.note()
        assert runs.path.read_bytes().startswith(HEAD + VERSION)


async def test_it_is_noted_all_the_time_until_another_takes_over(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "LOOK", 0.001)
    edge = await runs.begin()
    written: asyncio.Queue[int] = asyncio.Queue()
    write = edge.last_held._write

    def told(entries: list[SnapshotEntry], *, is_last: bool) -> bool:
        loop.call_soon_threadsafe(written.put_nowait, len(entries))
        return write(entries, is_last=is_last)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(edge.last_held, "_write", told)
    edge.last_held.keep()
    async with asyncio.timeout(10):
        assert await written.get() == 0
        edge.client(runs.owner()).got()
        assert await written.get() == 1
    edge.last_held.leave()
    await edge.last_held.close()
    edge.client(runs.owner()).got()
    assert len(edge.last_held._open(runs.path.read_bytes()).entries) == 1
    assert written.empty()


async def test_an_edge_that_never_served_does_not_touch_it(runs: Runs) -> None:
    edge = await runs.begin()
    edge.client(runs.owner()).got()
    await edge.note(is_last=True)
    before = runs.path.read_bytes()
    await (await runs.begin()).last_held.close()
    assert runs.path.read_bytes() == before


# Who is not waited for.


async def test_a_token_that_is_not_good_any_more(runs: Runs) -> None:
    revoked, expired, good = runs.owner(), runs.owner(expires=1_000), runs.owner()
    edge = await runs.begin()
    names = [edge.client(identity).got().host for identity in (revoked, expired, good)]
    await edge.note()
    TokenStore(runs.directory).revoke(revoked.key, 1)
    assert list((await runs.begin()).held()) == [names[2].partition(".")[0]]


async def test_a_name_that_was_withdrawn_or_released(runs: Runs) -> None:
    owner = runs.owner()
    edge = await runs.begin()
    client = edge.client(owner)
    random = client.got(1).host.partition(".")[0]
    for number, name in enumerate(("phish", "freed", "stays"), 2):
        client.got(number, name=name)
    await edge.note()
    await runs.end()
    claims = ClaimStore(runs.directory)
    claims.ban(random, 1)
    claims.ban("phish", 1)
    claims.remove("freed")
    assert list((await runs.begin()).held()) == ["stays"]


async def test_a_name_that_its_owner_may_not_have_any_more(runs: Runs) -> None:
    owner = runs.owner(names=("a*",), domains=())
    edge = await runs.begin()
    client = edge.client(owner)
    client.got(1, name="apple")
    await edge.note()
    edge.services.claims.claim(owner.key, "banana")  # had by other rights, once
    edge.services.claims.claim(owner.key, "app.example.org")
    await runs.end()
    runs.forge(
        *(TunnelRecord(name, owner.key, 1, TunnelOptions(), 0) for name in ("apple", "banana", "app.example.org"))
    )
    assert list((await runs.begin()).held()) == ["apple"]


async def test_a_port_that_is_not_to_be_had_is_done_without(runs: Runs) -> None:
    owner, few = runs.owner(), runs.owner(tcp_ports=range(17_050, 17_051))
    edge = await runs.begin()
    for identity, port in ((owner, 17_041), (owner, 17_042), (owner, 17_043), (few, 17_050)):
        edge.client(identity).got(name=f"n{port}", unencrypted=True, tcp_port=port)
    await edge.note()
    await runs.end()
    ClaimStore(runs.directory).ban(":17042", 1)
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 17_043):
        held = (await runs.begin()).held()
    assert held == {"n17041": 17_041, "n17042": 0, "n17043": 0, "n17050": 17_050}
    runs.forge(
        TunnelRecord(RANDOM, few.key, 1, TunnelOptions(), 17_060),
        TunnelRecord("n17041", owner.key, 1, TunnelOptions(), 80),
    )
    assert (await runs.begin()).held() == {RANDOM: 0, "n17041": 0}


async def test_who_gave_a_name_up(runs: Runs) -> None:
    edge = await runs.begin()
    client = edge.client(runs.owner())
    client.got(1, name="one")
    client.got(2, name="two")
    client.holdings.unbind(1)
    await edge.note()
    assert list((await runs.begin()).held()) == ["two"]


async def test_who_gives_a_name_up_while_the_edge_leaves(runs: Runs) -> None:
    """And who does not: it lost its link, or was told that the edge ends."""
    owner = runs.owner()
    edge = await runs.begin()
    names = ["unbound", "quit", "lost", "taken-away", "stays"]
    clients = {name: edge.client(owner) for name in names}
    for name, client in clients.items():
        client.got(name=name)
    members = [edge.client(owner) for _ in range(2)]
    for member in members:
        member.got(name="pool", pool=True)
    await edge.services.pending.add(
        TunnelRecord("late", owner.key, 1, TunnelOptions(), 0), None, left=runs.clock.now
    )
    edge.services.claims.claim(owner.key, "late")
    edge.last_held.stopping()
    edge.services.pending.give_up_all()
    clients["unbound"].holdings.unbind(1)
    clients["quit"].holdings.release_all(for_good=True)
    clients["lost"].holdings.release_all(for_good=False)
    (lease,) = clients["taken-away"].holdings
    clients["taken-away"].holdings.lose(lease, BindCode.BANNED)
    members[0].holdings.release_all(for_good=True)
    await edge.note(is_last=True)
    assert set((await runs.begin()).held()) == {"lost", "stays", "pool", "late"}


async def test_a_chosen_name_that_changed_hands_before_a_crash(runs: Runs) -> None:
    """What was noted of its tickets is older than those of the client that has the name."""
    owner = runs.owner()
    for is_last in (False, True):
        names = (
            TunnelRecord(name, owner.key, 7, TunnelOptions(), 0, b"one", is_first_ask=True)
            for name in ("shop", RANDOM)
        )
        runs.forge(*names, is_last=is_last)
        edge = await runs.begin()
        edge.services.claims.claim(owner.key, "shop")
        edge = await runs.begin()
        leases = {lease.name: (lease.generation, lease.program) for lease in edge.services.registry}
        assert leases == {"shop": (7, b"one") if is_last else (0, b""), RANDOM: (7, b"one")}
        # The newest program may have come in that moment, also with the ticket of a random name.
        assert all(lease.is_first_ask is is_last for lease in edge.services.registry)


# What is of no use.


def noted(text: str, caplog: pytest.LogCaptureFixture) -> bool:
    return any(text in record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda content: b"", "it is damaged"),
        (lambda content: content[:30], "it is damaged"),
        (lambda content: content[:-1], "it is damaged, or of another"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "it is damaged, or of another"),
        (lambda content: content.replace(b"1\n", b"2\n", 1), "another version"),
        (lambda content: content + bytes(snapshot.MAX_BYTES), "more than"),
    ],
    ids=["empty", "its head", "cut off", "by hand", "another version", "too large"],
)
async def test_a_damaged_file(runs: Runs, caplog: pytest.LogCaptureFixture, damage: Any, complaint: str) -> None:
    edge = await runs.begin()
    edge.client(runs.owner()).got()
    await edge.note(is_last=True)
    runs.path.write_bytes(damage(runs.path.read_bytes()))
    os.utime(runs.path, (runs.clock.now,) * 2)
    assert not (await runs.begin()).held()
    assert noted(complaint, caplog)


async def test_a_file_of_another_domain_or_key(runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    edge = await runs.begin()
    edge.client(runs.owner()).got()
    await edge.note(is_last=True)
    for key, domain in ((KEY, "example.org"), (bytes(32), "example.com")):
        other = dataclasses.replace(edge.services, domain=domain)
        await other.make_snapshot(runs.directory, key, runs.clock).expect()
        assert noted("of another --domain or ticket.key", caplog)
        caplog.clear()


async def test_something_that_is_no_file(runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    runs.path.mkdir()
    edge = await runs.begin()
    assert noted("Is a directory", caplog)
    caplog.clear()
    for _ in range(2):
        await edge.last_held._attempt(is_last=False)
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{runs.path} cannot be written (Is a directory). After a restart, visitors who come before their clients "
        "will be refused."
    )


@pytest.mark.parametrize(
    "name",
    [
        TunnelRecord("", "a", 1, TunnelOptions(), 0),
        TunnelRecord("-", "a", 1, TunnelOptions(), 0),
        TunnelRecord("a..b", "a", 1, TunnelOptions(), 0),
        TunnelRecord("a", "", 1, TunnelOptions(), 0),
        TunnelRecord("a", "a" * 65, 1, TunnelOptions(), 0),
        TunnelRecord("a", "a", -1, TunnelOptions(), 0),
        TunnelRecord("a", "a", 1 << 32, TunnelOptions(), 0),
        TunnelRecord("a", "a", 1, TunnelOptions(), -1),
        TunnelRecord("a", "a", 1, TunnelOptions(), 65_536),
        TunnelRecord("a", "a", 1, TunnelOptions(proxy_protocol=3), 0),
        TunnelRecord("a", "a", 1, TunnelOptions(allow=["everybody"]), 0),
    ],
)
async def test_what_no_edge_has_written(runs: Runs, caplog: pytest.LogCaptureFixture, name: TunnelRecord) -> None:
    runs.forge(name)
    assert not (await runs.begin()).held()
    assert noted("it says what cannot be", caplog)


async def test_two_who_are_said_to_have_held_the_same(runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    one, two = runs.owner(), runs.owner()
    for second in (
        TunnelRecord(RANDOM, two.key, 1, TunnelOptions(), 0),
        TunnelRecord(RANDOM[::-1], two.key, 1, TunnelOptions(), 17_001),
    ):
        runs.forge(TunnelRecord(RANDOM, one.key, 1, TunnelOptions(), 17_001), second)
        assert not (await runs.begin()).held()
        assert noted("it says twice", caplog)
        caplog.clear()


async def test_a_lie_gives_nobody_what_is_somebody_elses(runs: Runs) -> None:
    victim, liar = runs.owner(), runs.owner()
    edge = await runs.begin()
    client = edge.client(victim)
    client.got(1, name="shop")
    client.got(2, unencrypted=True, tcp_port=17_042)
    runs.forge(
        TunnelRecord("shop", liar.key, 1, TunnelOptions(), 0),
        TunnelRecord(RANDOM, liar.key, 1, TunnelOptions(), 17_042),
    )
    edge = await runs.begin()
    assert edge.held() == {RANDOM: 0}  # which it cannot ask for without a ticket
    assert edge.client(liar).ask(1, name="shop") is BindCode.NAME_TAKEN
    edge.client(victim).got(1, name="shop", unencrypted=True, tcp_port=17_042)


# Bounds.


def many(services: EdgeServices, owner: str, count: int, terms: TunnelOptions) -> None:
    for number in range(count):
        more: Any = {"admission": services.admission, "ledger": services.ledger, "terms": terms}
        lease = Lease(object(), number, f"name-{number}", owner=owner, **more)  # type: ignore[arg-type]
        services.registry.add(lease)


@pytest.mark.parametrize("bound", ["names", "bytes"])
async def test_more_than_there_is_room_for(runs: Runs, caplog: pytest.LogCaptureFixture, bound: str) -> None:
    edge = await runs.begin()
    if bound == "names":
        many(edge.services, "a", snapshot.MAX_NAMES + 1, TunnelOptions())
    else:
        networks = [f"2001:db8:1234:5678:9abc:def0:1234:{number:x}/128" for number in range(64)]
        many(edge.services, "a", 1_000, TunnelOptions(allow=networks, deny=networks))
    for is_last in (False, True):
        await edge.note(is_last=is_last)
    (record,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert record.getMessage().startswith(f"More names are held than {runs.path} takes. After a restart, visitors")
    content = runs.path.read_bytes()
    assert len(content) <= snapshot.MAX_BYTES
    count = len(edge.last_held._open(content).entries)
    if bound == "names":
        assert count == snapshot.MAX_NAMES
    else:
        assert len(content) > 0.9 * snapshot.MAX_BYTES
