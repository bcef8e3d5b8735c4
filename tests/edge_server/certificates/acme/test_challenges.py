"""A certificate from a real ACME server by each kind of challenge, and what is kept of it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import sys
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509

from edge_server.certificates.acme.settings import AccountBinding, DnsUpdates
from edge_server.certificates.acme.store import folder_name
from tests.edge_server.certificates.acme.conftest import DOMAIN, AcmeCa, running_service
from tests.edge_server.certificates.acme.dns_server import Zone, serving
from tests.edge_server.certificates.acme.pebble import Names, pebble
from tests.harness.programs import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WILDCARD = f"*.{DOMAIN}"
SECRET = b"thirty-two bytes of a shared key"


async def test_by_tls_alpn(ca: AcmeCa, tmp_path: Path):
    """And it is used again after a restart, without a word to the CA."""
    async with running_service(tmp_path, ca.proxy, tls_port=ca.tls_port) as rig:
        with pytest.raises(ssl.SSLError, match=r"(?i)certificate.unobtainable"):
            await rig.serial("app.example.com", ca.roots)
        rig.want("app.example.com")
        status = await rig.wait_until_held("app.example.com")
        assert status.names == ("app.example.com",)
        serial = await rig.serial("app.example.com", ca.roots)
        assert not rig.service.challenges.tls
    folder = tmp_path / "acme" / folder_name(ca.proxy.directory)
    files = [path for path in folder.glob("**/*") if path.is_file()]
    assert {path.name for path in files} == {"account.key", "account.json", "quota.json", "app.example.com.pem"}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (folder, folder / "certificates")} == {0o700}
    pem = (folder / "certificates" / "app.example.com.pem").read_bytes()
    assert pem.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert len(x509.load_pem_x509_certificates(pem)) == 2
    ca.proxy.asked.clear()
    async with running_service(tmp_path, ca.proxy, tls_port=ca.tls_port) as rig:
        rig.want("app.example.com")
        assert await rig.serial("app.example.com", ca.roots) == serial
        await asyncio.sleep(0)  # a look at what is due
        status = await rig.wait_until_held("app.example.com")
        assert not status.is_ordering
    assert ca.proxy.asked == []


async def test_orders_that_begin_together_make_one_account(ca: AcmeCa, tmp_path: Path, caplog):
    ca.proxy.asked.clear()
    async with running_service(tmp_path, ca.proxy, tls_port=ca.tls_port) as rig:
        rig.want("one.example.com")
        rig.want("two.example.com")
        await rig.wait_until_held("one.example.com")
        await rig.wait_until_held("two.example.com")
    assert ca.proxy.asked.count("POST /sign-me-up") == 1
    assert "no new certificate" not in caplog.text


async def test_validator_without_a_challenge_is_refused(ca: AcmeCa, tmp_path: Path):
    async with running_service(tmp_path, ca.pebble, tls_port=ca.tls_port):
        context = ssl.create_default_context()
        context.set_alpn_protocols(["acme-tls/1"])
        with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
            await asyncio.open_connection("127.0.0.1", ca.tls_port, ssl=context, server_hostname="app.example.com")


async def test_by_http(ca: AcmeCa, tmp_path: Path):
    settings: dict[str, Any] = {"challenge": "http-01", "http": ("127.0.0.1", ca.http_port)}
    async with running_service(tmp_path, ca.pebble, tls_port=ca.tls_port, **settings) as rig:
        rig.want("http.example.com")
        await rig.wait_until_held("http.example.com")
        assert await rig.serial("http.example.com", ca.roots)
        assert not rig.service.challenges.http


@pytest.fixture(scope="module")
def zone() -> Iterator[Zone]:
    with serving(Zone(DOMAIN, "edge.key", SECRET, "hmac-sha256")) as zone:
        yield zone


async def test_a_wildcard_by_signed_updates_of_the_zone(zone: Zone, tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_bytes(base64.b64encode(SECRET) + b"\n")
    updates = DnsUpdates(
        server=("127.0.0.1", zone.port), zone=DOMAIN, key="edge.key", algorithm="hmac-sha256", secret=secret
    )
    port = free_port()
    with pebble(tmp_path / "pebble", dns=zone.port) as found:
        roots = found.roots(tmp_path / "roots.pem")
        settings: dict[str, Any] = {"challenge": "dns-01", "updates": updates, "dns_wait": 0.0}
        own = (WILDCARD, DOMAIN)
        async with running_service(tmp_path / "state", found, tls_port=port, own=own, **settings) as rig:
            status = await rig.wait_until_held(WILDCARD)
            assert status.names == own
            assert await rig.serial(f"anything.{DOMAIN}", roots) == await rig.serial(DOMAIN, roots)
    assert zone.log == [f"{what} _acme-challenge.{DOMAIN}" for what in ("set", "set", "clear", "clear")]
    assert not any(zone.records.values())
    assert SECRET not in b"".join(path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file())


async def test_a_wildcard_by_signed_updates_of_another_zone(tmp_path: Path):
    """The domain's own zone has an alias into it, which pebble follows as well, and is never changed."""
    secret = tmp_path / "secret"
    secret.write_bytes(base64.b64encode(SECRET))
    place = "tunnel.acme.example.net"
    with (
        serving(Zone("acme.example.net", "edge.key", SECRET, "hmac-sha256")) as zone,
        pebble(tmp_path / "pebble", dns=zone.port) as found,
    ):
        zone.alias(f"_acme-challenge.{DOMAIN}", place)
        server = ("127.0.0.1", zone.port)
        updates = DnsUpdates(
            server=server,
            zone="acme.example.net",
            key="edge.key",
            algorithm="hmac-sha256",
            secret=secret,
            resolver=server,
        )
        settings: dict[str, Any] = {"challenge": "dns-01", "updates": updates, "dns_wait": 0.0}
        own = (WILDCARD, DOMAIN)
        async with running_service(tmp_path / "state", found, tls_port=free_port(), own=own, **settings) as rig:
            status = await rig.wait_until_held(WILDCARD)
            assert status.names == own
            assert await rig.serial(f"anything.{DOMAIN}", found.roots(tmp_path / "roots.pem"))
    assert zone.log == [f"{what} {place}" for what in ("set", "set", "clear", "clear")]
    assert not any(zone.records.values())


HOOK = """\
import json, os, sys, urllib.request
management, log, action, name, value = sys.argv[1:]
with open(log, "a") as file:
    print(json.dumps([action, name, sorted(os.environ)]), file=file)
body = {"host": name + "."} | ({"value": value} if action == "set" else {})
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
opener.open(f"http://127.0.0.1:{management}/{action}-txt", json.dumps(body).encode(), timeout=10).close()
"""


async def test_a_wildcard_by_a_command(ca: AcmeCa, dns: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("QUICTUNNEL_TOKEN", "a secret of somebody")
    script, log = tmp_path / "hook.py", tmp_path / "log"
    script.write_text(HOOK)
    hook = (sys.executable, str(script), str(dns.management), str(log))
    settings: dict[str, Any] = {"challenge": "dns-01", "hook": hook, "dns_wait": 0.0}
    own = (WILDCARD, DOMAIN)
    async with running_service(tmp_path, ca.pebble, tls_port=ca.tls_port, own=own, **settings) as rig:
        await rig.wait_until_held(WILDCARD)
        assert await rig.serial(f"anything.{DOMAIN}", ca.roots)
        # A name that must not share its certificate, as with h2, is proved by itself.
        rig.wanted.add(f"h2.{DOMAIN}")
        rig.manager.request(f"h2.{DOMAIN}", "somebody", alone=True)
        await rig.wait_until_held(f"h2.{DOMAIN}")
        assert rig.certificates.h2_allowed(f"h2.{DOMAIN}")
        assert not rig.certificates.h2_allowed(f"other.{DOMAIN}")
    calls = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(action, name) for action, name, _ in calls] == [
        (action, f"_acme-challenge.{DOMAIN}") for action in ("set", "set", "clear", "clear")
    ]
    seen = {name for _, _, names in calls for name in names}
    assert seen <= {"PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LC_CTYPE"}
    assert "QUICTUNNEL_TOKEN" in os.environ


async def test_an_account_that_the_operator_has_already(dns: Names, tmp_path: Path):
    """External account binding; and a CA that refuses one nonce in twenty, as pebble does by itself."""
    key = base64.urlsafe_b64encode(b"a MAC key of the operator's, 32B.").decode().rstrip("=")
    secret = tmp_path / "eab"
    secret.write_text(key)
    port = free_port()
    config: dict[str, Any] = {"externalAccountBindingRequired": True, "externalAccountMACKeys": {"kid-7": key}}
    with pebble(tmp_path / "pebble", dns=dns.dns, tls_port=port, nonce_reject=5, **config) as found:
        async with running_service(tmp_path / "without", found, tls_port=port) as rig:
            rig.want("eab.example.com")
            status = await rig.wait_for("eab.example.com", lambda status: status.failures > 0)
            assert "--acme-eab" in status.last_error
        binding = AccountBinding(key_id="kid-7", secret=secret)
        async with running_service(tmp_path / "with", found, tls_port=port, binding=binding) as rig:
            rig.want("eab.example.com")
            status = await rig.wait_until_held("eab.example.com")
            assert status.failures == 0


async def test_an_edge_and_its_successor_have_the_same_address_for_http(ca: AcmeCa, tmp_path: Path):
    settings: dict[str, Any] = {"challenge": "http-01", "http": ("127.0.0.1", ca.http_port)}
    async with (
        running_service(tmp_path / "old", ca.pebble, tls_port=ca.tls_port, **settings) as old,
        running_service(tmp_path / "new", ca.pebble, tls_port=free_port(), **settings) as new,
    ):
        old.service.release()
        new.want("next.example.com")
        await new.wait_until_held("next.example.com")
