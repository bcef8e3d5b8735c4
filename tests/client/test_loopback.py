"""Names below localhost, to programs that ask Python's resolver."""

from __future__ import annotations

import asyncio
import socket

import pytest

from quictunnel.loopback import is_below_localhost, localhost_resolved


@pytest.mark.parametrize("name", ["a.localhost", "x.TUNNEL.LocalHost", "a.localhost.", b"a.localhost"])
def test_loopback_names_and_addresses(name):
    assert is_below_localhost(name)
    with localhost_resolved():
        found = socket.getaddrinfo(name, 8443, type=socket.SOCK_STREAM)
    assert [entry[4] for entry in found] == [("127.0.0.1", 8443)]


@pytest.mark.parametrize(
    "name", ["localhost", "notlocalhost", "a.localhost.example.com", "127.0.0.1", "", None, 5]
)
def test_others_are_not_touched(name):
    assert not is_below_localhost(name)


async def test_a_loop_asks_the_same():
    with localhost_resolved():
        found = await asyncio.get_running_loop().getaddrinfo("a.localhost", 80, type=socket.SOCK_STREAM)
        with pytest.raises(socket.gaierror):
            socket.getaddrinfo("a.localhost", 80, socket.AF_INET6)
    assert [entry[4] for entry in found] == [("127.0.0.1", 80)]


def test_localhost_patch_ends_despite_other_patches(monkeypatch):
    asked = []

    def bottom(host, *arguments, **options):
        asked.append(host)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", bottom)
    with localhost_resolved():
        inner = socket.getaddrinfo
        with localhost_resolved():
            socket.getaddrinfo("a.localhost", 1)
        assert socket.getaddrinfo is inner

        def top(host, *arguments, **options):
            return inner(host, *arguments, **options)

        monkeypatch.setattr(socket, "getaddrinfo", top)
    assert socket.getaddrinfo is top
    socket.getaddrinfo("a.localhost", 1)
    assert asked == ["127.0.0.1", "a.localhost"]
