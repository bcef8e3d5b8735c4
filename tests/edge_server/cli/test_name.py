"""``python -m edge_server name``."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from edge_server.__main__ import main
from edge_server.auth.token import new_file_token, operator_key
from edge_server.storage.state_dir import StateDir
from edge_server.tunnels.ownership import NameOwnership
from edge_server.tunnels.ownership_store import DAY, FILE, OTHERS, VERSION, Claim, HistoryEntry, OwnershipStore
from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_800_000_000
VERSION_1 = """
CREATE TABLE claim (
    what TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    seen INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE history (
    number INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    event TEXT NOT NULL,
    name TEXT NOT NULL,
    port INTEGER NOT NULL,
    owner TEXT NOT NULL,
    host TEXT NOT NULL
) STRICT;
CREATE INDEX history_of_name ON history (name, number);
PRAGMA user_version = 1;
"""
"""As the first version of the edge made it."""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    OwnershipStore(tmp_path).write([Claim("app", "k1", NOW), Claim(":20022", "k2", NOW)])
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


def test_empty_list_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(tmp_path, "list") == 0
    assert capsys.readouterr() == ("", "No name has an owner yet.\n")


def test_ban_and_release(state: Path, capsys: pytest.CaptureFixture[str]):
    assert run(state, "ban", "APP") == 0
    assert capsys.readouterr().out == "app is banned.\n"
    assert [claim.is_banned for claim in OwnershipStore(state).claims()] == [False, True]
    assert run(state, "list") == 0
    assert "(banned)" in capsys.readouterr().out
    assert run(state, "release", "app", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"name": "app", "state": "released"}
    assert run(state, "release", "app") == 1
    assert "has no owner" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "network"),
    [("203.0.113.7", "203.0.113.7/32"), ("203.0.113.0/24", "203.0.113.0/24"), ("2001:DB8::/32", "2001:db8::/32")],
)
def test_ban_an_address(state: Path, given: str, network: str, capsys: pytest.CaptureFixture[str]):
    assert run(state, "ban", given) == 0
    assert capsys.readouterr().out == f"{network} is banned.\n"
    assert NameOwnership(OwnershipStore(state)).banned_networks() == [network]
    assert run(state, "release", given) == 0
    assert NameOwnership(OwnershipStore(state)).banned_networks() == []


def held(name: str, at: int = NOW, owner: str = "k", **more: Any) -> HistoryEntry:
    return HistoryEntry.of("held", at, name=name, owner=owner, **more)


def test_history(state: Path, capsys: pytest.CaptureFixture[str]):
    store = OwnershipStore(state)
    store.add_to_history(
        [held(f"n{n % 2}", NOW + 60 * n, port=20000 * (n % 2), host="10.0.0.1") for n in range(5)]
    )
    store.add_to_history([HistoryEntry.of("banned", NOW + 600, name="n1", owner="k"), held("other", owner="k2")])
    assert run(state, "history") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["FROM", "UNTIL", "NAME", "OWNER", "EVENTS", "VISITORS", "PORT", "CLIENT"]
    begin, end = ["2027-01-15", "08:00"], ["2027-01-15", "08:04"]
    assert lines[1][:6] == [*begin, *begin, "other", "k2"]
    assert lines[2] == [*begin, *end, "n0", "k", "held", "3x", "0", "-", "10.0.0.1"]
    assert lines[3][5:] == ["k", "held", "2x,", "banned", "0", "20000", "10.0.0.1"]
    assert run(state, "history", "N1", "--last", "1", "--json") == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["name"], entry["held"], entry["banned"]) == ("n1", 2, 1)
    assert run(state, "history", "--owner", "k2", "--json") == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == ["other"]


def test_owner_cannot_flush_the_history(state: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither its own deed of another day or of this one, nor somebody else's."""
    monkeypatch.setattr("edge_server.tunnels.ownership_store.MAX_NAMES_A_DAY", 10)
    store = OwnershipStore(state)
    store.add_to_history(
        [held("bank-login", NOW - DAY), held("a2345678901234bc", NOW), held("shop", NOW, owner="good")]
    )
    for number in range(100):
        store.add_to_history(held(f"n{number}-{name}", NOW + number) for name in range(5))
    for name in ("bank-login", "a2345678901234bc", "shop"):
        assert len(store.history(name, 10)) == 1
    mine = store.history(None, 1000, owner="k")
    assert len([entry for entry in mine if entry.day == NOW // DAY]) == 11
    (others,) = store.history(OTHERS, 10)
    assert others.held == 500 - 9


def test_history_is_bounded_by_number_of_days(state: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("edge_server.tunnels.ownership_store.MAX_DAYS", 3)
    store = OwnershipStore(state)
    for n in range(3):
        store.add_to_history([held(f"n{n}", NOW + n * DAY)])
    store.add_to_history([held("ahead", NOW + 1000 * DAY)])
    store.add_to_history([held("behind", 0)])
    assert {entry.name for entry in store.history(None, 100)} == {"n2", "ahead", "behind"}


def test_a_history_of_single_events_is_taken_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as database:
        database.executescript(VERSION_1)
        rows = [
            (NOW + n, event, "app" if n < 4 else "other", 0, "k", f"10.0.0.{n}")
            for n, event in enumerate(("held", "released", "held", "banned", "held"))
        ]
        rows.append((NOW + DAY, "released", "other", 20_001, "k", "10.0.0.9"))
        database.executemany(
            "INSERT INTO history (at, event, name, port, owner, host) VALUES (?, ?, ?, ?, ?, ?)", rows
        )
        database.execute("INSERT INTO claim VALUES ('app', 'k', ?)", (NOW,))
        database.commit()
    store = OwnershipStore(tmp_path)
    assert [claim.subject for claim in store.claims()] == ["app"]
    app, other, later = store.history(None, 10)
    assert (app.held, app.released, app.banned, app.since, app.until) == (2, 1, 1, NOW, NOW + 3)
    assert (app.host, app.last_host, app.day) == ("10.0.0.0", "10.0.0.3", NOW // DAY)
    assert (other.name, other.held, later.released, later.port) == ("other", 1, 1, 20_001)
    store.add_to_history([held("app", NOW + 5)])
    store.close()
    again = OwnershipStore(tmp_path)
    assert again.history("app", 1)[0].held == 3
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as database:
        tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert tables == {"claim", "history"}


def test_a_change_that_fails_half_way_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as database:
        database.executescript(VERSION_1 + "DROP INDEX history_of_name;")
    with pytest.raises(ConfigError, match="history_of_name"):
        OwnershipStore(tmp_path).claims()
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as database:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert (version, tables) == (1, {"claim", "history"})


def test_a_newer_database_is_not_touched(tmp_path: Path):
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as database:
        database.execute(f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(ConfigError, match="another version"):
        OwnershipStore(tmp_path).claims()


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 64])
def test_malformed_name_is_refused(state: Path, name: str, capsys: pytest.CaptureFixture[str]):
    assert run(state, "ban", name) == 2
    assert "is neither a name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "kept"), [("203.0.113.5/24", "@203.0.113.0/24"), ("@203.0.113.5", "@203.0.113.5/32")]
)
def test_a_network_is_one_however_it_is_written(state: Path, given: str, kept: str):
    assert run(state, "ban", given) == 0
    assert kept in [claim.subject for claim in OwnershipStore(state).claims()]


@pytest.mark.parametrize("what", [":2002O", ":0", ":70000", "203.0.113.5/33", "a_b", "a..b", "xn--a"])
def test_malformed_ban_is_refused(state: Path, what: str):
    assert run(state, "ban", what) == 2


def test_a_host_name_below_the_domain_stands_for_its_label(state: Path, capsys: pytest.CaptureFixture[str]):
    StateDir(state).keep_domain("tunnel.example")
    assert run(state, "ban", "BAR.tunnel.example") == 0
    assert capsys.readouterr().out == "bar is banned.\n"
    assert "bar" in [claim.subject for claim in OwnershipStore(state).claims()]
    OwnershipStore(state).add_to_history([held("bar")])
    assert run(state, "history", "bar.tunnel.example", "--json") == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == ["bar"]
    assert run(state, "release", "bar.tunnel.example") == 0
    assert run(state, "ban", "app.example.com") == 0, "a custom domain of a user"
    assert capsys.readouterr().out.endswith("app.example.com is banned.\n")


@pytest.mark.parametrize("host", ["tunnel.example", "a.b.tunnel.example"])
def test_other_names_of_the_domain_are_refused(state: Path, host: str, capsys: pytest.CaptureFixture[str]):
    StateDir(state).keep_domain("tunnel.example")
    assert run(state, "ban", host) == 2
    assert f"'{host}' is no name of a tunnel: those are directly below tunnel.example." in capsys.readouterr().err


def test_a_host_name_is_refused_while_the_domain_is_unknown(state: Path, capsys: pytest.CaptureFixture[str]):
    assert run(state, "ban", "bar.tunnel.localhost") == 2
    assert "give the label alone (bar), or start the edge first" in capsys.readouterr().err
    OwnershipStore(state).write([Claim("app.example.com", "k1", NOW)])
    assert run(state, "ban", "app.example.com") == 0, "a known domain of a user"


def test_a_name_of_digits_is_not_mistaken_for_a_port(state: Path, capsys: pytest.CaptureFixture[str]):
    assert run(state, "ban", "20055") == 0
    assert capsys.readouterr().out == "The name 20055 is banned (a TCP port is written :20055).\n"


def test_names_of_the_operators_token_are_found(state: Path, capsys: pytest.CaptureFixture[str]):
    key = operator_key(StateDir(state).token(new_file_token))
    OwnershipStore(state).write([Claim("mine", key, NOW)])
    OwnershipStore(state).add_to_history([held("mine", owner=key), held("other", owner="k2")])
    assert run(state, "list") == 0
    assert ["mine", "(operator)"] in [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    for owner in ("operator", "(operator)", key):
        assert run(state, "history", "--owner", owner) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[4:6] for line in lines[1:]] == [["mine", "(operator)"]]
    assert run(state, "history", "--owner", "operator", "--json") == 0
    assert [entry["owner"] for entry in json.loads(capsys.readouterr().out)] == [key]
