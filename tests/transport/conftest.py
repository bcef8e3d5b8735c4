"""The simulated network (``tests/simnet/fixtures.py``), and the certificates of pairs of engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trustme

from tests.simnet.fixtures import network, pytest_asyncio_loop_factories, virtual_time

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["network", "pytest_asyncio_loop_factories", "virtual_time"]


@pytest.fixture(scope="session")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of an authority and of the edge's certificate."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    leaf = authority.issue_cert("edge.test")
    found = {"authority": folder / "ca.pem", "certificate": folder / "edge.pem", "key": folder / "edge.key"}
    authority.cert_pem.write_to_path(str(found["authority"]))
    found["certificate"].write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(str(found["key"]))
    return found
