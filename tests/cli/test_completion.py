"""Completion, judged by the shells that the scripts are for."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from quictunnel.cli.completion import SHELLS
from quictunnel.cli.main import COMMANDS, main
from tests.cli.conftest import PROGRAM_FOLDER
from tests.harness.programs import need

if TYPE_CHECKING:
    from pathlib import Path

LONGEST_ANSWER = 30.0
"""Seconds for a completion, on a busy machine."""


@pytest.fixture
def environ(clean_environ: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The environment of a shell in a folder with two files, whose PATH has ``quictunnel``."""
    (tmp_path / "ca.pem").touch()
    (tmp_path / "cert.pem").touch()
    return clean_environ | {"PATH": f"{PROGRAM_FOLDER}:/usr/bin:/bin", "TERM": "dumb", "PS1": "$ "}


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def script(shell: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Write the script of a shell to a file."""
    assert main(["completion", shell]) == 0
    path = folder / f"completion.{shell}"
    path.write_text(capsys.readouterr().out)
    return path


def test_the_shell_accepts_it(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run(
        [need(shell), "-n", script(shell, tmp_path, capsys)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def complete_line(argv: list[str], line: str, expected: list[str], environ: dict[str, str], folder: Path) -> str:
    """Type a line and two tabs into a shell on a terminal. Return what follows the line, once all is there."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execve(argv[0], argv, environ)
    try:
        read_until(terminal, ["ready"])
        os.write(terminal, f"{line}\t\t".encode())
        return read_until(terminal, [line, *expected]).partition(line)[2]
    finally:
        os.kill(process, 9)
        os.waitpid(process, 0)
        os.close(terminal)


def read_until(terminal: int, expected: list[str]) -> str:
    """Return what a terminal shows, as soon as it shows all that is expected, or at the latest after a while."""
    seen = ""
    end = time.monotonic() + LONGEST_ANSWER
    while time.monotonic() < end and not all(words in seen for words in expected):
        if select.select([terminal], [], [], 0.5)[0]:
            seen += os.read(terminal, 65536).decode()
    return seen


LINES = [
    ("quictunnel ", list(COMMANDS)),
    ("quictunnel h", ["ttp"]),
    ("quictunnel completion ", ["bash", "zsh", "fish"]),
    ("quictunnel http 80 --log-level ", ["debug", "info", "warning", "error"]),
    ("quictunnel http 80 --ca c", ["ca.pem", "cert.pem"]),
    ("quictunnel demo --o", ["nce"]),
    ("quictunnel --ver", ["sion"]),
    ("quictunnel run --po", ["--port", "--pool"]),
    ("quictunnel run mkfif", ["o"]),
    ("quictunnel run cat c", ["ca.pem", "cert.pem"]),
    ("quictunnel run -- mkfif", ["o"]),
    ("quictunnel run -- cat -- c", ["ca.pem", "cert.pem"]),
]


@pytest.mark.parametrize(("line", "expected"), LINES)
def test_bash_completes(
    line: str, expected: list[str], environ: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setup = tmp_path / "bashrc"
    setup.write_text(f". {script('bash', tmp_path, capsys)}\nPS1='$ '\necho ready\n")
    answer = complete_line([need("bash"), "--rcfile", str(setup), "-i"], line, expected, environ, tmp_path)
    assert [words for words in expected if words not in answer] == []


@pytest.mark.parametrize(("line", "expected"), LINES)
def test_zsh_completes(
    line: str, expected: list[str], environ: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "home" / ".zshrc").write_text(
        f"autoload -Uz compinit; compinit -u\n. {script('zsh', tmp_path, capsys)}\nPS1='$ '\necho ready\n"
    )
    answer = complete_line([need("zsh"), "-i"], line, expected, environ, tmp_path)
    assert [words for words in expected if words not in answer] == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("quictunnel ", set(COMMANDS)),
        ("quictunnel completion ", {"bash", "zsh", "fish"}),
        ("quictunnel demo --o", {"--once"}),
        ("quictunnel run -- cat ca.", {"ca.pem"}),
        ("quictunnel run -- mkfif", {"mkfifo"}),
        ("quictunnel http --log-level ", {"debug", "info", "warning", "error"}),
        ("quictunnel http 80 --edge ", set()),
        ("quictunnel http 80 --ca ca", {"ca.pem"}),
    ],
)
def test_fish_completes(
    line: str, expected: set[str], environ: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = f"source {script('fish', tmp_path, capsys)}; complete -C '{line}'"
    done = subprocess.run(
        [need("fish"), "--no-config", "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=tmp_path,
        env=environ,
    )
    assert done.stderr == ""
    found = dict(entry.partition("\t")[::2] for entry in done.stdout.splitlines())
    assert set(found) == expected
    if line == "quictunnel ":
        assert found == {name: summary for name, (_, summary) in COMMANDS.items()}


@pytest.mark.parametrize("line", ["http 80 --edge ", "http 80 ", "http -- ", "tcp 80 --no-such"])
def test_completion_without_candidates_is_empty(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"quictunnel {line}"
    monkeypatch.setenv("_QUICTUNNEL_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    assert main([]) == 0
    assert capsys.readouterr() == ("\n", "")
