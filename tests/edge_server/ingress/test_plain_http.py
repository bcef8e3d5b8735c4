"""Requests that came without TLS: what is read of them, and what they are told."""

from __future__ import annotations

import random

import pytest

from edge_server.ingress.plain_http import MAX_HEAD, Request, RequestError, RequestReader, redirect

HEAD = b"GET /shelf/?page=2&x=%20y HTTP/1.1\r\nHost: A.Tunnel.localhost:8443\r\nAccept: */*\r\n\r\n"
READ = Request("a.tunnel.localhost", b"/shelf/?page=2&x=%20y")


def read(head: bytes) -> Request | None:
    return RequestReader().feed(head)


def with_host(host: bytes, line: bytes = b"GET / HTTP/1.1") -> bytes:
    return line + b"\r\nHost:" + host + b"\r\n\r\n"


def test_host_and_target_are_read():
    assert read(HEAD) == READ


def test_request_is_read_in_any_split():
    for seed in range(50):
        chance, reader, rest = random.Random(seed), RequestReader(), HEAD
        while rest:
            size = chance.randrange(1, 20)
            found, rest = reader.feed(rest[:size]), rest[size:]
            assert (found is None) == bool(rest)
        assert found == READ


def test_data_after_the_head_is_ignored():
    assert read(HEAD + b"Host: b\r\n\r\n" + b"\xff" * 100) == READ


@pytest.mark.parametrize(
    "head",
    [
        with_host(b"a.b"),
        with_host(b" \t a.b \t"),
        with_host(b"a.b."),
        with_host(b"a.b:80"),
        with_host(b"a.b:"),
        with_host(b"a.b", b"POST / HTTP/1.0"),
        with_host(b"a.b", b"BREW / HTTP/1.1"),
        with_host(b"proxy", b"GET http://a.b/ HTTP/1.1"),
        with_host(b"proxy", b"GET HTTP://a.b:80/ HTTP/1.1"),
    ],
)
def test_ways_to_say_a_host(head: bytes):
    assert read(head) == Request("a.b", b"/")


@pytest.mark.parametrize(
    "target", [b"//evil.example/", b"/\\evil.example", b"/@evil", "/ü".encode(), b"/?a=http://c"]
)
def test_a_target_stays_behind_the_host(target: bytes):
    """The redirect keeps the host with any target."""
    request = read(with_host(b"a.b", b"GET " + target + b" HTTP/1.1"))
    assert request is not None
    said = redirect("https://a.b:8443", request)
    assert said.split(b"\r\n")[1] == b"Location: https://a.b:8443" + target


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: y\r\n Host: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\nLocation: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nnothing\r\n\r\n",
        with_host(b""),
        with_host(b"127.0.0.1"),
        with_host(b"[::1]"),
        with_host(b"user@a.b"),
        with_host(b"a.b/c"),
        with_host(b"a_b"),
        with_host("ü".encode()),
        with_host(b"a" * 254),
        with_host(b"a", b"GET / HTTP/2.0"),
        with_host(b"a", b"GET / HTTP/1.1 "),
        with_host(b"a", b"GET  / HTTP/1.1"),
        with_host(b"a", b"GET /a b HTTP/1.1"),
        with_host(b"a", b"GET /a\tb HTTP/1.1"),
        with_host(b"a", b"GET /a\rb HTTP/1.1"),
        with_host(b"a", b"GET /a#b HTTP/1.1"),
        with_host(b"a", b"GET a HTTP/1.1"),
        with_host(b"a", b"GET https://a/ HTTP/1.1"),
        with_host(b"a", b"OPTIONS * HTTP/1.1"),
        with_host(b"a", b"CONNECT a:443 HTTP/1.1"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_request_without_a_valid_host_is_refused(head: bytes):
    with pytest.raises(RequestError):
        read(head)


def test_a_head_has_an_end():
    reader = RequestReader()
    assert reader.feed(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * (MAX_HEAD - 30)) is None
    with pytest.raises(RequestError):
        reader.feed(b"x\r\n\r\n")


def test_a_head_of_blanks_costs_no_more_than_another():
    """No expression goes over the same bytes again for each of them."""
    for filling in (b" ", b"\t", b"a", b":", b"\x80", b"/", b"."):
        for before in (b"GET / HTTP/1.1\r\nHost:", b"GET http://", b"GET /"):
            with pytest.raises(RequestError):
                read(before + filling * (MAX_HEAD - 100) + b"\0\r\n\r\n")


def test_random_bytes_are_read_or_refused():
    chance = random.Random(7)
    words = [b"GET ", b"/", b" HTTP/1.1", b"\r\n", b"Host:", b"a.b", b"\0", b" ", b"\r\n\r\n", b"http://", b"\xff"]
    for _ in range(20_000):
        head = b"".join(chance.choices(words, k=chance.randrange(12)))
        try:
            request = read(head)
        except RequestError:
            continue
        if request is not None:
            said = redirect("https://a.b", request)
            assert said.count(b"\r\n") == 6
            assert b" " not in request.target
