"""``python -m edge_server name``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest

from edge_server.__main__ import main
from edge_server.claims.claims import Claims
from edge_server.claims.store import Claim, Event, Store

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_800_000_000


@pytest.fixture
def state(tmp_path: Path) -> Path:
    Store(tmp_path).write([Claim("app", "k1", NOW), Claim(":20022", "k2", NOW)])
    return tmp_path


def run(state: Path, *words: str) -> int:
    return main(["name", *words, "--state-dir", str(state)])


def test_list(state: Path, capsys: pytest.CaptureFixture[str]):
    assert run(state, "list") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["NAME", "OWNER", "LAST", "SEEN"],
        [":20022", "k2", "2027-01-15", "08:00"],
        ["app", "k1", "2027-01-15", "08:00"],
    ]
    assert run(state, "list", "--json") == 0
    assert json.loads(capsys.readouterr().out)[1] == {"name": "app", "owner": "k1", "banned": False, "seen": NOW}


def test_nothing_to_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(tmp_path, "list") == 0
    assert capsys.readouterr() == ("", "No name is anybody's yet.\n")


def test_ban_and_release(state: Path, capsys: pytest.CaptureFixture[str]):
    assert run(state, "ban", "APP") == 0
    assert capsys.readouterr().out == "app is banned.\n"
    assert [claim.is_banned for claim in Store(state).claims()] == [False, True]
    assert run(state, "list") == 0
    assert "(banned)" in capsys.readouterr().out
    assert run(state, "release", "app", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"name": "app", "state": "released"}
    assert run(state, "release", "app") == 1
    assert "is nobody's" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "network"),
    [("203.0.113.7", "203.0.113.7/32"), ("203.0.113.0/24", "203.0.113.0/24"), ("2001:DB8::/32", "2001:db8::/32")],
)
def test_ban_an_address(state: Path, given: str, network: str, capsys: pytest.CaptureFixture[str]):
    assert run(state, "ban", given) == 0
    assert capsys.readouterr().out == f"{network} is banned.\n"
    assert Claims(Store(state)).banned_networks() == [network]
    assert run(state, "release", given) == 0
    assert Claims(Store(state)).banned_networks() == []


def test_history(state: Path, capsys: pytest.CaptureFixture[str]):
    events = [Event(NOW + n, "held", f"n{n % 2}", 20000 * (n % 2), "k", "10.0.0.1") for n in range(5)]
    Store(state).record(events)
    assert run(state, "history") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["WHEN", "EVENT", "NAME", "PORT", "OWNER", "FROM"]
    assert lines[1] == ["2027-01-15", "08:00", "held", "n0", "-", "k", "10.0.0.1"]
    assert len(lines) == 6
    assert run(state, "history", "n1", "--last", "1", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [asdict(events[3])]


def test_the_history_is_bounded(state: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("edge_server.claims.store.MAX_EVENTS", 10)
    store = Store(state)
    for n in range(7):
        store.record([Event(NOW + n, "held", f"n{n}", 0, "k", "")] * 3)
    assert [event.name for event in store.history(None, 100)] == ["n3", *["n4"] * 3, *["n5"] * 3, *["n6"] * 3]


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 64])
def test_what_is_no_name(state: Path, name: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        run(state, "ban", name)
    assert caught.value.code == 2
    assert "is no name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "kept"), [("203.0.113.5/24", "@203.0.113.0/24"), ("@203.0.113.5", "@203.0.113.5/32")]
)
def test_a_network_is_one_however_it_is_written(state: Path, given: str, kept: str):
    assert run(state, "ban", given) == 0
    assert kept in [claim.what for claim in Store(state).claims()]


@pytest.mark.parametrize("what", [":2002O", ":0", ":70000", "203.0.113.5/33", "a_b", "a..b", "xn--a"])
def test_what_is_nothing_that_could_be_banned(state: Path, what: str):
    with pytest.raises(SystemExit):
        run(state, "ban", what)
