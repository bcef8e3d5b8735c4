"""What ``--version`` says of the QUIC engine that would carry a tunnel now."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Final

from quictunnel.address import shown
from quictunnel.config import ENGINE, ENGINES
from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

PACKAGES: Final = {"native": "quictunnel-native", "aioquic": "aioquic"}
"""The distribution that each engine comes in."""


def engine(environ: Mapping[str, str]) -> str:
    """Name and version of the engine that ``QUICTUNNEL_ENGINE`` picks."""
    wanted = environ.get(ENGINE) or "auto"
    if wanted not in ENGINES:
        raise ConfigError(f"{ENGINE} should be one of {', '.join(ENGINES)}, not {shown(wanted)}.")
    if wanted == "auto":
        wanted = "native" if _installed(PACKAGES["native"]) else "aioquic"
    return f"{wanted} {_installed(PACKAGES[wanted]) or '(not installed)'}"


def _installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
