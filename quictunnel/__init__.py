"""Expose a port of a running container to the world, through an edge of your own.

::

    import quictunnel

    with quictunnel.forward(8000) as tunnel:
        print("Listening at", tunnel.url)

The names below are loaded when first used (PEP 562), so that importing one module of the package does not
load the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quictunnel.shared.lazy_imports import import_module

if TYPE_CHECKING:
    from quictunnel.client import Client
    from quictunnel.errors import (
        AuthError,
        ConfigError,
        EdgeUnavailableError,
        Error,
        InvalidError,
        OriginUnavailableError,
        ProtocolError,
    )
    from quictunnel.events import TunnelStats
    from quictunnel.forwarding import forward
    from quictunnel.inspect.request_queue import RequestQueue, RequestSummary
    from quictunnel.opening import OpenTunnel, aopen
    from quictunnel.opening import open as open  # noqa: A004 - quictunnel.open, not in __all__
    from quictunnel.shared.version import VERSION
    from quictunnel.tunnel import Tunnel

    __version__ = VERSION

__all__ = [
    "AuthError",
    "Client",
    "ConfigError",
    "EdgeUnavailableError",
    "Error",
    "InvalidError",
    "OpenTunnel",
    "OriginUnavailableError",
    "ProtocolError",
    "RequestQueue",
    "RequestSummary",
    "Tunnel",
    "TunnelStats",
    "__version__",
    "aopen",
    "forward",
]
# Not "open": ``from quictunnel import *`` must not hide the built-in function.

_MODULES: Final = {
    "Client": ("client", "Client"),
    "Tunnel": ("tunnel", "Tunnel"),
    "TunnelStats": ("events", "TunnelStats"),
    "RequestQueue": ("inspect.request_queue", "RequestQueue"),
    "RequestSummary": ("inspect.request_queue", "RequestSummary"),
    "OpenTunnel": ("opening", "OpenTunnel"),
    "aopen": ("opening", "aopen"),
    "forward": ("forwarding", "forward"),
    "open": ("opening", "open"),
    "__version__": ("shared.version", "VERSION"),
    # Called by ``%load_ext quictunnel`` and ``%unload_ext quictunnel``.
    "load_ipython_extension": ("integrations.jupyter", "load_ipython_extension"),
    "unload_ipython_extension": ("integrations.jupyter", "unload_ipython_extension"),
} | {name: ("errors", name) for name in __all__ if name.endswith("Error")}


def __getattr__(name: str) -> object:
    try:
        module, attribute = _MODULES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(import_module(f"{__name__}.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "open"])
