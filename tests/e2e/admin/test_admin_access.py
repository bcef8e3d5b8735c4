"""Access to the operator's API: tokens, origins, host names, and bounds on connections and requests."""

from __future__ import annotations

import contextlib

import httpx
import pytest

from edge_server.admin.auth_middleware import MAX_BODY, MAX_TOKEN
from edge_server.admin.operations import OPERATIONS, PREFIX
from quictunnel.shared import http_server
from tests.harness.admin_client import AdminClient, AdminTunnel, all_of, raw, request
from tests.harness.sockets import SOCKET_TIMEOUT
from tests.harness.waiting import eventually

ALL = [(op.method, PREFIX + op.path.replace("{id}", "x")) for op in OPERATIONS]


@pytest.mark.parametrize(("method", "path"), ALL)
def test_requests_without_the_token_are_refused(operator: AdminClient, method: str, path: str):
    with httpx.Client(base_url=operator.url, trust_env=False) as http_:
        assert http_.request(method, path).status_code == 401
        assert http_.request(method, path, params={"token": operator.token}).status_code == 401
        assert http_.request(method, path, headers={"cookie": f"token={operator.token}"}).status_code == 401


@pytest.mark.parametrize("path", ["/metrics", "/none", "/page.js/", "//"])
def test_unlisted_paths_need_the_token(operator: AdminClient, path: str):
    assert httpx.get(operator.url.removesuffix("/") + path, trust_env=False).status_code == 401


@pytest.mark.parametrize(("method", "path"), ALL)
def test_other_origins_and_host_names_are_refused(operator: AdminClient, method: str, path: str):
    """Not even with the token: a page of another site, or of this address by another name."""
    port = httpx.URL(operator.url).port
    for headers, status in (
        ({"origin": "http://evil.example"}, 403),
        ({"origin": f"http://127.0.0.1:{port + 1}"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"host": "evil.example"}, 421),
        ({"host": f"evil.example:{port}"}, 421),
        ({"host": f"localhost.evil.example:{port}"}, 421),
        ({"host": ""}, 421),
    ):
        refused = operator.http.request(method, path, headers=headers)
        assert refused.status_code == status, headers
        assert not any(name.startswith("access-control") for name in refused.headers)


def test_the_names_it_has(operator: AdminClient):
    port = httpx.URL(operator.url).port
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "203.0.113.7:80", "LOCALHOST"):
        assert operator.http.get(f"{PREFIX}/edge", headers={"host": host}).status_code == 200
    proxied = {"host": "127.0.0.1", "origin": "https://127.0.0.1"}
    assert operator.http.get(f"{PREFIX}/edge", headers=proxied).status_code == 200


def test_there_is_no_way_around_by_other_methods(operator: AdminClient):
    for method in ("OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "POST"):
        response = operator.http.request(method, f"{PREFIX}/edge")
        assert response.status_code == 405
        assert not any(name.startswith("access-control") for name in response.headers)
    assert operator.http.get(f"{PREFIX}/drain").status_code == 405
    assert operator.http.get(f"{PREFIX}/none").status_code == 404
    assert operator.http.get("/../admin.token").status_code == 404
    assert operator.http.get("/page/index.html").status_code == 404


def test_every_answer_is_hardened(operator: AdminClient):
    for path in ("/", f"{PREFIX}/edge", f"{PREFIX}/none", "/style.css"):
        headers = operator.http.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "require-trusted-types-for 'script'" in policy
        assert "unsafe" not in policy
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers


def test_wrong_tokens_lock_out_only_their_address(rig: AdminTunnel):
    admin = rig.edge.server.admin
    with AdminClient(admin.url, "guess") as other_client, AdminClient(admin.url, admin.token) as owner:
        found = [other_client.ask("/edge").status_code for _ in range(8)]
        assert found[-1] == 429
        assert set(found) <= {401, 429}
        assert other_client.ask("/edge").headers["retry-after"] == "60"
        assert owner.ask("/edge").status_code == 200
        too_long = {"authorization": f"Bearer {admin.token}{'x' * MAX_TOKEN}"}
        assert owner.http.get(f"{PREFIX}/edge", headers=too_long).status_code in (401, 429)
    admin._app.app._attempts._failures.clear()


def test_requests_are_small(operator: AdminClient):
    assert operator.http.post(f"{PREFIX}/visitors/x/end", content=bytes(MAX_BODY)).status_code == 404
    assert operator.http.post(f"{PREFIX}/visitors/x/end", content=bytes(MAX_BODY + 1)).status_code == 413
    assert operator.http.post(f"{PREFIX}/visitors/x/end", content=iter([b"x"])).status_code == 413
    assert operator.http.get(f"{PREFIX}/edge?{'x' * 2000}").status_code == 414
    with raw(operator) as sock:
        sock.sendall(request(operator, "GET", f"{PREFIX}/edge", "Connection: close", "X: " + "x" * 20_000))
        assert all_of(sock).startswith(b"HTTP/1.1 431 ")
    with raw(operator) as sock, contextlib.suppress(ConnectionError):
        sock.sendall(request(operator, "GET", f"{PREFIX}/edge")[:-2] + b"X: " + b"x" * 300_000)
        assert all_of(sock).startswith(b"HTTP/1.1 400 ")
    with raw(operator) as sock:
        sock.sendall(b"\x16\x03\x01\r\n\r\n")
        assert all_of(sock).startswith(b"HTTP/1.1 400 ")


def test_so_many_connections_may_be_open(rig: AdminTunnel, operator: AdminClient):
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(raw(operator)) for _ in range(http_server.MAX_CONNECTIONS + 8)]
        connections = rig.edge.server.admin._http._state.connections
        for sock in socks[:4]:  # those that were idle for longest made room; some of ours may be among them
            sock.settimeout(SOCKET_TIMEOUT)
            assert all_of(sock) == b""
        eventually(lambda: len(connections) <= http_server.MAX_CONNECTIONS, "too many are open")
        assert operator.ask("/edge").status_code == 200


def test_idle_keep_alive_connection_is_closed(rig: AdminTunnel, monkeypatch: pytest.MonkeyPatch):
    config = rig.edge.server.admin._http._config
    assert config.timeout_keep_alive == http_server.KEEP_ALIVE
    monkeypatch.setattr(config, "timeout_keep_alive", 0.1)
    with raw(rig.operator) as sock:
        sock.sendall(request(rig.operator, "GET", f"{PREFIX}/edge"))
        assert all_of(sock).startswith(b"HTTP/1.1 200 ")


def test_silent_connection_is_closed(operator: AdminClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http_server, "CHECK_INTERVAL", 0.2)
    with raw(operator) as silent, raw(operator) as slow:
        slow.sendall(request(operator, "GET", f"{PREFIX}/edge")[:-2])
        assert all_of(silent) == all_of(slow) == b""
