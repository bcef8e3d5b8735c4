"""Tests of the HTTP-01 responder with unauthenticated requests."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from edge_server.certificates.acme import http01 as rooms
from edge_server.certificates.acme.challenges import MAX_CHALLENGES, ChallengeStore
from edge_server.certificates.acme.http01 import MAX_CONNECTIONS, MAX_REQUEST, Http01Responder
from edge_server.certificates.acme.http_client import MAX_RETRY_AFTER, parse_retry_after
from tests.harness.waiting import soon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def running_responder(
    answers: dict[str, str] | None = None, https_port: int = 443
) -> AsyncIterator[tuple[Http01Responder, int]]:
    responder = Http01Responder(answers or {}, https_port)
    server = await asyncio.get_running_loop().create_server(responder, "127.0.0.1", 0)
    try:
        yield responder, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        responder.abort()
        await asyncio.sleep(0)


async def ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    return answer


def get(path: str, host: str = "app.example.com") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: x\r\n\r\n".encode()


async def test_a_token_is_answered_and_no_other():
    async with running_responder({"token": "token.thumbprint"}) as (_, port):
        answer = await ask(port, get("/.well-known/acme-challenge/token"))
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\ntoken.thumbprint")
        assert (await ask(port, get("/.well-known/acme-challenge/other"))).startswith(b"HTTP/1.1 404 ")
        assert (await ask(port, get("/.well-known/acme-challenge/"))).startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize(("port", "place"), [(443, ""), (8443, ":8443")])
async def test_visitors_are_sent_to_https(port: int, place: str):
    async with running_responder(https_port=port) as (_, http):
        answer = await ask(http, get("/a/b?c=d", host="App.Example.COM:8080"))
        assert answer.startswith(b"HTTP/1.1 308 ")
        assert f"\r\nLocation: https://app.example.com{place}/a/b?c=d\r\n".encode() in answer


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a<script>\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: evil\rX: y\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"GET http://other/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"GET /" + b"x" * 3000 + b" HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"\x16\x03\x01\r\n\r\n",
        b"\r\n\r\n",
    ],
)
async def test_malformed_request_is_refused_without_echo(request_: bytes):
    async with running_responder() as (_, port):
        answer = await ask(port, request_)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"Location" not in answer
        assert b"script" not in answer


async def test_a_head_without_end_is_refused():
    async with running_responder() as (_, port):
        assert (await ask(port, b"x" * (MAX_REQUEST + 1))).startswith(b"HTTP/1.1 431 ")


async def test_silent_connection_is_closed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rooms, "HEAD_TIMEOUT", 0.05)
    async with running_responder() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HT")
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(10):
                await reader.read()
        writer.close()


async def test_a_flood_from_one_network_keeps_no_validator_out():
    """There are so many at once, and who has most of them makes room."""
    async with running_responder({"token": "proof"}) as (responder, port):
        flood = [
            await asyncio.open_connection("127.0.0.1", port, local_addr=(f"127.9.9.{1 + number % 200}", 0))
            for number in range(MAX_CONNECTIONS + 20)
        ]
        await soon(lambda: responder.connections.evictions == 20)
        assert len(responder.connections) == MAX_CONNECTIONS
        for _ in range(5):
            answer = await ask(port, b"GET /.well-known/acme-challenge/token HTTP/1.1\r\nHost: a\r\n\r\n")
            assert answer.endswith(b"proof")
        for _, each in flood:
            each.close()


def test_answers_are_kept_as_long_as_they_are_needed_and_so_many():
    answers = ChallengeStore()
    for number in range(MAX_CHALLENGES + 5):
        answers.add_http(f"t{number}", "x")
    assert len(answers.http) == MAX_CHALLENGES
    assert "t4" not in answers.http
    answers.remove("t5")
    answers.remove("t5")
    assert "t5" not in answers.http
    for number in range(MAX_CHALLENGES + 1):
        answers.add_tls_alpn(f"n{number}.example.com", "x")
    assert len(answers.tls) == MAX_CHALLENGES
    assert "n0.example.com" not in answers.tls


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("", 0.0),
        ("-5", 0.0),
        ("soon", 0.0),
        ("1e9", 0.0),
        ("99999999", MAX_RETRY_AFTER),
        ("9" * 5000, 0.0),
        ("Thu, 01 Jan 1970 01:00:00 GMT", 600.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Thu, 99 Jan 1970 00:00:00 GMT", 0.0),
    ],
)
def test_when_to_try_again_is_believed_within_bounds(text: str, seconds: float):
    assert parse_retry_after(text, now=3000.0) == seconds
