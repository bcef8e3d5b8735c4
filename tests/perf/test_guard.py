"""The promise about speed, against what one writes in an afternoon, in the same minute on the same machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from perf import contenders, throughput
from perf.throughput import Sample

if TYPE_CHECKING:
    from perf.iperf import Direction

pytestmark = pytest.mark.alone

LEAST = 1.5
ROUNDS = 3
SECONDS = 2
MTU = 1500
"""Of Ethernet. Loopback's own lets us send datagrams of 32,000 bytes, which no visitor's edge ever can."""


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    try:
        contenders.need("iperf3")
    except contenders.Missing as lack:
        pytest.skip(f"{lack} is not installed")
    if os.geteuid() != 0:
        pytest.skip("only root may give loopback the MTU of a real network")
    result = tmp_path_factory.mktemp("perf") / "result.json"
    options = ["--mtu", MTU, "--seconds", SECONDS, "--rounds", ROUNDS, "--json", result]
    command = [sys.executable, "-m", "perf.throughput", *options, "--only", "naive", "quictunnel"]
    done = subprocess.run(
        list(map(str, command)),
        cwd=Path(__file__).parents[2],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(done.stdout)
    assert done.returncode == 0
    return [Sample(**sample) for sample in json.loads(result.read_text())["samples"]]


@pytest.mark.slow
@pytest.mark.parametrize("direction", throughput.DIRECTIONS)
def test_faster_than_a_naive_splice(samples: list[Sample], direction: Direction) -> None:
    ratio = throughput.ratio(samples, "quictunnel", "naive", direction)
    assert ratio is not None
    print(f"{direction}: {ratio:.2f} times naive")
    assert ratio >= LEAST
