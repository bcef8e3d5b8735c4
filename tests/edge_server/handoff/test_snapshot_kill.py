"""A process that writes the table is killed (``kill -9``): what it wrote last is there for the next one."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

from tests.edge_server.handoff.snapshot_rig import DOMAIN, KEY

if TYPE_CHECKING:
    from tests.edge_server.handoff.snapshot_rig import EdgeRuns

KILLS = 8
NAMES = 50
WRITER = """
    import sys
    from pathlib import Path
    from edge_server.handoff.snapshot_entry import SnapshotEntry
    from edge_server.handoff.snapshot_store import SnapshotStore
    from edge_server.tunnels.options import TunnelOptions
    from edge_server.tunnels.tunnel_record import TunnelRecord

    store = SnapshotStore(Path(sys.argv[1]), bytes.fromhex(sys.argv[2]), sys.argv[3])
    for generation in range(1, 100_000):
        store.write(
            [
                SnapshotEntry(TunnelRecord(f"name-{number}", "a", generation, TunnelOptions(), 0), 0)
                for number in range(generation % 7, int(sys.argv[4]))
            ],
            at=1000,
            is_last=True,
        )
        print(generation, flush=True)
"""


def test_a_killed_writer_leaves_its_last_write(runs: EdgeRuns) -> None:
    """In the middle of a write, that of before or the whole of the new one."""
    command = [sys.executable, "-c", textwrap.dedent(WRITER), runs.directory, KEY.hex(), DOMAIN, str(NAMES)]
    for round_number in range(KILLS):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(1 + 5 * round_number):
                process.stdout.readline()
            process.kill()
            reported = max([int(line) for line in process.stdout.read().split()], default=1 + 5 * round_number)
        written = runs.written()
        (generation,) = {entry.record.generation for entry in written.values()}
        assert generation in (reported, reported + 1)
        assert len(written) == NAMES - generation % 7
