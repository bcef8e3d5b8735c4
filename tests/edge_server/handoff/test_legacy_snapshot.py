"""The file of an older version: its names are kept once, and it is removed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edge_server.handoff.legacy_snapshot import FILE, HEAD, MAX_BYTES, LegacyContent
from edge_server.handoff.snapshot_entry import SnapshotEntry
from edge_server.tunnels.options import TunnelOptions
from edge_server.tunnels.tunnel_record import TunnelRecord
from tests.edge_server.handoff.snapshot_rig import DOMAIN, KEY, warnings

if TYPE_CHECKING:
    from pathlib import Path

    from tests.edge_server.handoff.snapshot_rig import EdgeRuns


def write_old(runs: EdgeRuns, owner: str, name: str, *, domain: str = DOMAIN, age: float = 0) -> Path:
    """Write a name as an edge of before would have."""
    sheet = LegacyContent(True, [SnapshotEntry(TunnelRecord(name, owner, 1, TunnelOptions(), 0), 0)])
    nonce = os.urandom(12)
    sealed = AESGCM(KEY).encrypt(nonce, msgspec.msgpack.encode(sheet), HEAD + domain.encode())
    path = runs.directory / FILE
    path.write_bytes(HEAD + nonce + sealed)
    os.utime(path, (runs.clock.now - age,) * 2)
    return path


async def test_names_of_the_old_file_are_kept_once(runs: EdgeRuns) -> None:
    owner = runs.owner()
    edge = await runs.begin()
    edge.services.claims.claim(owner.key, "shop")
    path = write_old(runs, owner.key, "shop")
    edge = await runs.begin()
    assert edge.held() == {"shop": 0}
    assert path.exists()  # until the table has it: a crash may come first
    await edge.write(is_last=True)
    assert not path.exists()
    assert (await runs.begin()).held() == {"shop": 0}


async def test_the_newer_of_file_and_table_counts(runs: EdgeRuns) -> None:
    """An older version may have run in between."""
    owner = runs.owner()
    edge = await runs.begin()
    for name in ("table", "file"):
        edge.services.claims.claim(owner.key, name)
    for age, expected in ((20, "table"), (0, "file")):
        write_old(runs, owner.key, "file", age=age)
        runs.clock.now -= 10
        runs.forge(TunnelRecord("table", owner.key, 1, TunnelOptions(), 0))
        runs.clock.now += 10
        assert list((await runs.begin()).held()) == [expected]


@pytest.mark.parametrize("damage", ["another domain", "cut off", "empty", "too large", "a directory"])
async def test_an_old_file_of_no_use(runs: EdgeRuns, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    path = write_old(
        runs, runs.owner().key, "shop", domain="example.org" if damage == "another domain" else DOMAIN
    )
    content = path.read_bytes()
    if damage == "a directory":
        path.unlink()
        path.mkdir()
    elif damage != "another domain":
        path.write_bytes({"cut off": content[:-1], "empty": b"", "too large": content + bytes(MAX_BYTES)}[damage])
    edge = await runs.begin()
    assert not edge.held()
    (warning,) = warnings(caplog)
    assert warning.startswith(f"{path} cannot be used: ")
    await edge.write()
    assert path.exists() is (damage == "a directory")
