"""The load of the machine during a measurement, and a loopback interface in a namespace of its own."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from pathlib import Path
from typing import NoReturn


def _ticks() -> tuple[int, int, int]:
    """Return the ticks of all cores: total, busy, and taken by the host of a virtual machine."""
    user, nice, system, idle, iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    busy = user + nice + system + irq + softirq
    return busy + idle + iowait + steal, busy, steal


class MachineLoad:
    """The load of the machine, which shows if a measurement is reliable."""

    def __init__(self) -> None:
        all_before, busy_before, _ = _ticks()
        time.sleep(1)
        all_after, busy_after, self._steal = _ticks()
        self._all = all_after
        self.load_before = os.getloadavg()
        self.busy_before = (busy_after - busy_before) / max(1, all_after - all_before)
        """Share of all cores that others used in the second before the first run."""

    def facts(self) -> dict[str, object]:
        """Return the machine and its load, for the output of a benchmark."""
        total, _, steal = _ticks()
        return {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "kernel": platform.release(),
            "engine": os.environ.get("QUICTUNNEL_ENGINE") or "auto",
            "busy_before": round(self.busy_before, 3),
            "stolen": round((steal - self._steal) / max(1, total - self._all), 3),
            "load_before": self.load_before,
            "load_after": os.getloadavg(),
        }


def own_loopback(module: str, mtu: int) -> NoReturn:
    """Restart the program in a new network namespace whose loopback has this MTU. Its settings end with it."""
    if os.geteuid() != 0 or not (shutil.which("unshare") and shutil.which("ip")):
        sys.exit("a network of its own needs root, unshare (util-linux) and ip (iproute2)")
    there = f'ip link set lo mtu {mtu} up && exec "$0" "$@"'
    again = [sys.executable, "-m", module, *sys.argv[1:], "--inside"]
    os.execvp("unshare", ["unshare", "--net", "sh", "-c", there, *again])
