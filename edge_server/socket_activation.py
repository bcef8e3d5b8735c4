"""Sockets that a service manager opened for the edge (sd_listen_fds(3)): it then needs no privilege to have ports
443 and 80, and visitors who come while it is started again wait in them."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from quictunnel.errors import ConfigError
from quictunnel.shared.address import shown

if TYPE_CHECKING:
    from collections.abc import MutableMapping

FIRST: Final = 3
"""The first descriptor that is passed (SD_LISTEN_FDS_START)."""
ACME_HTTP: Final = "acme-http"
"""What the socket for ``--acme-http`` is called (FileDescriptorName=), because it is of the same kind as that for
``--https``."""
MAX_SOCKETS: Final = 3
"""There is nothing that an edge could do with more."""
_KINDS: Final = {"https": "https", "quic": "quic", ACME_HTTP: "https"}
"""Of sockets whose name says which option they stand for."""
_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


@dataclass(slots=True)
class ActivatedSockets:
    """What there is of them. Who takes one has to close it."""

    https: socket.socket | None = None
    quic: socket.socket | None = None
    acme_http: socket.socket | None = None

    def close(self) -> None:
        """Those that nobody has taken."""
        for sock in (self.https, self.quic, self.acme_http):
            if sock is not None:
                sock.close()


def take(environ: MutableMapping[str, str], *, first: int = FIRST) -> ActivatedSockets:
    """The sockets that were passed to this process; none where nobody passes any. The variables are removed, so
    that no child takes them for its own. Raises ConfigError for what an edge has no use for."""
    count, names = _announced(environ)
    given = ActivatedSockets()
    try:
        for number in range(count):
            descriptor = first + number
            _put(given, descriptor, names[number] if number < len(names) else "")
    except BaseException:
        given.close()
        raise
    return given


def _announced(environ: MutableMapping[str, str]) -> tuple[int, list[str]]:
    """How many there are, and what they are called."""
    process, count, names = (environ.pop(name, "") for name in _VARIABLES)
    if process != str(os.getpid()):
        return 0, []  # for another process, which started this one
    if not re.fullmatch(r"[0-9]{1,3}", count) or int(count) > MAX_SOCKETS:
        raise ConfigError(
            "LISTEN_FDS: the edge takes one TCP and one UDP socket (ListenStream=, ListenDatagram=), and one more "
            f"for TCP that is called {ACME_HTTP}, not {shown(count)}."
        )
    return int(count), names.split(":")


def _put(given: ActivatedSockets, descriptor: int, name: str) -> None:
    about = f"LISTEN_FDS: file descriptor {descriptor}" + (f" ({name})" if name else "")
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ConfigError(f"{about} is no socket ({error.strerror}).") from None
    try:
        sock.set_inheritable(False)
        kind = _kind(sock)
        if kind is None:
            raise ConfigError(
                f"{about} is neither a listening TCP socket nor a UDP socket: use ListenStream= and "
                "ListenDatagram= with ports, and Accept=no."
            )
        if kind != _KINDS.get(name, kind):
            wanted = {"https": "ListenStream= (TCP)", "quic": "ListenDatagram= (UDP)"}[_KINDS[name]]
            raise ConfigError(f"{about} should come from {wanted}, by its name.")
        option = name if name in _KINDS else kind
        field = option.replace("-", "_")
        if getattr(given, field) is not None:
            raise ConfigError(f"{about} is a second socket for --{option}: give one of each.")
    except BaseException:
        sock.close()
        raise
    setattr(given, field, sock)


def _kind(sock: socket.socket) -> str | None:
    """Which option it stands for, unless its name says another one."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    if sock.type == socket.SOCK_DGRAM:
        return "quic"
    is_listening = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    return "https" if is_listening else None
