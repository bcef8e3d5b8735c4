"""Tokens of a running edge, and clients that show them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import quictunnel
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from tests.harness.edge_process import EdgeProcess


def command(edge: EdgeProcess, *words: str) -> str:
    """Run ``python -m edge_server`` with these arguments and return its output."""
    run = [sys.executable, "-m", "edge_server", *words, "--state-dir", str(edge.state_dir)]
    root = Path(__file__).parents[2]
    return subprocess.run(run, capture_output=True, text=True, check=True, cwd=root).stdout.strip()


def client_of(edge: EdgeProcess, token: str) -> quictunnel.Client:
    return quictunnel.Client(edge.config.edge, token=token, ca=edge.ca)


def new_token(edge: EdgeProcess, *rights: str) -> str:
    """A token that the edge knows already. It would work at once, but for other tests that have guessed too much:
    from their address only tokens that are known are looked at, which takes up to a second."""
    made = command(edge, "token", "create", *rights)

    def is_known() -> bool:
        with client_of(edge, made) as client:
            try:
                with quictunnel.forward(9, client=client):
                    return True
            except quictunnel.AuthError:
                return False

    eventually(is_known, "the edge does not know the token", timeout=3)
    return made
