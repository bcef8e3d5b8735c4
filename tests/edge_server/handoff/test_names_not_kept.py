"""Names that are not kept through a restart: their owner or the operator ended them, or may not have them now."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from edge_server.auth.token_store import TokenStore
from edge_server.tunnels.options import TunnelOptions
from edge_server.tunnels.ownership_store import OwnershipStore
from edge_server.tunnels.tunnel_record import TunnelRecord
from quictunnel.wire.codes import BindCode
from tests.edge_server.handoff.snapshot_rig import RANDOM

if TYPE_CHECKING:
    from tests.edge_server.handoff.snapshot_rig import EdgeRuns


async def test_names_of_a_revoked_or_expired_token(runs: EdgeRuns) -> None:
    revoked, expired, good = runs.owner(), runs.owner(expires=1_000), runs.owner()
    edge = await runs.begin()
    names = [edge.client(identity).got().host for identity in (revoked, expired, good)]
    await edge.write()
    TokenStore(runs.directory).revoke(revoked.key, 1)
    assert list((await runs.begin()).held()) == [names[2].partition(".")[0]]


async def test_a_banned_or_removed_name(runs: EdgeRuns) -> None:
    owner = runs.owner()
    edge = await runs.begin()
    client = edge.client(owner)
    random = client.got(1).host.partition(".")[0]
    for number, name in enumerate(("phish", "freed", "stays"), 2):
        client.got(number, name=name)
    await edge.write()
    await runs.end()
    claims = OwnershipStore(runs.directory)
    claims.ban(random, 1)
    claims.ban("phish", 1)
    claims.remove("freed")
    assert list((await runs.begin()).held()) == ["stays"]


async def test_a_name_that_the_token_does_not_allow_any_more(runs: EdgeRuns) -> None:
    owner = runs.owner(names=("a*",), domains=())
    edge = await runs.begin()
    client = edge.client(owner)
    client.got(1, name="apple")
    await edge.write()
    edge.services.claims.claim(owner.key, "banana")  # when its token allowed more
    edge.services.claims.claim(owner.key, "app.example.org")
    await runs.end()
    runs.forge(
        *(TunnelRecord(name, owner.key, 1, TunnelOptions(), 0) for name in ("apple", "banana", "app.example.org"))
    )
    assert list((await runs.begin()).held()) == ["apple"]


async def test_a_port_that_is_taken_or_not_allowed_any_more(runs: EdgeRuns) -> None:
    owner, few = runs.owner(), runs.owner(tcp_ports=range(17_050, 17_051))
    edge = await runs.begin()
    for identity, port in ((owner, 17_041), (owner, 17_042), (owner, 17_043), (few, 17_050)):
        edge.client(identity).got(name=f"n{port}", unencrypted=True, tcp_port=port)
    await edge.write()
    await runs.end()
    OwnershipStore(runs.directory).ban(":17042", 1)
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 17_043):
        held = (await runs.begin()).held()
    assert held == {"n17041": 17_041, "n17042": 0, "n17043": 0, "n17050": 17_050}
    runs.forge(
        TunnelRecord(RANDOM, few.key, 1, TunnelOptions(), 17_060),
        TunnelRecord("n17041", owner.key, 1, TunnelOptions(), 80),
    )
    assert (await runs.begin()).held() == {RANDOM: 0, "n17041": 0}


async def test_a_name_that_its_client_gave_up(runs: EdgeRuns) -> None:
    edge = await runs.begin()
    client = edge.client(runs.owner())
    client.got(1, name="one")
    client.got(2, name="two")
    client.bindings.unbind(1)
    await edge.write()
    assert list((await runs.begin()).held()) == ["two"]


async def test_only_released_names_are_not_kept_at_the_stop(runs: EdgeRuns) -> None:
    """A name whose client lost its link, or was told that the edge ends, is kept."""
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
        TunnelRecord("late", owner.key, 1, TunnelOptions(), 0), None, last_connected=runs.clock.now
    )
    edge.services.claims.claim(owner.key, "late")
    edge.snapshot.freeze()
    edge.services.pending.give_up_all()
    clients["unbound"].bindings.unbind(1)
    clients["quit"].bindings.release_all(for_good=True)
    clients["lost"].bindings.release_all(for_good=False)
    (lease,) = clients["taken-away"].bindings
    clients["taken-away"].bindings.revoke(lease.backend, BindCode.BANNED)
    members[0].bindings.release_all(for_good=True)
    await edge.write(is_last=True)
    assert set((await runs.begin()).held()) == {"lost", "stays", "pool", "late"}


async def test_tickets_of_a_name_that_changed_hands_before_a_crash(runs: EdgeRuns) -> None:
    """The generation in the table is older than that of the client that has the name."""
    owner = runs.owner()
    for is_last in (False, True):
        records = (
            TunnelRecord(name, owner.key, 7, TunnelOptions(), 0, b"one", is_first_bind=True)
            for name in ("shop", RANDOM)
        )
        runs.forge(*records, is_last=is_last)
        edge = await runs.begin()
        edge.services.claims.claim(owner.key, "shop")
        edge = await runs.begin()
        leases = {
            each.name: (each.ticket_record.generation, each.ticket_record.client_id)
            for each in edge.services.registry
        }
        assert leases == {"shop": (7, b"one") if is_last else (0, b""), RANDOM: (7, b"one")}
        # The newest client may have come in that moment, also with the ticket of a random name.
        assert all(each.ticket_record.is_first_bind is is_last for each in edge.services.registry)


async def test_forged_table_grants_no_foreign_name(runs: EdgeRuns) -> None:
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
