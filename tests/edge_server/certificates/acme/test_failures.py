"""Tests of failures between an edge and its CA: the present certificate stays, the log and the state say
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

from edge_server.certificates.acme.scheduler import MAX_TRIES
from edge_server.certificates.acme.store import folder_name
from tests.edge_server.certificates.acme.conftest import QUICK, AcmeCa, AcmeRig, running_service
from tests.edge_server.certificates.acme.pebble import FaultyProxy, Names, pebble
from tests.harness.programs import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NAME = "shop.example.com"
ORDER = "/order-plz"


@pytest.fixture
def proxy(ca: AcmeCa) -> FaultyProxy:
    proxy = ca.proxy
    proxy.refusals.clear()
    proxy.own.clear()
    proxy.change = None
    proxy.cut = proxy.drip = ""
    return proxy


def advise(proxy: FaultyProxy) -> None:
    """Let the CA advise to renew the certificate that is there now, and no later one (RFC 9773)."""
    first: list[str] = []

    def window(path: str) -> bytes:
        first[:] = first or [path]
        start = datetime.now(UTC) + (timedelta(hours=-1) if path == first[0] else timedelta(days=90))
        end = start + timedelta(minutes=1)
        return json.dumps({"suggestedWindow": {"start": start.isoformat(), "end": end.isoformat()}}).encode()

    proxy.own["/renewal/"] = window
    where = f"https://127.0.0.1:{proxy.port}/renewal"
    proxy.change = lambda path, body: (
        json.dumps(json.loads(body) | {"renewalInfo": where}).encode() if path == "/dir" else body
    )


@contextlib.asynccontextmanager
async def renewing(proxy: FaultyProxy, ca: AcmeCa, state_dir: Path) -> AsyncIterator[tuple[AcmeRig, int]]:
    """Rig that has a certificate and is about to renew it, with the serial of the present one."""
    timings = replace(QUICK, renewal_info=0.1)
    async with running_service(state_dir, proxy, tls_port=ca.tls_port, timings=timings) as rig:
        rig.want(NAME)
        await rig.wait_until_held(NAME)
        yield rig, await rig.serial(NAME, ca.roots)


async def is_renewed(rig: AcmeRig, ca: AcmeCa, old: int) -> None:
    await rig.wait_for(NAME, lambda status: status.failures == 0 and rig.is_idle(NAME))
    assert await rig.serial(NAME, ca.roots) != old


async def test_a_rate_limit_is_kept_to(
    proxy: FaultyProxy, ca: AcmeCa, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    async with renewing(proxy, ca, tmp_path) as (rig, old):
        proxy.refuse(ORDER, 429, "rateLimited", "too many orders this week", Retry_After="2")
        advise(proxy)
        status = await rig.wait_for(NAME, lambda status: status.failures > 0)
        refused_at = time.time()
        assert status.last_error == "The ACME server applied a rate limit: too many orders this week."
        assert status.next_try is not None
        assert 1.0 < status.next_try - refused_at <= 2.0
        assert status.not_after is not None
        assert await rig.serial(NAME, ca.roots) == old
        await is_renewed(rig, ca, old)
        assert time.time() >= refused_at + 1.0
    line = next(record.getMessage() for record in caplog.records if "too many orders" in record.getMessage())
    assert line.startswith(f"no new certificate for {NAME} (try 1): ")
    assert "The next try is in 2 s. The old one stays in use; it is valid until " in line
    assert "PRIVATE KEY" not in caplog.text
    assert "protected" not in caplog.text  # no dialogues, with what proves a name in them


async def test_an_account_that_was_deactivated(proxy: FaultyProxy, ca: AcmeCa, tmp_path: Path):
    async with renewing(proxy, ca, tmp_path) as (rig, old):
        folder = tmp_path / "acme" / folder_name(proxy.directory)
        deactivate(proxy, folder)
        advise(proxy)
        status = await rig.wait_for(NAME, lambda status: status.failures > 1)
        assert "rejects the account" in status.last_error
        assert f"For another account remove {folder / 'account.key'} and account.json." in status.last_error
        assert await rig.serial(NAME, ca.roots) == old
        (folder / "account.key").unlink()
        (folder / "account.json").unlink()
        await is_renewed(rig, ca, old)


def deactivate(proxy: FaultyProxy, folder: Path) -> None:
    """As its owner does it, with another program."""
    key = load_pem_private_key((folder / "account.key").read_bytes(), None)
    network = client.ClientNetwork(JWKEC(key=key), alg=ES256, verify_ssl=str(proxy.pebble.ca))  # type: ignore[arg-type]
    account = messages.RegistrationResource(
        uri=json.loads((folder / "account.json").read_text())["uri"], body=messages.Registration()
    )
    acme = client.ClientV2(client.ClientV2.get_directory(proxy.directory, network), network)
    network.account = account
    assert acme.deactivate_registration(account).body.status == "deactivated"
    network.session.close()


async def test_an_account_that_the_authority_has_revoked(proxy: FaultyProxy, ca: AcmeCa, tmp_path: Path):
    async with renewing(proxy, ca, tmp_path) as (rig, old):
        proxy.refuse(ORDER, 403, "unauthorized", "account has been revoked")
        advise(proxy)
        status = await rig.wait_for(NAME, lambda status: status.failures > 0)
        assert "account has been revoked" in status.last_error
        assert await rig.serial(NAME, ca.roots) == old
        await is_renewed(rig, ca, old)


async def test_dns_that_fails(proxy: FaultyProxy, ca: AcmeCa, dns: Names, tmp_path: Path):
    async with renewing(proxy, ca, tmp_path) as (rig, old):
        dns.break_(NAME)
        advise(proxy)
        status = await rig.wait_for(NAME, lambda status: status.failures > 1)
        assert status.last_error.startswith(f"The ACME server could not validate {NAME}: ")
        assert await rig.serial(NAME, ca.roots) == old
        dns.mend(NAME)
        await is_renewed(rig, ca, old)
        assert not rig.service.challenges.tls


async def test_an_authority_that_has_forgotten_everything(dns: Names, tmp_path: Path):
    """The account is created again with the same key."""
    port = free_port()
    with pebble(tmp_path / "pebble", dns=dns.dns, tls_port=port) as first:
        async with running_service(tmp_path / "state", first, tls_port=port) as rig:
            rig.want(NAME)
            await rig.wait_until_held(NAME)
    key = tmp_path / "state" / "acme" / folder_name(first.directory) / "account.key"
    before = key.read_bytes()
    with pebble(tmp_path / "pebble", dns=dns.dns, tls_port=port, port=first.port) as second:
        async with running_service(tmp_path / "state", second, tls_port=port) as rig:
            rig.want("other.example.com")
            status = await rig.wait_for("other.example.com", lambda status: status.failures > 0)
            assert "does not know the account" in status.last_error
            await rig.wait_until_held("other.example.com")
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
async def test_nonsense_is_a_reason_like_others(proxy, ca, tmp_path, change, words):
    proxy.change = change
    async with running_service(tmp_path, proxy, tls_port=ca.tls_port) as rig:
        rig.want(NAME)
        status = await rig.wait_for(NAME, lambda status: status.failures > 0)
        assert words in status.last_error
        assert status.not_after is None


async def test_answers_that_break_off_and_answers_that_never_end(proxy: FaultyProxy, ca: AcmeCa, tmp_path: Path):
    proxy.cut = "/dir"
    async with running_service(tmp_path / "a", proxy, tls_port=ca.tls_port) as rig:
        rig.want(NAME)
        status = await rig.wait_for(NAME, lambda status: status.failures > 0)
        assert "closed the connection within a response" in status.last_error
    proxy.cut, proxy.drip = "", "/dir"
    timings = replace(QUICK, network=0.5)
    async with running_service(tmp_path / "b", proxy, tls_port=ca.tls_port, timings=timings) as rig:
        rig.want(NAME)
        status = await rig.wait_for(NAME, lambda status: status.failures > 0)
        assert status.last_error == "The ACME server took longer than 0.5 s to respond."


async def test_an_edge_that_stops_does_not_wait_for_an_authority_that_hangs(
    ca: AcmeCa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("edge_server.certificates.acme.worker.STOP_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        hung = replace(ca.pebble, port=hanging.getsockname()[1])
        timings = replace(QUICK, network=1.5)
        async with running_service(tmp_path, hung, tls_port=ca.tls_port, timings=timings) as rig:
            rig.want(NAME)
            await rig.wait_for(NAME, lambda status: status.is_ordering)
            (thread,) = rig.manager._worker._threads
            began = time.monotonic()
        assert time.monotonic() - began < 1.2
        assert thread.daemon
        thread.join(10)
        assert not thread.is_alive()


async def test_unreachable_and_untrusted_cas_are_reported(ca: AcmeCa, tmp_path: Path):
    nowhere = replace(ca.pebble, port=free_port())
    async with running_service(tmp_path / "a", nowhere, tls_port=ca.tls_port) as rig:
        rig.want(NAME)
        status = await rig.wait_for(NAME, lambda status: status.failures > 0)
        assert "refused" in status.last_error
    async with running_service(tmp_path / "b", ca.pebble, tls_port=ca.tls_port, ca=None) as rig:
        rig.want(NAME)
        status = await rig.wait_for(NAME, lambda status: status.failures > 0)
        assert "certificate verify failed" in status.last_error


async def test_tries_for_a_name_that_never_had_a_certificate_have_an_end(ca: AcmeCa, tmp_path: Path):
    nowhere = replace(ca.pebble, port=free_port())
    timings = replace(QUICK, first_retry=0.001, min_retry=0.001, max_retry=0.001)
    async with running_service(tmp_path, nowhere, tls_port=ca.tls_port, timings=timings) as rig:
        rig.want(NAME)
        status = await rig.wait_for(NAME, lambda status: status.next_try is None)
        assert status.failures == MAX_TRIES
        rig.want(NAME)  # somebody asks for the name again
        status = await rig.wait_for(NAME, lambda status: status.next_try is not None)
        status = await rig.wait_for(NAME, lambda status: status.next_try is None)
        assert status.failures == MAX_TRIES
