"""Compiles the WAN on demand, once for each version of its source."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("wan.c")
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra")
COMPILE_SECONDS = 60
"""A slow machine needs two; more means that the compiler hangs."""


class WanBuildError(Exception):
    """There is no C compiler, or it refused the source."""


def compiler() -> str | None:
    """The C compiler: what ``CC`` names, else ``cc``."""
    return shutil.which(os.environ.get("CC", "cc"))


def wan_program() -> Path:
    """The compiled WAN, from the cache if this very source was compiled before."""
    cc = compiler()
    if cc is None:
        raise WanBuildError("no C compiler (cc, or what CC names)")
    digest = hashlib.sha256(b"\0".join([SOURCE.read_bytes(), cc.encode(), *(f.encode() for f in FLAGS)]))
    # Not in a directory that others can write to: this program is run by root.
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = home / "quictunnel-netlab"
    program = cache / f"wan-{digest.hexdigest()[:16]}"
    if not program.exists():
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        _compile(cc, program)
    return program


def _compile(cc: str, program: Path) -> None:
    with tempfile.TemporaryDirectory(dir=program.parent) as scratch:
        fresh = Path(scratch) / "wan"
        result = subprocess.run(
            [cc, *FLAGS, "-o", str(fresh), str(SOURCE)],
            capture_output=True,
            text=True,
            timeout=COMPILE_SECONDS,
            check=False,
        )
        if result.returncode != 0:
            raise WanBuildError(f"{cc} refused {SOURCE.name}:\n{result.stderr}")
        fresh.replace(program)  # at once, so that labs started side by side never see half a program
