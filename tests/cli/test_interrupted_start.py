"""Ctrl-C while a program starts: no traceback, and the exit status of a program that was stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT = 60
START = """
import signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            print("interrupted")
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Finder())
sys.argv[:] = {words!r}
from {program} import main
sys.exit(main())
"""
EDGE = ("--quic", "127.0.0.1:0", "--https", "127.0.0.1:0")


@pytest.mark.parametrize(
    ("program", "words", "module", "status"),
    [
        *(
            ("edge_server.__main__", EDGE, module, 0)
            for module in (
                "edge_server.program",
                "click",
                "edge_server.config.edge_config",
                "edge_server.service",
                "asyncio",
            )
        ),
        # What they were to do is not done.
        ("edge_server.__main__", ("token", "create"), "edge_server.cli.token", 130),
        ("edge_server.__main__", ("--check-config", *EDGE), "edge_server.cli.check_config", 130),
        *(
            ("quictunnel.__main__", ("http", "8000"), module, 0)
            for module in ("quictunnel.cli", "quictunnel.cli.main", "click", "quictunnel.cli.forward_commands")
        ),
    ],
)
def test_ctrl_c_during_an_import_prints_no_traceback(
    tmp_path: Path, program: str, words: tuple[str, ...], module: str, status: int
):
    options = ("--state-dir", str(tmp_path / "state")) if program.startswith("edge") else ()
    done = subprocess.run(
        [sys.executable, "-c", START.format(module=module, words=["program", *words, *options], program=program)],
        env=os.environ | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.stdout == "interrupted\n"
    assert done.stderr == ""
    assert done.returncode == status
