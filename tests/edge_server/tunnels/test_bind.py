"""Binding of names and ports in every order of events: the real services of an edge, with recorded sessions."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from edge_server.auth.permissions import Identity, Permissions
from edge_server.auth.token_registry import TokenRegistry
from edge_server.auth.token_store import TokenStore
from edge_server.change_watcher import ChangeWatcher
from edge_server.tunnels.bind_facts import PREVIOUS_TICKET_SECONDS
from edge_server.tunnels.bind_policy import MAX_LEASES_PER_SESSION
from edge_server.tunnels.options import TunnelOptions
from edge_server.tunnels.ownership_store import OwnershipStore
from edge_server.tunnels.tickets import Ticket
from edge_server.tunnels.tunnel_record import TunnelRecord
from quictunnel.wire.codes import BindCode, SessionCode
from quictunnel.wire.messages import BindRefused, BindRefusedV3, Bound
from tests.edge_server.tunnels.bind_rig import A, B, Client, made

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from edge_server.wiring import EdgeServices


async def test_repeated_bind_does_not_take_a_newer_programs_name(services: EdgeServices):
    """Both came anew, the newer one first, as after a restart of the edge."""
    ticket = Client(services, A).got(client_id=b"old").ticket
    newer, older = Client(services, A), Client(services, A)
    got = newer.got(ticket=ticket, client_id=b"new")
    assert older.ask(ticket=ticket, client_id=b"old", again=True) is BindCode.STALE
    assert SessionCode.LINK_REPLACED not in newer.session.sent
    # The same client may, in a new session: the answer with the newest ticket was lost.
    assert Client(services, A).got(ticket=ticket, client_id=b"new", again=True).host == got.host
    # And one that was started again before it had kept the answer.
    assert Client(services, A).got(2, ticket=got.ticket, client_id=b"third").host == got.host


async def test_repeated_bind_yields_to_a_newer_program_away(services: EdgeServices):
    """The name of the newer one is kept for it after a restart of the edge."""
    name = Client(services, A).got(client_id=b"old")
    ticket = services.sealer.open(name.ticket, "a")
    assert ticket is not None
    made[-1].release_all(for_good=True)
    await services.pending.add(TunnelRecord(ticket.name, "a", 2, TunnelOptions(), 0, b"new"), None)
    older, newer = Client(services, A), Client(services, A)
    assert older.ask(ticket=name.ticket, client_id=b"old", again=True) is BindCode.STALE
    second = services.sealer.seal(Ticket(ticket.name, 0, "a", 2))
    assert newer.got(ticket=second, client_id=b"new", again=True).host == name.host


async def test_first_bind_is_newer_than_any_count(services: EdgeServices):
    name = Client(services, A).got(client_id=b"old")
    ticket = services.sealer.open(name.ticket, "a")
    assert ticket is not None
    made[-1].release_all(for_good=True)
    newer, older = Client(services, A), Client(services, A)
    newer.got(ticket=name.ticket, client_id=b"new")
    fifth = services.sealer.seal(Ticket(ticket.name, 0, "a", 5))
    assert older.ask(ticket=fifth, client_id=b"old", again=True) is BindCode.STALE
    # It stays the newer one when it asks again in another session.
    again = Client(services, A)
    again.got(ticket=name.ticket, client_id=b"new", again=True)
    assert older.ask(ticket=fifth, client_id=b"old", again=True) is BindCode.STALE


async def test_taking_a_name_gives_the_newer_ticket(services: EdgeServices):
    """The older client has had many tickets, and asks again after a restart of the edge, when both sessions are
    new."""
    older = Client(services, A)
    ticket = older.got(name="shop", client_id=b"old").ticket
    for lease in (2, 3):
        older.bindings.release_all(for_good=True)
        ticket = older.got(lease, name="shop", client_id=b"old", ticket=ticket, again=True).ticket
    newer = Client(services, A).got(name="shop", client_id=b"new").ticket
    sealed = services.sealer.open(newer, "a")
    assert sealed is not None
    for client in made:
        client.release_all(for_good=True)
    await services.pending.add(TunnelRecord("shop", "a", sealed.generation, TunnelOptions(), 0, b"new"), None)
    assert Client(services, A).got(name="shop", client_id=b"new", ticket=newer, again=True)
    assert older.ask(4, name="shop", client_id=b"old", ticket=ticket, again=True) is BindCode.STALE


async def test_newer_ticket_takes_the_name(services: EdgeServices):
    """The older one came first after a restart of the edge that knew of nobody."""
    name = Client(services, A).got(client_id=b"old")
    ticket = services.sealer.open(name.ticket, "a")
    assert ticket is not None
    made[-1].release_all(for_good=True)
    second = services.sealer.seal(Ticket(ticket.name, 0, "a", 2))
    older, newer = Client(services, A), Client(services, A)
    older.got(ticket=name.ticket, client_id=b"old", again=True)
    assert newer.got(ticket=second, client_id=b"new", again=True).host == name.host


async def test_repeated_bind_gets_a_free_name(services: EdgeServices):
    ticket = Client(services, A).got(client_id=b"old")
    first = Client(services, A)
    first.got(ticket=ticket.ticket, client_id=b"new")
    first.bindings.release_all(for_good=True)
    assert Client(services, A).got(ticket=ticket.ticket, client_id=b"old", again=True).host == ticket.host


async def test_a_ticket_is_good_for_a_chosen_name_as_long_as_it_is_theirs(services: EdgeServices, tmp_path: Path):
    a, b = Client(services, A), Client(services, B)
    ticket = a.got(name="shop").ticket
    a.bindings.unbind(1)
    services.claims.synchronise()
    services.claims.apply_read()
    OwnershipStore(tmp_path).remove("shop")
    services.claims.synchronise()
    services.claims.apply_read()
    b.got(name="shop")
    b.bindings.unbind(1)
    assert a.ask(2, ticket=ticket) is BindCode.NAME_TAKEN
    b.got(2, name="shop")


async def test_a_ticket_is_no_way_around_rights(services: EdgeServices):
    ticket = Client(services, A).got(name="shop").ticket
    limited = Client(services, Identity("a", Permissions(names=())))
    assert limited.ask(ticket=ticket) is BindCode.FORBIDDEN
    limited.got(2)


async def test_a_random_name_is_had_again_by_its_ticket(services: EdgeServices):
    first = Client(services, A).got()
    assert Client(services, Identity("a", Permissions(names=()))).got(ticket=first.ticket).host == first.host
    assert Client(services, B).got(ticket=first.ticket).host != first.host


async def test_random_names_are_all_in_the_history(services: EdgeServices, tmp_path: Path):
    services.random_name_limit.burst = 5.0
    client = Client(services, A)
    given = []
    for number in range(8):
        answer = client.ask(number)
        if isinstance(answer, Bound):
            given.append(answer)
            client.bindings.unbind(number)
        else:
            assert answer is BindCode.TOO_MANY_NAMES
    assert len(given) == 5
    client.got(9, ticket=given[0].ticket)
    client.got(10, name="chosen")
    Client(services, B).got()
    services.claims.synchronise()
    store = OwnershipStore(tmp_path)
    for bound in given:
        (entry,) = store.history(bound.host.partition(".")[0], 10)
        assert (entry.owner, entry.held) == ("a", 2 if bound is given[0] else 1)
    store.close()


async def test_a_ticket_does_not_break_a_pool_up(services: EdgeServices):
    one, two, three = (Client(services, A) for _ in range(3))
    ticket = one.got(name="pool", pool=True).ticket
    two.got(name="pool", pool=True)
    assert three.ask(name="pool", ticket=ticket) is BindCode.NOT_SHARED
    tunnel = services.registry.find("pool")
    assert tunnel is not None
    assert tunnel.is_pool
    assert len(tunnel.backends) == 2
    assert not list(three.bindings)


async def test_pool_members_return_with_tickets_of_any_age(services: EdgeServices):
    await services.pending.add(TunnelRecord("pool", "a", 5, TunnelOptions(), 0), None)
    old = services.sealer.seal(Ticket("pool", 0, "a", 1))
    Client(services, A).got(name="pool", pool=True, ticket=old)


async def test_a_banned_port_is_taken_away_and_not_had_again(services: EdgeServices, tmp_path: Path):
    client = Client(services, A)
    ticket = client.got(unencrypted=True, tcp_port=17_042).ticket
    OwnershipStore(tmp_path).ban(":17042", 1)
    services.claims.synchronise()
    watch = ChangeWatcher(services, [])
    watch._apply()
    await watch.close()
    assert client.session.sent[-1] == BindRefused(1, BindCode.BANNED)
    assert Client(services, A).got(unencrypted=True, ticket=ticket).unencrypted_port != 17_042


async def test_an_expected_name_that_is_banned_is_waited_for_no_more(services: EdgeServices, tmp_path: Path):
    await services.pending.add(TunnelRecord("phish", "a", 1, TunnelOptions(), 0), None)
    OwnershipStore(tmp_path).ban("phish", 1)
    services.claims.synchronise()
    watch = ChangeWatcher(services, [])
    watch._apply()
    await watch.close()
    assert services.registry.find("phish") is None


async def test_revoked_token_forgets_superseded_sessions(services: EdgeServices, tmp_path: Path):
    store = TokenStore(tmp_path)
    key = store.create(Permissions(), "", 0)[1].key
    services = replace(services, tokens=TokenRegistry("", store))
    secret = bytes(32)
    client_session: Any = SimpleNamespace(identity=Identity(key), digest=hashlib.sha256(secret).digest())
    services.sessions.remember_superseded(client_session)
    watch = ChangeWatcher(services, [])
    watch._apply()
    assert services.sessions.is_superseded(secret, key)
    elsewhere = TokenStore(tmp_path)
    elsewhere.revoke(key, 1)
    elsewhere.close()
    services.tokens.refresh()
    watch._apply()
    await watch.close()
    services.tokens.close()
    assert not services.sessions._superseded


async def test_a_look_that_fails_is_not_the_last(services: EdgeServices, monkeypatch: pytest.MonkeyPatch, caplog):
    monkeypatch.setattr("edge_server.change_watcher.REFRESH_INTERVAL", 0.01)
    looked = asyncio.Event()
    count = 0

    def apply_read() -> bool:
        nonlocal count
        count += 1
        if count == 1:
            raise RuntimeError("a fault of ours")
        looked.set()
        return False

    monkeypatch.setattr(services.claims, "apply_read", apply_read)
    watch = ChangeWatcher(services, [])
    async with asyncio.timeout(10):
        await looked.wait()
    await watch.close()
    assert caplog.text.count("RuntimeError: a fault of ours") == 1
    assert services.supervisor.failing == {}, "the next look was well"


async def test_reused_ticket_affects_only_the_second_lease(services: EdgeServices):
    client = Client(services, A)
    ticket = client.got().ticket
    assert client.ask(2, ticket=ticket) is BindCode.STALE
    assert [lease.number for lease in client.bindings] == [1]
    assert client.session.sent[0].ticket == ticket, "the session has ended"


async def test_any_pool_member_may_return_first_after_a_restart(services: EdgeServices):
    """The edge before has told of one of them, the programs of which hold the name together."""
    first, second = Client(services, A), Client(services, A)
    asked = {"name": "shared", "pool": True}
    tickets = [client.got(client_id=b"%d" % n, **asked).ticket for n, client in enumerate((first, second))]
    for client in (first, second):
        client.bindings.release_all(for_good=False)
    await services.pending.add(TunnelRecord("shared", "a", 1, TunnelOptions(), 0, b"0"), None)
    for number, ticket in reversed(list(enumerate(tickets))):
        Client(services, A).got(ticket=ticket, client_id=b"%d" % number, again=True, **asked)


async def test_older_program_with_more_tickets_does_not_win(services: EdgeServices):
    """The newer one took the name without a ticket, so that its tickets count from one again."""
    await services.pending.add(TunnelRecord("mine", "a", 1, TunnelOptions(), 0, b"new", is_first_bind=True), None)
    older, newer = Client(services, A), Client(services, A)
    many, one = (services.sealer.seal(Ticket("mine", 0, "a", generation)) for generation in (10, 1))
    assert older.ask(name="mine", ticket=many, client_id=b"old", again=True) is BindCode.STALE
    newer.got(name="mine", ticket=one, client_id=b"new", again=True)
    assert older.ask(2, name="mine", ticket=many, client_id=b"old", again=True) is BindCode.STALE


async def test_revoked_lease_is_reported_on_each_link(services: EdgeServices):
    first, second = Client(services, A), Client(services, A)
    first.got(name="shop")
    second.got(name="shop")
    told = BindRefused(1, BindCode.NAME_TAKEN_OVER)
    assert first.session.sent.count(told) == 1
    first.bindings.session_resumed()  # the link with which that was said may have been lost
    assert first.session.sent.count(told) == 2
    # The client has not heard of its lease at all, and asks again: that takes it from nobody.
    assert first.ask(name="shop") is BindCode.NAME_TAKEN_OVER
    assert second.bindings.is_held(1)
    first.bindings.unbind(1)
    first.bindings.session_resumed()
    assert first.session.sent.count(told) == 3


async def test_so_many_leases_that_were_taken_away_are_remembered(services: EdgeServices):
    client = Client(services, A)
    for number in range(1, MAX_LEASES_PER_SESSION + 2):
        client.got(number)
        client.bindings.revoke(next(iter(client.bindings)).backend, BindCode.BANNED)
    client.session.sent.clear()
    client.bindings.session_resumed()
    assert client.session.sent == [
        BindRefused(number, BindCode.BANNED) for number in range(2, MAX_LEASES_PER_SESSION + 2)
    ]


async def test_program_with_a_lost_answer_gets_its_name_back(services: EdgeServices):
    """The answer with the newest ticket was lost more than 30 seconds ago."""
    ticket = Client(services, A).got(client_id=b"one").ticket
    name = next(iter(services.registry)).name
    tunnel = services.registry.find(name)
    assert tunnel is not None
    tunnel.ticket_record.generation += 1
    tunnel.ticket_record.since -= 2 * PREVIOUS_TICKET_SECONDS
    assert Client(services, A).ask(ticket=ticket, client_id=b"two", again=True) is BindCode.STALE
    assert Client(services, A).ask(ticket=ticket, client_id=b"two") is BindCode.STALE
    got = Client(services, A).got(ticket=ticket, client_id=b"one", again=True)
    assert got.host == services.name_directory.host_of(name)


async def test_client_of_version_3_gets_the_reason(services: EdgeServices):
    """With the figures that its code cannot have. An older one gets the code alone."""
    outside, ports = services.ports.range.stop, services.ports.range
    limited = Identity("b", Permissions(tunnels=1, names=("shop", "web-*"), tcp_ports=ports))
    client = Client(services, limited)
    client.session.version = 3
    client.got()
    reasons = {
        "the token may have 1 tunnel at once, and has as many": {},
        "the token does not allow the name other, only shop, web-*": {"name": "other"},
        f"the token does not allow TCP port 1, only {ports.start}-{ports.stop - 1}": {
            "tcp_port": 1,
            "unencrypted": True,
        },
    }
    for number, (reason, wishes) in enumerate(reasons.items(), 2):
        client.ask(number, **wishes)
        assert client.session.sent[-1].reason == reason
    free = Client(services, A)
    free.session.version = 3
    assert free.ask(tcp_port=outside, unencrypted=True) is BindCode.PORT_TAKEN
    words = f"TCP port {outside} is outside this edge's range, {ports.start}-{ports.stop - 1}"
    assert free.session.sent[-1] == BindRefusedV3(1, BindCode.PORT_TAKEN, words)
    older = Client(services, A)
    assert older.ask(tcp_port=outside, unencrypted=True) is BindCode.PORT_TAKEN
    assert older.session.sent[-1] == BindRefused(1, BindCode.PORT_TAKEN)
