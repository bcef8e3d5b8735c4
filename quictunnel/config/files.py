"""Strict readers for the files of a client's configuration: each error is one ConfigError that names the file and
the remedy. Module ``client_config`` decides which file wins."""

from __future__ import annotations

import codecs
import os
import shlex
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from quictunnel.errors import ConfigError
from quictunnel.shared.address import short_repr
from quictunnel.shared.paths import expand_home

KIB: Final = 1024
MAX_SETTINGS: Final = 64 * KIB
"""Bytes of a config or token file. A typical one has a few hundred; a larger one is some other file."""
MAX_AUTHORITY: Final = 4096 * KIB
"""Bytes of a certificate bundle; a system's complete store has 200 to 300 KiB."""

KEYS: Final = ("edge", "token", "ca")
_VARIABLES: Final = {f"QUICTUNNEL_{key.upper()}": key for key in KEYS}
_PEM: Final = b"-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class Partial:
    """Values from one source; None for each value that it does not have."""

    source: str
    """Name of the source in errors."""
    edge: str | None = None
    token: str | None = None
    ca: Path | None = None
    pin: bytes = b""
    """Fingerprint of the authority, from a credential."""
    more_edges: tuple[str, ...] = ()
    """Further addresses of the edge, from a credential."""

    def __repr__(self) -> str:
        return f"Partial({self.source!r}, edge={self.edge!r}, ca={self.ca!r})"


def read_config_file(path: Path) -> Partial | None:
    """Read the user's TOML file. Return None if it does not exist. A relative ``ca`` is relative to the file.

    Raises:
        ConfigError: the file is unreadable, malformed, incomplete, or has a token that other users may read.
    """
    opened = _read_settings(path)
    if opened is None:
        return None
    text, mode = opened
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # The error contains only the position: the line may have the token.
        place = str(error).partition("(at ")[2].rstrip(")") or "an unknown place"
        raise ConfigError(f"{path} is not valid TOML (at {place}): correct the file.") from None
    values = _check_values(path, content)
    if values.get("token") is not None:
        _check_private(path, mode)
    if values.get("edge") is None and values:
        raise ConfigError(f'{path} has {" and ".join(values)} but no edge: add a line edge = "host:port".')
    ca = values.get("ca")
    return Partial(
        source=str(path),
        edge=values.get("edge"),
        token=values.get("token"),
        ca=path.parent / expand_home(ca, f"{path}: ca") if ca else None,
    )


def read_client_env(path: Path) -> Partial | None:
    """Read the file that an edge on this machine wrote for its clients. Return None if it does not exist.

    Raises:
        ConfigError: the file is unreadable, damaged, or other users may read it.
    """
    opened = _read_settings(path)
    if opened is None:
        return None
    text, mode = opened
    _check_private(path, mode)
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line or line.startswith("#"):
            continue
        name, separator, value = line.partition("=")
        key = _VARIABLES.get(name)
        if not separator or not value or key is None or key in values:
            raise _damaged(path, f"line {number} was not written by an edge")
        values[key] = value
    if "edge" not in values or "token" not in values:
        raise _damaged(path, "it names no edge or no token")
    ca = values.get("ca")
    if ca is not None and not Path(ca).is_absolute():
        raise _damaged(path, "its QUICTUNNEL_CA is not an absolute path")
    return Partial(source=str(path), edge=values["edge"], token=values["token"], ca=Path(ca) if ca else None)


def read_private_line(path: Path) -> str | None:
    """Read a file with one secret. Return None if it does not exist.

    Raises:
        ConfigError: the file is unreadable, or other users may read it.
    """
    opened = _read_settings(path)
    if opened is None:
        return None
    text, mode = opened
    _check_private(path, mode)
    return text.strip()


def read_token_file(path: Path) -> str:
    """Read a token from a file with one line.

    The file's mode is not checked: container platforms mount secrets with mode 0444, and the user named this file.

    Raises:
        ConfigError: the file is missing, unreadable or empty.
    """
    what = f"The token file {_printable_path(path)}"
    token = _decode(_require(path, MAX_SETTINGS, what), what).strip()
    if not token:
        raise ConfigError(f"{what} is empty: write the edge's token into it.")
    return token


def read_authority(path: Path, source: str) -> None:
    """Check that a file has a PEM certificate, so that the error appears before a handshake.

    Raises:
        ConfigError: the file is unreadable or has no PEM certificate.
    """
    what = f"The authority {_printable_path(path)} (from {source})"
    if _PEM not in _require(path, MAX_AUTHORITY, what):
        raise ConfigError(f"{what} has no PEM certificate: give the path of the edge's ca.pem.")


def _check_values(path: Path, content: dict[str, object]) -> dict[str, str]:
    values: dict[str, str] = {}
    for key, value in content.items():
        if key not in KEYS:
            raise ConfigError(f"{path} has an unknown key {short_repr(key)}: the keys are {', '.join(KEYS)}.")
        if not isinstance(value, str) or not value:
            raise ConfigError(f'{path}: {key} should be a text in quotes, {key} = "...".')
        values[key] = value
    return values


def _read_settings(path: Path) -> tuple[str, int] | None:
    try:
        content, mode = _read(path, MAX_SETTINGS, str(path))
    except FileNotFoundError:
        return None
    return _decode(content, str(path)), mode


def _read(path: Path, limit: int, what: str) -> tuple[bytes, int]:
    """Return content and mode of a file. The mode is of the open file, so it cannot be replaced in between.

    Raises:
        FileNotFoundError: the file does not exist.
        ConfigError: the file is unreadable or larger than ``limit`` bytes.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(limit + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "not a usable path"
        raise ConfigError(f"{what} cannot be read ({why}): make it a file that this user can read.") from None
    if len(content) > limit:
        raise ConfigError(f"{what} is larger than {limit // KIB} KiB: this is some other file.")
    return content, mode


def _require(path: Path, limit: int, what: str) -> bytes:
    try:
        return _read(path, limit, what)[0]
    except FileNotFoundError:
        raise ConfigError(f"{what} does not exist: correct the path.") from None


def _printable_path(path: Path) -> str:
    """Return a path for an error message, escaped if it has unprintable characters."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


def _decode(content: bytes, what: str) -> str:
    try:
        return content.decode("utf-8-sig")  # some Windows editors write a byte order mark
    except UnicodeDecodeError:
        is_utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        encoding = "UTF-16, as PowerShell's > writes it" if is_utf_16 else "not UTF-8 text"
        raise ConfigError(f"{what} is {encoding}: save it as UTF-8.") from None


def _check_private(path: Path, mode: int) -> None:
    """Raise ConfigError if other users may read a file with a token, as for an SSH key. Windows has no file
    modes."""
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise ConfigError(
            f"{path} holds a token and others may read it: run `chmod 600 {shlex.quote(str(path))}`."
        )


def _damaged(path: Path, why: str) -> ConfigError:
    return ConfigError(f"{path} is damaged ({why}): delete it and start the edge again.")
