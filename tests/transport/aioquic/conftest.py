"""Certificates and pairs of engines."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import trustme

from quictunnel.transport.engine import TRUSTED
from quictunnel.transport.engines.aioquic import AioquicEngine
from tests.transport.aioquic.engine_pair import Pair, settings_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


LARGEST = {"first_window": TRUSTED.connection_window}


@pytest.fixture(scope="session")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An authority, and the edge's certificate."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    leaf = authority.issue_cert("edge.test")
    found = {"authority": folder / "ca.pem", "certificate": folder / "edge.pem", "key": folder / "edge.key"}
    authority.cert_pem.write_to_path(str(found["authority"]))
    found["certificate"].write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(str(found["key"]))
    return found


@pytest.fixture
def make_pair(paths: dict[str, Path]) -> Callable[..., Pair]:
    """``make_pair(seed=1, client={...}, edge={...})``: settings by name, for each side. How a window is earned is
    tested elsewhere; here it is the largest."""

    def make(*, seed: int = 1, client: dict | None = None, edge: dict | None = None) -> Pair:
        rng = random.Random(seed)
        return Pair(
            AioquicEngine(settings_for("client", paths, **(client or {})), random=rng.randbytes),
            AioquicEngine(settings_for("edge", paths, **(LARGEST | (edge or {}))), random=rng.randbytes),
            seed=seed,
        )

    return make
