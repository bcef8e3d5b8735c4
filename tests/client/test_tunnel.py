"""The frozen Tunnel: what a program reads its public addresses from."""

from __future__ import annotations

import dataclasses

import pytest

from quictunnel.errors import InvalidError
from quictunnel.tunnel import Tunnel

NAME = "x7k2.tunnel.localhost"


@pytest.mark.parametrize(
    ("tunnel", "url"),
    [
        (Tunnel(NAME, 443), f"https://{NAME}"),
        (Tunnel(NAME, 8443), f"https://{NAME}:8443"),
        (Tunnel("::1", 8443), "https://[::1]:8443"),
        (Tunnel("::1", 443), "https://[::1]"),
    ],
)
def test_url_names_the_port_unless_it_is_443(tunnel: Tunnel, url: str) -> None:
    assert tunnel.url == url


def test_sockets() -> None:
    tunnel = Tunnel(NAME, 8443, "edge.example.com", 20001)
    assert tunnel.tls_socket == (NAME, 8443)
    assert tunnel.tcp_socket == ("edge.example.com", 20001)


def test_tcp_socket_that_was_not_asked_for() -> None:
    tunnel = Tunnel(NAME, 8443)
    assert (tunnel.unencrypted_host, tunnel.unencrypted_port) == ("", 0)
    with pytest.raises(
        InvalidError, match=r"^This tunnel is not configured for unencrypted TCP\. .*unencrypted=True"
    ):
        _ = tunnel.tcp_socket


def test_frozen_hashable_equal() -> None:
    tunnel = Tunnel(NAME, 8443)
    with pytest.raises(dataclasses.FrozenInstanceError):
        tunnel.port = 1  # type: ignore[misc]  # that it cannot be is what is tested
    assert {tunnel, Tunnel(NAME, 8443)} == {tunnel}
