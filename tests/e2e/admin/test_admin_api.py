"""The operator's API on a running edge: what it says is so, as described, and to nobody else."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import openapi_spec_validator
from openapi_schema_validator import OAS31Validator

import quictunnel
from edge_server.admin import app, event_stream, openapi
from edge_server.admin.history import MAX_TOP
from edge_server.admin.lists import MAX_PAGE
from edge_server.admin.operations import OPERATIONS, PREFIX
from edge_server.admin.recent_errors import MAX_RECORDS
from quictunnel.shared import http_server
from quictunnel.transport.engine import CloseCause, Closed
from tests.harness.admin_client import DOCUMENT, AdminClient, AdminTunnel, event_data, raw, request, schema_of
from tests.harness.sockets import SOCKET_TIMEOUT, is_reset, receive_exactly
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    import pytest


ROOT = Path(__file__).parents[3]


# The description.


def test_the_description_is_one():
    openapi_spec_validator.validate(DOCUMENT)


def test_openapi_document_matches_the_routes(rig: AdminTunnel):
    admin = rig.edge.server.admin
    served = set()
    for route in admin._app.routes:
        served |= {(method.lower(), route.path) for method in route.methods - {"HEAD"}}
    described = {(method, path) for path, ways in DOCUMENT["paths"].items() for method in ways}
    assert {way for way in served if way[1].startswith("/api/")} == described
    for_programs = {"/metrics", "/healthz", "/readyz"}  # whose form others have laid down
    assert {path for _, path in served if not path.startswith("/api/")} == set(app.PAGE_FILES) | for_programs


def test_every_answer_is_as_described(rig: AdminTunnel, operator: AdminClient):
    rig.pair("tcp"), rig.pair("tls")
    admin = rig.edge.server.admin
    rig.edge._background.call(called(admin._app.api.samples.sample))
    for operation in OPERATIONS:
        path = PREFIX + operation.path
        if operation.body is not None:
            response = operator.do(operation.path.replace("{id}", "unknown"), operation.method, {"unknown": 1})
            assert response.status_code == 400
        elif "{id}" in path:
            response = operator.do(operation.path.replace("{id}", "unknown"), operation.method)
            assert response.status_code == 404
        elif operation.method == "get" and operation.name != "events":
            response = operator.ask(operation.path)
        else:
            continue  # events and drain have tests of their own
        assert response.headers["content-type"] == "application/json"
        schema = schema_of(DOCUMENT, path, operation.method, response.status_code)
        OAS31Validator(schema).validate(response.json())
    for refused, status in (
        (operator.ask("/visitors", limit=0), 400),
        (operator.http.get(f"{PREFIX}/visitors", headers={"authorization": "Bearer wrong"}), 401),
        (operator.http.get(f"{PREFIX}/visitors", headers={"origin": "http://evil.example"}), 403),
        (operator.http.get(f"{PREFIX}/visitors", headers={"host": "evil.example"}), 421),
    ):
        assert refused.status_code == status
        OAS31Validator(schema_of(DOCUMENT, f"{PREFIX}/visitors", "get", status)).validate(refused.json())
    assert operator.http.get(openapi.PATH, headers={"authorization": ""}).json() == DOCUMENT
    with operator.follow() as following:
        newest = json.loads(next(event_data(following)))
    OAS31Validator(schema_of(DOCUMENT, f"{PREFIX}/events", "get", 200)).validate(newest)


async def called(method) -> None:
    method()


# What it says.


def test_the_figures_are_those_of_the_load(rig: AdminTunnel, operator: AdminClient):
    before = operator.get("/edge")
    (tunnel_before,) = operator.get("/tunnels")["items"]
    pairs = [rig.pair("tcp") for _ in range(3)] + [rig.pair("tls") for _ in range(4)]
    for number, (visitor, origin) in enumerate(pairs):
        visitor.send(bytes(1000 * number))
        origin.send(bytes(2000 * number))
        receive_exactly(origin, 1000 * number)
        receive_exactly(visitor, 2000 * number)
    into, out = 7 + 21_000, 7 + 42_000
    edge = operator.get("/edge")
    assert (edge["visitors"], edge["sessions"], edge["tunnels"]) == (7, 1, 1)
    assert edge["visitors_came"] - before["visitors_came"] == 7
    assert (edge["bytes_in"] - before["bytes_in"], edge["bytes_out"] - before["bytes_out"]) == (into, out)
    assert edge["domain"] == "tunnel.localhost"
    assert edge["certificate_expires_at"] > time.time()
    assert edge["engine"]["name"] in ("native", "aioquic")
    assert not edge["is_draining"]
    visitors = operator.get("/visitors")
    assert visitors["total"] == 7
    assert visitors["next"] is None
    assert [one["bytes_in"] for one in visitors["items"]] == [
        1 + 1000 * number for number in (6, 5, 4, 3, 2, 1, 0)
    ]
    assert [one["kind"] for one in visitors["items"]] == ["tls"] * 4 + ["tcp"] * 3
    assert [one["tls"] for one in visitors["items"]] == ["TLSv1.3"] * 4 + [""] * 3
    assert {one["address"] for one in visitors["items"]} == {"127.0.0.1"}
    ports = {visitor.sock.getsockname()[1] for visitor, _ in pairs}
    assert {one["port"] for one in visitors["items"]} == ports
    (tunnel,) = operator.get("/tunnels")["items"]
    assert (tunnel["url"], tunnel["visitors"], tunnel["members"]) == (rig.tunnel.url, 7, 1)
    assert tunnel["tcp_port"] == rig.tunnel.unencrypted_port
    assert tunnel["bytes_in"] - tunnel_before["bytes_in"] == into
    assert tunnel["bytes_out"] - tunnel_before["bytes_out"] == out
    (session,) = operator.get("/sessions")["items"]
    assert session["software"] == f"quictunnel/{quictunnel.__version__}"
    assert (session["tunnels"], session["streams"], session["is_away"]) == ([tunnel["name"]], 7, False)
    assert session["owner"] == tunnel["owner"] == visitors["items"][0]["owner"]
    link = session["link"]
    assert 0 < link["rtt"] < 5
    assert link["congestion_window"] > 0
    assert link["bytes_sent"] > into
    assert link["bytes_received"] > out
    assert link["loss"] == link["packets_lost"] / link["packets_sent"]
    talkers = operator.get("/talkers")
    (address,) = talkers["addresses"]
    assert (address["who"], address["visitors"]) == ("127.0.0.1", 7)
    assert address["bytes"] >= into + out


def test_bytes_of_those_who_left_are_kept(rig: AdminTunnel, operator: AdminClient):
    rig.pair("tcp")
    before = operator.get("/edge")
    (tunnel,) = operator.get("/tunnels")["items"]
    rig.close_ends()
    eventually(lambda: operator.get("/edge")["visitors"] == 0, "it is still in")
    after = operator.get("/edge")
    assert (after["bytes_in"], after["bytes_out"]) == (before["bytes_in"], before["bytes_out"])
    (again,) = operator.get("/tunnels")["items"]
    assert (again["bytes_in"], again["bytes_out"]) == (tunnel["bytes_in"], tunnel["bytes_out"])
    (address,) = operator.get("/talkers")["addresses"]
    assert address["visitors"] == 0
    assert address["bytes"] >= 2


def test_lists_are_paginated(rig: AdminTunnel, operator: AdminClient):
    for _ in range(5):
        rig.pair("tcp")
    whole = operator.get("/visitors")
    found, after = [], ""
    while after is not None:
        part = operator.get("/visitors", limit=2, after=after)
        assert part["total"] == 5
        assert len(part["items"]) <= 2
        found += part["items"]
        after = part["next"]
    assert [one["id"] for one in found] == [one["id"] for one in whole["items"]]
    assert operator.get("/visitors", only="nobody") == {
        "items": [],
        "total": 0,
        "next": None,
        "offset": 0,
    }
    assert operator.get("/visitors", only=whole["items"][0]["tunnel"])["total"] == 5
    assert operator.get("/visitors", limit=1, after="another-1")["items"][0]["id"] == whole["items"][0]["id"]
    assert operator.ask("/visitors", limit=MAX_PAGE).status_code == 200
    for wrong in ("0", str(MAX_PAGE + 1), "-1", "many", "9" * 30, "٣"):
        assert operator.ask("/visitors", limit=wrong).status_code == 400
    assert operator.ask("/visitors", limti=1).status_code == 400
    assert operator.ask("/talkers", limit=MAX_TOP + 1).status_code == 400
    assert operator.ask("/errors", limit=MAX_RECORDS + 1).status_code == 400
    with contextlib.ExitStack() as stack:
        names = []
        for _ in range(3):
            port = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            tunnel = stack.enter_context(quictunnel.forward(port, client=rig.client))
            names.append(tunnel.host.partition(".")[0])
        names.append(rig.tunnel.host.partition(".")[0])
        first = operator.get("/tunnels", limit=3)
        second = operator.get("/tunnels", limit=3, after=first["next"])
        assert [one["name"] for one in first["items"] + second["items"]] == sorted(names)
        assert second["next"] is None


def test_warnings_are_shown_as_text(rig: AdminTunnel, operator: AdminClient):
    before = operator.get("/errors")["total"]
    logging.getLogger("edge_server.test").warning("<script>%s</script>\x1b[31m\n", "x" * 10_000)
    errors = operator.get("/errors", limit=1)
    assert errors["total"] == before + 1
    (record,) = errors["items"]
    assert record["message"].startswith("<script>xxx")
    assert len(record["message"]) == 500
    assert record["level"] == "warning"
    assert record["logger"] == "edge_server.test"


# Following.


def test_events_say_what_is(rig: AdminTunnel, operator: AdminClient):
    with operator.follow() as response:
        assert response.headers["content-type"] == "text/event-stream"
        seen = event_data(response)
        deadline = time.monotonic() + SOCKET_TIMEOUT
        for visitors in (0, 1):  # the first may be some tenths of a second old
            while json.loads(next(seen))["visitors"]["total"] != visitors:
                assert time.monotonic() < deadline
            rig.pair("tcp")


def test_so_many_may_follow(rig: AdminTunnel, operator: AdminClient):
    with contextlib.ExitStack() as stack:
        for _ in range(event_stream.MAX_FOLLOWERS):
            assert stack.enter_context(operator.follow()).status_code == 200
        with operator.follow() as refused:
            assert refused.status_code == 503
            assert json.loads(refused.read())["error"] == "too-many-followers"
    feed = rig.edge.server.admin._app._events
    eventually(lambda: feed._followers == 0, "somebody is still said to follow")
    with operator.follow() as again:
        assert again.status_code == 200


def test_slow_event_reader_skips_snapshots(
    rig: AdminTunnel, operator: AdminClient, monkeypatch: pytest.MonkeyPatch
):
    """Nothing piles up for a reader that takes nothing; a connection that takes nothing for long is ended."""
    made = []
    feed = rig.edge.server.admin._app._events
    make = feed._make_snapshot
    eventually(lambda: feed._followers == 0, "somebody still follows")
    monkeypatch.setattr(event_stream, "SNAPSHOT_INTERVAL", 0.01)
    monkeypatch.setattr(http_server, "CHECK_INTERVAL", 1.0)
    monkeypatch.setattr(
        feed, "_make_snapshot", lambda: made.append(1) or [msgspec.to_builtins(make()), "x" * 500_000]
    )
    with raw(operator) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(request(operator, "GET", f"{PREFIX}/events"))
        eventually(lambda: feed._followers == 1, "nobody follows")
        (connection,) = [
            c for c in rig.edge.server.admin._http._state.connections if c.client == sock.getsockname()
        ]
        waiting = []

        def is_ended() -> bool:
            waiting.append(connection.transport.get_write_buffer_size())
            return feed._followers == 0

        eventually(is_ended, "it goes on")
    assert max(waiting) < 2 * 1_100_000
    assert len(made) < 20


# What it does.


def test_a_visitor_is_ended(
    rig: AdminTunnel, operator: AdminClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    stays, _ = rig.pair("tcp")
    goes, origin = rig.pair("tls")
    newest = operator.get("/visitors")["items"][0]
    monkeypatch.setattr(logging.getLogger(), "level", logging.ERROR)  # the audit is there whatever the level
    done = operator.do(f"/visitors/{newest['id']}/end")
    assert done.json() == {"action": "end_visitor", "target": newest["id"]}
    OAS31Validator(schema_of(DOCUMENT, f"{PREFIX}/visitors/{{id}}/end", "post", 200)).validate(done.json())
    assert is_reset(goes)
    assert is_reset(origin)
    (said,) = [record for record in caplog.records if record.name == "edge_server.audit"]
    assert newest["id"] in said.getMessage()
    assert "127.0.0.1" in said.getMessage()
    assert said.fields["audit"] == "end visitor"
    assert operator.get("/visitors")["total"] == 1
    stays.send(b"still here")
    assert operator.do(f"/visitors/{newest['id']}/end").status_code == 404


def test_a_tunnel_is_closed():
    with AdminTunnel() as rig:
        visitor, _ = rig.pair("tls")
        (tunnel,) = rig.operator.get("/tunnels")["items"]
        assert rig.operator.do(f"/tunnels/{tunnel['name']}/close").status_code == 200
        assert is_reset(visitor)
        eventually(lambda: rig.operator.get("/tunnels")["total"] == 0, "the tunnel is still there")
        assert rig.operator.get("/sessions")["total"] == 1
        assert rig.operator.do(f"/tunnels/{tunnel['name']}/close").status_code == 404


def test_ended_session_does_not_return_by_itself():
    with AdminTunnel() as rig:
        visitor, _ = rig.pair("tls")
        (session,) = rig.operator.get("/sessions")["items"]
        assert rig.operator.do(f"/sessions/{session['id']}/end").status_code == 200
        assert is_reset(visitor)
        eventually(lambda: rig.client.state == "failed", "the client goes on")
        edge = rig.operator.get("/edge")
        assert (edge["sessions"], edge["tunnels"], edge["visitors"]) == (0, 0, 0)
        with (
            quictunnel.Client.from_config(rig.edge.client_config) as again,
            quictunnel.forward(rig.origin_port, client=again),
        ):
            assert rig.operator.get("/edge")["sessions"] == 1


def test_a_client_that_is_away_is_shown_and_ended():
    """Of a session without a link no metrics are known, a new visitor waits, and both can be ended."""
    with AdminTunnel() as rig:
        stays, _ = rig.pair("tcp")
        (client_session,) = rig.edge.server.clients.sessions
        lost = Closed(CloseCause.TIMEOUT, 0, "")
        rig.edge._background.call(called(lambda: client_session.session.link_down(lost)))
        (session,) = rig.operator.get("/sessions")["items"]
        assert (session["is_away"], session["link"], session["streams"]) == (True, None, 1)
        OAS31Validator(schema_of(DOCUMENT, f"{PREFIX}/sessions", "get", 200)).validate(
            rig.operator.get("/sessions")
        )
        assert rig.operator.get("/edge")["sessions_away"] == 1
        waits = rig.visitor("tcp")
        eventually(lambda: rig.operator.get("/visitors")["total"] == 2, "the newcomer is not in")
        newcomer, _ = rig.operator.get("/visitors")["items"]
        assert newcomer["is_waiting"]
        assert rig.operator.do(f"/visitors/{newcomer['id']}/end").status_code == 200
        assert is_reset(waits)
        assert rig.operator.do(f"/sessions/{session['id']}/end").status_code == 200
        assert is_reset(stays)
        eventually(lambda: session["id"] not in ids(rig), "it is still there")


def ids(rig: AdminTunnel) -> set[str]:
    return {one["id"] for one in rig.operator.get("/sessions")["items"]}


def test_a_shared_tunnel_is_one(shared_rig: AdminTunnel):
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            client = stack.enter_context(quictunnel.Client.from_config(shared_rig.edge.client_config))
            forward = quictunnel.forward(shared_rig.origin_port, name="shared", pool=True, client=client)
            stack.enter_context(forward)
        (tunnel,) = [one for one in shared_rig.operator.get("/tunnels")["items"] if one["name"] == "shared"]
        assert tunnel["members"] == 2
        assert shared_rig.operator.do("/tunnels/shared/close").status_code == 200
        assert "shared" not in {one["name"] for one in shared_rig.operator.get("/tunnels")["items"]}
        assert len(ids(shared_rig)) == 3, "their clients stay"
