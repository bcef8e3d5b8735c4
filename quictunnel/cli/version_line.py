"""The line that ``quictunnel --version`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quictunnel.config.client_config import ENGINE, ENGINES
from quictunnel.errors import ConfigError
from quictunnel.shared.address import shown
from quictunnel.shared.version import VERSION
from quictunnel.transport.engines import describe_engine

if TYPE_CHECKING:
    from collections.abc import Mapping


def version_line(environ: Mapping[str, str]) -> str:
    """Return the version, with name and version of the engine that ``QUICTUNNEL_ENGINE`` selects.

    Raises:
        ConfigError: the engine is unknown or not installed.
    """
    wanted = environ.get(ENGINE) or "auto"
    if wanted not in ENGINES:
        raise ConfigError(f"{ENGINE} should be one of {', '.join(ENGINES)}, not {shown(wanted)}.")
    return f"quictunnel {VERSION}, engine {describe_engine(wanted)}"
