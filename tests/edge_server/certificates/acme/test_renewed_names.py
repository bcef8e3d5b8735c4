"""Tests of which certificates an edge renews: only those of names that somebody may still hold. A whole edge
without a CA; only the manager's clock is the test's own."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from edge_server.auth.permissions import Permissions
from edge_server.auth.token_store import TokenStore
from edge_server.config.edge_config import EdgeConfig
from edge_server.startup import start_edge
from edge_server.tunnels.options import TunnelOptions
from edge_server.tunnels.ownership_store import OwnershipStore as ClaimStore
from edge_server.tunnels.registry import random_name
from edge_server.tunnels.tunnel_record import TunnelRecord
from tests.edge_server.certificates.acme.conftest import DOMAIN
from tests.edge_server.certificates.acme.fake_certificates import issue
from tests.edge_server.certificates.acme.fake_worker import FakeWorker, postpone_advice

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from edge_server.wiring import EdgeServices

    OwnerOf = Callable[..., Awaitable["Owner"]]

DAY = 86_400.0
DUE = 85 * DAY
"""Latest time at which a certificate for 90 days is renewed."""


@dataclass
class Owner:
    """An edge, and somebody who has had a certificate there."""

    services: EdgeServices
    directory: Path
    name: str
    key: str
    worker: FakeWorker

    @property
    def host(self) -> str:
        return self.services.name_directory.host_of(self.name)

    def due(self) -> list[str]:
        """Return the names whose orders would begin at the end of a certificate's life."""
        assert self.services.acme is not None
        manager = self.services.acme.manager
        manager._start_due()
        return self.worker.take_started(manager)

    def revoke(self) -> None:
        assert TokenStore(self.directory).revoke(self.key, int(time.time()))

    def expire(self) -> None:
        self.services.tokens._now = lambda: time.time() + 2 * DAY

    def ban(self) -> None:
        ClaimStore(self.directory).ban(self.name, int(time.time()))

    def release(self) -> None:
        assert ClaimStore(self.directory).remove(self.name)

    def without_the_right(self) -> None:
        with TokenStore(self.directory)._database.writing() as database:
            database.execute("UPDATE token SET rights = json_set(rights, '$.domains', json('[]'), '$.names', "
                             "json('[\"other*\"]')) WHERE key = ?", (self.key,))  # fmt: skip

    def named_by_another(self) -> None:
        """A token was made whose rights keep this very name for it."""
        TokenStore(self.directory).create(Permissions(names=(self.name,)), "", int(time.time()))

    def refresh(self) -> None:
        """Do what the periodic refresh does twice a second."""
        self.services.claims.synchronise()
        self.services.claims.apply_read()
        self.services.tokens.refresh()


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[EdgeServices]:
    anywhere = "127.0.0.1", 0
    config = EdgeConfig(
        state_dir=tmp_path,
        domain=DOMAIN,
        quic=anywhere,
        https=anywhere,
        acme="you@example.com",
        acme_directory="https://127.0.0.1:1/dir",
    )
    server = await start_edge(config)
    yield server.services
    await server.stop()


@pytest.fixture
def owner_of(services: EdgeServices, tmp_path: Path) -> OwnerOf:
    async def make(name: str, *, is_held: bool = False) -> Owner:
        assert services.acme is not None
        manager, worker, now = services.acme.manager, FakeWorker(), time.time()
        worker.install(manager)
        rights = Permissions(domains=("*.example.org",), names=("shop*",), expires=int(now + DAY))
        _, token = TokenStore(tmp_path).create(rights, "", int(now))
        owner = Owner(services, tmp_path, name, token.key, worker)
        if is_held:
            held = TunnelRecord(name, token.key, 1, TunnelOptions(), 0)
            await services.pending.add(held, None)
        else:
            services.claims.claim(token.key, name)
        owner.refresh()
        assert manager.request(owner.host, token.key, alone=False)
        certificate = issue(owner.host, now=now)
        manager._certificate_files.save(certificate)
        worker.complete(manager, owner.host, certificate)
        postpone_advice(manager, owner.host)
        manager._now = lambda: now + DUE
        return owner

    return make


LOSSES = [Owner.revoke, Owner.expire, Owner.ban, Owner.release, Owner.without_the_right]


@pytest.mark.parametrize("is_lost", LOSSES)
@pytest.mark.parametrize("name", ["app.example.org", "shop"])
async def test_a_certificate_is_renewed_as_long_as_the_name_may_be_had(
    owner_of: OwnerOf, name: str, is_lost: Callable[[Owner], None]
):
    owner = await owner_of(name)
    assert owner.due() == [owner.host]
    is_lost(owner)
    owner.refresh()
    assert owner.due() == []
    assert owner.services.acme is not None
    manager = owner.services.acme.manager
    status = manager.status(owner.host)
    assert status is not None
    assert (status.is_needed, status.next_try) == (False, None)
    assert owner.services.certificates.covers(owner.host, h2=False), "it runs out by itself"
    manager._now = lambda: time.time() + 91 * DAY
    assert owner.due() == []
    assert owner.services.certificates.covers(owner.host, h2=False), "the clock may be wrong"
    manager._is_settled = lambda: True
    assert owner.due() == []
    assert not owner.services.certificates.covers(owner.host, h2=False)
    assert list(manager._certificate_files.load()) == []


async def test_a_name_that_a_token_was_made_for_is_not_another_ones_any_more(
    owner_of: OwnerOf,
):
    owner = await owner_of("shop")
    owner.named_by_another()
    owner.refresh()
    assert owner.due() == []


async def test_a_tunnel_that_is_open_makes_no_right_of_one_that_was_lost(
    owner_of: OwnerOf,
):
    owner = await owner_of("app.example.org", is_held=True)
    assert owner.due() == [owner.host]
    owner.without_the_right()
    owner.refresh()
    assert owner.due() == []


async def test_a_random_name_is_renewed_while_it_is_held_by_a_good_token(
    owner_of: OwnerOf,
):
    owner = await owner_of(random_name(), is_held=True)
    assert owner.due() == [owner.host]
    owner.without_the_right()
    owner.refresh()
    assert owner.due() == [owner.host]
    owner.revoke()
    owner.refresh()
    assert owner.due() == []
