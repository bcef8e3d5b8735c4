"""The simulated network and pairs of sessions on it."""

from pathlib import Path

import pytest
import trustme

from tests.simnet.fixtures import network, pytest_asyncio_loop_factories, virtual_time
from tests.transport.engine_pairings import engines
from tests.transport.sessions.session_pair import start_pair

__all__ = ["engines", "network", "pytest_asyncio_loop_factories", "start_pair", "virtual_time"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(1, metafunc.config.getoption("seeds") + 1))


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    leaf = authority.issue_cert("edge.test")
    leaf.cert_chain_pems[0].write_to_path(directory / "leaf.pem")
    leaf.private_key_pem.write_to_path(directory / "leaf.key")
    return directory
