"""Addresses of local services: what a user types, and what is dialled.

A port means this machine. Other forms are ``host:port``, an ``http://`` or ``https://`` URL, and ``unix:PATH``.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import ssl
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from quictunnel.errors import InvalidError
from quictunnel.shared.address import MAX_PORT, AddressError, format_address, is_name, short_repr, split_address

LOOPBACKS: Final = ("127.0.0.1", "::1")
"""Both addresses, because a server on ``localhost`` may listen on only one of them."""
THIS_MACHINE: Final = frozenset({"", "localhost", "0.0.0.0", "::", "*"})
"""Hosts that mean the loopback addresses. Servers print the addresses of all interfaces at their start."""
MAX_UNIX_PATH: Final = 103
"""Bytes of a socket's path: ``sun_path`` holds 104 on macOS and 108 on Linux, with a zero at the end."""
DEFAULT_PORTS: Final = {"http": 80, "https": 443}
FORMS: Final = "a port such as 8000, host:port, an http:// or https:// URL, or unix:PATH"


@dataclass(frozen=True, slots=True)
class Target:
    """Address of a local service. The constructor checks nothing; :func:`parse_target` does."""

    port: int
    """TCP port; 0 for a Unix socket."""
    host: str = ""
    """Host name or IP address; empty: the loopback addresses of this machine."""
    path: str = ""
    """Path of a Unix socket; empty: TCP."""
    tls: ssl.SSLContext | None = field(default=None, compare=False, repr=False)
    """Authorities for an origin with TLS; None: no TLS."""

    @property
    def is_local_port(self) -> bool:
        """True for a port of this machine, dialled on the loopback addresses."""
        return not self.host and not self.path

    @property
    def text(self) -> str:
        """The address as a user may type it: ``localhost:8000``, ``https://web:8443``, ``unix:/run/app.sock``."""
        if self.path:
            return f"unix:{self.path}"
        address = format_address(self.host or "localhost", self.port)
        return f"https://{address}" if self.tls is not None else address

    @property
    def noun(self) -> str:
        """The address within a sentence: ``port 8000``, or as in :attr:`text`."""
        return f"port {self.port}" if self.is_local_port else self.text

    @property
    def place(self) -> str:
        """The address as visitors see it. Names of this machine's network and its paths are not theirs to know."""
        if self.is_local_port:
            return f"port {self.port} of the machine behind this tunnel"
        return "the address of the service behind this tunnel"

    @property
    def base_url(self) -> str:
        """The address for an HTTP client on this machine."""
        scheme = "http" if self.tls is None else "https"
        if self.path:
            return f"{scheme}://localhost"
        return f"{scheme}://{format_address(self.host or '127.0.0.1', self.port)}"

    @property
    def curl_options(self) -> list[str]:
        """Options with which curl reaches the address of :attr:`base_url`."""
        if self.path:
            return ["--unix-socket", shlex.quote(self.path)]
        is_unverified = self.tls is not None and self.tls.verify_mode is ssl.CERT_NONE
        return ["--insecure"] if is_unverified else []

    @property
    def server_name(self) -> str:
        """Name for TLS: sent as SNI unless it is an IP address, and checked against the certificate."""
        return self.host or "localhost"

    def format(self, template: str) -> str:
        """Return a sentence with ``{origin}`` and ``{place}`` replaced, and its first letter in upper case."""
        sentence = template.format(origin=self.noun, place=self.place)
        is_own_word = template.startswith("{origin}") and not self.is_local_port
        return sentence if is_own_word else sentence[:1].upper() + sentence[1:]


def parse_target(value: object, *, verify: bool = True, authority: str | os.PathLike[str] | None = None) -> Target:
    """Return the target of the first argument of ``forward()``.

    Args:
        value: a port, or one of the other forms as text.
        verify: check the certificate of an ``https://`` target.
        authority: PEM file of the authorities for that; None: the system's.

    Raises:
        InvalidError: the value is none of these, or an option is for ``https://`` alone.
    """
    if isinstance(value, Target):
        return value
    target, is_https = _parse_text(value) if isinstance(value, str) else (Target(check_port(value)), False)
    if is_https:
        return Target(target.port, target.host, tls=_context(verify=verify, authority=authority))
    if not verify or authority is not None:
        raise InvalidError(
            "verify_origin and origin_ca (--insecure-origin, --origin-ca) are about the certificate of an "
            "https:// "
            f"service, and {target.text} is reached without TLS."
        )
    return target


def check_port(port: object) -> int:
    """Return a port number. Raises InvalidError for anything else."""
    if not isinstance(port, int) or isinstance(port, bool):
        what = "the number of the local port."
        if isinstance(port, str):
            others = FORMS[FORMS.index("host:port") :]
            what = f"{short_repr(port)} is neither the number of a local port, such as 8000, nor {others}."
            if port.isascii() and port.isdigit() and len(port) <= len(str(MAX_PORT)):
                what = f"write {port} without quotes."
        raise InvalidError(f"The port argument should be an int, not {type(port).__name__}: {what}")
    if not 1 <= port <= MAX_PORT:
        raise InvalidError(f"Invalid port number {port}. A port lies between 1 and {MAX_PORT}.")
    return port


def _parse_text(text: str) -> tuple[Target, bool]:
    """Return the target of a text, and True if it is to be reached with TLS."""
    if text.startswith("unix:"):
        return _unix(text), False
    if "://" in text:
        return _url(text)
    if ":" not in text and "/" not in text:
        check_port(text)  # a number as text, a word or nothing: raises
    return _tcp(text, text), False


def _unix(text: str) -> Target:
    path = text.removeprefix("unix:")
    path = path.removeprefix("//")
    if not hasattr(socket, "AF_UNIX"):
        raise InvalidError("This system's Python has no Unix sockets: let the service listen on a TCP port.")
    if not path or "\0" in path:
        raise InvalidError("The path of the Unix socket is missing: unix:/run/app.sock.")
    path = str(Path(path).absolute())
    if not _is_plain_text(path):
        raise InvalidError(
            "The path of the Unix socket should be UTF-8 text without control characters, because it is shown in "
            f"`quictunnel status` and in the inspector, not {short_repr(path)}."
        )
    if len(os.fsencode(path)) > MAX_UNIX_PATH:
        raise InvalidError(
            f"The path of the Unix socket is too long ({len(os.fsencode(path))} bytes, {MAX_UNIX_PATH} at most): "
            f"{short_repr(path)}."
        )
    return Target(0, path=path)


def _is_plain_text(text: str) -> bool:
    """Return True if a text can be encoded as UTF-8 and has no control characters."""
    try:
        text.encode()
    except UnicodeEncodeError:  # a byte of the command line that is no UTF-8 (PEP 383)
        return False
    return not any(unicodedata.category(character) == "Cc" for character in text)


def _url(text: str) -> tuple[Target, bool]:
    scheme, _, rest = text.partition("://")
    default = DEFAULT_PORTS.get(scheme.lower())
    if default is None:
        raise InvalidError(
            f"The scheme of a local service should be http, https or unix, not {short_repr(scheme)}: for any "
            "other "
            "protocol over TCP give host:port."
        )
    match = re.fullmatch(r"([^/?#]*)(.*)", rest, re.DOTALL)
    authority, path = (match[1], match[2]) if match is not None else ("", "")
    if path not in ("", "/"):
        raise InvalidError(
            f"A tunnel forwards whole connections, not one path of a server: leave out {short_repr(path)}. "
            "Visitors "
            "add the path to the public address."
        )
    if "@" in authority:
        raise InvalidError("Leave out the user and password: visitors send their own to the local service.")
    if not authority:
        raise InvalidError(f"The local service should be {FORMS}, not {short_repr(text)}: the host is missing.")
    has_port = re.search(r":[^\]]*\Z", authority) is not None
    return _tcp(authority if has_port else f"{authority}:{default}", text), scheme.lower() == "https"


def _tcp(address: str, text: str) -> Target:
    if address.startswith("*:"):
        address = address[1:]
    try:
        host, port = split_address(address, lowest=1) if not address.startswith(":") else ("", _port(address))
    except AddressError as error:
        raise InvalidError(f"The local service should be {FORMS}, not {short_repr(text)}: {error}.") from None
    host = host.lower()
    is_here = host in THIS_MACHINE or host.removesuffix(".").endswith(".localhost")
    return Target(port, "" if is_here else host)


def _port(address: str) -> int:
    return split_address(f"localhost{address}", lowest=1)[1]


def _context(*, verify: bool, authority: str | os.PathLike[str] | None) -> ssl.SSLContext:
    """Return the TLS context for an origin. Raises InvalidError."""
    if not verify and authority is not None:
        raise InvalidError(
            "origin_ca (--origin-ca) names the authority to check the certificate with, and verify_origin=False "
            "(--insecure-origin) turns that check off: give one of them."
        )
    try:
        context = ssl.create_default_context(cafile=None if authority is None else os.fspath(authority))
    except OSError as error:
        why = "no certificate is in it" if isinstance(error, ssl.SSLError) else error.strerror
        raise InvalidError(
            f"The authority {short_repr(os.fspath(authority or ''))} cannot be read ({why}): origin_ca "
            "(--origin-ca) "
            "should be a PEM file."
        ) from None
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def resolves_by_name(target: Target) -> bool:
    """Return True if the target's host has to be looked up."""
    return bool(target.host) and is_name(target.host)
