"""Parsing and formatting of ``host:port``. No name is resolved and no socket is opened here."""

from __future__ import annotations

import ipaddress
import re

from quictunnel.errors import ConfigError, redact

MAX_PORT = 65_535
"""The largest TCP or UDP port."""
HTTPS_PORT = 443
"""The port that an https URL need not name (RFC 9110 section 4.2.2)."""
MAX_NAME = 253
"""RFC 1035 section 2.3.4: 255 octets on the wire, which is 253 characters as text."""
MAX_SHOWN = 80
"""Characters of a wrong value that an error quotes: enough to recognise it, on one line of a terminal."""

# RFC 1123 section 2.1, with the underscore that container networks put into service names.
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_DIGITS = re.compile(r"[0-9]{1,5}")


class AddressError(ValueError):
    """Reason why a text is not ``host:port``, as the end of a sentence."""


def parse_address(text: str, *, what: str, any_port: bool = False) -> tuple[str, int]:
    """Parse ``host:port``. An IPv6 address needs brackets; the returned host has none.

    Args:
        text: the address.
        what: name of the value in errors, such as ``QUICTUNNEL_EDGE`` or ``--quic``.
        any_port: accept port 0.

    Raises:
        ConfigError: the text is not a valid address.
    """
    try:
        return split_address(text, lowest=0 if any_port else 1)
    except AddressError as error:
        raise ConfigError(
            f"{what} should be host:port, such as edge.example.com:4433, not {short_repr(text)}: {error}."
        ) from None


def split_address(text: str, *, lowest: int) -> tuple[str, int]:
    """Parse ``host:port`` with a port of at least ``lowest``, as :func:`parse_address` does.

    Raises:
        AddressError: the text is not a valid address.
    """
    if "://" in text:
        raise AddressError("leave out the scheme")
    bracketed = text.startswith("[")
    host, separator, port_text = text.rpartition(":")
    if not separator or (bracketed and not host.endswith("]")):
        raise AddressError("the port is missing")
    if bracketed:
        host = _ipv6(host[1:-1])
    elif ":" in host:
        raise AddressError("an IPv6 address needs brackets, [::1]:4433")
    else:
        _check_name(host)
    return host, _port(port_text, lowest)


def parse_ports(text: str, *, what: str) -> range:
    """Parse a range of ports ``A-B``; the returned range includes both.

    Args:
        text: the range.
        what: name of the value in errors.

    Raises:
        ConfigError: the text is not a valid range.
    """
    match = re.fullmatch(r"([0-9]{1,5})-([0-9]{1,5})", text)
    first, last = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= first <= last <= MAX_PORT:
        raise ConfigError(
            f"{what} should be a range such as 20000-29999 within 1-{MAX_PORT}, not {short_repr(text)}."
        )
    return range(first, last + 1)


def format_address(host: str, port: int) -> str:
    """Return ``host:port``, with brackets around an IPv6 address: the inverse of :func:`parse_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def https_url(host: str, port: int) -> str:
    """Return the address as a browser takes it; without the port where https implies it."""
    if port == HTTPS_PORT:
        return f"https://[{host}]" if ":" in host else f"https://{host}"
    return f"https://{format_address(host, port)}"


def on_this_machine(host: str) -> str:
    """Return the host at which this machine reaches a socket bound to ``host``: loopback for all interfaces."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def is_loopback(host: str) -> bool:
    """Return True if only this machine can reach a host of this name or address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.rpartition(".")[2] == "localhost"  # RFC 6761 section 6.3


def is_name(host: str) -> bool:
    """Return True if a host is a name, False if it is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


def short_repr(text: str) -> str:
    """Return a wrong value for an error message: one printable line of bounded length, without secrets."""
    text = redact(text)  # before the cut, which would leave too little of a secret to recognise it
    return ascii(text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "...")


def _ipv6(host: str) -> str:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        raise AddressError("the text in the brackets is not an IPv6 address") from None
    if not (host.isascii() and host.isprintable()):  # Python accepts any text as a zone
        raise AddressError("the zone of the IPv6 address has a character that is not printable ASCII")
    return host


def _check_name(host: str) -> None:
    if not host:
        raise AddressError("the host is missing")
    labels = host.removesuffix(".").split(".")
    if len(host) > MAX_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        raise AddressError("this is not a host name (international names are written as xn--...)")
    if labels[-1].isdigit():
        # No top-level domain is numeric (RFC 3696 section 2), so an IPv4 address was meant.
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise AddressError("this is not an IPv4 address") from None


def _port(port_text: str, lowest: int) -> int:
    if not _DIGITS.fullmatch(port_text) or not lowest <= int(port_text) <= MAX_PORT:
        raise AddressError(f"the port should be a number from {lowest} to {MAX_PORT}")
    return int(port_text)
