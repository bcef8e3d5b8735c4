"""Tests that the counts by owner equal what is held, after any sequence of binds, takeovers and releases."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from edge_server.auth.permissions import Identity, Permissions
from edge_server.ingress.tcp_ports import try_listen
from edge_server.tunnels.options import TunnelOptions
from edge_server.tunnels.registry import weight_of
from edge_server.tunnels.tickets import Ticket
from edge_server.tunnels.tunnel_record import TunnelRecord
from quictunnel.errors import ProtocolError
from quictunnel.wire.codes import BindCode, SessionCode
from quictunnel.wire.messages import Bound
from tests.edge_server.tunnels.bind_rig import Client, build, made

if TYPE_CHECKING:
    from pathlib import Path

    from edge_server.wiring import EdgeServices

STEPS = 300
OWNERS = [Identity(key, Permissions(domains=None)) for key in "ab"]
NETWORKS = [f"2001:db8:{number:x}::/48" for number in range(40)]
DOMAINS = ("a.example.org", "b.example.org")


def some_bind(chance: random.Random, tickets: list[bytes]) -> dict[str, Any]:
    """Options of a Bind, which may contradict each other."""
    bind: dict[str, Any] = {"unencrypted": chance.random() < 0.6}
    kind = chance.choice(("random", "ticket", "name", "domain"))
    if kind == "ticket" and tickets:
        bind["ticket"] = chance.choice(tickets)
    elif kind == "name":
        bind |= {"name": chance.choice("xyz"), "pool": chance.random() < 0.4}
    elif kind == "domain":
        bind |= {"domain": chance.choice(DOMAINS), "passthrough": True, "pool": chance.random() < 0.4}
    if chance.random() < 0.2:
        bind["tcp_port"] = chance.choice((17_001, 17_002, 17_003))
    if chance.random() < 0.3:
        bind["allow"] = NETWORKS[: chance.randrange(len(NETWORKS))]
    return bind


def check(services: EdgeServices) -> None:
    """Compare what is counted with what is held."""
    tunnels = list(services.registry)
    counts = {tunnel: max(1, len(tunnel.backends)) for tunnel in tunnels}
    assert services.registry.shares.used == sum(
        weight_of(tunnel.options) * count for tunnel, count in counts.items()
    )
    assert set(services.registry._counted) == set(tunnels)
    for owner in OWNERS:
        mine = [tunnel for tunnel in tunnels if tunnel.owner == owner.key]
        assert services.registry.held_by(owner.key) == sum(counts[tunnel] for tunnel in mine)
        domains = {tunnel.name for tunnel in mine if "." in tunnel.name}
        assert services.registry.domains_of(owner.key, besides="") == len(domains)
    ports = services.ports
    held = {port: owner for port, owner in ports._owner.items() if port not in ports._quarantined}
    assert held == {tunnel.tcp_port: tunnel.owner for tunnel in tunnels if tunnel.tcp_port}
    assert ports.shares.used == len(ports._owner)
    for port in ports.range:
        is_drawn = bool(ports._drawable._members[port - ports.range.start])
        assert is_drawn == (port not in ports._owner and port not in ports._unavailable)


async def act(
    chance: random.Random, services: EdgeServices, clients: list[Client], tickets: list[bytes], step: int
) -> None:
    what = chance.random()
    if what < 0.2 or not clients:
        clients.append(Client(services, chance.choice(OWNERS)))
    elif what < 0.7:
        try:
            answer = chance.choice(clients).ask(step, **some_bind(chance, tickets))
        except ProtocolError:
            return
        if isinstance(answer, Bound):
            tickets.append(answer.ticket)
    elif what < 0.85:
        client = chance.choice(clients)
        for lease in tuple(client.bindings)[:1]:
            client.bindings.unbind(lease.number)
    elif what < 0.93:
        gone = clients.pop(chance.randrange(len(clients)))
        gone.bindings.release_all(for_good=chance.random() < 0.5)
    else:
        terms = TunnelOptions(allow=NETWORKS[: chance.randrange(len(NETWORKS))])
        await services.pending.add(TunnelRecord(f"expected{step}", chance.choice("ab"), 1, terms, 0), None)
    for client in tuple(clients):
        if any(isinstance(said, SessionCode) for said in client.session.sent):
            # Its session was ended, because a newer one has its name.
            clients.remove(client)
            client.bindings.release_all(for_good=False)


async def test_token_at_its_share_regains_everything_at_the_next_edge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("edge_server.tunnels.registry.MAX_LEASES_PER_EDGE", 90)
    monkeypatch.setattr("edge_server.tunnels.registry.GUARANTEED_MIN", 0)
    services = build(tmp_path)
    ports: dict[str, int] = {}
    for number in range(80):
        sock = try_listen("127.0.0.1", 0)
        assert sock is not None
        port = ports[f"n{number}"] = sock.getsockname()[1]
        await services.pending.add(TunnelRecord(f"n{number}", "a", 1, TunnelOptions(), port), sock)
    client = Client(services, OWNERS[0])
    for number, (name, port) in enumerate(ports.items()):
        ticket = services.sealer.seal(Ticket(name, port, "a", 1))
        bound = client.got(number, ticket=ticket, unencrypted=True)
        assert (bound.host, bound.unencrypted_port) == (f"{name}.example.com", port)
        await asyncio.sleep(0)
    assert client.ask(len(ports)) is BindCode.TOO_MANY
    other = Client(services, OWNERS[1])
    other.got()
    # A program of that token that is started again takes its own place, and no other.
    last = services.sealer.seal(Ticket("n7", ports["n7"], "a", 2))
    assert Client(services, OWNERS[0]).got(ticket=last, unencrypted=True).host == "n7.example.com"
    await asyncio.sleep(0)
    for bindings in made:
        bindings.release_all(for_good=True)
    made.clear()
    assert services.registry.shares.used == 0
    services.claims.close()
    await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(3))
async def test_counts_by_owner_do_not_drift(tmp_path: Path, seed: int):
    chance, services = random.Random(seed), build(tmp_path)
    clients: list[Client] = []
    tickets: list[bytes] = []
    for step in range(STEPS):
        await act(chance, services, clients, tickets, step)
        await asyncio.sleep(0)  # what has just been given begins to listen
        check(services)
    for client in made:
        client.release_all(for_good=True)
    made.clear()
    services.pending.give_up_all()
    check(services)
    assert len(services.registry) == services.registry.shares.used == 0
    services.claims.close()
    await asyncio.sleep(0)
