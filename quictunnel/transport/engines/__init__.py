"""The QUIC engines, and which one to take.

Adapters are imported when they are asked for: whoever uses one never loads the library of the other.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from quictunnel.transport.engine import Engine, EngineSettings

_ADAPTERS = {
    "native": ("quictunnel.transport.engines.native", "NativeEngine"),
    "aioquic": ("quictunnel.transport.engines.aioquic", "AioquicEngine"),
}
CHOICES = ("auto", *_ADAPTERS)


def create_engine(settings: EngineSettings, choice: str = "auto") -> Engine:
    """Make the engine that ``choice`` (the value of QUICTUNNEL_ENGINE) names.

    ``auto`` is ``native`` where it is installed, else ``aioquic``.
    """
    if choice not in CHOICES:
        raise ConfigError(f"QUICTUNNEL_ENGINE is {choice!r}; it has to be one of {', '.join(CHOICES)}.")
    if choice != "auto":
        return _load(choice, settings)
    try:
        return _load("native", settings)
    except _MissingError:
        return _load("aioquic", settings)


class _MissingError(ConfigError):
    """The engine's library is not installed."""


def _load(name: str, settings: EngineSettings) -> Engine:
    module_name, class_name = _ADAPTERS[name]
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise _MissingError(
            f"QUICTUNNEL_ENGINE asks for the {name} engine, which cannot be imported ({error}). Install it, "
            "or set QUICTUNNEL_ENGINE=auto to use what is there."
        ) from error
    return cast("Engine", getattr(module, class_name)(settings))
