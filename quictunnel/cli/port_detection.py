"""Which port a program will listen on, read from its command line and environment; never made up."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from quictunnel.errors import InvalidError
from quictunnel.shared.address import MAX_PORT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PORT: Final = "PORT"
"""The variable by which platforms tell a web app its port."""

_NUMBER_FLAGS: Final = frozenset({"--port", "-p", "--server.port", "--server-port", "--http-port"})
"""Options whose value is a port alone; anything else, such as docker's ``-p 8080:80``, is not understood."""
_ADDRESS_FLAGS: Final = frozenset({"--bind", "-b", "--listen", "--addr", "--address", "--host"})
"""Options whose value may be ``host:port``."""
_PLACES: Final = frozenset({"http.server", "runserver"})
"""Words after which an address or a port stands alone: Python's own server, Django's."""
_NUMBER: Final = re.compile(r"[0-9]{1,5}")
_ADDRESS: Final = re.compile(r"(?:(?:\[[^\[\]]*\]|[^:\[\]]*):)?([0-9]{1,5})")
"""A port, perhaps behind a host; one of IPv6 stands in brackets, because ``::1`` is a host and no port 1."""


def port_of(command: Sequence[str], environ: Mapping[str, str], given: int | None) -> int:
    """The port, or InvalidError when it cannot be known. ``given`` is what the person said, which counts alone."""
    if given is not None:
        return given
    found = set(_said(command))
    if (said := environ.get(PORT)) is not None and (port := _number(said)) is not None:
        found.add(port)
    if not found:
        raise InvalidError(
            f"Which port {command[0]} will listen on cannot be told from its command line: give it to quictunnel, "
            "`quictunnel run --port 8000 -- ...`."
        )
    if len(found) > 1:
        ports = " and ".join(map(str, sorted(found)))
        raise InvalidError(
            f"The command line and PORT name the ports {ports}: say which one to expose, `quictunnel run --port N "
            "-- ...`."
        )
    return found.pop()


def _said(command: Sequence[str]) -> Iterator[int]:
    following = [*command[1:], ""]
    for word, after in zip(command, following, strict=True):
        flag, equals, value = word.partition("=")
        if flag in _NUMBER_FLAGS or flag == PORT:
            port = _number(value if equals else after if flag != PORT else "")
        elif flag in _ADDRESS_FLAGS:
            port = _address(value if equals else after, alone=False)
        elif word in _PLACES:
            port = _address(after, alone=True)
        else:
            continue
        if port is not None:
            yield port


def _number(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) and 1 <= int(text) <= MAX_PORT else None


def _address(text: str, *, alone: bool) -> int | None:
    """The port of ``host:port``, or of a port ``alone``."""
    found = _ADDRESS.fullmatch(text)
    return _number(found[1]) if found and (alone or ":" in text) else None
