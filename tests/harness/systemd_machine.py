"""A machine in namespaces: a systemd as the first process, a network, and writable directories that end with the
test. The rest of the file system is the host's and cannot be written. Needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.harness.programs import need

if TYPE_CHECKING:
    from collections.abc import Iterator

WRITABLE = ("/etc", "/opt", "/usr/local/sbin", "/usr/local/src", "/var")
"""Directories of the host that a directory of the test takes the place of."""
MASKED = (
    "systemd-udevd.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udev-trigger.service",
    "systemd-modules-load.service",
    "systemd-tmpfiles-setup.service",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-tmpfiles-clean.timer",
    "systemd-update-utmp.service",
    "systemd-random-seed.service",
    "systemd-sysctl.service",
    "systemd-binfmt.service",
    "proc-sys-fs-binfmt_misc.automount",
    "systemd-remount-fs.service",
)
"""Units that would touch the host, or that take time."""
BOOT = """
base=$1; python=$2; packages=$3; shift 3
mount --make-rprivate /
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
mount -t tmpfs tmpfs /run
mkdir /run/base && mount --bind "$base" /run/base
for place; do mount --bind "/run/base/machine$place" "$place"; done
mkdir /opt/python /opt/packages
mount --bind "$python" /opt/python
mount --bind "$packages" /opt/packages
echo /opt/python/lib > /etc/ld.so.conf.d/00-python.conf
ldconfig -X
mount -t tmpfs tmpfs /tmp
mkdir -p "$base" && mount --move /run/base "$base"
mount -o remount,bind,ro /
exec env -i container=unshare PATH="$PATH" /usr/bin/systemd --system --unit=basic.target --show-status=no
"""
PACKAGES = sysconfig.get_path("purelib")
BOOT_TIMEOUT = 30.0


class SystemdMachine:
    """A running systemd, and what a command needs in front of it to run there."""

    def __init__(self, pid: int, directory: Path) -> None:
        self.enter = (need("nsenter"), "--target", str(pid), "--all", "--")
        self.directory = directory
        """Directory of the machine's files: its ``/etc`` is ``machine/etc`` here, and so on."""

    def run(self, *command: str, timeout: float = 60, **options) -> subprocess.CompletedProcess:
        """Run a command on the machine."""
        return subprocess.run(
            [*self.enter, *command], capture_output=True, timeout=timeout, check=False, **options
        )

    def path(self, there: str) -> Path:
        """Return the path here of an absolute path there."""
        return self.directory / "machine" / there.removeprefix("/")


@contextmanager
def booted(directory: Path, *hosts: str) -> Iterator[SystemdMachine]:
    """Boot a machine in which these names are 127.0.0.1.

    The Python of the tests is also in ``/opt/python`` there, and its packages in ``/opt/packages``, because
    services cannot see home directories. Skips the test where a machine is not possible.
    """
    if os.geteuid() != 0:
        pytest.skip("namespaces need root")
    for program in ("systemctl", "unshare", "nsenter"):
        need(program)
    _furnish(directory / "machine", hosts)
    kinds = ("--fork", "--pid", "--mount", "--net", "--uts", "--ipc", "--cgroup", "--kill-child")
    with (directory / "boot.log").open("wb") as log:
        process = subprocess.Popen(
            [
                need("unshare"),
                *kinds,
                "sh",
                "-ec",
                BOOT,
                "boot",
                str(directory),
                sys.base_prefix,
                PACKAGES,
                *WRITABLE,
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        machine = SystemdMachine(_first_process(process), directory)
        if not _has_booted(machine, process):
            pytest.skip(f"no systemd in a namespace: {(directory / 'boot.log').read_text()[-300:]}")
        yield machine
    finally:
        process.kill()
        process.wait()


def _furnish(machine: Path, hosts: tuple[str, ...]) -> None:
    for place in WRITABLE:
        (machine / place.removeprefix("/")).mkdir(parents=True, exist_ok=True)
    etc = machine / "etc"
    subprocess.run(["cp", "--archive", "/etc/.", str(etc)], check=True)
    (etc / "fstab").write_text("")
    (etc / "hosts").write_text("".join(f"127.0.0.1 {host}\n" for host in ("localhost", *hosts)))
    units = etc / "systemd" / "system"
    shutil.rmtree(units)
    units.mkdir()
    for unit in MASKED:
        (units / unit).symlink_to("/dev/null")
    for name in ("lib", "tmp", "cache", "log"):
        (machine / "var" / name).mkdir()
    (machine / "var" / "run").symlink_to("/run")
    (machine / "var" / "tmp").chmod(0o1777)


def _first_process(unshare: subprocess.Popen) -> int:
    children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children")
    deadline = time.monotonic() + BOOT_TIMEOUT
    while time.monotonic() < deadline and unshare.poll() is None:
        if found := children.read_text().split():
            return int(found[0])
        time.sleep(0.02)
    pytest.skip("no process namespace")


def _has_booted(machine: SystemdMachine, process: subprocess.Popen) -> bool:
    deadline = time.monotonic() + BOOT_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        said = machine.run("systemctl", "is-system-running").stdout.strip()
        if said in (b"running", b"degraded"):
            return True
        time.sleep(0.05)
    return False
