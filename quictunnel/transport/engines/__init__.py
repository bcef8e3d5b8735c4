"""The QUIC engines, and which one to take.

Adapters are imported when they are asked for: whoever uses one never loads the library of the other.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol, cast

from quictunnel.errors import ConfigError
from quictunnel.transport.lazy_imports import import_module

if TYPE_CHECKING:
    from pathlib import Path

    from quictunnel.transport.engine import Address, Engine, EngineSettings, HandshakeReport

logger = logging.getLogger(__name__)

_ADAPTERS = {
    "native": ("quictunnel.transport.engines.native", "NativeEngine"),
    "aioquic": ("quictunnel.transport.engines.aioquic", "AioquicEngine"),
}
CHOICES = ("auto", *_ADAPTERS)


def create_engine(settings: EngineSettings, choice: str = "auto") -> Engine:
    """Make the engine that ``choice`` (the value of QUICTUNNEL_ENGINE) names.

    ``auto`` is ``native`` where it is installed, else ``aioquic``. Raises ConfigError when there is no such
    engine, or when it does not like the settings.
    """
    return _adapter(choice)(settings)


def describe_engine(choice: str = "auto") -> str:
    """Name and version of the engine that :func:`create_engine` makes; raises ConfigError as that does."""
    adapter = _adapter(choice)
    return f"{adapter.name} {adapter.version}"


def why_not(name: str) -> str | None:
    """Why an engine cannot be used here; None when it can."""
    try:
        _load(name)
    except _MissingError as missing:
        return str(missing.__cause__)
    return None


class Looking(Protocol):
    """A handshake for looking at: ``engines/aioquic/shown``, which is installed everywhere."""

    @staticmethod
    def look(address: Address, server_name: str, alpn: str, patience: float) -> HandshakeReport: ...

    @staticmethod
    def objection(chain: tuple[bytes, ...], server_name: str, authority: Path | None) -> str | None: ...


def handshake_probe() -> Looking:
    """See :class:`Looking`; loaded when it is asked for, as the engines are."""
    return cast("Looking", import_module("quictunnel.transport.engines.aioquic.handshake_probe"))


class _Adapter(Protocol):
    name: str
    version: str

    def __call__(self, settings: EngineSettings) -> Engine: ...


class _MissingError(ConfigError):
    """The engine's library is not installed."""


def _adapter(choice: str) -> _Adapter:
    if choice not in CHOICES:
        raise ConfigError(f"QUICTUNNEL_ENGINE is {choice!r}; it has to be one of {', '.join(CHOICES)}.")
    if choice != "auto":
        return _load(choice)
    try:
        return _load("native")
    except _MissingError as missing:
        # An installed library that cannot be loaded is worth a word; one that is not there is not.
        if not isinstance(missing.__cause__, ModuleNotFoundError):
            logger.warning(
                "The native engine is installed but not usable (%s); aioquic is used", missing.__cause__
            )
        return _load("aioquic")


def _load(name: str) -> _Adapter:
    module_name, class_name = _ADAPTERS[name]
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise _MissingError(
            f"QUICTUNNEL_ENGINE asks for the {name} engine, which cannot be imported ({error}). Install it, "
            "or set QUICTUNNEL_ENGINE=auto to use what is there."
        ) from error
    return cast("_Adapter", getattr(module, class_name))
