"""Targets: the texts that name a local service, and the addresses that are dialled for them."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
import trustme

from quictunnel.connection.options import ForwardOptions
from quictunnel.errors import InvalidError
from quictunnel.origin.target import MAX_UNIX_PATH, Target, parse_target

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("given", "text", "noun"),
    [
        (8000, "localhost:8000", "port 8000"),
        ("localhost:8000", "localhost:8000", "port 8000"),
        ("LOCALHOST:8000", "localhost:8000", "port 8000"),
        (":8000", "localhost:8000", "port 8000"),
        ("*:8000", "localhost:8000", "port 8000"),
        ("0.0.0.0:8000", "localhost:8000", "port 8000"),
        ("[::]:8000", "localhost:8000", "port 8000"),
        ("app.localhost:8000", "localhost:8000", "port 8000"),
        ("http://localhost:3000", "localhost:3000", "port 3000"),
        ("http://0.0.0.0:8000/", "localhost:8000", "port 8000"),
        ("http://localhost", "localhost:80", "port 80"),
        ("https://localhost", "https://localhost:443", "port 443"),
        ("https://web:8443", "https://web:8443", "https://web:8443"),
        ("https://[::1]", "https://[::1]:443", "https://[::1]:443"),
        ("HTTPS://Web", "https://web:443", "https://web:443"),
        ("127.0.0.1:8000", "127.0.0.1:8000", "127.0.0.1:8000"),
        ("[::1]:8000", "[::1]:8000", "[::1]:8000"),
        ("web:8000", "web:8000", "web:8000"),
        ("my_app-1.internal:8000", "my_app-1.internal:8000", "my_app-1.internal:8000"),
        ("unix:/run/app.sock", "unix:/run/app.sock", "unix:/run/app.sock"),
        ("unix:///run/app.sock", "unix:/run/app.sock", "unix:/run/app.sock"),
    ],
)
def test_forms(given: int | str, text: str, noun: str) -> None:
    target = parse_target(given)
    assert (target.text, target.noun) == (text, noun)
    assert (target.tls is not None) is text.startswith("https://")
    assert parse_target(target.text) == target


def test_a_relative_path_is_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_target("unix:app.sock").path == str(tmp_path / "app.sock")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("8000", "The port argument should be an int, not str"),
        ("web", "The port argument should be an int, not str"),
        ("", "The port argument should be an int, not str"),
        ("http://localhost:3000/api", "not one path of a server: leave out '/api'"),
        ("http://localhost:3000?x=1", "leave out '\\?x=1'"),
        ("http://me:secret@web:80", "Leave out the user and password"),
        ("ftp://web:21", "should be http, https or unix, not 'ftp'"),
        ("tcp://web:21", "should be http, https or unix, not 'tcp'"),
        ("web:0", "the port should be a number from 1 to 65535"),
        ("web:99999", "the port should be a number from 1 to 65535"),
        ("web:port", "the port should be a number"),
        ("web/api", "the port is missing"),
        ("::1", "an IPv6 address needs brackets"),
        ("we b:80", "not a host name"),
        ("http://", "the host is missing"),
        ("1.2.3:80", "not an IPv4 address"),
        ("unix:", "The path of the Unix socket is missing"),
        ("unix:/" + "x" * MAX_UNIX_PATH, "too long"),
        ("unix:/tmp/\udcff", r"UTF-8 text without control characters, .*, not '/tmp/\\udcff'"),
        ("unix:/tmp/a\x1b[31m", "without control characters"),
        ("unix:/tmp/a\n", "without control characters"),
        ("unix:/tmp/a\x85", "without control characters"),
        ("we\udcff:80", "not a host name"),
        ("we\x1bb:80", "not a host name"),
        ("[fe80::1%\udcff]:80", "zone of the IPv6 address"),
        ("https://[fe80::1%a\x1bb]:80", "zone of the IPv6 address"),
    ],
)
def test_errors_say_what_is_wrong(given: str, words: str) -> None:
    with pytest.raises(InvalidError, match=words):
        parse_target(given)


def test_a_working_directory_that_is_no_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a\udcff"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(InvalidError, match="UTF-8"):
        parse_target("unix:app.sock")


@pytest.mark.parametrize("path", ["/run/app server.sock", "/run/ünï\N{SNOWMAN}.sock"])
def test_other_paths_are_accepted(path: str) -> None:
    assert parse_target(f"unix:{path}").path == path


def test_the_longest_path() -> None:
    assert parse_target("unix:/" + "x" * (MAX_UNIX_PATH - 1)).path


@pytest.mark.parametrize("options", [{"verify": False}, {"authority": "ca.pem"}])
@pytest.mark.parametrize("given", [8000, "http://web:80", "unix:/run/app.sock"])
def test_certificates_are_for_https(given: int | str, options: dict[str, str]) -> None:
    with pytest.raises(InvalidError, match="reached without TLS"):
        parse_target(given, **options)  # type: ignore[arg-type]  # one of them


def test_verification(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(authority))
    checked = parse_target("https://web", authority=authority).tls
    assert checked is not None
    assert checked.verify_mode is ssl.CERT_REQUIRED
    assert checked.check_hostname
    assert len(checked.get_ca_certs()) == 1
    unchecked = parse_target("https://web", verify=False).tls
    assert unchecked is not None
    assert unchecked.verify_mode is ssl.CERT_NONE
    with pytest.raises(InvalidError, match="give one of them"):
        parse_target("https://web", verify=False, authority=authority)
    authority.write_text("nothing")
    with pytest.raises(InvalidError, match="no certificate is in it"):
        parse_target("https://web", authority=authority)
    with pytest.raises(InvalidError, match="No such file"):
        parse_target("https://web", authority=tmp_path / "none")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tls": "passthrough"}, "give web:8443 without https://"),
        ({"h2": True}, "HTTP/2 without TLS"),
        ({"proxy_protocol": "v2"}, "within TLS"),
    ],
)
def test_options_that_contradict_tls_to_the_origin(options: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidError, match=words):
        ForwardOptions(port="https://web:8443", **options)  # type: ignore[arg-type]  # one of them


def test_visitors_do_not_see_names_of_the_local_network() -> None:
    assert "web" not in parse_target("web:8000").place
    assert "/run" not in parse_target("unix:/run/app.sock").place
    assert Target(8000).place == "port 8000 of the machine behind this tunnel"


def test_commands_of_curl() -> None:
    assert parse_target("unix:/run/a b").curl_options == ["--unix-socket", "'/run/a b'"]
    assert parse_target("unix:/run/a b").base_url == "http://localhost"
    assert parse_target("https://web", verify=False).curl_options == ["--insecure"]
    assert (parse_target("https://web").base_url, parse_target("https://web").curl_options) == (
        "https://web:443",
        [],
    )
