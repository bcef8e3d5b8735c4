"""The lock of a state directory."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_server.embedded import EmbeddedEdge
from edge_server.startup import start_edge
from edge_server.storage import edge_lock
from edge_server.storage.edge_lock import LOCK_FILE, EdgeLock
from quictunnel.errors import ConfigError

ADVICE = "use another directory"
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")


def is_held(directory: Path) -> bool:
    try:
        EdgeLock.acquire(directory, ADVICE).release()
    except ConfigError:
        return True
    return False


def descriptors_in_use() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def test_the_second_is_refused_until_the_first_releases_it(tmp_path: Path):
    lock = EdgeLock.acquire(tmp_path, ADVICE)
    with pytest.raises(ConfigError, match=rf"An edge \(process {os.getpid()}\) already runs with .*: {ADVICE}\."):
        EdgeLock.acquire(tmp_path, ADVICE)
    assert is_held(tmp_path), "the second attempt has changed nothing"
    lock.release()
    lock.release()
    assert not is_held(tmp_path)
    assert (tmp_path / LOCK_FILE).exists(), "a removed file could be locked twice"


@pytest.mark.parametrize("content", [b"", b"x\n", b"9" * 100 + b"\n"])
def test_the_process_is_left_out_if_the_file_names_none(tmp_path: Path, content: bytes):
    lock = EdgeLock.acquire(tmp_path, ADVICE)
    (tmp_path / LOCK_FILE).write_bytes(content)
    with pytest.raises(ConfigError, match="An edge already runs with"):
        EdgeLock.acquire(tmp_path, ADVICE)
    lock.release()


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors are not passed on there")
def test_a_copy_of_the_descriptor_holds_it_on(tmp_path: Path):
    """As the successor's does when the predecessor releases its own."""
    first = EdgeLock.acquire(tmp_path, ADVICE)
    second = EdgeLock(os.dup(first.fileno()))
    first.release()
    assert is_held(tmp_path)
    second.release()
    assert not is_held(tmp_path)


@needs_fork
def test_a_forked_child_neither_holds_nor_releases_it(tmp_path: Path):
    lock = EdgeLock.acquire(tmp_path, ADVICE)
    reading, writing = os.pipe()
    begun, begins = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(writing)
            os.write(begins, b"x")
            spare = os.open(os.devnull, os.O_RDONLY)  # has the number of the closed copy
            lock.release()
            os.fstat(spare)
            os.read(reading, 1)  # until the parent has looked
        except BaseException:  # noqa: BLE001 - the child must not run the other tests
            os._exit(1)
        os._exit(0)
    os.close(reading)
    assert os.read(begun, 1) == b"x", "the hooks of the fork have run"
    os.close(begun)
    os.close(begins)
    assert is_held(tmp_path)
    lock.release()
    assert not is_held(tmp_path), "the child holds it"
    os.close(writing)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(sys.platform == "win32", reason="handles are inherited in another way")
def test_a_program_does_not_inherit_it(tmp_path: Path):
    lock = EdgeLock.acquire(tmp_path, ADVICE)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False) as child:
        lock.release()
        assert not is_held(tmp_path)
        child.communicate()


@pytest.mark.skipif(sys.platform == "win32", reason="fcntl")
def test_an_edge_starts_on_a_file_system_without_locks(tmp_path: Path, monkeypatch, caplog):
    def fails(descriptor: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(edge_lock, "_lock", fails)
    EdgeLock.acquire(tmp_path, ADVICE).release()
    assert "a second edge here would not be noticed" in caplog.text


@pytest.mark.parametrize("number", [errno.EIO, errno.EBADF])
def test_other_errors_are_reported(tmp_path: Path, monkeypatch, number: int):
    def fails(descriptor: int) -> None:
        raise OSError(number, "it broke")

    monkeypatch.setattr(edge_lock, "_lock", fails)
    before = descriptors_in_use()
    with pytest.raises(ConfigError, match=r"edge\.lock cannot be locked \(it broke\)"):
        EdgeLock.acquire(tmp_path, ADVICE)
    (tmp_path / LOCK_FILE).unlink()
    (tmp_path / LOCK_FILE).mkdir()
    with pytest.raises(ConfigError, match=r"edge\.lock cannot be opened"):
        EdgeLock.acquire(tmp_path, ADVICE)
    assert descriptors_in_use() == before


async def test_an_embedded_edge_holds_it():
    with EmbeddedEdge() as edge:
        config = edge.server.config
        with pytest.raises(ConfigError, match=rf"An edge \(process {os.getpid()}\) already runs"):
            await start_edge(config)
        assert (config.state_dir / "client.env").exists()
        edge._background.call(edge.server.stop())
        assert not is_held(config.state_dir)
