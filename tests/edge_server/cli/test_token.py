"""``python -m edge_server token``."""

from __future__ import annotations

import hashlib
import json
import ssl
import stat
from typing import TYPE_CHECKING, Any

import pytest

from edge_server.__main__ import main
from edge_server.auth.permission_texts import MAX_NAMES
from edge_server.auth.token import key_of, new_file_token, operator_key
from edge_server.auth.token_registry import TokenRegistry
from edge_server.auth.token_store import FILE_NAME, TokenStore
from edge_server.certificates.authority import DevelopmentAuthority
from edge_server.storage.state_dir import StateDir
from quictunnel.config.credential import decode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Run = "Callable[..., tuple[int, str, str]]"


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command with these words: its status, what it prints and what it says."""

    def command(*words: str) -> tuple[int, str, str]:
        status = main(["token", *words, "--state-dir", str(tmp_path / "state")])
        said = capsys.readouterr()
        return status, said.out, said.err

    return command


def list_tokens(run: Callable[..., tuple[int, str, str]]) -> list[dict[str, Any]]:
    status, out, _ = run("list", "--json")
    assert status == 0
    found: list[dict[str, Any]] = json.loads(out)
    return found


def test_a_token_is_printed_alone_and_once(run, tmp_path: Path):
    status, out, err = run("create", "--note", "for the shop")
    assert status == 0
    token = out.removesuffix("\n")
    assert TokenRegistry("", TokenStore(tmp_path / "state")).check(token)
    assert "not shown again" in err
    assert token not in err
    assert token.rpartition(".")[2] not in run("list")[1] + run("list", "--json")[1]
    assert stat.S_IMODE((tmp_path / "state" / FILE_NAME).stat().st_mode) == 0o600


def test_a_credential_is_printed_alone_if_the_address_is_known(run, tmp_path: Path):
    state = tmp_path / "state"
    authority = DevelopmentAuthority.load_or_create(state)
    StateDir(state).keep_public_address("edge.example.com:4433")
    out, err = run("create")[1:]
    found = decode(out)
    assert found.addresses == ("edge.example.com:4433",)
    assert found.pin == hashlib.sha256(ssl.PEM_cert_to_DER_cert(authority.pem.decode())).digest()
    assert TokenRegistry("", TokenStore(state)).check(found.token.reveal())
    assert "quictunnel login" in err
    assert out.strip() not in err
    other = json.loads(run("create", "--edge", "[2001:db8::1]:443", "--json")[1])
    assert decode(other["credential"]).addresses == ("[2001:db8::1]:443",)
    assert decode(other["credential"]).token.reveal() == other["token"]
    alone = run("create", "--token-only")[1].strip()
    assert TokenRegistry("", TokenStore(state)).check(alone)


def test_a_wrong_address_creates_no_token(run):
    assert run("create", "--edge", "nowhere")[0] == 2
    assert list_tokens(run) == []


def test_without_an_address_the_token_is_printed(run):
    out, err = run("create")[1:]
    assert out.startswith("qt1.")
    assert "public address is not known" in err
    assert json.loads(run("create", "--json")[1])["credential"] is None


def test_rights(run):
    words = "--tunnels 2 --visitors 50 --tcp-ports 20000-20009 --expires 30d --note shop"
    run("create", *words.split())
    (entry,) = list_tokens(run)
    expected = {"state": "good", "tunnels": 2, "visitors": 50, "tcp_ports": "20000-20009", "revoked": None}
    assert entry | expected == entry
    assert entry["expires"] - entry["created"] == 30 * 86_400
    shown = run("show", entry["key"])[1]
    assert "20000-20009" in shown
    assert "good" in shown


def test_without_options_everything_is_allowed(run):
    run("create")
    (entry,) = list_tokens(run)
    assert [entry[name] for name in ("tunnels", "visitors", "tcp_ports", "expires")] == [None] * 4
    assert "never" in run("list")[1]


def test_no_tcp_ports(run):
    run("create", "--tcp-ports", "none")
    assert list_tokens(run)[0]["tcp_ports"] == "none"


def test_revoke(run):
    run("create")
    key = list_tokens(run)[0]["key"]
    assert run("revoke", key) == (0, f"Token {key} is revoked.\n", "")
    assert list_tokens(run)[0]["state"] == "revoked"
    assert run("revoke", key)[0] == 0


def test_change(run):
    words = "--tunnels 2 --visitors 50 --tcp-ports 20000-20009 --names shop --expires 30d --note shop"
    run("create", *words.split())
    (before,) = list_tokens(run)
    key = before["key"]
    words = "--tunnels 9 --names all --domains *.example.org --expires never"
    assert run("change", key, *words.split()) == (0, f"Token {key} is changed.\n", "")
    (after,) = list_tokens(run)
    changed = {"tunnels": 9, "names": None, "domains": ["*.example.org"], "expires": None}
    assert after == before | changed
    run("change", key, "--visitors", "all", "--tcp-ports", "all", "--bandwidth", "10M", "--note", "")
    changed |= {"visitors": None, "tcp_ports": None, "bandwidth": 10_000_000, "note": ""}
    assert list_tokens(run) == [before | changed]
    assert json.loads(run("change", key, "--bandwidth", "all", "--json")[1])["bandwidth"] is None


def test_change_needs_an_option(run):
    run("create")
    status, _, err = run("change", list_tokens(run)[0]["key"])
    assert status == 2
    assert "Nothing to change" in err


def test_a_revoked_token_is_not_changed(run):
    run("create")
    key = list_tokens(run)[0]["key"]
    run("revoke", key)
    status, out, err = run("change", key, "--tunnels", "1")
    assert (status, out) == (1, "")
    assert "is revoked" in err


@pytest.mark.parametrize("command", [["show"], ["revoke"], ["change", "--tunnels", "1"]])
def test_an_unknown_token(run, command: list[str]):
    status, out, err = run(*command, "nobody")
    assert (status, out) == (1, "")
    assert "there is no token 'nobody'" in err


def test_empty_token_list_says_so(run):
    assert run("list") == (0, "", "There is no token yet.\n")
    assert list_tokens(run) == []


@pytest.mark.parametrize(("words", "complaint"), [
    (["create", "--tunnels", "-1"], "should be a number from 0 to 999999999, or all, not '-1'"),
    (["create", "--tunnels", "many"], "should be a number from 0 to 999999999, or all, not 'many'"),
    (["create", "--tcp-ports", "9-1"], "should be a range"),
    (["create", "--expires", "soon"], "neither a duration"),
    (["create", "--expires", "2001-01-01"], "is in the past"),
    (["make"], "No such command 'make'."),
    (["creat"], "Did you mean 'create'?"),
    (["create", "--tunels", "1"], "No such option '--tunels'"),
    (["show"], "Missing argument 'KEY'"),
])  # fmt: skip
def test_bad_arguments_are_refused(run, words: list[str], complaint: str):
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert complaint in err


def test_a_state_directory_that_cannot_be_used(run, tmp_path: Path):
    (tmp_path / "state").write_text("a file")
    status, out, err = run("list")
    assert (status, out) == (2, "")
    assert err.startswith("quictunnel-edge token: error: The state directory")


def test_tokens_have_no_domains_by_default(run):
    run("create")
    run("create", "--domains", "App.example.com,*.example.org,app.example.com")
    run("create", "--domains", "all")
    found = [entry["domains"] for entry in list_tokens(run)]
    assert sorted(found, key=str) == [None, ["app.example.com", "*.example.org"], []]
    shown = run("list")[1]
    assert "app.example.com,*.example.org" in shown


TOO_MANY = ",".join(f"n{number}.example.com" for number in range(MAX_NAMES + 1))


@pytest.mark.parametrize("domains", ["example", "a.*.example.com", "*", "*.com.", "1.2.3.4", "", TOO_MANY])
def test_malformed_domain_is_refused(run, domains: str):
    assert run("create", "--domains", domains)[0] == 2


def test_a_token_of_before_there_were_domains_has_none(run, tmp_path: Path):
    run("create")
    store = TokenStore(tmp_path / "state")
    with store._database.writing() as database:
        (text,) = database.execute("SELECT rights FROM token").fetchone()
        before = {name: value for name, value in json.loads(text).items() if name != "domains"}
        database.execute("UPDATE token SET rights = ?", (json.dumps(before),))
    (entry,) = store.entries()
    assert entry.permissions.domains == ()
    store.close()


def test_the_operators_token_is_named_where_a_key_is_unknown(run, tmp_path: Path):
    assert "there is no token 'operator'; `list` shows all but the operator's" in run("show", "operator")[2]
    token = StateDir(tmp_path / "state").token(new_file_token)
    for key in ("operator", key_of(token), operator_key(token)):
        for words in (("show",), ("revoke",), ("change", "--tunnels", "1")):
            status, out, err = run(words[0], str(key), *words[1:])
            assert (status, out) == (1, "")
            assert err.startswith(f"quictunnel-edge token: error: {key} is the operator's token (file `token`)")
