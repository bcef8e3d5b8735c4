"""Tests of the messages to the service manager, through a real socket as systemd listens."""

from __future__ import annotations

import asyncio
import os
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from edge_server.config.edge_config import EdgeConfig
from edge_server.service import banner
from edge_server.systemd import goes_to_journal, keep_alive, notify

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


def running(config: EdgeConfig) -> Any:
    """Return what the banner says of an edge, without its parts."""
    address = "127.0.0.1:4433"
    return SimpleNamespace(
        config=config, token="a-secret-of-somebody", ca=config.state_dir / "ca.pem", https_port=8443,
        quic_address=address, public_quic_address=address,
    )  # fmt: skip


def test_token_is_not_written_to_the_journal(monkeypatch, tmp_path):
    server = running(EdgeConfig(state_dir=tmp_path))
    assert "export QUICTUNNEL_TOKEN=a-secret-of-somebody\n" in banner(server)
    status = os.fstat(1)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    assert f'export QUICTUNNEL_TOKEN="$(cat {tmp_path}/token)"\n' in banner(server)
    assert "a-secret-of-somebody" not in banner(server)


def test_token_is_not_printed_when_hidden(tmp_path):
    server = running(EdgeConfig(state_dir=tmp_path, hide_token=True))
    assert f'export QUICTUNNEL_TOKEN="$(cat {tmp_path}/token)"\n' in banner(server)
    assert "a-secret-of-somebody" not in banner(server)
