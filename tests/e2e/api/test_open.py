"""Tunnels without ``with``: ``open()``, ``aopen()``, what ``forward()`` says there, and clients as context
managers."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import quictunnel
from quictunnel.opening import OpenTunnel
from tests.harness.echo_origin import EchoOrigin, assert_closed, run_python, serves
from tests.harness.edge_process import children_environment
from tests.harness.programs import free_port
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness.edge_process import EdgeProcess


@pytest.fixture
def origin() -> Iterator[EchoOrigin]:
    with EchoOrigin() as origin:
        yield origin


def test_open_until_close(edge: EdgeProcess, client: quictunnel.Client, origin: EchoOrigin) -> None:
    tunnel = quictunnel.open(origin.port, unencrypted=True, client=client)
    assert isinstance(tunnel, quictunnel.Tunnel)
    assert serves(edge, tunnel)
    assert tunnel.url.startswith("https://")
    assert tunnel.target == f"localhost:{origin.port}"
    assert tunnel.tcp_socket[1] == tunnel.unencrypted_port
    assert tunnel.stats.state == "connected"
    assert not tunnel.is_closed
    tunnel.close()
    assert tunnel.is_closed
    assert_closed(edge, tunnel)
    tunnel.close()
    assert tunnel.stats.state == "closed"


def test_open_as_a_context_manager(edge: EdgeProcess, client: quictunnel.Client, origin: EchoOrigin) -> None:
    with quictunnel.open(origin.port, client=client) as tunnel:
        assert serves(edge, tunnel)
    assert_closed(edge, tunnel)


async def test_aopen(edge: EdgeProcess, client: quictunnel.Client, origin: EchoOrigin) -> None:
    tunnel = await quictunnel.aopen(origin.port, client=client)
    assert serves(edge, tunnel)
    await tunnel.aclose()
    assert_closed(edge, tunnel)
    await tunnel.aclose()
    async with await quictunnel.aopen(origin.port, client=client) as tunnel:
        assert serves(edge, tunnel)
    assert_closed(edge, tunnel)


def test_an_open_tunnel_that_is_dropped(edge: EdgeProcess, client: quictunnel.Client, origin: EchoOrigin) -> None:
    tunnel = quictunnel.open(origin.port, client=client)
    addresses = quictunnel.Tunnel(tunnel.host, tunnel.port)
    with pytest.warns(ResourceWarning, match=r"quictunnel\.open"):
        del tunnel  # the only reference
    eventually(lambda: not serves_or_not(edge, addresses))
    quictunnel.open(origin.port, client=client).close()  # the port is no longer forwarded


def serves_or_not(edge: EdgeProcess, tunnel: quictunnel.Tunnel) -> bool:
    try:
        return serves(edge, tunnel)
    except OSError:
        return False


def test_a_copy_has_the_addresses_only(edge: EdgeProcess, client: quictunnel.Client, origin: EchoOrigin) -> None:
    with quictunnel.open(origin.port, client=client) as tunnel:
        for each in (copy.copy(tunnel), pickle.loads(pickle.dumps(tunnel))):
            assert isinstance(each, OpenTunnel)
            assert each == tunnel
            assert each.is_closed
            each.close()
        assert serves(edge, tunnel)


def test_open_tunnels_are_closed_at_exit(edge: EdgeProcess, origin: EchoOrigin) -> None:
    done = run_python(
        f"""
        import warnings; warnings.simplefilter("error")
        import quictunnel
        tunnel = quictunnel.open({origin.port}, name="closed-at-exit")
        print(tunnel.host, tunnel.port)
        """,
        children_environment(edge),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    host, port = done.stdout.split()
    assert_closed(edge, quictunnel.Tunnel(host, int(port)))


@pytest.mark.parametrize("name", ["url", "port", "tls_socket", "stats", "close", "host"])
def test_forward_without_with_says_how(name: str) -> None:
    tunnel = quictunnel.forward(8000)
    with pytest.raises(
        quictunnel.InvalidError, match=rf"has no {name}\. Use it in a with statement .*quictunnel\.open"
    ):
        getattr(tunnel, name)
    assert not hasattr(tunnel, name)
    with pytest.raises(AttributeError, match="no attribute 'urll'"):
        _ = tunnel.urll  # type: ignore[attr-defined]  # misspelt


def test_import_star_leaves_the_built_in_open() -> None:
    program = (
        "from quictunnel import *; import builtins, quictunnel; assert open is builtins.open; quictunnel.open"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


def test_a_client_as_a_context_manager(edge: EdgeProcess, origin: EchoOrigin) -> None:
    with edge.client() as client:
        tunnel = quictunnel.open(origin.port, client=client)
        assert serves(edge, tunnel)
    assert_closed(edge, tunnel)
    tunnel.close()
    with pytest.raises(quictunnel.InvalidError, match="This Client is closed"):
        quictunnel.open(origin.port, client=client)
    with pytest.raises(RuntimeError, match="closed"):
        quictunnel.forward(origin.port, client=client).__enter__()


async def test_a_client_as_an_async_context_manager(edge: EdgeProcess, origin: EchoOrigin) -> None:
    async with edge.client() as client:
        tunnel = await quictunnel.aopen(origin.port, client=client)
        assert serves(edge, tunnel)
    assert client.is_closed
    assert_closed(edge, tunnel)
    await tunnel.aclose()
    with pytest.raises(quictunnel.InvalidError, match="This Client is closed"):
        await quictunnel.aopen(free_port(), client=client)
    await client.aclose()
