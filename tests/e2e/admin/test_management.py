"""Tokens, names and bans through the operator's API, on a running edge with clients that use them."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any

import pytest
from openapi_schema_validator import OAS31Validator

import quictunnel
from edge_server.__main__ import main
from edge_server.admin import token_management
from edge_server.admin.name_management import MAX_EVENTS
from edge_server.admin.operations import PREFIX
from edge_server.admin.token_management import MAX_TEXT
from edge_server.auth.token_store import MAX_NOTE, TokenStore
from quictunnel.config.credential import decode
from quictunnel.errors import ConfigError
from tests.harness.admin_client import DOCUMENT, AdminClient, AdminTunnel, schema_of
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTILE = "<img src=x onerror=alert(1)>\x1b[31m"


def create(operator: AdminClient, **fields: Any) -> tuple[str, dict[str, Any]]:
    """Create a token; return it with its entry."""
    response = operator.do("/tokens", body=fields)
    assert response.status_code == 200, response.text
    OAS31Validator(schema_of(DOCUMENT, f"{PREFIX}/tokens", "post", 200)).validate(response.json())
    return response.json()["token"], response.json()["entry"]


def client_with(rig: AdminTunnel, token: str) -> quictunnel.Client:
    config = rig.edge.client_config
    return quictunnel.Client(config.edge, token=token, ca=config.ca)


@pytest.fixture
def audit(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Lines of the audit log."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("edge_server.audit").addHandler(handler)
    yield lines
    logging.getLogger("edge_server.audit").removeHandler(handler)


def test_a_token_is_created_used_limited_and_revoked(
    rig: AdminTunnel, operator: AdminClient, audit: list[str], caplog: pytest.LogCaptureFixture
):
    token, entry = create(operator, note="The shop", tunnels=1, names="shop,shop-*", expires="30d")
    key = entry["key"]
    assert (entry["note"], entry["tunnels"], entry["names"], entry["domains"]) == (
        "The shop",
        1,
        ["shop", "shop-*"],
        [],
    )
    assert entry["expires"] - entry["created"] == 30 * 86_400
    with client_with(rig, token) as client, quictunnel.forward(rig.origin_port, name="shop", client=client):
        (tunnel,) = operator.get("/tunnels", only=key)["items"]
        assert (tunnel["name"], tunnel["owner"], tunnel["owner_name"]) == ("shop", key, "The shop")
        (session,) = operator.get("/sessions", search="the SHOP")["items"]
        assert session["owner"] == key
        with pytest.raises(quictunnel.Error), quictunnel.forward(9, client=client):
            pass
        changed = operator.do(f"/tokens/{key}", "patch", {"tunnels": 2, "note": "Renamed"})
        assert changed.status_code == 200
        OAS31Validator(schema_of(DOCUMENT, f"{PREFIX}/tokens/{{id}}", "patch", 200)).validate(changed.json())
        assert changed.json()["names"] == ["shop", "shop-*"], "what is not mentioned stays"
        eventually(lambda: operator.get("/tunnels", search="renamed")["total"] == 1, "the note is old")
        eventually(lambda: can_bind(client), "the limit is the old one")
        with quictunnel.forward(9, client=client):
            assert operator.get("/tunnels", only=key)["total"] == 2
        assert operator.do(f"/tokens/{key}/revoke").json()["state"] == "revoked"
        eventually(lambda: operator.get("/sessions", only=key)["total"] == 0, "its session goes on")
    assert operator.get("/tokens", only="revoked", search=key)["total"] == 1
    again = operator.do(f"/tokens/{key}", "patch", {"note": "x"})
    assert (again.status_code, again.json()["error"]) == (409, "refused")
    assert [line.partition(" ")[2] for line in audit] == [
        f"operator at 127.0.0.1 creates token {key} (The shop)",
        f"operator at 127.0.0.1 changes token {key} (Renamed)",
        f"operator at 127.0.0.1 revokes token {key} (Renamed)",
    ]
    assert token not in caplog.text
    assert token.rpartition(".")[2] not in json.dumps(operator.get("/tokens"))


def test_a_credential_names_the_edge(
    rig: AdminTunnel, operator: AdminClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    response = operator.do("/tokens", body={"note": "Ada"}).json()
    credential = decode(response["credential"])
    assert credential.token.reveal() == response["token"]
    assert credential.addresses == (rig.edge.client_config.edge,)

    def fail(*_: object) -> None:
        raise ConfigError("ca.pem is not a readable certificate: start the edge again.")

    monkeypatch.setattr(token_management, "credential_of", fail)
    response = operator.do("/tokens", body={"note": "Bob"}).json()
    assert response["credential"] is None
    assert response["token"], "the token is shown all the same"
    assert f"token {response['entry']['key']} has no credential: ca.pem" in caplog.text


def test_the_api_and_the_command_agree(
    rig: AdminTunnel, operator: AdminClient, capsys: pytest.CaptureFixture[str]
):
    fields = {"names": "a,b*", "domains": "*.example.com", "tcp_ports": "20000-20009", "bandwidth": "10M"}
    _, entry = create(operator, **fields)
    directory = str(rig.edge.server.config.state_dir)
    main(["token", "show", entry["key"], "--json", "--state-dir", directory])
    shown = json.loads(capsys.readouterr().out)
    assert {name: shown[name] for name in entry} == entry
    operator.do("/names/ban", body={"name": "203.0.113.9"})
    main(["name", "list", "--json", "--state-dir", directory])
    names = json.loads(capsys.readouterr().out)
    assert [each["banned"] for each in names if each["name"] == "203.0.113.9/32"] == [True]
    operator.do("/names/release", body={"name": "203.0.113.9/32"})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"names": "A B"}, "names: 'A B' should be"),
        ({"names": ",".join(f"n{number}" for number in range(101))}, "At most 100"),
        ({"names": "x" * (MAX_TEXT + 1)}, "names"),
        ({"domains": "localhost"}, "domains: "),
        ({"domains": None}, "domains"),
        ({"tcp_ports": "9"}, "tcp_ports should be a range"),
        ({"bandwidth": "1"}, "not a rate of at least"),
        ({"expires": "soon"}, "neither a duration"),
        ({"expires": "2001-01-01"}, "in the past"),
        ({"tunnels": -1}, "tunnels"),
        ({"tunnels": "many"}, "tunnels"),
        ({"visitors": 10**9}, "visitors"),
        ({"note": "x" * (MAX_NOTE + 1)}, "note"),
        ({"admin": True}, "admin"),
    ],
)
def test_wrong_rights_are_refused(operator: AdminClient, fields: dict[str, Any], message: str):
    before = operator.get("/tokens")["total"]
    response = operator.do("/tokens", body=fields)
    assert (response.status_code, response.json()["error"]) == (400, "wrong-body")
    assert message in response.json()["message"]
    assert operator.get("/tokens")["total"] == before


def test_a_body_has_to_be_json_of_this_page(operator: AdminClient):
    for headers, status in (
        ({"content-type": "text/plain"}, 400),
        ({"content-type": "application/x-www-form-urlencoded"}, 400),
        ({"content-type": "application/json", "origin": "http://evil.example"}, 403),
        ({"content-type": "application/json", "sec-fetch-site": "cross-site"}, 403),
        ({"content-type": "application/json", "authorization": ""}, 401),
    ):
        response = operator.http.post(f"{PREFIX}/tokens", content=b"{}", headers=headers)
        assert response.status_code == status, headers
    response = operator.http.post(f"{PREFIX}/tokens", content=b"{", headers={"content-type": "application/json"})
    assert response.json()["error"] == "wrong-body"


def test_a_ban_ends_a_tunnel_and_is_lifted(rig: AdminTunnel, operator: AdminClient, audit: list[str]):
    token, entry = create(operator, note="A pest")
    with client_with(rig, token) as client:
        with quictunnel.forward(rig.origin_port, name="pest", client=client):
            eventually(lambda: operator.get("/names", search="pest")["total"] == 1, "nobody owns it")
            (name,) = operator.get("/names", search="pest")["items"]
            assert (name["kind"], name["owner_name"], name["is_held"]) == ("name", "A pest", True)
            banned = operator.do("/names/ban", body={"name": "PEST"})
            assert banned.json() == {"name": "pest", "state": "banned"}
            eventually(lambda: operator.get("/tunnels", search="pest")["total"] == 0, "it is still held")
        (name,) = operator.get("/names", only="banned")["items"]
        assert (name["name"], name["owner"], name["is_held"]) == ("pest", None, False)
        with pytest.raises(quictunnel.Error), quictunnel.forward(rig.origin_port, name="pest", client=client):
            pass
        assert operator.do("/names/release", body={"name": "pest"}).json()["state"] == "released"
        eventually(lambda: can_bind(client, "pest"), "the ban is not lifted")
    assert operator.do("/names/release", body={"name": "nobodys"}).status_code == 404
    wrong = operator.do("/names/ban", body={"name": HOSTILE})
    assert (wrong.status_code, wrong.json()["error"]) == (400, "wrong-body")
    events = operator.get("/names/history", name="pest")["items"]
    assert [(event["owner"], event["banned"]) for event in events] == [(entry["key"], 1)]
    assert [line.rpartition("127.0.0.1 ")[2] for line in audit[1:]] == ["bans pest", "releases pest"]
    assert operator.get("/names", only="banned")["total"] == 0


def test_a_narrowed_token_loses_what_it_may_no_longer_have(rig: AdminTunnel, operator: AdminClient):
    token, entry = create(operator, note="Narrowed")
    with (
        client_with(rig, token) as client,
        quictunnel.forward(rig.origin_port, name="keepme", client=client) as forbidden,
        quictunnel.forward(8, client=client),
        quictunnel.forward(9, client=client) as newest,
    ):
        changed = operator.do(f"/tokens/{entry['key']}", "patch", {"names": "none"})
        assert changed.json()["names"] == []
        eventually(lambda: forbidden.stats.state == "lost", "its name stays")
        assert operator.get("/tunnels", only=entry["key"])["total"] == 2
        operator.do(f"/tokens/{entry['key']}", "patch", {"tunnels": 1})
        eventually(lambda: newest.stats.state == "lost", "its tunnels stay")
        assert operator.get("/tunnels", only=entry["key"])["total"] == 1
        assert operator.get("/sessions", only=entry["key"])["total"] == 1, "its client has to stay connected"


def can_bind(client: quictunnel.Client, name: str | None = None) -> bool:
    try:
        with quictunnel.forward(9, name=name, client=client):
            return True
    except quictunnel.Error:
        return False


def test_lists_are_searched_sorted_and_cut(operator: AdminClient):
    for number in range(7):
        create(operator, note=f"Batch {number}", **({"expires": f"{number + 1}d"} if number % 2 else {}))
    page = operator.get("/tokens", search="batch", sort="-note", limit=3, offset=2)
    assert [each["note"] for each in page["items"]] == ["Batch 4", "Batch 3", "Batch 2"]
    assert (page["total"], page["offset"]) == (7, 2)
    by_expiry = operator.get("/tokens", search="batch", sort="expires")["items"]
    assert [each["note"] for each in by_expiry[:3]] == ["Batch 1", "Batch 3", "Batch 5"]
    for wrong in ({"sort": "digest"}, {"only": "bad"}, {"offset": -1}, {"offset": 100_000}, {"search": "x" * 101}):
        assert operator.ask("/tokens", **wrong).status_code == 400
    assert operator.ask("/names/history", limit=MAX_EVENTS + 1).status_code == 400
    assert operator.ask("/names/history", limit=MAX_EVENTS, name="x" * 301).status_code == 400


def test_visits_and_the_detail_of_a_tunnel(rig: AdminTunnel, operator: AdminClient):
    visitor, _ = rig.pair("tcp")
    name = rig.tunnel.host.partition(".")[0]
    assert operator.get(f"/tunnels/{name}")["visitors"]["total"] == 1
    visitor.send(b"x" * 1000)
    rig.close_ends()
    eventually(lambda: operator.get("/visits", tunnel=name)["total"] >= 1, "the visit is not there")
    visit = operator.get("/visits", tunnel=name, limit=1)["items"][0]
    assert (visit["address"], visit["tunnel"], visit["kind"]) == ("127.0.0.1", name, "tcp")
    assert visit["owner_name"] == "the operator's token"
    assert visit["bytes_in"] >= 1000
    assert 0 <= time.time() - visit["ended_at"] < 60
    logging.getLogger("edge_server.test").warning("%s is in trouble; its owner is %s", name, visit["owner"])
    logging.getLogger("edge_server.test").warning("%sx is in trouble", name)
    detail = operator.get(f"/tunnels/{name}")
    OAS31Validator(schema_of(DOCUMENT, f"{PREFIX}/tunnels/{{id}}", "get", 200)).validate(detail)
    assert detail["tunnel"]["url"] == rig.tunnel.url
    assert detail["visits"]["items"][0]["id"] == visit["id"]
    assert detail["errors"][0]["message"] == (
        f"{name} is in trouble; its owner is {visit['owner']} (the operator's token)"
    )
    assert not any(f"{name}x" in record["message"] for record in detail["errors"])
    assert operator.ask("/tunnels/never-seen").status_code == 404


def test_a_database_that_cannot_be_used_is_said(
    rig: AdminTunnel, operator: AdminClient, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> None:
        raise ConfigError("tokens.db cannot be used: database is locked.")

    monkeypatch.setattr(TokenStore, "create", fail)
    response = operator.do("/tokens", body={})
    assert (response.status_code, response.json()["error"]) == (503, "no-database")
    assert "locked" in response.json()["message"]


def test_notes_of_tokens_are_one_printable_line(operator: AdminClient):
    _, entry = create(operator, note=HOSTILE)
    assert entry["note"] == "<img src=x onerror=alert(1)>\\x1b[31m"
