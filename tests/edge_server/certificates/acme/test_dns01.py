"""A zone that cannot be changed: by signed updates, and by a command."""

from __future__ import annotations

import base64
import itertools
import os
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from dns.name import from_text
from dns.resolver import Resolver

from edge_server.certificates.acme import dns01 as rooms
from edge_server.certificates.acme.dns01 import Hook, Updates
from edge_server.certificates.acme.errors import AcmeError
from edge_server.certificates.acme.settings import DnsUpdates
from tests.edge_server.certificates.acme.dns_server import Zone, serving
from tests.harness.programs import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DOMAIN = "tunnel.example.com"
RECORD = f"_acme-challenge.{DOMAIN}"
SECRET = b"thirty-two bytes of a shared key"


def never_stopped(_: float) -> bool:
    return False


@pytest.fixture
def zone() -> Iterator[Zone]:
    with serving(Zone(DOMAIN, "edge", SECRET, "hmac-sha512")) as zone:
        yield zone


@pytest.fixture
def updates(zone: Zone, tmp_path: Path) -> DnsUpdates:
    secret = tmp_path / "secret"
    secret.write_bytes(base64.b64encode(SECRET))
    return DnsUpdates(
        server=("localhost", zone.port),
        zone=DOMAIN,
        key="edge",
        algorithm="hmac-sha512",
        secret=secret,
        resolver=("localhost", zone.port),
    )


def test_two_records_of_one_name_are_beside_each_other(zone: Zone, updates: DnsUpdates):
    there = Updates(updates, never_stopped)
    there.set(RECORD, "one")
    there.set(RECORD, "two")
    assert list(zone.records.values()) == [{"one", "two"}]
    there.clear(RECORD, "one")
    there.clear(RECORD, "one")
    assert list(zone.records.values()) == [{"two"}]


def test_another_key_is_refused(updates: DnsUpdates, tmp_path: Path):
    other = tmp_path / "other"
    other.write_bytes(base64.b64encode(b"another secret, of another zone."))
    with pytest.raises(AcmeError, match=r"refused|sent no valid response") as raised:
        Updates(replace(updates, secret=other), never_stopped).set(RECORD, "one")
    assert "another secret" not in raised.value.reason


def test_another_zone_is_refused(zone: Zone, updates: DnsUpdates):
    with pytest.raises(AcmeError, match="refused to update"):
        Updates(replace(updates, zone="example.com"), never_stopped).set(RECORD, "one")
    with pytest.raises(AcmeError, match=r"is not in the zone elsewhere\.example\.org"):
        Updates(replace(updates, zone="elsewhere.example.org"), never_stopped).set(RECORD, "one")
    assert zone.log == []


@pytest.fixture
def delegated(zone: Zone, updates: DnsUpdates) -> DnsUpdates:
    """The domain's own zone is another one, which nobody changes."""
    zone.name = from_text("acme.example.net")
    return replace(updates, zone="acme.example.net")


@pytest.mark.parametrize("proxy", [0, 1, rooms.MAX_ALIASES - 1])
def test_an_alias_into_the_zone_is_followed(zone: Zone, delegated: DnsUpdates, proxy: int):
    """Over others, within the zone and without."""
    path = [RECORD, *(f"hop{number}.example.{'org' * (number % 2)}com" for number in range(proxy))]
    if proxy:
        path[-1] = "hop.acme.example.net"
    path.append("tunnel.acme.example.net")
    for name, target in itertools.pairwise(path):
        zone.alias(name, target)
    there = Updates(delegated, never_stopped)
    there.set(RECORD, "one")
    assert zone.records == {from_text(path[-1]): {"one"}}
    zone.aliases.clear()  # it is removed where it was put
    there.clear(RECORD, "one")
    assert not any(zone.records.values())


def test_alias_to_another_zone_is_reported(zone: Zone, delegated: DnsUpdates):
    with pytest.raises(
        AcmeError, match=r"is not in the zone acme\.example\.net and is no alias \(CNAME\) into it"
    ):
        Updates(delegated, never_stopped).set(RECORD, "one")
    zone.alias(RECORD, "between.acme.example.net")
    zone.alias("between.acme.example.net", "somewhere.example.org")
    words = r"is an alias \(CNAME\) of somewhere\.example\.org, which is not in the zone acme\.example\.net"
    there = Updates(delegated, never_stopped)
    with pytest.raises(AcmeError, match=words):
        there.set(RECORD, "one")
    there.clear(RECORD, "one")  # nothing was put anywhere
    assert zone.log == []


def test_aliases_that_never_end(zone: Zone, delegated: DnsUpdates):
    path = [RECORD, *(f"hop{number}.example.com" for number in range(rooms.MAX_ALIASES)), "x.acme.example.net"]
    for name, target in itertools.pairwise(path):
        zone.alias(name, target)
    with pytest.raises(AcmeError, match=f"has a chain of more than {rooms.MAX_ALIASES} records"):
        Updates(delegated, never_stopped).set(RECORD, "one")
    zone.alias("hop2.example.com", "HOP1.example.com")
    with pytest.raises(AcmeError, match=r"loops back to (?i:hop1)\.example\.com"):
        Updates(delegated, never_stopped).set(RECORD, "one")
    zone.alias(RECORD, RECORD)
    with pytest.raises(AcmeError, match="loops back to"):
        Updates(delegated, never_stopped).set(RECORD, "one")
    assert zone.log == []


def test_wildcard_alias_is_no_alias(zone: Zone, updates: DnsUpdates):
    """``*.DOMAIN CNAME edge.example.com``, as people point tunnels to an edge."""
    zone.wildcard = from_text("edge.example.com")
    there = Updates(updates, never_stopped)
    there.set(RECORD, "one")
    assert zone.records == {from_text(RECORD): {"one"}}


def test_within_the_zone_its_own_server_is_asked(zone: Zone, updates: DnsUpdates):
    """An edge that needs no resolver goes on needing none."""
    there = Updates(replace(updates, resolver=("127.0.0.1", free_port())), never_stopped)
    there.set(RECORD, "one")
    there.clear(RECORD, "one")
    assert zone.asked == [f"CNAME {RECORD}.", f"TXT {RECORD}."]


def test_a_resolver_that_does_not_answer(zone: Zone, delegated: DnsUpdates, monkeypatch: pytest.MonkeyPatch):
    zone.alias(RECORD, "tunnel.acme.example.net")
    monkeypatch.setattr(rooms, "DNS_TIMEOUT", 0.3)
    for resolver in (("127.0.0.1", free_port()), ("nowhere.invalid", 53)):
        with pytest.raises(AcmeError, match=r"looking up an alias \(CNAME\) failed: "):
            Updates(replace(delegated, resolver=resolver), never_stopped).set(RECORD, "one")
    assert zone.log == []


def test_without_another_one_the_systems_resolver_is_asked(
    zone: Zone, delegated: DnsUpdates, monkeypatch: pytest.MonkeyPatch
):
    zone.alias(RECORD, "tunnel.acme.example.net")

    def read(resolver: Resolver, _: object = None) -> None:
        resolver.nameservers, resolver.port = ["127.0.0.1"], zone.port

    monkeypatch.setattr(Resolver, "read_resolv_conf", read)
    Updates(replace(delegated, resolver=None), never_stopped).set(RECORD, "one")
    assert zone.records == {from_text("tunnel.acme.example.net"): {"one"}}


def test_a_server_that_is_not_there_and_one_that_says_nothing(
    zone: Zone, updates: DnsUpdates, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(AcmeError, match="sent no valid response"):
        Updates(replace(updates, server=("127.0.0.1", free_port())), never_stopped).set(RECORD, "one")
    monkeypatch.setattr(rooms, "DNS_TIMEOUT", 0.3)
    zone.is_deaf = True
    with pytest.raises(AcmeError, match="sent no valid response"):
        Updates(updates, never_stopped).set(RECORD, "one")


def test_a_record_that_is_taken_and_not_shown(zone: Zone, updates: DnsUpdates):
    looks = []

    def look(_: float) -> bool:
        looks.append(1)
        zone.records.clear()
        return False

    zone.records = ForgetfulRecords()
    with pytest.raises(AcmeError, match=r"accepted the record .* but does not serve it"):
        Updates(updates, look).set(RECORD, "one")
    assert len(looks) == rooms.MAX_CHECKS


class ForgetfulRecords(dict):  # type: ignore[type-arg]
    """Forgets what it is given."""

    def setdefault(self, *_: object) -> set[str]:
        return set()


def test_a_secret_that_has_gone_is_a_reason_like_others(updates: DnsUpdates, tmp_path: Path):
    with pytest.raises(AcmeError, match="cannot be read"):
        Updates(replace(updates, secret=tmp_path / "nowhere"), never_stopped).set(RECORD, "one")


def hook(code: str, **more: float) -> Hook:
    return Hook((sys.executable, "-c", code), never_stopped, **more)


def test_a_command_that_fails_says_why():
    with pytest.raises(AcmeError, match=r"set exited with status 3: no such zone \?\[31m$"):
        hook("import sys; print('no such zone', '\\x1b[31m', file=sys.stderr); sys.exit(3)").set(RECORD, "v")
    with pytest.raises(AcmeError, match="clear exited with status 1: no message"):
        hook("raise SystemExit(1)").clear(RECORD, "v")
    with pytest.raises(AcmeError, match="cannot be run: No such file"):
        Hook(("/nowhere/hook",), never_stopped).set(RECORD, "v")


STARTS_ANOTHER = """\
import subprocess, sys
subprocess.run([sys.executable, "-c", "import sys, time; open(sys.argv[1], 'w'), time.sleep(60)", sys.argv[1]])
"""


def test_a_command_that_never_ends_is_ended_with_what_it_has_started(tmp_path: Path):
    pipe, script = tmp_path / "pipe", tmp_path / "hook.py"
    os.mkfifo(pipe)
    script.write_text(STARTS_ANOTHER)
    held = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    slow = Hook((sys.executable, str(script), str(pipe)), never_stopped, timeout=1.0)
    with pytest.raises(AcmeError, match="took longer than 1 s and was killed"):
        slow.set(RECORD, "v")
    os.set_blocking(held, True)
    assert os.read(held, 1) == b""  # the end: nobody holds the other one any more
    os.close(held)


def test_a_command_ends_with_the_edge():
    stopping = threading.Event()
    threading.Timer(0.2, stopping.set).start()
    slow = Hook((sys.executable, "-c", "import time; time.sleep(30)"), stopping.wait)
    began = time.monotonic()
    with pytest.raises(AcmeError):
        slow.set(RECORD, "v")
    assert time.monotonic() - began < 10


def test_hook_arguments_are_not_parsed_by_a_shell(tmp_path: Path):
    out = tmp_path / "out"
    code = f"import sys; open({str(out)!r}, 'w').write(repr(sys.argv[1:]))"
    hook(code).set("$(exit 3)", "; exit 3")
    assert out.read_text() == "['set', '$(exit 3)', '; exit 3']"
