"""The table of held names: who writes it and when, what is written, and a database that is of no use."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sqlite3
import stat
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from edge_server.handoff import snapshot
from edge_server.handoff.snapshot import STAMP_INTERVAL
from edge_server.handoff.snapshot_entry import SnapshotEntry
from edge_server.handoff.snapshot_store import MAX_AGE, AnotherWriterError, SnapshotStore
from edge_server.tunnels.options import TunnelOptions
from edge_server.tunnels.tunnel_record import TunnelRecord
from tests.edge_server.handoff.snapshot_rig import DOMAIN, KEY, RANDOM, warnings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.edge_server.handoff.snapshot_rig import EdgeRuns

REFUSED_LATER = "After a restart, visitors are refused until their clients have reconnected."


def entry(name: str, **more: Any) -> SnapshotEntry:
    return SnapshotEntry(TunnelRecord(name, "a", 1, TunnelOptions(), 0, **more), 0)


def rows_changed(store: SnapshotStore, work: Callable[[], object]) -> int:
    """Return how many rows some work writes; one of them says when the edge was last there."""
    before = store._database._connection.total_changes  # type: ignore[union-attr]
    work()
    return store._database._connection.total_changes - before - 1  # type: ignore[union-attr]


def change(path: Path, statement: str, *values: object) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(statement, values)


# Writes.


async def test_only_what_changed_is_written(runs: EdgeRuns) -> None:
    store = runs.store()
    many = [entry(f"name-{number}") for number in range(100)]
    assert store.write(many, at=1000)
    assert rows_changed(store, lambda: store.write(many, at=1001)) == 0
    assert rows_changed(store, lambda: store.stamp(1002)) == 0
    assert rows_changed(store, lambda: store.write([*many[1:], entry("new")], at=1003)) == 2
    again = [entry("name-1", client_id=b"another"), *many[2:], entry("new")]
    assert rows_changed(store, lambda: store.write(again, at=1004, is_last=True)) == 1
    found = store.read()
    assert found is not None
    assert found.written_at == 1004
    assert {each.record.name: each for each in found.entries} == {
        each.record.name: SnapshotEntry(each.record, 1004) for each in again
    }
    store.close()


async def test_the_file_is_private_and_tells_no_name(runs: EdgeRuns) -> None:
    store = runs.store()
    store.write([entry(RANDOM)], at=1000)
    files = [path for path in runs.directory.iterdir() if path.name.startswith(runs.path.name)]
    assert len(files) == 3  # with the write-ahead log and its index
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert RANDOM.encode() not in path.read_bytes()
    store.close()


async def test_the_time_is_written_again_while_nothing_changes(runs: EdgeRuns) -> None:
    edge = await runs.begin()
    edge.client(runs.owner()).got()
    await edge.write()
    runs.clock.now += STAMP_INTERVAL
    await edge.write()
    (only,) = runs.written().values()
    assert only.last_connected == runs.clock.now


async def test_a_removed_or_replaced_file_is_written_again(runs: EdgeRuns) -> None:
    edge = await runs.begin()
    edge.client(runs.owner()).got()
    await edge.write()
    for meddle in (runs.path.unlink, lambda: (runs.path.rename(f"{runs.path}-"), runs.path.write_bytes(b""))):
        meddle()
        await edge.write()  # notices
        await edge.write()
        assert len(runs.written()) == 1


async def test_the_edge_writes_until_another_takes_over(runs: EdgeRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "POLL_INTERVAL", 0.001)
    edge = await runs.begin()
    written: asyncio.Queue[int] = asyncio.Queue()
    write = edge.snapshot._store.write

    def write_result(entries: list[SnapshotEntry], *, at: float, is_last: bool) -> bool:
        try:
            return write(entries, at=at, is_last=is_last)
        finally:
            loop.call_soon_threadsafe(written.put_nowait, len(entries))

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(edge.snapshot._store, "write", write_result)
    edge.snapshot.start()
    async with asyncio.timeout(10):
        assert await written.get() == 0
        edge.client(runs.owner()).got()
        assert await written.get() == 1
    edge.snapshot.stop_writing()
    await edge.snapshot.close()
    edge.client(runs.owner()).got()
    assert len(runs.written()) == 1
    assert written.empty()


async def test_an_edge_that_never_served_writes_nothing(runs: EdgeRuns) -> None:
    edge = await runs.begin()
    edge.client(runs.owner()).got()
    await edge.write(is_last=True)
    before = runs.written()
    await (await runs.begin()).snapshot.close()
    assert runs.written() == before


# Two edges.


async def test_a_predecessor_does_not_overwrite_its_successor(runs: EdgeRuns) -> None:
    """A write that was begun before the handoff may reach the database after the successor's first one."""
    before, after = runs.store(), runs.store()
    before.write([entry("old"), entry("both")], at=1000)
    after.write([entry("both"), entry("new")], at=1000)
    for late in (lambda: before.write([entry("late")], at=1001), lambda: before.write([], at=1001, is_last=True)):
        with pytest.raises(AnotherWriterError):
            late()
    assert not before.stamp(1001)  # it would have to write the rows first
    assert set(runs.written()) == {"both", "new"}
    assert rows_changed(after, lambda: after.write([entry("both")], at=1002)) == 1
    assert set(runs.written()) == {"both"}
    before.close()
    after.close()


async def test_a_second_edge_of_the_same_directory_is_noticed(
    runs: EdgeRuns, caplog: pytest.LogCaptureFixture
) -> None:
    edge = await runs.begin()
    await edge.write()
    other = runs.store()
    other.write([entry("other")], at=runs.clock.now)
    for _ in range(3):
        edge.client(runs.owner()).got()
        await edge.snapshot._attempt(is_last=False)
    assert list(warnings(caplog)) == [
        f"{runs.path} is written by another edge with this state directory. {REFUSED_LATER}"
    ]
    assert set(runs.written()) == {"other"}
    runs.clock.now += MAX_AGE + 1  # it is not there any more
    await edge.snapshot._attempt(is_last=False)
    assert len(runs.written()) == 3
    other.close()


# A database that is of no use.


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def overwritten(path: Path) -> None:
    path.write_bytes(b"this is no database, and it is long enough to be taken for one" * 200)


def from_the_future(path: Path) -> None:
    change(path, "PRAGMA user_version = 2")


def without_its_table(path: Path) -> None:
    change(path, "DROP TABLE held")


def with_a_changed_row(path: Path) -> None:
    change(path, "UPDATE held SET sealed = zeroblob(length(sealed))")


def with_a_short_row(path: Path) -> None:
    change(path, "UPDATE held SET sealed = x'00'")


def with_a_row_of_another_name(path: Path) -> None:
    change(path, "UPDATE held SET key = randomblob(16)")


def with_another_time(path: Path) -> None:
    change(path, "UPDATE run SET sealed = (SELECT sealed FROM held)")


def with_a_large_row(path: Path) -> None:
    change(path, "UPDATE held SET sealed = zeroblob(13 * 1024 * 1024)")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (truncate, "it is damaged, or of another --domain or ticket.key"),
        (overwritten, "file is not a database"),
        (from_the_future, "is of another version of quictunnel (2, not 1)"),
        (without_its_table, "no such table: held"),
        (with_a_changed_row, "it is damaged, or of another --domain or ticket.key"),
        (with_a_short_row, "it is damaged, or of another --domain or ticket.key"),
        (with_a_row_of_another_name, "it is damaged, or of another --domain or ticket.key"),
        (with_another_time, "it is damaged, or of another --domain or ticket.key"),
        (with_a_large_row, "which is more than an edge writes"),
    ],
)
async def test_a_damaged_database_is_made_anew(
    runs: EdgeRuns, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None], complaint: str
) -> None:
    edge = await runs.begin()
    edge.client(runs.owner()).got()
    await edge.write(is_last=True)
    await runs.end()
    damage(runs.path)
    edge = await runs.begin()
    assert not edge.held()
    edge.client(runs.owner()).got()
    await edge.snapshot._attempt(is_last=False)
    await edge.snapshot._attempt(is_last=False)
    (warning,) = warnings(caplog)
    assert complaint in warning
    assert warning.startswith(str(runs.path))
    assert "\n" not in warning
    assert len(runs.written()) == 1


@pytest.mark.parametrize("seed", range(20))
async def test_damage_at_random_stops_no_edge(runs: EdgeRuns, seed: int) -> None:
    edge = await runs.begin()
    for _ in range(40):
        edge.client(runs.owner()).got()
    await edge.write(is_last=True)
    await runs.end()
    content, random = bytearray(runs.path.read_bytes()), Random(seed)
    for _ in range(1 + seed % 30):
        content[random.randrange(len(content))] = random.randrange(256)
    runs.path.write_bytes(content[: random.randrange(len(content))] if seed % 5 == 0 else content)
    edge = await runs.begin()
    edge.client(runs.owner()).got()
    await edge.snapshot._attempt(is_last=False)
    await edge.snapshot._attempt(is_last=True)
    assert len(runs.written()) == len(edge.held())


async def test_damage_while_the_edge_runs(runs: EdgeRuns) -> None:
    edge = await runs.begin()
    edge.client(runs.owner()).got()
    await edge.write()
    change(runs.path, "DROP TABLE held")
    edge.client(runs.owner()).got()
    await edge.snapshot._attempt(is_last=False)
    assert len(runs.written()) == 2


async def test_an_empty_file_is_a_new_database(runs: EdgeRuns, caplog: pytest.LogCaptureFixture) -> None:
    runs.path.write_bytes(b"")
    edge = await runs.begin()
    await edge.write()
    assert not list(warnings(caplog))


async def test_a_table_of_another_domain_or_key(runs: EdgeRuns, caplog: pytest.LogCaptureFixture) -> None:
    edge = await runs.begin()
    edge.client(runs.owner()).got()
    await edge.write(is_last=True)
    for key, domain in ((KEY, "example.org"), (bytes(32), DOMAIN)):
        other = dataclasses.replace(edge.services, domain=domain)
        snapshot = other.make_snapshot(runs.directory, key, runs.clock)
        await snapshot.restore()
        await snapshot.close()
        (warning,) = warnings(caplog)
        assert "of another --domain or ticket.key" in warning
        caplog.clear()


async def start_with_unwritable_database(runs: EdgeRuns, caplog: pytest.LogCaptureFixture) -> str:
    """Start an edge whose database cannot be written. Return the one line that says so."""
    edge = await runs.begin()
    edge.client(runs.owner()).got()
    for is_last in (False, False, True):
        await edge.snapshot._attempt(is_last=is_last)
    (warning,) = warnings(caplog)
    return warning


async def test_a_directory_in_its_place(runs: EdgeRuns, caplog: pytest.LogCaptureFixture) -> None:
    runs.path.mkdir()
    assert await start_with_unwritable_database(runs, caplog) == (
        f"{runs.path} cannot be used: [Errno 21] Is a directory: '{runs.path}'. {REFUSED_LATER}"
    )


async def test_a_file_that_may_not_be_written(
    runs: EdgeRuns, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.forge(TunnelRecord(RANDOM, "a", 1, TunnelOptions(), 0))
    connect = sqlite3.connect

    def read_only(path: Path, **more: Any) -> sqlite3.Connection:
        return connect(f"file:{path}?mode=ro" if path == runs.path else path, uri=True, **more)

    monkeypatch.setattr("edge_server.storage.sqlite.sqlite3.connect", read_only)
    assert await start_with_unwritable_database(runs, caplog) == (
        f"{runs.path} cannot be used: attempt to write a readonly database. {REFUSED_LATER}"
    )


@pytest.mark.parametrize(
    "record",
    [
        TunnelRecord("", "a", 1, TunnelOptions(), 0),
        TunnelRecord("-", "a", 1, TunnelOptions(), 0),
        TunnelRecord("a..b", "a", 1, TunnelOptions(), 0),
        TunnelRecord("a", "", 1, TunnelOptions(), 0),
        TunnelRecord("a", "a" * 65, 1, TunnelOptions(), 0),
        TunnelRecord("a", "a", -1, TunnelOptions(), 0),
        TunnelRecord("a", "a", 1 << 32, TunnelOptions(), 0),
        TunnelRecord("a", "a", 1, TunnelOptions(), -1),
        TunnelRecord("a", "a", 1, TunnelOptions(), 65_536),
        TunnelRecord("a", "a", 1, TunnelOptions(proxy_protocol=3), 0),
        TunnelRecord("a", "a", 1, TunnelOptions(allow=["everybody"]), 0),
    ],
)
async def test_a_record_that_no_edge_writes(
    runs: EdgeRuns, caplog: pytest.LogCaptureFixture, record: TunnelRecord
) -> None:
    runs.forge(record)
    assert not (await runs.begin()).held()
    (warning,) = warnings(caplog)
    assert "it has names that no edge can have held" in warning


async def test_two_names_with_the_same_port(runs: EdgeRuns, caplog: pytest.LogCaptureFixture) -> None:
    runs.forge(
        *(TunnelRecord(name, runs.owner().key, 1, TunnelOptions(), 17_001) for name in (RANDOM, RANDOM[::-1]))
    )
    assert not (await runs.begin()).held()
    (warning,) = warnings(caplog)
    assert "it has names that no edge can have held" in warning
