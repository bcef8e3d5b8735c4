"""Ends that never read: they cost a bounded amount of memory, and nobody beside them is slowed down."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import pytest

from tests.harness.load_rig import LoadRig, more_rounds
from tests.harness.waiting import eventually

MIB = 1024 * 1024
ALLOWED = 60_000_000
SIZE = 256 * MIB
"""Bytes of a speed measurement: a second or more of transfer, so that windows have found their size."""
TRIES = 5
"""Repetitions of a measurement; the best counts. Single ones differ by a quarter, even alone."""


def processor_time(rig: LoadRig) -> float:
    """Seconds that edge and client have worked so far."""
    total = 0.0
    for pid in (rig.edge.pid, rig.client.pid):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def settled_memory(rig: LoadRig, patience: float = 60.0) -> dict[str, int]:
    """Memory when everything that can fill is full, buffers of the kernel too: nobody has any work then."""
    last = [processor_time(rig)]

    def idle() -> bool:
        time.sleep(0.5)
        last.append(processor_time(rig))
        return last[-1] - last[-2] < 0.05

    eventually(idle, "bytes go on moving", timeout=patience)
    return rig.memory()


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize(
    ("tls", "apart"),
    [
        pytest.param(False, 0.0, id="tcp", marks=pytest.mark.long),
        pytest.param(False, 0.05, id="tcp, one after another", marks=pytest.mark.long),
        pytest.param(True, 0.0, id="tls"),
    ],
)
def test_a_hundred_visitors_that_never_read(tmp_path, tls, apart):
    """The hundred ask for an endless answer. A visitor beside them keeps 80 % of the speed that it has alone."""
    with LoadRig(tmp_path) as rig:
        rig.speed(SIZE)
        start = rig.memory()
        ratios: list[float] = []
        while more_rounds(ratios, 0.8):
            alone = rig.speed(SIZE, TRIES)
            rig.do_checked("stall", count=100, tls=tls, apart=apart)
            filled = settled_memory(rig)
            ratios.append(rig.speed(SIZE, TRIES) / alone)
            after = rig.memory()
            grown = {k: max(filled[k], after[k]) - start[k] for k in start}
            assert max(grown.values()) <= ALLOWED, grown
            rig.do("leave")
            settled_memory(rig)
    print({k: f"{v / MIB:.1f} MiB" for k, v in grown.items()}, [f"{ratio:.0%}" for ratio in ratios])
    assert statistics.median(ratios) >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
def test_an_origin_that_never_reads(tmp_path, tls):
    """A visitor who uploads to it is stopped by it, and then nothing more is held for it."""
    with LoadRig(tmp_path) as rig:
        rig.do("busy", size=MIB, tls=tls)
        start = rig.memory()
        sent = rig.do("upload", quiet=1.0, tls=tls)["sent"]
        grown = {k: v - start[k] for k, v in settled_memory(rig).items()}
        # Sockets' buffers on the way (two of up to 6 and 4 MiB each), and what the tunnel itself may hold.
        assert sent < 80 * MIB
        assert max(grown.values()) < 40 * MIB, grown
        assert rig.do("busy", size=MIB, tls=tls)["seconds"] < 10
