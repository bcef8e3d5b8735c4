"""The end of tunnels that changed permissions forbid: the real services of an edge, with recorded sessions."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from edge_server.auth.permissions import Identity, Permissions
from edge_server.auth.token_registry import TokenRegistry
from edge_server.auth.token_store import TokenStore
from edge_server.tunnels.bind_policy import BindPolicy
from edge_server.tunnels.forbidden_tunnels import ForbiddenTunnels
from edge_server.tunnels.options import TunnelOptions
from edge_server.tunnels.tunnel_record import TunnelRecord
from quictunnel.wire.codes import BindCode
from quictunnel.wire.messages import BindRefused, BindRefusedV3
from tests.edge_server.tunnels.bind_rig import RANGE, Client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edge_server.wiring import EdgeServices

PORT = RANGE.start


class Token:
    """A token of the database, and the edge that has it."""

    def __init__(self, services: EdgeServices, directory: Path) -> None:
        self.directory = directory
        store = TokenStore(directory)
        self.key = store.create(Permissions(domains=None), "", 0)[1].key
        self.services = replace(services, tokens=TokenRegistry("", store))
        self.forbidden = ForbiddenTunnels(
            BindPolicy("example.com"),
            registry=self.services.registry,
            pending=self.services.pending,
            tokens=self.services.tokens,
        )
        self.forbidden.end([], is_draining=False)

    @property
    def identity(self) -> Identity:
        identity = self.services.tokens.identity(self.key)
        assert identity is not None
        return identity

    def client(self, version: int = 3) -> Client:
        client = Client(self.services, self.identity)
        client.session.version = version
        return client

    def change(self, *, is_draining: bool = False, **permissions: Any) -> None:
        """Change the permissions as the command does, and apply them as the edge's watcher does."""
        before = self.identity
        self.write(**permissions)
        self.forbidden.end([before], is_draining=is_draining)

    def write(self, **permissions: Any) -> None:
        """Change the permissions in the database, and read it."""
        elsewhere = TokenStore(self.directory)
        elsewhere.change(self.key, lambda entry: (replace(entry.permissions, **permissions), entry.note))
        elsewhere.close()
        assert self.services.tokens.refresh()


@pytest.fixture
def token(services: EdgeServices, tmp_path: Path) -> Iterator[Token]:
    made = Token(services, tmp_path)
    yield made
    made.services.tokens.close()


def held(token: Token) -> set[str]:
    return {tunnel.name for tunnel in token.services.registry}


def refusals(client: Client) -> list[BindRefused]:
    return [message for message in client.session.sent if isinstance(message, BindRefused)]


async def test_forbidden_name_ends_with_the_reason_of_a_new_bind(token: Token):
    client, old = token.client(), token.client(version=2)
    client.got(name="shop")
    client.got(2, name="web-1")
    client.got(3)
    old.got(name="diary")
    token.change(names=("web-*",))
    (told,) = refusals(client)
    assert isinstance(told, BindRefusedV3)
    assert (told.lease, told.code) == (1, BindCode.FORBIDDEN)
    assert told.reason == "the token does not allow the name shop, only web-*"
    assert refusals(old) == [BindRefused(1, BindCode.FORBIDDEN)], "the code alone for a client of version 2"
    again = token.client()
    assert again.ask(name="shop") is BindCode.FORBIDDEN
    assert refusals(again) == [told], "a new Bind gets another answer"
    assert [lease.number for lease in client.bindings] == [2, 3], "a random name is always allowed"
    # It is said again on each link, and in answer to a repeated Bind.
    client.bindings.session_resumed()
    assert client.ask(name="shop") is BindCode.FORBIDDEN
    assert refusals(client) == [told] * 3


async def test_forbidden_domain_ends(token: Token):
    client = token.client()
    client.got(domain="a.example.org", passthrough=True)
    client.got(2, domain="b.example.org", passthrough=True)
    token.change(domains=("b.example.org",))
    (told,) = refusals(client)
    assert (told.lease, told.code) == (1, BindCode.DOMAIN_FORBIDDEN)
    token.change(domains=())
    assert not held(token)


@pytest.mark.parametrize(
    ("ports", "reason"),
    [
        (range(PORT + 1, PORT + 2), f"the token does not allow TCP port {PORT}, only {PORT + 1}-{PORT + 1}"),
        (range(0), "the token allows no TCP port"),
    ],
)
async def test_forbidden_port_ends_and_is_quarantined(token: Token, ports: range, reason: str):
    client = token.client()
    client.got(name="plain")
    client.got(2, unencrypted=True, tcp_port=PORT)
    token.change(tcp_ports=ports)
    (told,) = refusals(client)
    assert isinstance(told, BindRefusedV3)
    assert (told.lease, told.code, told.reason) == (2, BindCode.FORBIDDEN, reason)
    assert held(token) == {"plain"}


async def test_newest_tunnels_of_all_sessions_end_beyond_the_limit(token: Token):
    one, two = token.client(), token.client()
    one.got(name="first")
    two.got(name="second")
    one.got(2, name="third")
    two.got(2, name="fourth")
    token.change(tunnels=2)
    assert held(token) == {"first", "second"}
    reason = "the token may have 2 tunnels at once, and has as many"
    assert refusals(one) == refusals(two) == [BindRefusedV3(2, BindCode.TOO_MANY, reason)]


async def test_tunnels_that_end_for_another_reason_do_not_count(token: Token):
    client = token.client()
    for number, name in enumerate(("shop", "web-1", "web-2", "web-3")):
        client.got(number, name=name)
    token.change(names=("web-*",), tunnels=2)
    assert held(token) == {"web-1", "web-2"}


async def test_a_name_that_was_taken_over_is_as_old_as_its_tunnel(token: Token):
    token.client().got(name="first")
    token.client().got(name="second")
    newer = token.client()
    newer.got(name="first")
    token.change(tunnels=1)
    assert held(token) == {"first"}
    assert newer.bindings.is_held(1)


async def test_a_pool_loses_its_newest_clients(token: Token):
    clients = [token.client() for _ in range(3)]
    for client in clients:
        client.got(name="pool", pool=True)
    token.change(tunnels=1)
    assert [client.bindings.is_held(1) for client in clients] == [True, False, False]
    assert held(token) == {"pool"}
    token.change(names=())
    assert not held(token)


async def test_kept_tunnels_end_and_count(token: Token):
    """Their clients are not connected, so that no session knows of the change."""
    pending = token.services.pending
    for name in ("one", "two", "three", "other"):
        await pending.add(TunnelRecord(name, token.key, 1, TunnelOptions(), 0), None)
    token.write(names=("one", "two", "three"), tunnels=2)
    token.forbidden.end([], is_draining=False)
    assert held(token) == {"one", "two"}
    # Their clients get them.
    assert token.client().got(name="one")


async def test_kept_tunnels_are_checked_once_at_the_start(token: Token):
    """As by the successor in a hot restart, which gets them unchecked."""
    token.change(names=("shop",))
    for name in ("shop", "diary"):
        await token.services.pending.add(TunnelRecord(name, token.key, 1, TunnelOptions(), 0), None)
    successor = ForbiddenTunnels(
        BindPolicy("example.com"),
        registry=token.services.registry,
        pending=token.services.pending,
        tokens=token.services.tokens,
    )
    successor.end([], is_draining=False)
    assert held(token) == {"shop"}


async def test_session_without_a_link_is_told_when_it_resumes(token: Token):
    client = token.client()
    client.got(name="shop")
    client.session.is_ready = False
    token.change(names=())
    assert not held(token)
    assert not refusals(client)
    client.session.is_ready = True
    client.bindings.session_resumed()
    assert [told.code for told in refusals(client)] == [BindCode.FORBIDDEN]


async def test_a_draining_edge_leaves_the_count_to_its_successor(token: Token):
    client = token.client()
    client.got(name="shop")
    client.got(2, name="diary")
    token.change(tunnels=1, is_draining=True)
    assert held(token) == {"shop", "diary"}
    token.change(names=("diary",), is_draining=True)
    assert held(token) == {"diary"}


async def test_visitors_that_stayed_at_a_closed_tunnel_end(token: Token):
    class Splice:
        stream = None
        is_refused = False

        def refuse(self) -> None:
            self.is_refused = True

    client, splices = token.client(), (Splice(), Splice())
    closed: list[Any] = []  # a real visitor refers to its tunnel
    for number, (name, splice) in enumerate(zip(("shop", "web-1"), splices, strict=True)):
        client.got(number, name=name)
        closed.append(token.services.registry.find(name))
        closed[-1].visitors[splice] = SimpleNamespace(address="127.0.0.1", backend=None)
        client.bindings.unbind(number)
    token.change(names=("web-*",))
    assert [splice.is_refused for splice in splices] == [True, False]


async def test_wider_permissions_end_nothing(token: Token):
    """Not even a name that another token has reserved since: it was not a change of this token."""
    token.change(tunnels=2, names=("shop", "web-*"))
    client = token.client()
    client.got(name="web-1", unencrypted=True)
    client.got(2, name="shop")
    elsewhere = TokenStore(token.directory)
    elsewhere.create(Permissions(names=("web-1",)), "", 0)
    elsewhere.close()
    token.change(tunnels=None, bandwidth=10**6, visitors=1, names=None, tcp_ports=RANGE)
    assert held(token) == {"web-1", "shop"}
    assert not refusals(client)
    assert client.ask(3, name="web-1") is BindCode.NAME_TAKEN, "the name is not reserved"


async def test_a_reserved_name_that_is_listed_no_more_ends(token: Token):
    token.change(names=("www",))
    client = token.client()
    client.got(name="www")
    token.change(names=None)
    assert [told.code for told in refusals(client)] == [BindCode.NAME_RESERVED]


async def test_other_tokens_keep_their_tunnels(token: Token):
    other = Client(token.services, Identity("other"))
    other.got(name="shop")
    token.client().got(name="diary")
    token.change(names=(), tunnels=0, tcp_ports=range(0))
    assert held(token) == {"shop"}


async def test_bind_granted_by_the_old_permissions_is_looked_at_again(token: Token):
    """The database was read, and the session has not been given the new permissions yet."""
    client = token.client()
    before = client.identity
    token.write(names=())
    client.got(name="late")
    token.forbidden.end([before], is_draining=False)
    assert not held(token)
