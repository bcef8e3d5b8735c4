"""The QUIC engines and the choice between them.

An adapter is imported when it is selected, so a process never loads the library of the other engine.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol, cast

from quictunnel.errors import ConfigError
from quictunnel.shared.lazy_imports import import_module

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from quictunnel.transport.engine import Address, Engine, EngineSettings, HandshakeReport

logger = logging.getLogger(__name__)

_ADAPTERS = {
    "native": ("quictunnel.transport.engines.native", "NativeEngine"),
    "aioquic": ("quictunnel.transport.engines.aioquic.engine", "AioquicEngine"),
}
_VERSIONS = {
    "native": "quictunnel.transport.engines.native_version",
    "aioquic": "quictunnel.transport.engines.aioquic.version",
}
CHOICES = ("auto", *_ADAPTERS)


def create_engine(settings: EngineSettings, choice: str = "auto") -> Engine:
    """Create the engine that ``choice`` (the value of QUICTUNNEL_ENGINE) names.

    ``auto`` is ``native`` if it is installed, else ``aioquic``.

    Raises:
        ConfigError: the engine is unknown or not installed, or rejects the settings.
    """
    return _adapter(choice)(settings)


def describe_engine(choice: str = "auto") -> str:
    """Return name and version of the engine that :func:`create_engine` would create. Raises ConfigError
    likewise."""
    adapter = _adapter(choice)
    return f"{adapter.name} {adapter.version}"


def installed_engine(choice: str = "auto") -> str:
    """Return name and version of the engine that is installed, for ``--version``.

    Unlike :func:`describe_engine`, it imports no engine, and so does not find that a library of one is broken.
    Raises ConfigError if the chosen engine is not installed.
    """
    if choice == "auto":
        try:
            return installed_engine("native")
        except _MissingError:
            choice = "aioquic"
    version = _import(choice, _VERSIONS[choice]).VERSION
    return f"{choice} {version}"


def unavailable_reason(name: str) -> str | None:
    """Return the reason why an engine cannot be used, or None if it can."""
    try:
        _load(name)
    except _MissingError as missing:
        return str(missing.__cause__)
    return None


class HandshakeProbe(Protocol):
    """Interface of ``engines/aioquic/handshake_probe``, which every installation has."""

    @staticmethod
    def probe(address: Address, server_name: str, alpn: str, timeout: float) -> HandshakeReport:
        """Do a handshake without verification and return what the server sent."""

    @staticmethod
    def trust_error(
        chain: tuple[bytes, ...], server_name: str, authority: Path | None, pin: bytes = b""
    ) -> str | None:
        """Return the reason why a certificate chain is not trusted, or None."""


def handshake_probe() -> HandshakeProbe:
    """Import and return the handshake probe."""
    return cast("HandshakeProbe", import_module("quictunnel.transport.engines.aioquic.handshake_probe"))


class _Adapter(Protocol):
    name: str
    version: str

    def __call__(self, settings: EngineSettings) -> Engine: ...


class _MissingError(ConfigError):
    """The engine's library is not installed."""


def _adapter(choice: str) -> _Adapter:
    if choice not in CHOICES:
        raise ConfigError(f"QUICTUNNEL_ENGINE should be one of {', '.join(CHOICES)}, not {choice!r}.")
    if choice != "auto":
        return _load(choice)
    try:
        return _load("native")
    except _MissingError as missing:
        # Warn about a library that is installed but cannot be loaded, not about a missing one.
        if not isinstance(missing.__cause__, ModuleNotFoundError):
            logger.warning(
                "The native engine is installed but not usable (%s); aioquic is used", missing.__cause__
            )
        return _load("aioquic")


def _load(name: str) -> _Adapter:
    module_name, class_name = _ADAPTERS[name]
    return cast("_Adapter", getattr(_import(name, module_name), class_name))


def _import(name: str, module_name: str) -> ModuleType:
    """Import a module of an engine. Raises ConfigError, which names the engine."""
    try:
        return import_module(module_name)
    except ImportError as error:
        raise _MissingError(
            f"QUICTUNNEL_ENGINE selects the {name} engine, which cannot be imported ({error}). Install it, or set "
            "QUICTUNNEL_ENGINE=auto to use an installed engine."
        ) from error
