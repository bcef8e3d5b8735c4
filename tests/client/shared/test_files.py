"""Files that are written whole or not at all: crashes, full disks, links, modes and several writers."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from quictunnel.shared.files import (
    PUBLIC,
    check_directory,
    create_once,
    ensure_file,
    make_directory,
    new_file,
    open_private,
    own_directory,
    replace_file,
)

posix = pytest.mark.skipif(sys.platform == "win32", reason="modes and links of POSIX")
ROOT = Path(__file__).parents[3]


FULL = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
"""
"""A limit on the size of files, which fails in the same system call as a full disk, after a part was written."""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program that imports the module under test in a process of its own."""
    head = "import os, resource, signal, sys\nfrom pathlib import Path\nfrom quictunnel.shared import files\n"
    return subprocess.run(
        [sys.executable, "-c", head + program, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


class TestReplaceFile:
    def test_writes_and_replaces(self, tmp_path):
        for content in (b"first", b"", b"x" * 100_000):
            replace_file(tmp_path / "file", content)
            assert (tmp_path / "file").read_bytes() == content
        assert names(tmp_path) == ["file"]

    @posix
    @pytest.mark.parametrize("umask", [0o000, 0o077])
    def test_the_mode_does_not_depend_on_the_umask(self, tmp_path, umask):
        old = os.umask(umask)
        try:
            replace_file(tmp_path / "private", b"")
            replace_file(tmp_path / "public", b"", mode=PUBLIC)
        finally:
            os.umask(old)
        assert (mode(tmp_path / "private"), mode(tmp_path / "public")) == (0o600, 0o644)

    @posix
    @pytest.mark.parametrize("target_mode", [0o600, PUBLIC])
    def test_the_content_is_private_while_it_is_written(self, tmp_path, monkeypatch, target_mode):
        seen = []
        monkeypatch.setattr(os, "fsync", lambda number: seen.append(os.fstat(number).st_mode))
        replace_file(tmp_path / "file", b"secret", mode=target_mode)
        assert stat.S_IMODE(seen[0]) == 0o600

    @posix
    def test_a_file_with_a_wide_mode_becomes_private(self, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(b"old")
        path.chmod(0o666)
        with path.open("rb") as opened_before:
            replace_file(path, b"secret")
            assert opened_before.read() == b"old"  # whoever had it open does not get the new content
        assert mode(path) == 0o600

    @posix
    def test_a_planted_link_is_replaced_and_not_followed(self, tmp_path):
        victim = tmp_path / "victim"
        victim.write_bytes(b"theirs")
        (tmp_path / "file").symlink_to(victim)
        replace_file(tmp_path / "file", b"secret")
        assert victim.read_bytes() == b"theirs"
        assert not (tmp_path / "file").is_symlink()

    @pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
    def test_failure_leaves_only_the_old_file(self, tmp_path, monkeypatch, step):
        path = tmp_path / "file"
        replace_file(path, b"old")

        def fail(*_args, **_kwargs):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(
            *{"fsync": (os, "fsync"), "chmod": (Path, "chmod"), "replace": (Path, "replace")}[step], fail
        )
        with pytest.raises(OSError, match="No space left"):
            replace_file(path, b"new", mode=PUBLIC)
        assert path.read_bytes() == b"old"
        assert names(tmp_path) == ["file"]

    @posix
    def test_full_disk_leaves_only_the_old_file(self, tmp_path):
        replace_file(tmp_path / "file", b"old")
        ended = run(
            FULL + "try: files.replace_file(Path(sys.argv[1]), b'x' * 5000)\n"
            "except OSError as error: print(error.strerror)",
            tmp_path / "file",
        )
        assert (ended.stdout, ended.stderr) == ("File too large\n", "")
        assert (tmp_path / "file").read_bytes() == b"old"
        assert names(tmp_path) == ["file"]

    @posix
    def test_a_crash_before_the_rename_leaves_the_old_file(self, tmp_path):
        path = tmp_path / "file"
        replace_file(path, b"old")
        ended = run(
            "Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
            "files.replace_file(Path(sys.argv[1]), b'new')",
            path,
        )
        assert ended.returncode == -signal.SIGKILL
        assert path.read_bytes() == b"old"
        aside, found = names(tmp_path)
        assert (aside.startswith(".file."), found) == (True, "file")  # hidden, so backups and listings skip it
        assert mode(tmp_path / aside) == 0o600
        replace_file(path, b"newer")
        assert path.read_bytes() == b"newer"

    def test_interrupt_leaves_only_the_old_file(self, tmp_path, monkeypatch):
        replace_file(tmp_path / "file", b"old")

        def interrupt(*_args: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            replace_file(tmp_path / "file", b"new")
        assert (tmp_path / "file").read_bytes() == b"old"
        assert names(tmp_path) == ["file"]

    def test_two_writers_at_once_leave_the_content_of_one(self, tmp_path):
        path, contents = tmp_path / "file", [bytes([letter]) * 50_000 for letter in b"ab"]
        replace_file(path, contents[0])
        torn = []

        def write(content: bytes) -> None:
            for _ in range(50):
                replace_file(path, content, durable=False)

        writers = [threading.Thread(target=write, args=(content,)) for content in contents]
        for writer in writers:
            writer.start()
        while any(writer.is_alive() for writer in writers):
            if (seen := path.read_bytes()) not in contents:
                torn.append(seen)
        assert torn == []
        assert path.read_bytes() in contents
        assert names(tmp_path) == ["file"]

    @posix
    def test_durable_file_is_synced_before_its_rename(self, tmp_path, monkeypatch):
        steps: list[str] = []
        fsync, rename = os.fsync, Path.replace

        def note_sync(number: int) -> None:
            steps.append("directory" if stat.S_ISDIR(os.fstat(number).st_mode) else "file")
            fsync(number)

        def note_rename(path: Path, target: Path) -> Path:
            steps.append("rename")
            return rename(path, target)

        monkeypatch.setattr(os, "fsync", note_sync)
        monkeypatch.setattr(Path, "replace", note_rename)
        replace_file(tmp_path / "file", b"")
        assert steps == ["file", "rename", "directory"]
        steps.clear()
        replace_file(tmp_path / "file", b"", durable=False)
        assert steps == ["rename"]

    def test_a_directory_that_cannot_be_synchronised_is_no_failure(self, tmp_path, monkeypatch):
        opened = os.open

        def refuse(path: object, flags: int, *rest: int, **more: int) -> int:
            if path == tmp_path:
                raise PermissionError(errno.EACCES, "as on Windows")
            return opened(path, flags, *rest, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(os, "open", refuse)
        replace_file(tmp_path / "file", b"new")
        assert (tmp_path / "file").read_bytes() == b"new"

    def test_a_directory_in_its_place_is_an_error(self, tmp_path):
        (tmp_path / "file").mkdir()
        with pytest.raises(OSError, match="directory"):
            replace_file(tmp_path / "file", b"")
        assert names(tmp_path) == ["file"]

    def test_a_missing_directory_is_an_error(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            replace_file(tmp_path / "missing" / "file", b"")


class TestCreateOnce:
    def test_an_existing_file_stays(self, tmp_path):
        create_once(tmp_path / "file", b"first")
        create_once(tmp_path / "file", b"second")
        assert (tmp_path / "file").read_bytes() == b"first"
        assert names(tmp_path) == ["file"]
        if sys.platform != "win32":
            assert mode(tmp_path / "file") == 0o600

    def test_of_writers_at_once_exactly_one_wins(self, tmp_path):
        start = threading.Barrier(8)
        seen = set()

        def write(number: int) -> None:
            start.wait()
            create_once(tmp_path / "file", b"%d" % number)
            seen.add((tmp_path / "file").read_bytes())

        writers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert len(seen) == 1
        assert names(tmp_path) == ["file"]

    @posix
    def test_a_crash_before_the_link_leaves_no_file(self, tmp_path):
        ended = run(
            "Path.hardlink_to = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
            "files.create_once(Path(sys.argv[1]), b'half')",
            tmp_path / "file",
        )
        assert ended.returncode == -signal.SIGKILL
        assert not (tmp_path / "file").exists()
        create_once(tmp_path / "file", b"whole")
        assert (tmp_path / "file").read_bytes() == b"whole"

    def test_a_failure_leaves_nothing(self, tmp_path, monkeypatch):
        def fail(*_: object) -> None:
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(Path, "hardlink_to", fail)
        with pytest.raises(OSError, match="no links here"):
            create_once(tmp_path / "file", b"")
        assert names(tmp_path) == []


class TestNewFile:
    @posix
    def test_is_private_and_never_written_over(self, tmp_path):
        old = os.umask(0)
        try:
            with new_file(tmp_path / "file") as file:
                assert mode(tmp_path / "file") == 0o600
                file.write(b"1")
        finally:
            os.umask(old)
        with pytest.raises(FileExistsError), new_file(tmp_path / "file"):
            pass
        assert (tmp_path / "file").read_bytes() == b"1"

    @posix
    def test_a_planted_link_is_not_followed(self, tmp_path):
        (tmp_path / "file").symlink_to(tmp_path / "victim")  # which does not exist, so "exists" would say no
        with pytest.raises(FileExistsError), new_file(tmp_path / "file"):
            pass
        assert names(tmp_path) == ["file"]

    def test_a_body_that_fails_leaves_no_part(self, tmp_path):
        with pytest.raises(TypeError, match="bytes-like"), new_file(tmp_path / "file") as file:
            file.writelines([b"x" * 100_000, None])
        assert names(tmp_path) == []

    @posix
    def test_a_full_disk_leaves_no_part(self, tmp_path):
        ended = run(
            FULL + "try:\n with files.new_file(Path(sys.argv[1])) as file: file.write(b'x' * 5000)\n"
            "except OSError as error: print(error.strerror)",
            tmp_path / "file",
        )
        assert (ended.stdout, ended.stderr) == ("File too large\n", "")
        assert names(tmp_path) == []


@posix
def test_an_ensured_file_is_private_and_keeps_its_content(tmp_path):
    ensure_file(tmp_path / "file")
    assert mode(tmp_path / "file") == 0o600
    (tmp_path / "file").write_bytes(b"kept")
    ensure_file(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"kept"


@posix
class TestDirectories:
    def test_a_new_one_is_private(self, tmp_path):
        old = os.umask(0)
        try:
            make_directory(tmp_path / "new")
        finally:
            os.umask(old)
        assert mode(tmp_path / "new") == 0o700
        make_directory(tmp_path / "new")

    def test_private_directory_is_accepted(self, tmp_path):
        assert own_directory(tmp_path / "above" / "new") == tmp_path / "above" / "new"
        check_directory(tmp_path / "above" / "new")

    @pytest.mark.parametrize("wide", [0o710, 0o701, 0o777])
    def test_shared_directory_is_refused(self, tmp_path, wide):
        (tmp_path / "wide").mkdir()
        (tmp_path / "wide").chmod(wide)
        with pytest.raises(PermissionError, match="not a directory of this user alone"):
            own_directory(tmp_path / "wide")

    def test_a_planted_link_is_refused(self, tmp_path):
        (tmp_path / "theirs").mkdir(mode=0o700)
        (tmp_path / "link").symlink_to(tmp_path / "theirs")
        with pytest.raises(PermissionError, match="not a directory of this user alone"):
            own_directory(tmp_path / "link")


@posix
def test_an_opened_file_is_private_and_new(tmp_path):
    before = os.umask(0)
    try:
        descriptor = open_private(tmp_path / "trace", os.O_APPEND)
    finally:
        os.umask(before)
    os.write(descriptor, b"one")
    os.close(descriptor)
    assert mode(tmp_path / "trace") == 0o600
    with pytest.raises(FileExistsError):
        open_private(tmp_path / "trace")
    assert (tmp_path / "trace").read_bytes() == b"one"
