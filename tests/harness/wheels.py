"""The wheels of this project and of what they depend on, built once for all test processes of a run."""

from __future__ import annotations

import email
import fcntl
import importlib.metadata
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
REPOSITORY = "example/quictunnel"
OTHERS = ("flask", "httpx", "pytest", "pytest-asyncio")
"""Packages that README's reader installs as well."""
NO_NETWORK = re.compile(r"Could not fetch|NewConnectionError|Temporary failure|dns error|No matching distribution")


class Wheels(NamedTuple):
    """Directories of what a release has, and of what pip needs to install it without an index."""

    dist: Path
    """The sdist, the wheel, and the wheel of the native engine if it could be built."""
    house: Path
    """Wheels of all dependencies, with those of ``dist``."""
    has_native: bool

    @property
    def sdist(self) -> Path:
        """The source distribution."""
        return next(self.dist.glob("quictunnel-*.tar.gz"))

    @property
    def main(self) -> Path:
        """The wheel of quictunnel."""
        return next(self.dist.glob("quictunnel-*.whl"))

    def environ(self, home: Path) -> dict[str, str]:
        """Return the environment of somebody who has these wheels, an empty home, and no network."""
        home.mkdir(exist_ok=True)
        uv = home / ".config" / "uv" / "uv.toml"
        uv.parent.mkdir(parents=True)
        uv.write_text(f'no-index = true\nfind-links = ["{self.house}"]\npython-downloads = "never"\n')
        return {
            "HOME": str(home),
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_FIND_LINKS": str(self.house),
            "PIP_NO_COMPILE": "1",  # faster, and no more than a few modules are used
            "PIP_NO_INDEX": "1",
        }


def built_wheels(factory: pytest.TempPathFactory) -> Wheels:
    """Build the wheels, or return those that another test process of this run has built.

    Skips the test if an index would be needed and cannot be reached.
    """
    base = factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "wheels"
    shared.mkdir(exist_ok=True)
    done = shared / "done"
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            build(shared)
            done.touch()
    dist = shared / "dist"
    return Wheels(dist, shared / "house", has_native=any(dist.glob("quictunnel_native-*")))


def build(shared: Path) -> None:
    """Build the wheels and download what they depend on."""
    dist, house = shared / "dist", shared / "house"
    dist.mkdir()
    options = [] if pack_native(dist) else ["--without-native"]
    command = ["release/build.py", "--out", dist, "--repository", REPOSITORY, "--installer", "uv", *options]
    run([sys.executable, *command])
    (main,) = dist.glob("quictunnel-*.whl")
    pip("download", "--dest", house, "--find-links", dist, f"{main}[edge,inspect]", *OTHERS)


def pack_native(to: Path) -> bool:
    """Pack the native engine that is installed here into a wheel again, since compiling it takes minutes.
    Return False if it is not installed."""
    try:
        installed = importlib.metadata.distribution("quictunnel-native")
    except importlib.metadata.PackageNotFoundError:
        return False
    described = email.message_from_string(installed.read_text("WHEEL") or "")
    name = f"quictunnel_native-{installed.version}-{described['Tag']}.whl"
    record = []
    with zipfile.ZipFile(to / name, "w", zipfile.ZIP_DEFLATED) as wheel:
        for file in installed.files or []:
            if file.hash is not None and file.name not in ("INSTALLER", "REQUESTED", "direct_url.json"):
                wheel.write(file.locate(), str(file))
                record.append(f"{file},{file.hash.mode}={file.hash.value},{file.size}\n")
            elif file.name == "RECORD":
                place = str(file)
        wheel.writestr(place, "".join([*record, f"{place},,\n"]))
    return True


def pip(*arguments: str | Path) -> None:
    """Run pip with the index that it is configured for."""
    run([sys.executable, "-m", "pip", "--quiet", *arguments])


def run(command: list[str | Path]) -> None:
    """Run a command; skip the test if it fails because of the network."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ended = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    if ended.returncode and NO_NETWORK.search(ended.stderr):
        pytest.skip(f"no package index can be reached: {ended.stderr.strip().splitlines()[-1]}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
