"""A recorded request as a line for a POSIX shell, in which curl says the same again."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from quictunnel.inspect.exchange_store import Exchange

MAX_ARGUMENT: Final = 64 * 1024
"""Bytes of a body that stands on the line; Linux allows an argument 128 KiB. A longer one comes from ``printf``,
which shells have built in and which takes any."""
OWN: Final = (b"user-agent", b"accept")
"""Headers that curl adds by itself."""

_PLAIN_TARGET = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*")
_UNQUOTED = re.compile(rb"[A-Za-z0-9 ,./:;=_+-]")


def curl_of(exchange: Exchange, port: int) -> tuple[str, str]:
    """The command, to the origin on this machine, and what is not the same about it ("" if nothing)."""
    method, body = exchange.method, bytes(exchange.request.body.data)
    names = [name.lower() for name, _ in exchange.request.headers]
    has_body = bool(body) or b"content-length" in names or b"transfer-encoding" in names
    words = ["curl"]
    if exchange.version == "1.0":
        words.append("--http1.0")
    if method == "HEAD" and not has_body:
        words.append("--head")
    elif method != ("POST" if has_body else "GET"):
        words += ["--request", shlex.quote(method)]
    words += _url(exchange.target, port)
    for name, value in exchange.request.headers:
        if name.lower() == b"content-length":
            continue  # curl counts itself
        words += ["--header", _quoted(name + b": " + value if value else name + b";")]
    absent = [name for name in OWN if name not in names]
    if has_body and b"content-type" not in names:
        absent.append(b"content-type")
    if has_body and b"expect" not in names:
        absent.append(b"expect")
    for name in absent:
        words += ["--header", _quoted(name.title() + b":")]
    before = ""
    if has_body and (len(body) > MAX_ARGUMENT or not _is_text(body)):
        before = f"printf '{_octal(body)}' | "
        words += ["--data-binary", "@-"]
    elif has_body:
        words += ["--data-raw", _quoted(body)]
    missing = "" if exchange.request.body.is_whole else "The body is cut: only its beginning was kept."
    return before + " ".join(words), missing


def _url(target: str, port: int) -> list[str]:
    origin = f"http://127.0.0.1:{port}"
    if _PLAIN_TARGET.fullmatch(target) is None:
        # As it was, whatever curl would make of it: "*", a whole URL, a fragment, brackets.
        return [f"{origin}/", "--request-target", shlex.quote(target)]
    words = [shlex.quote(origin + target)]
    return [*words, "--path-as-is"] if "/." in target else words


def _is_text(data: bytes) -> bool:
    """Whether a shell and a clipboard carry it as it is."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\t\n" for character in text)


def _quoted(data: bytes) -> str:
    return shlex.quote(data.decode()) if _is_text(data) else f"\"$(printf '{_octal(data)}')\""


def _octal(data: bytes) -> str:
    """For ``printf``: everything that could mean something, in a notation that POSIX gives it."""
    return "".join(
        chr(byte) if _UNQUOTED.match(data, at) and not (at == 0 and byte == 0x2D) else f"\\{byte:03o}"
        for at, byte in enumerate(data)
    )
