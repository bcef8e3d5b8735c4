"""Tokens of a running edge, and clients with them."""

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
    """Return the output of ``python -m edge_server`` with these arguments."""
    run = [sys.executable, "-m", "edge_server", *words, "--state-dir", str(edge.state_dir)]
    root = Path(__file__).parents[2]
    return subprocess.run(run, capture_output=True, text=True, check=True, cwd=root).stdout.strip()


def client_of(edge: EdgeProcess, token: str) -> quictunnel.Client:
    """Return a client with this token."""
    return quictunnel.Client(edge.config.edge, token=token, ca=edge.ca)


def new_token(edge: EdgeProcess, *rights: str) -> str:
    """Create a token and wait until the edge accepts it.

    The edge accepts it at once, unless other tests have guessed many tokens from the same address. Then only known
    tokens are checked, and a new one becomes known within a second.
    """
    made = command(edge, "token", "create", "--token-only", *rights)
    eventually(lambda: _is_accepted(edge, made), "the edge does not know the token", timeout=3)
    return made


def until_refused(edge: EdgeProcess, token: str) -> None:
    """Wait until the edge no longer accepts a token.

    An edge learns within a second what another process writes into its database of tokens."""
    eventually(lambda: not _is_accepted(edge, token), "the edge still accepts the token", timeout=3)


def _is_accepted(edge: EdgeProcess, token: str) -> bool:
    with client_of(edge, token) as client:
        try:
            with quictunnel.forward(9, client=client):
                return True
        except quictunnel.AuthError:
            return False
