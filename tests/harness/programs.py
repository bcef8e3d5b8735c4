"""Programs, ports and files that tests use."""

import hashlib
import os
import shutil
import socket
import time
from pathlib import Path

import pytest


def need(program: str) -> str:
    """Return the path of a program, or skip the test."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def free_port() -> int:
    """Return a free TCP port of loopback."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def wait_for_port(port: int, host: str = "127.0.0.1", timeout: float = 20) -> None:
    """Wait until a TCP port accepts connections. Raises OSError."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def random_file(path: Path, mebibytes: int) -> Path:
    """Write a file of random bytes."""
    with path.open("wb") as file:
        for _ in range(mebibytes):
            file.write(os.urandom(1024 * 1024))
    return path
