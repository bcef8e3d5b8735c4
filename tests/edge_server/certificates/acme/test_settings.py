"""Tests of the ACME options: their meaning, and one line for each mistake that names the remedy."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from edge_server.certificates.acme.settings import MAX_SECRET, AcmeSettings, read_secret, settings_of
from edge_server.config.edge_config import parse
from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

BASE = ("--acme", "you@example.com", "--domain", "tunnel.example.com")
KEY = base64.b64encode(b"a secret of thirty-two bytes. 32").decode()


def settings(*options: str) -> AcmeSettings:
    found = settings_of(parse([*BASE, *options]).acme_options)
    assert found is not None
    return found


@pytest.fixture
def secret(tmp_path: Path) -> str:
    path = tmp_path / "secret"
    path.write_text(KEY + "\n")
    return str(path)


def test_without_options_there_is_no_acme():
    assert settings_of(parse([]).acme_options) is None


def test_default_challenge_is_tls_alpn_per_name():
    found = settings()
    assert (found.challenge, found.client_challenge) == ("tls-alpn-01", "tls-alpn-01")
    assert found.directory == "https://acme-v02.api.letsencrypt.org/directory"
    found = settings("--acme-http", "0.0.0.0:80", "--acme-challenge", "http-01")
    assert (found.challenge, found.client_challenge, found.http) == ("http-01", "http-01", ("0.0.0.0", 80))


def test_dns_options_choose_dns01_for_a_wildcard(secret: str):
    found = settings("--acme-dns-hook", "/usr/local/bin/hook 'with a word'")
    assert (found.challenge, found.client_challenge) == ("dns-01", "tls-alpn-01")
    assert found.hook == ("/usr/local/bin/hook", "with a word")
    found = settings("--acme-dns", "192.0.2.1", "--acme-dns-key", "edge.", "--acme-dns-secret", secret)
    assert found.challenge == "dns-01"
    assert found.updates is not None
    assert (found.updates.server, found.updates.zone, found.updates.key) == (
        ("192.0.2.1", 53), "tunnel.example.com", "edge"
    )  # fmt: skip
    assert found.updates.resolver is None
    more = ("--acme-dns-zone", "Acme.example.net.", "--resolver", "192.0.2.2:5353")
    found = settings("--acme-dns", "192.0.2.1", "--acme-dns-key", "edge", "--acme-dns-secret", secret, *more)
    assert found.updates is not None
    assert (found.updates.zone, found.updates.resolver) == ("acme.example.net", ("192.0.2.2", 5353))
    found = settings("--acme-dns-hook", "hook", "--acme-http", "127.0.0.1:8080")
    assert found.client_challenge == "http-01"


@pytest.mark.parametrize(
    ("server", "address"),
    [
        ("ns.example.com:5353", ("ns.example.com", 5353)),
        ("2001:db8::1", ("2001:db8::1", 53)),
        ("[2001:db8::1]:54", ("2001:db8::1", 54)),
    ],
)
def test_a_name_server_may_have_a_port(secret: str, server: str, address: tuple[str, int]):
    found = settings("--acme-dns", server, "--acme-dns-key", "edge", "--acme-dns-secret", secret)
    assert found.updates is not None
    assert found.updates.server == address


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--acme", "nobody"), "should be an e-mail address"),
        (("--acme", "a b@example.com"), "should be an e-mail address"),
        ((*BASE[2:], "--acme-ca", "x"), "needs --acme EMAIL"),
        ((*BASE[2:], "--acme-dns-wait", "1"), "needs --acme EMAIL"),
        (("--acme", "you@example.com"), "needs a --domain of your own"),
        ((*BASE, "--acme-directory", "http://example.com/dir"), "should be an https:// URL"),
        ((*BASE, "--acme-directory", "https://user@example.com/dir"), "should be an https:// URL"),
        ((*BASE, "--acme-directory", "https://[::1"), "should be an https:// URL"),
        ((*BASE, "--acme-ca", "/nowhere/ca.pem"), "cannot be read"),
        ((*BASE, "--acme-challenge", "dns-01"), "needs --acme-dns"),
        ((*BASE, "--acme-challenge", "http-01"), "needs --acme-http"),
        ((*BASE, "--acme-dns", "192.0.2.1"), "needs --acme-dns-key as well"),
        ((*BASE, "--acme-dns-key", "k", "--acme-dns-hook", "x"), "needs --acme-dns as well"),
        ((*BASE, "--acme-dns-hook", "'half"), "is not a valid command"),
        ((*BASE, "--acme-dns-wait", "-1"), "should be seconds"),
        ((*BASE, "--acme-eab", "kid"), "go together"),
        ((*BASE, "--resolver", "example.com:0"), "--resolver"),
    ],
)
def test_wrong_settings_are_reported(options: tuple[str, ...], words: str):
    with pytest.raises(ConfigError, match=words) as raised:
        parse(options)
    assert "\n" not in str(raised.value)


def test_two_ways_to_the_zone_are_one_too_many(secret: str):
    with pytest.raises(ConfigError, match="use one of them"):
        settings(
            "--acme-dns", "192.0.2.1", "--acme-dns-key", "k", "--acme-dns-secret", secret, "--acme-dns-hook", "x"
        )


@pytest.mark.parametrize("name", ["a..b", "with space", "ä"])
def test_a_key_has_a_name_that_dns_can_carry(secret: str, name: str):
    with pytest.raises(ConfigError, match="should be a DNS name"):
        settings("--acme-dns", "192.0.2.1", "--acme-dns-key", name, "--acme-dns-secret", secret)


@pytest.mark.parametrize("content", [b"", b"not base 64!", b"\xff\xfe", b"A" * (MAX_SECRET + 4)])
def test_file_without_a_key_is_reported_without_its_content(tmp_path: Path, content: bytes):
    path = tmp_path / "secret"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="does not contain a key in base64") as raised:
        read_secret(path, "--acme-dns-secret")
    assert not content or content.decode("latin-1") not in str(raised.value)


def test_a_key_in_base64url_may_lack_its_padding(tmp_path: Path):
    path = tmp_path / "secret"
    path.write_text("_-8")
    assert read_secret(path, "--acme-eab-key", url_safe=True) == b"\xff\xef"
