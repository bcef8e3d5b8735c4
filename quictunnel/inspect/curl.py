"""A recorded request as a curl command for a POSIX shell."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from quictunnel.inspect.exchange_store import Exchange
    from quictunnel.origin.target import Target

MAX_ARGUMENT: Final = 64 * 1024
"""Bytes of a body on the command line; Linux limits an argument to 128 KiB. A longer body comes from ``printf``, a
shell built-in without that limit."""
CURL_HEADERS: Final = (b"user-agent", b"accept")
"""Headers that curl adds by itself."""

_PLAIN_TARGET = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*")
_UNQUOTED = re.compile(rb"[A-Za-z0-9 ,./:;=_+-]")


def curl_of(exchange: Exchange, origin: Target) -> tuple[str, str]:
    """Return a curl command for the local origin, and a note about its differences from the request ("" if
    none)."""
    method, body = exchange.method, bytes(exchange.request.body.data)
    names = [name.lower() for name, _ in exchange.request.headers]
    has_body = bool(body) or b"content-length" in names or b"transfer-encoding" in names
    arguments = ["curl"]
    if exchange.version == "1.0":
        arguments.append("--http1.0")
    if method == "HEAD" and not has_body:
        arguments.append("--head")
    elif method != ("POST" if has_body else "GET"):
        arguments += ["--request", shlex.quote(method)]
    arguments += [*origin.curl_options, *_url(exchange.target, origin.base_url)]
    for name, value in exchange.request.headers:
        if name.lower() == b"content-length":
            continue  # curl computes it
        arguments += ["--header", _quote(name + b": " + value if value else name + b";")]
    absent = [name for name in CURL_HEADERS if name not in names]
    if has_body and b"content-type" not in names:
        absent.append(b"content-type")
    if has_body and b"expect" not in names:
        absent.append(b"expect")
    for name in absent:
        arguments += ["--header", _quote(name.title() + b":")]
    before = ""
    if has_body and (len(body) > MAX_ARGUMENT or not _is_text(body)):
        before = f"printf '{_octal(body)}' | "
        arguments += ["--data-binary", "@-"]
    elif has_body:
        arguments += ["--data-raw", _quote(body)]
    missing = "" if exchange.request.body.is_complete else "The body is incomplete: only its beginning was stored."
    return before + " ".join(arguments), missing


def _url(target: str, origin: str) -> list[str]:
    if _PLAIN_TARGET.fullmatch(target) is None:
        # Sent unchanged, because curl would interpret it: "*", a whole URL, a fragment, brackets.
        return [f"{origin}/", "--request-target", shlex.quote(target)]
    arguments = [shlex.quote(origin + target)]
    return [*arguments, "--path-as-is"] if "/." in target else arguments


def _is_text(data: bytes) -> bool:
    """Return True if data is UTF-8 text that a shell and a clipboard do not change."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\t\n" for character in text)


def _quote(data: bytes) -> str:
    return shlex.quote(data.decode()) if _is_text(data) else f"\"$(printf '{_octal(data)}')\""


def _octal(data: bytes) -> str:
    """Return data for ``printf``, with special bytes in POSIX octal escapes."""
    return "".join(
        chr(byte) if _UNQUOTED.match(data, at) and not (at == 0 and byte == 0x2D) else f"\\{byte:03o}"
        for at, byte in enumerate(data)
    )
