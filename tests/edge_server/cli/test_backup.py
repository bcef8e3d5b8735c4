"""A backup of a running edge, and an edge made from it: the same keys, tokens and claims."""

from __future__ import annotations

import asyncio
import contextlib
import io
import sqlite3
import stat
import tarfile
from typing import TYPE_CHECKING

import pytest

from edge_server.auth.token_store import TokenStore
from edge_server.cli.backup import write_backup
from edge_server.cli.commands import main
from edge_server.config.edge_config import EdgeConfig
from edge_server.startup import start_edge
from edge_server.storage.state_dir import StateDir

if TYPE_CHECKING:
    from pathlib import Path

    from edge_server.server import RunningEdge


async def start(state_dir: Path) -> RunningEdge:
    here = ("127.0.0.1", 0)
    return await start_edge(EdgeConfig(state_dir=state_dir, quic=here, https=here))


async def test_an_edge_made_from_a_backup_is_the_same(tmp_path):
    server = await start(tmp_path / "state")
    try:
        with TokenStore(tmp_path / "state")._database.writing() as database:  # as a command beside it does
            database.execute("CREATE TABLE mark (x)")
            database.execute("INSERT INTO mark VALUES (7)")
        (tmp_path / "state" / "acme").mkdir()
        (tmp_path / "state" / "acme" / "account.key").write_text("secret")
        (tmp_path / "state" / "qlog").mkdir()
        (tmp_path / "state" / "qlog" / "1.sqlog").write_text("large")
        assert main(["backup", str(tmp_path / "edge.tar"), "--state-dir", str(tmp_path / "state")]) == 0
        with tarfile.open(tmp_path / "edge.tar") as archive:
            names = archive.getnames()
        assert {"token", "ca.pem", "ca.key", "ticket.key", "reset.key", "tokens.db", "acme/account.key"} <= set(
            names
        )
        left_out = {"client.env", "edge.sock", "quic.key", "held.db", "tokens.db-wal", "tokens.db-shm", "qlog"}
        assert not left_out & set(names)
        assert "qlog/1.sqlog" not in names
        token = server.token
    finally:
        await server.stop()
    assert stat.S_IMODE((tmp_path / "edge.tar").stat().st_mode) == 0o600
    (tmp_path / "other").mkdir()
    untar = ["tar", "--extract", "--file", tmp_path / "edge.tar", "--directory", tmp_path / "other"]
    assert await (await asyncio.create_subprocess_exec(*untar)).wait() == 0
    with contextlib.closing(sqlite3.connect(tmp_path / "other" / "tokens.db")) as database:
        assert database.execute("SELECT x FROM mark").fetchall() == [(7,)]
        database.execute("DROP TABLE mark")
        database.commit()
    again = await start(tmp_path / "other")
    try:
        assert again.token == token
        for name in ("ca.pem", "ticket.key", "reset.key"):
            assert (tmp_path / "other" / name).read_bytes() == (tmp_path / "state" / name).read_bytes()
    finally:
        await again.stop()
    secret = tmp_path / "other" / "ca.key"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_write_during_a_backup_is_atomic(tmp_path):
    """A database in the middle of a transaction: its copy is that of before."""
    StateDir(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "x.db")) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("CREATE TABLE t (x)")
        writer.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(1000)])
        writer.commit()
        writer.execute("DELETE FROM t WHERE x < 500")
        file = io.BytesIO()
        write_backup(tmp_path, file)
        writer.rollback()
    file.seek(0)
    with tarfile.open(fileobj=file) as archive:
        content = archive.extractfile("x.db")
        assert content is not None
        (tmp_path / "copy.db").write_bytes(content.read())
    with contextlib.closing(sqlite3.connect(tmp_path / "copy.db")) as reader:
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (1000,)
        assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_failed_backup_is_one_line(tmp_path, capsys):
    target = tmp_path / "edge.tar"
    assert main(["backup", str(target), "--state-dir", str(tmp_path / "absent")]) == 1
    assert "No state of an edge in" in capsys.readouterr().err
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "ca.key").write_text("key")
    assert main(["backup", str(target), "--state-dir", str(tmp_path / "state")]) == 0
    assert main(["backup", str(target), "--state-dir", str(tmp_path / "state")]) == 2
    assert capsys.readouterr().err.endswith(f"error: {target} exists already; choose another file.\n")
    (tmp_path / "state" / "tokens.db").write_text("this is no database, and long enough to be taken for one" * 20)
    assert main(["backup", str(tmp_path / "b.tar"), "--state-dir", str(tmp_path / "state")]) == 2
    assert "tokens.db cannot be copied: file is not a database." in capsys.readouterr().err
    assert not (tmp_path / "b.tar").exists(), "a part of a backup was left, which the next one would trip over"


@pytest.mark.parametrize(
    "name",
    ["client.env", "edge.sock", "edge.lock", "domain", "held.db", "held.db-wal", ".probe-1", ".token-1-abc"],
)
def test_files_of_a_run_are_left_out(tmp_path, name):
    (tmp_path / name).write_text("x")
    file = io.BytesIO()
    write_backup(tmp_path, file)
    file.seek(0)
    with tarfile.open(fileobj=file) as archive:
        assert archive.getnames() == []
