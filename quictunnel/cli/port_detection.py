"""Detection of the port that a program will listen on, from its command line and environment. Never guessed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from quictunnel.errors import InvalidError
from quictunnel.shared.address import MAX_PORT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PORT: Final = "PORT"
"""Environment variable in which platforms give a web app its port."""

_NUMBER_FLAGS: Final = frozenset({"--port", "-p", "--server.port", "--server-port", "--http-port"})
"""Options whose value is a port; other values, such as docker's ``-p 8080:80``, are ignored."""
_ADDRESS_FLAGS: Final = frozenset({"--bind", "-b", "--listen", "--addr", "--address", "--host"})
"""Options whose value may be ``host:port``."""
_SERVER_COMMANDS: Final = frozenset({"http.server", "runserver"})
"""Subcommands that an address or a port follows: Python's own server, Django's."""
_NUMBER: Final = re.compile(r"[0-9]{1,5}")
_ADDRESS: Final = re.compile(r"(?:(?:\[[^\[\]]*\]|[^:\[\]]*):)?([0-9]{1,5})")
"""A port, optionally after a host. An IPv6 address needs brackets: ``::1`` alone is a host without a port."""


def port_of(command: Sequence[str], environ: Mapping[str, str], explicit_port: int | None) -> int:
    """Return the port that a program will listen on.

    Args:
        command: the program and its arguments.
        environ: environment variables.
        explicit_port: value of ``--port``, which wins over everything else; None without it.

    Raises:
        InvalidError: no port or more than one was found.
    """
    if explicit_port is not None:
        return explicit_port
    found = set(_ports_in(command))
    if (value := environ.get(PORT)) is not None and (port := _number(value)) is not None:
        found.add(port)
    if not found:
        raise InvalidError(
            f"The command line of {command[0]} does not contain its port: give it with --port, as in "
            "`quictunnel run --port 8000 -- ...`."
        )
    if len(found) > 1:
        ports = " and ".join(map(str, sorted(found)))
        raise InvalidError(
            f"The command line and PORT name the ports {ports}: choose one with --port, as in `quictunnel run "
            "--port N -- ...`."
        )
    return found.pop()


def _ports_in(command: Sequence[str]) -> Iterator[int]:
    following = [*command[1:], ""]
    for word, after in zip(command, following, strict=True):
        flag, equals, value = word.partition("=")
        if flag in _NUMBER_FLAGS or flag == PORT:
            port = _number(value if equals else after if flag != PORT else "")
        elif flag in _ADDRESS_FLAGS:
            port = _address(value if equals else after, alone=False)
        elif word in _SERVER_COMMANDS:
            port = _address(after, alone=True)
        else:
            continue
        if port is not None:
            yield port


def _number(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) and 1 <= int(text) <= MAX_PORT else None


def _address(text: str, *, alone: bool) -> int | None:
    """Return the port of ``host:port``; with ``alone``, also of a text that is only a port."""
    found = _ADDRESS.fullmatch(text)
    return _number(found[1]) if found and (alone or ":" in text) else None
