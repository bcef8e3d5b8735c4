"""Completion scripts, judged by the shells that they are for."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from quictunnel.cli import completion, grammar
from tests.harness.programs import need

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=grammar.SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_shell_accepts_it(shell: str, tmp_path: Path) -> None:
    script = tmp_path / f"completion.{shell}"
    script.write_text(completion.script(shell))
    done = subprocess.run([need(shell), "-n", script], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_knows_every_command_and_option(shell: str) -> None:
    script = completion.script(shell)
    for command in grammar.COMMANDS:
        assert command.name in script
        for option in command.options:
            flag = option.flag.removeprefix("--") if shell == "fish" else option.flag
            assert flag in script


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["quictunnel", ""], "http tcp run status doctor demo completion --version --help"),
        (["quictunnel", "h"], "http"),
        (["quictunnel", "demo", "--o"], "--once"),
        (["quictunnel", "completion", ""], "bash zsh fish --help"),
        (["quictunnel", "http", "80", "--log-level", ""], "debug info warning error"),
        (["quictunnel", "http", "80", "--edge", ""], ""),
        (["quictunnel", "http", "80", "--ca", "ca."], "ca.pem"),
        (["quictunnel", "tcp", "80", "--h"], "--help"),
        (["quictunnel", "run", "--po"], "--port --pool"),
        (["quictunnel", "run", "--port", "80", "--", "python3-no-such"], ""),
        (["quictunnel", "run", "--", "compge"], "compgen"),
        (["quictunnel", "run", "--", "cat", "--", "ca."], "ca.pem"),
        (["quictunnel", "http", "--", "compge"], ""),
    ],
)
def test_bash_completes(words: list[str], expected: str, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    array = " ".join(f"'{word}'" for word in words)
    program = (
        f"{completion.script('bash')}\nCOMP_WORDS=({array}); COMP_CWORD={len(words) - 1}\n"
        '_quictunnel; echo "${COMPREPLY[*]}"'
    )
    done = subprocess.run(
        [need("bash"), "--norc", "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=tmp_path,
    )
    assert (done.stdout.strip(), done.stderr) == (expected, "")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("quictunnel ", {"http", "tcp", "run", "status", "doctor", "demo", "completion"}),
        ("quictunnel completion ", {"bash", "zsh", "fish"}),
        ("quictunnel demo --o", {"--once"}),
        ("quictunnel run -- cat ca.", {"ca.pem"}),
        ("quictunnel http --log-level ", {"debug", "info", "warning", "error"}),
    ],
)
def test_fish_completes(line: str, expected: set[str], tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    program = f"{completion.script('fish')}\ncomplete -C '{line}'"
    done = subprocess.run(
        [need("fish"), "--no-config", "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert done.stderr == ""
    assert {entry.partition("\t")[0] for entry in done.stdout.splitlines()} == expected


def test_an_unknown_shell() -> None:
    with pytest.raises(ValueError, match="tcsh"):
        completion.script("tcsh")
