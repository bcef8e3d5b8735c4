"""A network namespace for tests that need fixed ports and host names. It has its own loopback and, optionally, its
own ``/etc/hosts``. Needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.harness.edge_process import start_edge
from tests.harness.programs import need

if TYPE_CHECKING:
    from collections.abc import Iterator


class NetworkNamespace:
    """A network namespace, with an edge if it was started."""

    def __init__(self, name: str, directory: Path, hosts: Path) -> None:
        self.hosts = hosts
        """Its ``/etc/hosts``."""
        self.enter = (need("ip"), "netns", "exec", name)
        self.directory = directory
        self.edge = None
        self.run("ip", "link", "set", "lo", "up").check_returncode()

    def run(self, *command: str, timeout: float = 60, **options) -> subprocess.CompletedProcess:
        """Run a command in the namespace."""
        return subprocess.run(
            [*self.enter, *command], capture_output=True, timeout=timeout, check=False, **options
        )

    def start_edge(self, *options: str) -> None:
        """Start an edge in the namespace."""
        self.edge = start_edge(self.directory / "state", *options, prefix=self.enter)

    def curl(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run curl with the edge's CA."""
        trust = ("--cacert", str(self.edge.ca), "--noproxy", "*")
        return self.run(need("curl"), "--silent", "--show-error", *trust, *arguments)


@contextmanager
def new_namespace(directory: Path, *hosts: str) -> Iterator[NetworkNamespace]:
    """Create a namespace in which these names are 127.0.0.1. Skips the test if that is not possible."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    name = f"quictunnel-e2e-{os.getpid()}"
    made = subprocess.run([need("ip"), "netns", "add", name], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"no network namespace: {made.stderr.decode().strip()}")
    etc = Path("/etc/netns") / name
    try:
        etc.mkdir(parents=True)
        (etc / "hosts").write_text("".join(f"127.0.0.1 {host}\n" for host in ("localhost", *hosts)))
        namespace = NetworkNamespace(name, directory, etc / "hosts")
        try:
            yield namespace
        finally:
            status = namespace.edge.stop() if namespace.edge else 0
        assert status == 0
    finally:
        shutil.rmtree(etc)
        subprocess.run([need("ip"), "netns", "delete", name], check=True)
