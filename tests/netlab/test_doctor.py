"""The doctor between two hosts: firewalls, small MTUs, loss."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trustme

from quictunnel.config.client_config import ClientConfig, Secret
from quictunnel.doctor import edge
from quictunnel.transport import probe
from tests.harness.quic_server import quic_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from quictunnel.doctor.result import Finding
    from tests.netlab.fixture import StartLab
    from tests.netlab.lab import Lab
    from tests.netlab.namespace import Host

PORT = 4433


@pytest.fixture
def lab(netlab: StartLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A QUIC server in the edge's host."""
    monkeypatch.setattr(probe, "ROUNDS", (0.4, 0.6))
    lab = netlab(delay_ms=5)
    sock = lab.edge.socket(bind=(lab.edge.address, PORT))
    with quic_server(trustme.CA().issue_cert(lab.edge.address), tmp_path, sock=sock):
        yield lab


def udp(lab: Lab) -> Finding:
    address = (lab.edge.address, PORT)
    config = ClientConfig(edge=f"{lab.edge.address}:{PORT}", token=Secret("tok"))
    with lab.client.entered():
        return edge.check_udp(config, (address,), has_proxy=False).finding


def datagrams(lab: Lab) -> Finding:
    with lab.client.entered():
        return edge.datagrams((lab.edge.address, PORT))


@contextmanager
def firewall(host: Host, hook: str, rule: str) -> Iterator[None]:
    if shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin") is None:
        pytest.skip("nft is not installed")
    table = f"table inet doctor {{ chain {hook} {{ type filter hook {hook} priority 0; {rule}; }}; }}"
    host.run(["/usr/sbin/nft", table])
    try:
        yield
    finally:
        host.run(["/usr/sbin/nft", "delete table inet doctor"])


def test_from_free_to_blocked_in_every_way(lab: Lab) -> None:
    free = udp(lab)
    assert free.verdict == "ok"
    assert f"QUIC answers at {lab.edge.address}:{PORT} in " in free.message
    with firewall(lab.edge, "input", "meta l4proto udp drop"):
        dropped = udp(lab)
    assert "although the host answers TCP: UDP looks blocked" in dropped.message
    with firewall(lab.edge, "input", "meta l4proto udp reject"):
        rejected = udp(lab)
    assert "is closed" in rejected.message, "which is what a firewall that answers says"
    with firewall(lab.client, "output", "meta l4proto udp drop"):
        forbidden = udp(lab)
    assert "this machine does not allow UDP" in forbidden.message
    assert "nft list ruleset" in forbidden.remedy
    lab.link.set(blackhole=True)
    gone = udp(lab)
    assert "the host does not answer TCP either" in gone.message
    assert [each.verdict for each in (dropped, rejected, forbidden, gone)] == ["fail"] * 4


def test_small_mtus(lab: Lab) -> None:
    """UDP payloads are 28 bytes smaller than the IPv4 packets that carry them."""
    assert datagrams(lab).message == "1472 bytes arrive unfragmented"
    lab.link.set(mtu=1428)
    assert datagrams(lab).message == "1400 bytes arrive unfragmented"
    lab.link.set(mtu=1300)
    small = datagrams(lab)
    assert small.verdict == "warn"
    assert "only 1252 bytes arrive unfragmented" in small.message
    lab.link.set(mtu=1500)
    lab.client.run(["ip", "link", "set", "wan0", "mtu", "1000"])
    tiny = udp(lab)
    assert tiny.verdict == "fail"
    assert "which QUIC needs, do not arrive unfragmented" in tiny.message
    assert "Raise the MTU" in tiny.remedy


def test_no_route(lab: Lab) -> None:
    lab.client.run(["ip", "link", "set", "wan0", "down"])
    assert udp(lab).message.startswith(f"there is no route to UDP port {PORT}")
