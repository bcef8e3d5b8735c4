"""The simulated network (``tests/simnet/fixtures.py``), and the certificates of pairs of engines."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.simnet.fixtures import network, pytest_asyncio_loop_factories, virtual_time
from tests.transport.engine_pair import make_pair_of
from tests.transport.hostile_peer import Attack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.transport.engine_pair import Pair

__all__ = ["network", "pytest_asyncio_loop_factories", "virtual_time"]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an authority (``ca.pem``) and of the edge's certificate (``leaf.pem``, ``leaf.key``)."""
    directory = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    leaf = authority.issue_cert("edge.test")
    leaf.cert_chain_pems[0].write_to_path(str(directory / "leaf.pem"))
    leaf.private_key_pem.write_to_path(str(directory / "leaf.key"))
    return directory


@pytest.fixture(scope="session")
def paths(certificates: Path) -> dict[str, Path]:
    """The files of the authority and of the edge's certificate, by what they are."""
    names = {"authority": "ca.pem", "certificate": "leaf.pem", "key": "leaf.key"}
    return {what: certificates / name for what, name in names.items()}


@pytest.fixture
def make_pair(paths: dict[str, Path], engines: tuple[str, str]) -> Callable[..., Pair]:
    """``make_pair(seed=1, client={...}, edge={...})``: settings by name, for each side."""
    return partial(make_pair_of, paths, engines)


@pytest.fixture
def attack(attacked: Pair) -> Iterator[Attack]:
    """A connection of an attacked pair, and a check of the remaining state after it."""
    begun = Attack(attacked)
    yield begun
    begun.check_aftermath()
