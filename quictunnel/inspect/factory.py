"""Start an inspector, whose packages come with an extra and are loaded only then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from quictunnel.inspect.inspector import Inspector
    from quictunnel.origin.target import Target

MISSING_PACKAGES = "The inspector needs packages that are not installed: pip install 'quictunnel[inspect]'"


def open_inspector(address: tuple[str, int] | None, target: Target) -> Inspector:
    """Start an inspector of a local service.

    Args:
        address: host and port of the page; port 0: any. None: loopback, the first free port from 4040.
        target: the local service of the tunnel.

    Raises:
        ConfigError: a package is missing, or the address cannot be bound.
    """
    try:
        from quictunnel.inspect.inspector import Inspector  # noqa: PLC0415 - needs the packages of an extra
    except ModuleNotFoundError as error:
        raise ConfigError(f"{MISSING_PACKAGES} ({error.name} is missing)") from None
    return Inspector(address, target)
