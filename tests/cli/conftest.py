"""Environments for programs under test, without any configuration of this user."""

from __future__ import annotations

import os
import sys
import sysconfig
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM_FOLDER = sysconfig.get_path("scripts")
"""The folder where ``quictunnel`` is installed."""


@pytest.fixture
def clean_environ(tmp_path: Path) -> dict[str, str]:
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("QUICTUNNEL_", "XDG_"))}
    return {
        **kept,
        "HOME": str(home),
        "USERPROFILE": str(home),
        "COLUMNS": "100",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }


@pytest.fixture
def edge_environ(clean_environ: dict[str, str]) -> dict[str, str]:
    return {**clean_environ, "QUICTUNNEL_EDGE": "127.0.0.1:4433", "QUICTUNNEL_TOKEN": "tok_0123456789"}


@pytest.fixture
def edge_configured(edge_environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Configure an edge for code that runs in this process."""
    for name in list(os.environ):
        if name.startswith("QUICTUNNEL_"):
            monkeypatch.delenv(name)
    for name, value in edge_environ.items():
        monkeypatch.setenv(name, value)
