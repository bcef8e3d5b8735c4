"""Freed memory is kept by programs that are ours."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from quictunnel.shared.malloc import USER_VARIABLES

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is Linux's")

FAULTS = """
import resource
from quictunnel.shared.malloc import keep_freed_memory
{before}
for _ in range(50):
    blocks = [bytearray(b"x") * 300_000 for _ in range(10)]
    del blocks
begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    blocks = [bytearray(b"x") * 300_000 for _ in range(10)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun)
"""


def output_of(program: str, **environ: str) -> str:
    env = {key: value for key, value in os.environ.items() if key not in USER_VARIABLES} | environ
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env
    ).stdout.strip()


def test_three_megabytes_again_and_again_are_asked_of_the_kernel_once():
    kept = int(output_of(FAULTS.format(before="assert keep_freed_memory()")))
    given_back = int(output_of(FAULTS.format(before="")))
    assert kept < 100
    assert given_back > 10_000  # else nothing of this is needed any more


@pytest.mark.parametrize("name", USER_VARIABLES)
def test_explicit_allocator_settings_are_kept(name: str):
    value = "glibc.malloc.check=0" if name == "GLIBC_TUNABLES" else "131072"
    program = "from quictunnel.shared.malloc import keep_freed_memory; print(keep_freed_memory())"
    assert output_of(program, **{name: value}) == "False"
