"""A ticket file that is kept current, whatever the disk and the edge do."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from quictunnel.connection import ticket_writer
from quictunnel.connection.ticket_file import TicketFile
from quictunnel.connection.ticket_writer import TicketWriter
from quictunnel.shared.supervision import Supervisor
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path


class SlowFile(TicketFile):
    """Counts its writers, and lets them wait."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.may_write = threading.Event()
        self.writes = 0
        self.at_once = self.most_at_once = 0

    def write(self, ticket: bytes) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        assert self.may_write.wait(10)
        super().write(ticket)
        self.writes += 1
        self.at_once -= 1


async def test_a_flood_of_tickets_has_one_writer_and_the_newest_is_kept(tmp_path):
    file = SlowFile(tmp_path / "ticket")
    writer = TicketWriter(file, pytest.fail, Supervisor())
    for number in range(10_000):
        writer.put(b"%d" % number)
        if number % 100 == 0:
            await asyncio.sleep(0)
    file.may_write.set()
    await asyncio.to_thread(eventually, lambda: file.read() == b"9999")
    assert file.most_at_once == 1
    assert file.writes <= 3
    writer.close()


async def test_failed_write_is_logged_once_and_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(ticket_writer, "RETRY_INTERVAL", 0.02)
    said = []
    file = TicketFile(tmp_path / "nowhere" / "ticket")
    is_healthy = asyncio.Event()

    def publish(kind: str, message: str) -> None:
        said.append((kind, message))
        if len(said) == 2:
            is_healthy.set()

    writer = TicketWriter(file, publish, Supervisor())
    writer.put(b"first")
    await writer.wait_first_write()
    [(kind, message)] = said
    assert kind == "warning"
    assert "cannot be written" in message
    assert "No such file or directory" in message
    writer.put(b"second")
    await asyncio.sleep(0.1)
    assert len(said) == 1
    file.path.parent.mkdir()
    await is_healthy.wait()
    assert "written again" in said[1][1]
    assert file.read() == b"second"
    writer.close()


async def test_a_file_system_that_hangs_does_not_keep_the_tunnel(tmp_path):
    file = SlowFile(tmp_path / "ticket")
    writer = TicketWriter(file, pytest.fail, Supervisor())
    writer.put(b"x")
    await writer.wait_first_write(0.05)
    assert file.at_once == 1
    writer.close()
    file.may_write.set()
