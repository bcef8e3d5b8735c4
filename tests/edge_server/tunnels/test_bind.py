"""Who gets which name and port, in every order of events: the real rooms of an edge, with sessions that
only listen."""

from __future__ import annotations

import asyncio
import hashlib
import math
import socket
import struct
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from edge_server.auth.failed_attempts import FailedAttempts
from edge_server.auth.permissions import Identity, Permissions
from edge_server.auth.token_registry import TokenRegistry
from edge_server.auth.token_store import TokenStore
from edge_server.certificates.context_store import ContextStore
from edge_server.clients.session_table import SessionTable
from edge_server.ingress.admission import Admission
from edge_server.ingress.tcp_ports import TcpPorts
from edge_server.refresher import Refresher
from edge_server.tunnels.bind import MAX_DOMAINS, MAX_LEASES, Bindings
from edge_server.tunnels.lease import BY_PORT, UNCONFIRMED, Lease
from edge_server.tunnels.load_balancer import LoadBalancer
from edge_server.tunnels.options import TunnelOptions
from edge_server.tunnels.ownership import NameOwnership
from edge_server.tunnels.ownership_store import OwnershipStore
from edge_server.tunnels.pending import PendingTunnels
from edge_server.tunnels.registry import Registry
from edge_server.tunnels.tickets import Ticket, TicketSealer
from edge_server.tunnels.tunnel_record import TunnelRecord
from edge_server.tunnels.visitor_log import EndReason, VisitorLog
from edge_server.wiring import EdgeServices
from quictunnel.transport.splice import TcpSplice
from quictunnel.transport.throttle import Throttle
from quictunnel.wire.codes import BindCode, SessionCode, StreamCode
from quictunnel.wire.messages import Bind, BindRefused, BindV2, Bound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

A, B = Identity("a"), Identity("b")
RANGE = range(17_000, 17_100)


class FakeStream:
    """A stream that remembers what its splice does."""

    def __init__(self) -> None:
        self.is_over = False
        self.bytes_sent = self.bytes_received = 0
        self.room = 65_536
        self.receive_done = False
        self.log: list[object] = []
        self.on_over: Callable[[FakeStream], None] | None = None

    def attach(self, side: object) -> None: ...

    def hand_to(self, side: object) -> None: ...

    def write(self, data: bytes) -> None:
        self.log.append(bytes(data))

    def finish(self) -> None:
        self.log.append("finish")

    def abort(self, code: StreamCode) -> None:
        self.log.append(code)

    def abort_after_delivery(self, code: StreamCode) -> None:
        self.log.append(code)
        if self.on_over is not None:
            self.on_over(self)

    def consume(self, size: int) -> None:
        self.log.append(size)

    def consume_end(self) -> None:
        self.log.append("end")
        self.receive_done = True


class FakeSession:
    """A session that remembers what is said to its client."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.can_carry = True
        self.link = SimpleNamespace(connection=SimpleNamespace(address=("127.0.0.1", 1)))
        self.streams: list[FakeStream] = []

    @property
    def is_away(self) -> bool:
        return not self.can_carry

    def say(self, message: object) -> None:
        self.said.append(message)

    def close(self, code: object) -> None:
        self.said.append(code)

    def stats(self) -> object:
        return SimpleNamespace(last_heard=asyncio.get_running_loop().time())

    def open(self, **_: object) -> FakeStream:
        self.streams.append(FakeStream())
        return self.streams[-1]


def build(directory: Path) -> EdgeServices:
    clock = asyncio.get_running_loop().time
    registry, admission, ports = Registry(), Admission(cap=100), TcpPorts("127.0.0.1", RANGE, clock)
    ledger = VisitorLog()
    return EdgeServices(
        admission=admission,
        attempts=FailedAttempts(clock),
        certificates=ContextStore(),
        claims=NameOwnership(OwnershipStore(directory)),
        domain="example.com",
        pending=PendingTunnels(registry, ports, admission, ledger=ledger, hold=30),
        https_port=443,
        ledger=ledger,
        ports=ports,
        registry=registry,
        sealer=TicketSealer(bytes(32), "example.com"),
        sessions=SessionTable(30),
        tcp_host="127.0.0.1",
        tokens=TokenRegistry(""),
    )


made: list[Bindings] = []
"""By the test that runs, to be given back after it."""


class Client:
    """Of an identity, at that services."""

    def __init__(self, services: EdgeServices, identity: Identity) -> None:
        self.session = FakeSession()
        superseded = partial(self.session.close, SessionCode.REPLACED)
        self.holdings = Bindings(services.bind_context, self.session, superseded)  # type: ignore[arg-type]
        self.identity = identity
        made.append(self.holdings)

    def ask(self, lease: int = 1, *, unencrypted: bool = False, **more: Any) -> Bound | BindCode:
        fields = {"lease": lease, "unencrypted": unencrypted, "h2": False, "ticket": b""} | more
        bind = BindV2(**fields) if "program" in fields else Bind(**fields)
        self.holdings.bind(self.identity, bind, is_leaving=False, is_resumed=False)
        answer = next(said for said in reversed(self.session.said) if isinstance(said, Bound | BindRefused))
        return answer if isinstance(answer, Bound) else answer.code

    def got(self, lease: int = 1, **more: Any) -> Bound:
        answer = self.ask(lease, **more)
        assert isinstance(answer, Bound), answer
        return answer


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[EdgeServices]:
    services = build(tmp_path)
    yield services
    for holdings in made:
        await asyncio.sleep(0)  # what has just been given begins to listen
        holdings.release_all(for_good=True)
    made.clear()
    services.pending.give_up_all()
    services.claims.close()
    await asyncio.sleep(0)


async def test_program_that_asks_again_does_not_take_the_name_from_its_newer_self(services: EdgeServices):
    """Both came anew, the newer one first, as after a restart of the edge."""
    ticket = Client(services, A).got(program=b"old").ticket
    newer, older = Client(services, A), Client(services, A)
    got = newer.got(ticket=ticket, program=b"new")
    assert older.ask(ticket=ticket, program=b"old", again=True) is BindCode.STALE
    assert SessionCode.REPLACED not in newer.session.said
    # The same program may, in a new session: the answer with the newest ticket was lost.
    assert Client(services, A).got(ticket=ticket, program=b"new", again=True).host == got.host
    # And one that was started again before it had kept the answer.
    assert Client(services, A).got(2, ticket=got.ticket, program=b"third").host == got.host


async def test_program_that_asks_again_gives_way_to_one_that_is_still_away(services: EdgeServices):
    """The name of the newer one is kept for it after a restart of the edge."""
    name = Client(services, A).got(program=b"old")
    ticket = services.sealer.open(name.ticket, "a")
    assert ticket is not None
    made[-1].release_all(for_good=True)
    await services.pending.add(TunnelRecord(ticket.name, "a", 2, TunnelOptions(), 0, b"new"), None)
    older, newer = Client(services, A), Client(services, A)
    assert older.ask(ticket=name.ticket, program=b"old", again=True) is BindCode.STALE
    second = services.sealer.seal(Ticket(ticket.name, 0, "a", 2))
    assert newer.got(ticket=second, program=b"new", again=True).host == name.host


async def test_program_that_asks_for_the_first_time_is_the_newer_one_whatever_was_counted(services: EdgeServices):
    name = Client(services, A).got(program=b"old")
    ticket = services.sealer.open(name.ticket, "a")
    assert ticket is not None
    made[-1].release_all(for_good=True)
    newer, older = Client(services, A), Client(services, A)
    newer.got(ticket=name.ticket, program=b"new")
    fifth = services.sealer.seal(Ticket(ticket.name, 0, "a", 5))
    assert older.ask(ticket=fifth, program=b"old", again=True) is BindCode.STALE
    # It stays the newer one when it asks again in another session.
    again = Client(services, A)
    again.got(ticket=name.ticket, program=b"new", again=True)
    assert older.ask(ticket=fifth, program=b"old", again=True) is BindCode.STALE


async def test_program_that_took_a_name_by_asking_for_it_has_the_newer_ticket(services: EdgeServices):
    """Its older self has had many, and comes again after a restart of the edge, when both sessions are new."""
    older = Client(services, A)
    ticket = older.got(name="shop", program=b"old").ticket
    for lease in (2, 3):
        older.holdings.release_all(for_good=True)
        ticket = older.got(lease, name="shop", program=b"old", ticket=ticket, again=True).ticket
    newer = Client(services, A).got(name="shop", program=b"new").ticket
    sealed = services.sealer.open(newer, "a")
    assert sealed is not None
    for client in made:
        client.release_all(for_good=True)
    await services.pending.add(TunnelRecord("shop", "a", sealed.generation, TunnelOptions(), 0, b"new"), None)
    assert Client(services, A).got(name="shop", program=b"new", ticket=newer, again=True)
    assert older.ask(4, name="shop", program=b"old", ticket=ticket, again=True) is BindCode.STALE


async def test_program_with_the_newer_ticket_gets_the_name_from_its_older_self(services: EdgeServices):
    """The older one came first after a restart of the edge that knew of nobody."""
    name = Client(services, A).got(program=b"old")
    ticket = services.sealer.open(name.ticket, "a")
    assert ticket is not None
    made[-1].release_all(for_good=True)
    second = services.sealer.seal(Ticket(ticket.name, 0, "a", 2))
    older, newer = Client(services, A), Client(services, A)
    older.got(ticket=name.ticket, program=b"old", again=True)
    assert newer.got(ticket=second, program=b"new", again=True).host == name.host


async def test_program_that_asks_again_gets_what_nobody_holds_yet(services: EdgeServices):
    ticket = Client(services, A).got(program=b"old")
    first = Client(services, A)
    first.got(ticket=ticket.ticket, program=b"new")
    first.holdings.release_all(for_good=True)
    assert Client(services, A).got(ticket=ticket.ticket, program=b"old", again=True).host == ticket.host


async def test_a_ticket_is_good_for_a_chosen_name_as_long_as_it_is_theirs(services: EdgeServices, tmp_path: Path):
    a, b = Client(services, A), Client(services, B)
    ticket = a.got(name="shop").ticket
    a.holdings.unbind(1)
    services.claims.synchronise()
    services.claims.settle()
    OwnershipStore(tmp_path).remove("shop")
    services.claims.synchronise()
    services.claims.settle()
    b.got(name="shop")
    b.holdings.unbind(1)
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


async def test_so_many_random_names_are_new_and_all_of_them_are_in_the_history(
    services: EdgeServices, tmp_path: Path
):
    services.fresh_names.burst = 5.0
    client = Client(services, A)
    given = []
    for number in range(8):
        answer = client.ask(number)
        if isinstance(answer, Bound):
            given.append(answer)
            client.holdings.unbind(number)
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
    lease = services.registry.find("pool")
    assert lease is not None
    assert lease.pool is not None
    assert len(lease.pool.members) == 2
    assert not list(three.holdings)


async def test_members_of_a_pool_come_back_to_the_next_edge_with_tickets_of_any_age(services: EdgeServices):
    await services.pending.add(TunnelRecord("pool", "a", 5, TunnelOptions(), 0), None)
    old = services.sealer.seal(Ticket("pool", 0, "a", 1))
    Client(services, A).got(name="pool", pool=True, ticket=old)


async def test_a_banned_port_is_taken_away_and_not_had_again(services: EdgeServices, tmp_path: Path):
    client = Client(services, A)
    ticket = client.got(unencrypted=True, tcp_port=17_042).ticket
    OwnershipStore(tmp_path).ban(":17042", 1)
    services.claims.synchronise()
    watch = Refresher(services, [])
    watch._apply()
    await watch.close()
    assert client.session.said[-1] == BindRefused(1, BindCode.BANNED)
    assert Client(services, A).got(unencrypted=True, ticket=ticket).unencrypted_port != 17_042


async def test_an_expected_name_that_is_banned_is_waited_for_no_more(services: EdgeServices, tmp_path: Path):
    await services.pending.add(TunnelRecord("phish", "a", 1, TunnelOptions(), 0), None)
    OwnershipStore(tmp_path).ban("phish", 1)
    services.claims.synchronise()
    watch = Refresher(services, [])
    watch._apply()
    await watch.close()
    assert services.registry.find("phish") is None


async def test_sessions_that_lost_their_name_are_forgotten_when_their_token_is_revoked(
    services: EdgeServices, tmp_path: Path
):
    store = TokenStore(tmp_path)
    key = store.create(Permissions(), "", 0)[1].key
    services = replace(services, tokens=TokenRegistry("", store))
    secret = bytes(32)
    guest: Any = SimpleNamespace(identity=Identity(key), digest=hashlib.sha256(secret).digest())
    services.sessions.supersede(guest)
    watch = Refresher(services, [])
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
    monkeypatch.setattr("edge_server.refresher.REFRESH", 0.01)
    looked = asyncio.Event()
    count = 0

    def settle() -> bool:
        nonlocal count
        count += 1
        if count == 1:
            raise RuntimeError("a fault of ours")
        looked.set()
        return False

    monkeypatch.setattr(services.claims, "settle", settle)
    watch = Refresher(services, [])
    async with asyncio.timeout(10):
        await looked.wait()
    await watch.close()
    assert caplog.text.count("RuntimeError: a fault of ours") == 1
    assert services.supervisor.failing == {}, "the next look was well"


async def connected(splice: TcpSplice) -> socket.socket:
    """The visitor's end of a splice."""
    visitor, ours = socket.socketpair()
    visitor.setblocking(False)
    await asyncio.get_running_loop().connect_accepted_socket(lambda: splice, ours)  # type: ignore[arg-type,return-value]
    await asyncio.sleep(0.01)
    return visitor


def pool_of(services: EdgeServices, count: int) -> list[Lease]:
    pool, leases = LoadBalancer(), []
    for number in range(count):
        lease = Lease(
            FakeSession(),  # type: ignore[arg-type]
            number,
            "n",
            owner="a",
            admission=services.admission,
            ledger=services.ledger,
            terms=TunnelOptions(),
        )
        lease.pool = pool
        pool.add(lease)
        leases.append(lease)
    return leases


async def test_a_visitor_who_waited_and_is_refused_goes_on_to_the_next(services: EdgeServices):
    a, b, c = pool_of(services, 3)
    for lease in (a, c):
        lease.session.can_carry = False  # type: ignore[union-attr]
    splice = TcpSplice(lambda splice: a.came(splice, BY_PORT))
    visitor = await connected(splice)
    a.pool.remove(a)  # type: ignore[union-attr]
    a.close()
    assert list(b.visitors) == [splice]
    c.session.can_carry = True  # type: ignore[union-attr]
    splice.stream_lost(StreamCode.REFUSED, [b"said"])
    assert list(c.visitors) == [splice]
    assert c.session.streams[0].log == [b"said"]  # type: ignore[union-attr]
    splice.transport.abort()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert services.admission.active == 0
    visitor.close()


async def test_visitor_who_resets_while_it_waits_gives_its_place_back(services: EdgeServices, monkeypatch):
    """Nothing is read from it meanwhile, so its reset has to be looked for."""
    monkeypatch.setattr("quictunnel.transport.splice.WAITING_LOOK", 0.01)
    (lease,) = pool_of(services, 1)
    lease.session.can_carry = False  # type: ignore[union-attr]
    splice = TcpSplice(lambda splice: lease.came(splice, BY_PORT))
    server = await asyncio.get_running_loop().create_server(lambda: splice, "127.0.0.1", 0)
    visitor = socket.create_connection(server.sockets[0].getsockname())
    async with asyncio.timeout(10):
        while not services.admission.active:  # noqa: ASYNC110 - what is waited for is the kernel's doing
            await asyncio.sleep(0.005)
        visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        visitor.close()
        while services.admission.active:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.005)
    server.close()
    await server.wait_closed()


async def test_a_visitor_whom_nobody_takes_is_refused_after_each_was_asked_once(services: EdgeServices):
    leases = pool_of(services, 3)
    splice = TcpSplice(lambda splice: leases[0].came(splice, BY_PORT))
    visitor = await connected(splice)
    for _ in range(3):
        assert splice.stream is not None
        splice.stream_lost(StreamCode.UNKNOWN_LEASE, [b"said"])
    assert splice.stream is None
    assert [len(lease.session.streams) for lease in leases] == [1, 1, 1]  # type: ignore[union-attr]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert services.admission.active == 0
    visitor.close()


async def test_a_visitor_whom_no_client_took_in_time_is_said_to_be_sent_away(
    services: EdgeServices, monkeypatch, caplog
):
    monkeypatch.setattr("edge_server.tunnels.lease.MAX_WAIT", 0.02)
    (lease, *_) = pool_of(services, 1)
    lease.session.can_carry = False  # type: ignore[union-attr]
    splice = TcpSplice(lambda splice: lease.came(splice, BY_PORT))
    with caplog.at_level("INFO", "edge_server.tunnels.visitor_log"):
        visitor = await connected(splice)
        async with asyncio.timeout(10):
            while services.ledger.now:  # noqa: ASYNC110 - what is waited for is the kernel's doing
                await asyncio.sleep(0.005)
    assert services.ledger.endings == {EndReason.SENT_AWAY: 1}
    assert caplog.records[-1].fields["ending"] == "sent_away"
    assert 0.02 <= caplog.records[-1].fields["seconds"] < 10
    visitor.close()


class Meter:
    def __init__(self, wait: float) -> None:
        self.wait = wait

    def spend(self, size: int) -> float:
        return self.wait


async def test_the_end_of_a_throttled_visitor_is_no_reset():
    stream = FakeStream()
    splice = TcpSplice(lambda splice: splice.join(stream))  # type: ignore[arg-type]
    splice.throttle = Throttle(Meter(0.0), Meter(60.0))
    visitor = await connected(splice)
    gone = asyncio.Event()
    splice.on_gone = lambda _: gone.set()
    loop = asyncio.get_running_loop()
    splice.stream_data([b"x" * 1000], 1000)
    splice.stream_end()
    assert len(await loop.sock_recv(visitor, 5000)) == 1000
    await loop.sock_sendall(visitor, b"tail")
    visitor.shutdown(socket.SHUT_WR)
    async with asyncio.timeout(10):
        await gone.wait()
    assert stream.log == [b"tail", "finish", 1000, "end"]
    visitor.close()


# Whole domains.

ANY = Identity("a", Permissions(domains=None))


async def test_a_domain_is_given_as_it_is_and_kept_for_its_owner(services: EdgeServices):
    services.certificates.set_issued("shop.example.org", *made_for("shop.example.org"))
    bound = Client(services, ANY).got(domain="shop.example.org")
    assert bound.host == "shop.example.org"
    assert services.registry.find(services.names.name_of("shop.example.org")) is not None
    assert services.registry.find("shop") is None
    assert services.claims.owner("shop.example.org") == "a"
    other = Identity("b", Permissions(domains=("*.example.org",)))
    assert Client(services, other).ask(domain="shop.example.org") is BindCode.NAME_TAKEN
    assert Client(services, other).ask(domain="shop.example.org", ticket=bound.ticket) is BindCode.NAME_TAKEN


def made_for(name: str) -> tuple[bytes, tuple[str]]:
    leaf = trustme.CA().issue_cert(name)
    return leaf.private_key_pem.bytes() + leaf.cert_chain_pems[0].bytes(), (name,)


@pytest.mark.parametrize(
    ("domains", "domain", "is_allowed"),
    [
        ((), "app.example.org", False),
        (("app.example.org",), "app.example.org", True),
        (("app.example.org",), "other.example.org", False),
        (("*.example.org",), "app.example.org", True),
        (("*.example.org",), "a.b.example.org", True),
        (("*.example.org",), "example.org", False),
        (("*.example.org",), "app.example.org.evil.net", False),
        (None, "anything.example.net", True),
    ],
)
async def test_what_a_token_says_of_domains(services: EdgeServices, domains, domain: str, is_allowed: bool):
    client = Client(services, Identity("a", Permissions(domains=domains)))
    answer = client.ask(domain=domain, passthrough=True)
    assert isinstance(answer, Bound) if is_allowed else answer is BindCode.DOMAIN_FORBIDDEN


@pytest.mark.parametrize(
    "more",
    [
        {"domain": "example.com"},  # the edge's own
        {"domain": "shop.example.com"},
        {"domain": "a.b.example.com"},
        {"domain": "Shop.example.org"},
        {"domain": "shop.example.org."},
        {"domain": "*.example.org"},
        {"domain": "example"},
        {"domain": "203.0.113.1"},
        {"domain": "a..example.org"},
        {"domain": f"{'a' * 64}.example.org"},
        {"domain": "shop.example.org", "name": "shop"},
    ],
)
async def test_what_is_no_domain_of_a_tunnel(services: EdgeServices, more: dict[str, str]):
    assert Client(services, ANY).ask(passthrough=True, **more) is BindCode.INVALID


async def test_a_domain_whose_visitors_nobody_could_meet_is_refused(services: EdgeServices):
    assert Client(services, ANY).ask(domain="shop.example.org") is BindCode.NO_CERTIFICATE
    Client(services, ANY).got(2, domain="shop.example.org", passthrough=True)


async def test_a_domain_that_points_elsewhere(services: EdgeServices):
    client = Client(services, ANY)
    bind = Bind(1, False, False, b"", domain="shop.example.org")
    client.holdings.bind(ANY, bind, is_leaving=False, is_resumed=False, points_here=False)
    assert client.session.said == [BindRefused(1, BindCode.DOMAIN_ELSEWHERE)]


async def test_a_domain_may_be_shared_and_taken_over_like_a_name(services: EdgeServices):
    one, two, three = (Client(services, ANY) for _ in range(3))
    one.got(domain="pool.example.org", passthrough=True, pool=True)
    two.got(domain="pool.example.org", passthrough=True, pool=True)
    assert three.ask(domain="pool.example.org", passthrough=True) is BindCode.NOT_SHARED
    one.got(2, domain="solo.example.org", passthrough=True)
    two.got(2, domain="solo.example.org", passthrough=True)
    assert one.session.said[-1] == BindRefused(2, BindCode.REPLACED)


async def test_an_identity_has_so_many_domains_at_once(services: EdgeServices):
    client = Client(services, ANY)
    for number in range(MAX_DOMAINS):
        client.got(number, domain=f"n{number}.example.org", passthrough=True)
    refused = client.ask(MAX_DOMAINS, domain="one-more.example.org", passthrough=True)
    assert refused is BindCode.TOO_MANY_NAMES
    client.holdings.unbind(0)
    client.got(MAX_DOMAINS, domain="one-more.example.org", passthrough=True)


async def test_a_banned_domain_is_taken_away(services: EdgeServices, tmp_path: Path):
    client = Client(services, ANY)
    client.got(domain="bad.example.org", passthrough=True)
    services.claims.synchronise()
    OwnershipStore(tmp_path).ban("bad.example.org", 0)
    services.claims.synchronise()
    watch = Refresher(services, ())
    watch._apply()
    await watch.close()
    assert client.session.said[-1] == BindRefused(1, BindCode.BANNED)
    assert Client(services, ANY).ask(domain="bad.example.org", passthrough=True) is BindCode.BANNED


async def test_a_ticket_of_a_domain_is_no_way_around_rights(services: EdgeServices):
    ticket = Client(services, ANY).got(domain="shop.example.org", passthrough=True).ticket
    less = Identity("a", Permissions(domains=()))
    assert Client(services, less).ask(ticket=ticket, passthrough=True) is BindCode.DOMAIN_FORBIDDEN


async def test_one_ticket_for_two_leases_of_a_session_costs_the_second_alone(services: EdgeServices):
    client = Client(services, A)
    ticket = client.got().ticket
    assert client.ask(2, ticket=ticket) is BindCode.STALE
    assert [lease.number for lease in client.holdings] == [1]
    assert client.session.said[0].ticket == ticket, "the session has ended"


async def test_any_program_of_a_pool_may_come_first_after_a_restart_of_the_edge(services: EdgeServices):
    """The edge before has told of one of them, the programs of which hold the name together."""
    first, second = Client(services, A), Client(services, A)
    asked = {"name": "shared", "pool": True}
    tickets = [client.got(program=b"%d" % n, **asked).ticket for n, client in enumerate((first, second))]
    for client in (first, second):
        client.holdings.release_all(for_good=False)
    await services.pending.add(TunnelRecord("shared", "a", 1, TunnelOptions(), 0, b"0"), None)
    for number, ticket in reversed(list(enumerate(tickets))):
        Client(services, A).got(ticket=ticket, program=b"%d" % number, again=True, **asked)


async def test_older_program_with_more_tickets_does_not_win_after_a_restart_of_the_edge(services: EdgeServices):
    """The newer one took the name without a ticket, so that its tickets count from one again."""
    await services.pending.add(TunnelRecord("mine", "a", 1, TunnelOptions(), 0, b"new", is_first_ask=True), None)
    older, newer = Client(services, A), Client(services, A)
    many, one = (services.sealer.seal(Ticket("mine", 0, "a", generation)) for generation in (10, 1))
    assert older.ask(name="mine", ticket=many, program=b"old", again=True) is BindCode.STALE
    newer.got(name="mine", ticket=one, program=b"new", again=True)
    assert older.ask(2, name="mine", ticket=many, program=b"old", again=True) is BindCode.STALE


async def test_a_lease_that_was_taken_away_is_told_on_each_link_and_not_given_again(services: EdgeServices):
    first, second = Client(services, A), Client(services, A)
    first.got(name="shop")
    second.got(name="shop")
    told = BindRefused(1, BindCode.REPLACED)
    assert first.session.said.count(told) == 1
    first.holdings.client_is_back()  # the link with which that was said may have been lost
    assert first.session.said.count(told) == 2
    # The client has not heard of its lease at all, and asks again: that takes it from nobody.
    assert first.ask(name="shop") is BindCode.REPLACED
    assert second.holdings.is_held(1)
    first.holdings.unbind(1)
    first.holdings.client_is_back()
    assert first.session.said.count(told) == 3


async def test_so_many_leases_that_were_taken_away_are_remembered(services: EdgeServices):
    client = Client(services, A)
    for number in range(1, MAX_LEASES + 2):
        client.got(number)
        client.holdings.lose(next(iter(client.holdings)), BindCode.BANNED)
    client.session.said.clear()
    client.holdings.client_is_back()
    assert client.session.said == [BindRefused(number, BindCode.BANNED) for number in range(2, MAX_LEASES + 2)]


async def test_program_whose_answer_was_lost_gets_its_name_back_however_late(services: EdgeServices):
    """The answer with the newest ticket was lost more than 30 seconds ago."""
    ticket = Client(services, A).got(program=b"one").ticket
    name = next(iter(services.registry)).name
    lease = services.registry.find(name)
    assert lease is not None
    lease.generation += 1
    lease.since -= 2 * UNCONFIRMED
    assert Client(services, A).ask(ticket=ticket, program=b"two", again=True) is BindCode.STALE
    assert Client(services, A).ask(ticket=ticket, program=b"two") is BindCode.STALE
    assert Client(services, A).got(ticket=ticket, program=b"one", again=True).host == services.names.host_of(name)


async def test_of_a_pool_one_whose_origin_refused_comes_before_one_that_is_silent(services: EdgeServices):
    (refuses, silent) = leases = pool_of(services, 2)
    refuses._troubled_until = math.inf
    refuses.session.can_carry = True
    silent.session.can_carry = False
    refuses.visitors.update(dict.fromkeys(range(9)))  # type: ignore[arg-type]
    pool = leases[0].pool
    assert pool is not None
    assert [pool.choose() for _ in range(3)] == [refuses] * 3
    silent.session.can_carry = True
    assert pool.choose() is silent
