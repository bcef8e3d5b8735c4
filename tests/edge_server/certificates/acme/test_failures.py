"""Tests of failures between an edge and its authority: the present certificate stays, the log and the state say
why, and the order is repeated until it works. With a real ACME server, behind a proxy that can refuse."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from acme import client, messages
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from josepy.jwa import ES256
from josepy.jwk import JWKEC

from edge_server.certificates.acme.renewal import MAX_TRIES
from edge_server.certificates.acme.store import folder_name
from tests.edge_server.certificates.acme.conftest import QUICK, Authority, Stand, stand_for
from tests.edge_server.certificates.acme.pebble import Between, Names, pebble
from tests.harness.programs import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NAME = "shop.example.com"
ORDER = "/order-plz"


@pytest.fixture
def between(authority: Authority) -> Between:
    proxy = authority.between
    proxy.refusals.clear()
    proxy.own.clear()
    proxy.change = None
    proxy.cut = proxy.drip = ""
    return proxy


def advise(between: Between) -> None:
    """Let the authority advise to renew the certificate that is there now, and no later one (RFC 9773)."""
    first: list[str] = []

    def window(path: str) -> bytes:
        first[:] = first or [path]
        start = datetime.now(UTC) + (timedelta(hours=-1) if path == first[0] else timedelta(days=90))
        end = start + timedelta(minutes=1)
        return json.dumps({"suggestedWindow": {"start": start.isoformat(), "end": end.isoformat()}}).encode()

    between.own["/renewal/"] = window
    where = f"https://127.0.0.1:{between.port}/renewal"
    between.change = lambda path, body: (
        json.dumps(json.loads(body) | {"renewalInfo": where}).encode() if path == "/dir" else body
    )


@contextlib.asynccontextmanager
async def renewing(between: Between, authority: Authority, state_dir: Path) -> AsyncIterator[tuple[Stand, int]]:
    """A stand that has a certificate, and is about to renew it; with the serial of the one it has."""
    pace = replace(QUICK, advice=0.1)
    async with stand_for(state_dir, between, tls_port=authority.tls_port, pace=pace) as stand:
        stand.want(NAME)
        await stand.until_held(NAME)
        yield stand, await stand.serial(NAME, authority.roots)


async def is_renewed(stand: Stand, authority: Authority, old: int) -> None:
    await stand.until(NAME, lambda standing: standing.failures == 0 and stand.is_idle(NAME))
    assert await stand.serial(NAME, authority.roots) != old


async def test_a_rate_limit_is_kept_to(
    between: Between, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    async with renewing(between, authority, tmp_path) as (stand, old):
        between.refuse(ORDER, 429, "rateLimited", "too many orders this week", Retry_After="2")
        advise(between)
        standing = await stand.until(NAME, lambda standing: standing.failures > 0)
        refused_at = time.time()
        assert standing.last_error == "The ACME server applied a rate limit: too many orders this week."
        assert standing.next_try is not None
        assert 1.0 < standing.next_try - refused_at <= 2.0
        assert standing.not_after is not None
        assert await stand.serial(NAME, authority.roots) == old
        await is_renewed(stand, authority, old)
        assert time.time() >= refused_at + 1.0
    line = next(record.getMessage() for record in caplog.records if "too many orders" in record.getMessage())
    assert line.startswith(f"no new certificate for {NAME} (try 1): ")
    assert "The next try is in 2 s. The old one stays in use; it is valid until " in line
    assert "PRIVATE KEY" not in caplog.text
    assert "protected" not in caplog.text  # no dialogues, with what proves a name in them


async def test_an_account_that_was_deactivated(between: Between, authority: Authority, tmp_path: Path):
    async with renewing(between, authority, tmp_path) as (stand, old):
        folder = tmp_path / "acme" / folder_name(between.directory)
        deactivate(between, folder)
        advise(between)
        standing = await stand.until(NAME, lambda standing: standing.failures > 1)
        assert "rejects the account" in standing.last_error
        assert f"For another account remove {folder / 'account.key'} and account.json." in standing.last_error
        assert await stand.serial(NAME, authority.roots) == old
        (folder / "account.key").unlink()
        (folder / "account.json").unlink()
        await is_renewed(stand, authority, old)


def deactivate(between: Between, folder: Path) -> None:
    """As its owner does it, with another program."""
    key = load_pem_private_key((folder / "account.key").read_bytes(), None)
    network = client.ClientNetwork(JWKEC(key=key), alg=ES256, verify_ssl=str(between.pebble.ca))  # type: ignore[arg-type]
    account = messages.RegistrationResource(
        uri=json.loads((folder / "account.json").read_text())["uri"], body=messages.Registration()
    )
    acme = client.ClientV2(client.ClientV2.get_directory(between.directory, network), network)
    network.account = account
    assert acme.deactivate_registration(account).body.status == "deactivated"
    network.session.close()


async def test_an_account_that_the_authority_has_revoked(between: Between, authority: Authority, tmp_path: Path):
    async with renewing(between, authority, tmp_path) as (stand, old):
        between.refuse(ORDER, 403, "unauthorized", "account has been revoked")
        advise(between)
        standing = await stand.until(NAME, lambda standing: standing.failures > 0)
        assert "account has been revoked" in standing.last_error
        assert await stand.serial(NAME, authority.roots) == old
        await is_renewed(stand, authority, old)


async def test_dns_that_fails(between: Between, authority: Authority, dns: Names, tmp_path: Path):
    async with renewing(between, authority, tmp_path) as (stand, old):
        dns.break_(NAME)
        advise(between)
        standing = await stand.until(NAME, lambda standing: standing.failures > 1)
        assert standing.last_error.startswith(f"The ACME server could not validate {NAME}: ")
        assert await stand.serial(NAME, authority.roots) == old
        dns.mend(NAME)
        await is_renewed(stand, authority, old)
        assert not stand.service.challenges.tls


async def test_an_authority_that_has_forgotten_everything(dns: Names, tmp_path: Path):
    """The account is created again with the same key."""
    port = free_port()
    with pebble(tmp_path / "pebble", dns=dns.dns, tls_port=port) as first:
        async with stand_for(tmp_path / "state", first, tls_port=port) as stand:
            stand.want(NAME)
            await stand.until_held(NAME)
    key = tmp_path / "state" / "acme" / folder_name(first.directory) / "account.key"
    before = key.read_bytes()
    with pebble(tmp_path / "pebble", dns=dns.dns, tls_port=port, port=first.port) as second:
        async with stand_for(tmp_path / "state", second, tls_port=port) as stand:
            stand.want("other.example.com")
            standing = await stand.until("other.example.com", lambda standing: standing.failures > 0)
            assert "does not know the account" in standing.last_error
            await stand.until_held("other.example.com")
    assert key.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path, body: b"x" * 2_000_000 if path == "/dir" else body, "a response of more than 1048576 bytes"),
        (lambda path, body: b"<html>" if path == "/dir" else body, "sent no valid response"),
        (lambda path, body: b"{}" if path == ORDER else body, "sent no valid response"),
        (lambda path, body: b"no chain" if path.startswith("/certZ") else body, "The certificate cannot be read"),
    ],
    ids=["too much", "no directory", "no order", "no certificate"],
)
async def test_nonsense_is_a_reason_like_others(between, authority, tmp_path, change, words):
    between.change = change
    async with stand_for(tmp_path, between, tls_port=authority.tls_port) as stand:
        stand.want(NAME)
        standing = await stand.until(NAME, lambda standing: standing.failures > 0)
        assert words in standing.last_error
        assert standing.not_after is None


async def test_answers_that_break_off_and_answers_that_never_end(
    between: Between, authority: Authority, tmp_path: Path
):
    between.cut = "/dir"
    async with stand_for(tmp_path / "a", between, tls_port=authority.tls_port) as stand:
        stand.want(NAME)
        standing = await stand.until(NAME, lambda standing: standing.failures > 0)
        assert "closed the connection within a response" in standing.last_error
    between.cut, between.drip = "", "/dir"
    pace = replace(QUICK, network=0.5)
    async with stand_for(tmp_path / "b", between, tls_port=authority.tls_port, pace=pace) as stand:
        stand.want(NAME)
        standing = await stand.until(NAME, lambda standing: standing.failures > 0)
        assert standing.last_error == "The ACME server took longer than 0.5 s to respond."


async def test_an_edge_that_stops_does_not_wait_for_an_authority_that_hangs(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("edge_server.certificates.acme.renewal.STOP_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        hung = replace(authority.pebble, port=hanging.getsockname()[1])
        pace = replace(QUICK, network=1.5)
        async with stand_for(tmp_path, hung, tls_port=authority.tls_port, pace=pace) as stand:
            stand.want(NAME)
            await stand.until(NAME, lambda standing: standing.is_ordering)
            thread = stand.manager._entries[NAME].thread
            began = time.monotonic()
        assert time.monotonic() - began < 1.2
        assert thread is not None
        assert thread.daemon
        thread.join(10)
        assert not thread.is_alive()


async def test_an_authority_that_is_not_there_and_one_that_nobody_vouches_for(
    authority: Authority, tmp_path: Path
):
    nowhere = replace(authority.pebble, port=free_port())
    async with stand_for(tmp_path / "a", nowhere, tls_port=authority.tls_port) as stand:
        stand.want(NAME)
        standing = await stand.until(NAME, lambda standing: standing.failures > 0)
        assert "refused" in standing.last_error
    async with stand_for(tmp_path / "b", authority.pebble, tls_port=authority.tls_port, ca=None) as stand:
        stand.want(NAME)
        standing = await stand.until(NAME, lambda standing: standing.failures > 0)
        assert "certificate verify failed" in standing.last_error


async def test_tries_for_a_name_that_never_had_a_certificate_have_an_end(authority: Authority, tmp_path: Path):
    nowhere = replace(authority.pebble, port=free_port())
    pace = replace(QUICK, first_retry=0.001, min_retry=0.001, max_retry=0.001)
    async with stand_for(tmp_path, nowhere, tls_port=authority.tls_port, pace=pace) as stand:
        stand.want(NAME)
        standing = await stand.until(NAME, lambda standing: standing.next_try is None)
        assert standing.failures == MAX_TRIES
        stand.want(NAME)  # somebody asks for the name again
        standing = await stand.until(NAME, lambda standing: standing.next_try is not None)
        standing = await stand.until(NAME, lambda standing: standing.next_try is None)
        assert standing.failures == MAX_TRIES
