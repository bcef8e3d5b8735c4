"""The door of a page for one person: every way of knocking, and what an answer carries."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from quictunnel.shared.web_security import HEADERS, WebGuard, is_loopback, name_of

TOKEN = "t0ken"
GOOD = {"host": "127.0.0.1:4040", "authorization": f"Bearer {TOKEN}"}


def ask(path: str = "/api/x", *, headers: dict[str, str] | list[tuple[str, str]], kind: str = "http") -> list[Any]:
    """Return the messages that the guard sends for a request. The page behind it answers 200 with a header that
    tries to be laxer."""
    sent: list[Any] = []

    async def page(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"Cache-Control", b"public")]})
        await send({"type": "http.response.body", "body": b"inside"})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing is read before the guard has looked")

    pairs = headers.items() if isinstance(headers, dict) else headers
    scope = {
        "type": kind,
        "scheme": "http",
        "path": path,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in pairs],
    }
    asyncio.run(WebGuard(page, token=TOKEN, names=["10.0.0.7", "edge.example.com"])(scope, receive, send))
    return sent


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({}, 200),
        ({"host": "localhost"}, 200),
        ({"host": "LOCALHOST:1"}, 200),
        ({"host": "[::1]:4040"}, 200),
        ({"host": "10.0.0.7:4040"}, 200),
        ({"host": "edge.example.com"}, 200),
        ({"host": "evil.example"}, 421),
        ({"host": "localhost.evil.example:4040"}, 421),
        ({"host": "127.0.0.1:4040@evil.example"}, 421),
        ({"host": "127.0.0.1 evil.example"}, 421),
        ({"host": "127.1"}, 421),
        ({"host": ""}, 421),
        ({"origin": "http://127.0.0.1:4040"}, 200),
        ({"origin": "https://127.0.0.1:4040"}, 403),
        ({"origin": "http://127.0.0.1:4041"}, 403),
        ({"origin": "http://localhost:4040"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"authorization": ""}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"authorization": "Bearer t0kem"}, 401),
        ({"authorization": f"Basic {TOKEN}"}, 401),
        ({"authorization": "Bearer \xff"}, 401),
        ({"authorization": f"bearer {TOKEN}"}, 200),
    ],
)
def test_host_origin_and_token_are_checked(changed: dict[str, str], status: int) -> None:
    start, body = ask(headers=GOOD | changed)
    assert start["status"] == status
    assert (body["body"] == b"inside") == (status == 200)
    assert set(HEADERS) <= set(start["headers"])
    assert not [name for name, _ in start["headers"] if name.lower().startswith(b"access-control")]


def test_repeated_headers_are_refused() -> None:
    assert ask(headers=[*GOOD.items(), ("host", "localhost")])[0]["status"] == 421
    assert ask(headers=[*GOOD.items(), ("authorization", f"Bearer {TOKEN}")])[0]["status"] == 401
    assert ask(headers=[("authorization", f"Bearer {TOKEN}")])[0]["status"] == 421


def test_the_page_itself_needs_no_token_but_the_right_name() -> None:
    start, body = ask("/page.js", headers={"host": "127.0.0.1:4040", "sec-fetch-site": "cross-site"})
    assert (start["status"], body["body"]) == (200, b"inside")
    assert [value for name, value in start["headers"] if name.lower() == b"cache-control"] == [b"no-store"]
    assert ask("/page.js", headers={"host": "rebound.example"})[0]["status"] == 421


def test_there_are_no_websockets() -> None:
    assert ask(headers=GOOD, kind="websocket") == [{"type": "websocket.close", "code": 1008}]


def test_no_token_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="anybody could read"):
        WebGuard(None, token="")  # type: ignore[arg-type]  # refused before it is looked at


def test_addresses() -> None:
    assert [name_of(host) for host in ("127.0.0.1", "::1", "a.example")] == ["127.0.0.1", "[::1]", "a.example"]
    assert [is_loopback(host) for host in ("127.9.9.9", "::1", "localhost", "0.0.0.0", "a.example")] == [
        True, True, True, False, False,
    ]  # fmt: skip
