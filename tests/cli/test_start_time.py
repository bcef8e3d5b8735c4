"""The time that a user waits before anything happens."""

import os
import subprocess
import sys
import time

import pytest

VERSION_TIME = 0.150
"""Seconds of ``quictunnel --version``, with the start of Python."""
IMPORT_TIME = 0.030
"""Seconds of ``import quictunnel``, which every program pays that may open a tunnel."""
TRIES = 15
IMPORT = "import time; begun = time.perf_counter(); import quictunnel; print(time.perf_counter() - begun)"

pytestmark = pytest.mark.alone


@pytest.mark.parametrize("engine", ["auto", "aioquic"])
def test_version(engine):
    """The best of several tries, since the machine may be busy."""
    times = []
    for _ in range(TRIES):
        begun = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "quictunnel", "--version"],
            env=os.environ | {"QUICTUNNEL_ENGINE": engine},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        times.append(time.perf_counter() - begun)
    print(f"quictunnel --version, engine {engine}: {1000 * min(times):.0f} ms")
    assert min(times) < VERSION_TIME


def test_import():
    said = [subprocess.check_output([sys.executable, "-c", IMPORT]) for _ in range(TRIES)]
    print(f"import quictunnel: {1000 * min(map(float, said)):.0f} ms")
    assert min(map(float, said)) < IMPORT_TIME
