"""Tests of the messages to the service manager, through a real socket as systemd listens."""

from __future__ import annotations

import asyncio
import os
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from edge_server.banner import banner
from edge_server.config.edge_config import EdgeConfig
from edge_server.systemd import goes_to_journal, keep_alive, notify
from quictunnel.config.credential import Credential
from quictunnel.config.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listener


def test_lines_arrive_together(manager):
    notify("READY=1", "STATUS=fine")
    assert manager.recv(100) == b"READY=1\nSTATUS=fine"


@pytest.mark.parametrize("address", ["", "relative", "/absent/socket"])
def test_notify_without_a_listener_is_ignored(monkeypatch, caplog, address):
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")
    assert len(caplog.records) == (address == "/absent/socket")


async def test_watchdog_is_notified_twice_per_period(manager, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(keep_alive())
    begun = loop.time()
    for _ in range(4):
        assert await asyncio.wait_for(loop.sock_recv(manager, 100), 10) == b"WATCHDOG=1"
    assert loop.time() - begun >= 0.29
    task.cancel()


@pytest.mark.parametrize("period", ["", "0", "soon", "-5", "\u0663"])
async def test_no_watchdog_means_no_message(manager, monkeypatch, period):
    monkeypatch.setenv("WATCHDOG_USEC", period)
    task = asyncio.create_task(keep_alive())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not task.done()
    with pytest.raises(BlockingIOError):
        manager.recv(100)
    task.cancel()


def test_journal_output_is_recognised(monkeypatch, tmp_path):
    """Not by the variable alone, which whoever was started from a terminal may have inherited."""
    with (tmp_path / "journal").open("w") as journal, (tmp_path / "other").open("w") as other:
        status = os.fstat(journal.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert goes_to_journal(journal.fileno())
        assert not goes_to_journal(other.fileno())
        closed = other.fileno()
    assert not goes_to_journal(closed)
    monkeypatch.delenv("JOURNAL_STREAM")
    assert not goes_to_journal(1)


SECRET = "a-secret-of-somebody"
CREDENTIAL = Credential(("127.0.0.1:4433",), bytes(32), Secret(SECRET))


def running(config: EdgeConfig, *, public: str = "127.0.0.1:4433") -> Any:
    """Return what the banner says of an edge, without its parts."""
    return SimpleNamespace(
        config=config, token=SECRET, ca=config.state_dir / "ca.pem", https_port=8443, credential=CREDENTIAL,
        quic_address="127.0.0.1:4433", public_quic_address=public, is_public=public != "127.0.0.1:4433",
    )  # fmt: skip


def secrets_in(text: str) -> list[str]:
    return [secret for secret in (SECRET, CREDENTIAL.encode()) if secret in text]


@pytest.mark.parametrize("public", ["edge.example.com:4433", "203.0.113.9:4433", ""])
def test_a_public_edge_prints_no_secret_and_not_the_address_of_loopback(tmp_path, public):
    text = banner(running(EdgeConfig(state_dir=tmp_path), public=public))
    assert secrets_in(text) == []
    assert f"token create --state-dir {tmp_path} --note NAME" in text
    assert ("127.0.0.1" in text) == (not public)
    assert ("Set --public-host NAME" in text) == (not public)


def test_token_is_not_written_to_the_journal(monkeypatch, tmp_path):
    server = running(EdgeConfig(state_dir=tmp_path))
    assert secrets_in(banner(server)) == [SECRET, CREDENTIAL.encode()]
    assert "export QUICTUNNEL_TOKEN=a-secret-of-somebody\n" in banner(server)
    status = os.fstat(1)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    assert f'export QUICTUNNEL_TOKEN="$(cat {tmp_path}/token)"\n' in banner(server)
    assert secrets_in(banner(server)) == []


def test_token_is_not_printed_when_hidden(tmp_path):
    server = running(EdgeConfig(state_dir=tmp_path, hide_token=True))
    assert f'export QUICTUNNEL_TOKEN="$(cat {tmp_path}/token)"\n' in banner(server)
    assert secrets_in(banner(server)) == []


@pytest.mark.parametrize("public", ["127.0.0.1:4433", "edge.example.com:4433"])
def test_programs_find_only_an_edge_in_the_usual_directory(monkeypatch, tmp_path, public):
    monkeypatch.setattr("edge_server.banner.default_state_dir", lambda: tmp_path / "usual")
    usual = banner(running(EdgeConfig(state_dir=tmp_path / "usual"), public=public))
    assert "Programs of your user on this machine find it by themselves." in usual
    assert "\nTry:  quictunnel http 8000 " in usual
    other = banner(running(EdgeConfig(state_dir=tmp_path / "other"), public=public))
    assert "find it by themselves" not in other
    assert "\nTry:  quictunnel login     then:  quictunnel http 8000 " in other
    hidden = banner(running(EdgeConfig(state_dir=tmp_path / "other", hide_token=True)))
    assert "\nTry:  quictunnel http 8000 " in hidden, "it prints no credential"
