"""Certificates by themselves, and domains of users: a real edge, a real ACME server, real clients and visitors."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import ssl
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509

import quictunnel
from tests.edge_server.certificates.acme import pebble as authorities
from tests.edge_server.certificates.acme.dns_server import Zone, serving
from tests.harness.echo_origin import EchoOrigin, echoes
from tests.harness.edge_process import EdgeProcess, start_edge
from tests.harness.programs import need
from tests.harness.token_commands import client_of, command, new_token
from tests.harness.waiting import LONG_TIMEOUT, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DOMAIN = "tunnel.example.com"
LIFE = 12
"""Seconds for which a certificate is good."""
VISITORS = 50


@dataclass(frozen=True)
class AcmeEdge:
    """An edge with an authority that proves names at its port."""

    edge: EdgeProcess
    names: authorities.Names
    options: tuple[str, ...]
    roots: Path
    log: Path

    def visit(self, tunnel: quictunnel.Tunnel) -> ssl.SSLSocket:
        """A visitor who trusts the authority alone."""
        context = ssl.create_default_context(cafile=str(self.roots))
        raw = socket.create_connection(("127.0.0.1", tunnel.port), timeout=30)
        try:
            return context.wrap_socket(raw, server_hostname=tunnel.host)
        except BaseException:
            raw.close()
            raise

    def is_served(self, tunnel: quictunnel.Tunnel) -> bool:
        try:
            with self.visit(tunnel) as visitor:
                return echoes(visitor)
        except OSError:
            return False


def serial_of(visitor: ssl.SSLSocket) -> int:
    shown = visitor.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


@pytest.fixture(scope="module")
def acme_edge(tmp_path_factory: pytest.TempPathFactory, engines: object) -> Iterator[AcmeEdge]:
    directory = tmp_path_factory.mktemp("acme")
    port = authorities.free_port()
    with (
        authorities.names(directory) as names,
        authorities.pebble(
            directory / "pebble", dns=names.dns, tls_port=port, certificateValidityPeriod=LIFE
        ) as authority,
    ):
        options = (
            *("--domain", DOMAIN, "--https", f"127.0.0.1:{port}", "--resolver", f"127.0.0.1:{names.dns}"),
            *("--acme", "you@example.com", "--acme-directory", authority.directory),
            *("--acme-ca", str(authority.ca), "--grace", "20", "--admin", "127.0.0.1:0"),
        )
        log = directory / "edge.log"
        edge = start_edge(directory / "state", *options, log=log)
        yield AcmeEdge(edge, names, options, authority.roots(directory / "roots.pem"), log)
        edge.stop()
        text = log.read_text()
        assert "Traceback" not in text
        assert "PRIVATE" not in text


def is_ready(acme_edge: AcmeEdge) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open((acme_edge.edge.state_dir / "admin.url").read_text() + "readyz", timeout=10) as answer:
        return bool(answer.status == 200)


def operator_gets(acme_edge: AcmeEdge, path: str) -> bytes:
    state = acme_edge.edge.state_dir
    request = urllib.request.Request(
        (state / "admin.url").read_text() + path,
        headers={"Authorization": "Bearer " + (state / "admin.token").read_text()},
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        return bytes(answer.read())


def items_of(acme_edge: AcmeEdge, path: str) -> list[dict[str, Any]]:
    """Return the items that the operator's API lists."""
    items: list[dict[str, Any]] = json.loads(operator_gets(acme_edge, "api/v1" + path))["items"]
    return items


@pytest.fixture(scope="module")
def tokens(acme_edge: AcmeEdge) -> tuple[str, str]:
    """Of two people who may have the same domains."""
    rights = ("--domains", f"*.example.org,app.{DOMAIN},app.example.com")
    return new_token(acme_edge.edge, *rights), new_token(acme_edge.edge, *rights)


def test_users_domain_gets_and_renews_a_certificate(acme_edge: AcmeEdge, tokens: tuple[str, str]):
    """Swapped under open visitors, none of whom notices; new ones see the new certificate."""
    with (
        EchoOrigin() as origin,
        client_of(acme_edge.edge, tokens[0]) as client,
        quictunnel.forward(origin.port, domain="app.example.com", client=client) as tunnel,
        contextlib.ExitStack() as stack,
    ):
        assert tunnel.host == "app.example.com"
        eventually(lambda: acme_edge.is_served(tunnel), timeout=LONG_TIMEOUT)
        visitors = [stack.enter_context(acme_edge.visit(tunnel)) for _ in range(VISITORS)]
        first = {serial_of(visitor) for visitor in visitors}
        assert len(first) == 1
        deadline = time.monotonic() + 5 * LIFE
        is_new = False
        while not is_new:
            assert time.monotonic() < deadline
            with acme_edge.visit(tunnel) as visitor:
                is_new = serial_of(visitor) not in first
            assert all(echoes(visitor) for visitor in visitors)
        assert all(echoes(visitor, b"x" * 100_000) for visitor in visitors)
        said = subprocess.run(
            [need("openssl"), "s_client", "-connect", f"127.0.0.1:{tunnel.port}", "-servername", tunnel.host,
             "-CAfile", str(acme_edge.roots), "-verify_return_error"],
            input=b"", capture_output=True, check=True, timeout=30,
        ).stdout.decode()  # fmt: skip
        assert "Verify return code: 0 (ok)" in said
        assert is_ready(acme_edge), "although there is no certificate for all names"
        (shown,) = [each for each in items_of(acme_edge, "/certificates") if each["names"] == ["app.example.com"]]
        assert shown["by_acme"]
        assert shown["last_error"] == ""
        assert abs(shown["expires_at"] - time.time()) <= LIFE
        figures = operator_gets(acme_edge, "metrics").decode()
        orders = dict(re.findall(r'quictunnel_acme_orders_total\{outcome="(\w+)"\} ([0-9.]+)', figures))
        assert float(orders["obtained"]) >= 2
        assert float(orders["failed"]) == 0
        assert {each["url"] for each in items_of(acme_edge, "/tunnels")} == {
            f"https://app.example.com:{tunnel.port}"
        }
    assert len(re.findall("a new certificate for app.example.com is in use", acme_edge.log.read_text())) >= 2


@pytest.mark.long
def test_a_successor_goes_on_with_the_certificates_that_there_are(acme_edge: AcmeEdge, tokens: tuple[str, str]):
    with (
        EchoOrigin() as origin,
        client_of(acme_edge.edge, tokens[0]) as client,
        quictunnel.forward(origin.port, domain="a.example.org", client=client) as tunnel,
    ):
        eventually(lambda: acme_edge.is_served(tunnel), timeout=LONG_TIMEOUT)
        with acme_edge.visit(tunnel) as before:
            successor = start_edge(acme_edge.edge.state_dir, *acme_edge.options, "--takeover", log=acme_edge.log)
            try:
                assert acme_edge.is_served(tunnel), (
                    "who comes first waits for the client, and meets the certificate"
                )
                assert echoes(before)
            finally:
                acme_edge.edge.process, successor.process = successor.process, acme_edge.edge.process
        assert successor.process.wait(40) == 0
        successor.stop()


@pytest.mark.parametrize(
    ("domain", "words"),
    [
        ("else.example.com", "the token does not allow the domain"),
        ("elsewhere.example.org", "does not point to this edge"),
        (f"app.{DOMAIN}", "one of the edge's own"),
        ("App.example.org", "should be in lower case"),
        ("example", "should be a custom domain name"),
        ("127.0.0.1", "should be a custom domain name"),
        ("bücher.example.org", "xn--"),
    ],
)
def test_a_domain_that_is_not_to_be_had(acme_edge: AcmeEdge, tokens: tuple[str, str], domain: str, words: str):
    acme_edge.names.point("elsewhere.example.org", "203.0.113.5")
    with (
        client_of(acme_edge.edge, tokens[0]) as client,
        pytest.raises(quictunnel.InvalidError, match=re.escape(words)),
    ):
        quictunnel.forward(1, domain=domain, client=client).__enter__()


def test_a_domain_is_one_tokens(acme_edge: AcmeEdge, tokens: tuple[str, str]):
    with client_of(acme_edge.edge, tokens[0]) as client:
        quictunnel.forward(1, domain="mine.example.org", tls="passthrough", client=client).__enter__()
        with (
            client_of(acme_edge.edge, tokens[1]) as stranger,
            pytest.raises(quictunnel.InvalidError, match=r"another token owns the domain mine\.example\.org"),
        ):
            quictunnel.forward(1, domain="mine.example.org", client=stranger).__enter__()


@pytest.mark.early
@pytest.mark.slow
def test_with_a_revoked_token_nothing_is_renewed(acme_edge: AcmeEdge):
    """While the token was good it was, although its client was away."""
    domain = "gone.example.org"

    def orders() -> int:
        return acme_edge.log.read_text().count(f"a new certificate for {domain} is in use")

    def standing() -> dict[str, Any]:
        return next((each for each in items_of(acme_edge, "/certificates") if each["names"] == [domain]), {})

    token = new_token(acme_edge.edge, "--domains", domain)
    with (
        EchoOrigin() as origin,
        client_of(acme_edge.edge, token) as client,
        quictunnel.forward(origin.port, domain=domain, client=client) as tunnel,
    ):
        eventually(lambda: acme_edge.is_served(tunnel), timeout=LONG_TIMEOUT)
    before = orders()
    eventually(lambda: orders() > before, timeout=LONG_TIMEOUT)
    command(acme_edge.edge, "token", "revoke", token.split(".")[1])
    eventually(lambda: standing()["next_try"] is None and not standing()["is_ordering"], timeout=LONG_TIMEOUT)
    ordered, end = orders(), standing()["expires_at"]
    eventually(lambda: time.time() > end, timeout=LONG_TIMEOUT)
    assert orders() == ordered
    assert standing().get("expires_at", end) == end


def test_a_development_edge_vouches_for_a_domain_itself(edge: EdgeProcess, client: quictunnel.Client):
    with (
        EchoOrigin() as origin,
        quictunnel.forward(origin.port, domain="app.example.test", client=client) as tunnel,
    ):
        context = ssl.create_default_context(cafile=str(edge.ca))
        with (
            socket.create_connection(("127.0.0.1", tunnel.port), timeout=30) as raw,
            context.wrap_socket(raw, server_hostname="app.example.test") as visitor,
        ):
            assert echoes(visitor)


def test_a_wildcard_for_all_tunnels_and_a_restart_that_orders_nothing(tmp_path: Path, engines: object):
    """The zone is changed by RFC 2136; a tunnel with HTTP/2 has a certificate of its own beside the wildcard."""
    secret = tmp_path / "secret"
    secret.write_bytes(base64.b64encode(b"thirty-two bytes of a shared key"))
    port = authorities.free_port()
    with (
        serving(Zone(DOMAIN, "edge", b"thirty-two bytes of a shared key", "hmac-sha256")) as zone,
        authorities.pebble(tmp_path / "pebble", dns=zone.port, tls_port=port) as authority,
        EchoOrigin() as origin,
    ):
        options = (
            *("--domain", DOMAIN, "--https", f"127.0.0.1:{port}", "--acme", "you@example.com"),
            *("--acme-directory", authority.directory, "--acme-ca", str(authority.ca)),
            *("--acme-dns", f"127.0.0.1:{zone.port}", "--acme-dns-key", "edge", "--acme-dns-secret", str(secret)),
            *("--acme-dns-wait", "0"),
        )
        roots = authority.roots(tmp_path / "roots.pem")
        serials = []
        for _ in range(2):
            log = tmp_path / "edge.log"
            edge = start_edge(tmp_path / "state", *options, log=log)
            acme_edge = AcmeEdge(edge, authorities.Names(0, 0), options, roots, log)
            with (
                edge.client() as client,
                quictunnel.forward(origin.port, name="plain", client=client) as plain,
                quictunnel.forward(authorities.free_port(), name="two", h2_enabled=True, client=client) as two,
            ):
                eventually(lambda: acme_edge.is_served(plain), timeout=LONG_TIMEOUT)  # noqa: B023 - called at once
                eventually(lambda: is_met(acme_edge, two), timeout=LONG_TIMEOUT)  # noqa: B023 - likewise
                with acme_edge.visit(plain) as visitor:
                    assert ("DNS", f"*.{DOMAIN}") in visitor.getpeercert()["subjectAltName"]
                    serials.append(serial_of(visitor))
                with acme_edge.visit(two) as visitor:
                    assert visitor.getpeercert()["subjectAltName"] == (("DNS", f"two.{DOMAIN}"),)
            assert edge.stop() == 0
        assert serials[0] == serials[1]
        assert log.read_text().count("a new certificate for") == 2
        assert not any(zone.records.values())


def is_met(acme_edge: AcmeEdge, tunnel: quictunnel.Tunnel) -> bool:
    try:
        acme_edge.visit(tunnel).close()
    except ssl.SSLError:
        return False
    return True
