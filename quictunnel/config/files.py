"""Reading the files that configuration comes from, strictly: every fault is one ConfigError that names the
file and says what to do. Which file wins is not decided here (``config``)."""

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
from quictunnel.shared.address import shown
from quictunnel.shared.paths import expanded

KIB: Final = 1024
MAX_SETTINGS: Final = 64 * KIB
"""Bytes of a settings or token file; a real one has a few hundred, and one that is larger is another file."""
MAX_AUTHORITY: Final = 4096 * KIB
"""Bytes of a certificate bundle; a system's whole store has 200 to 300 KiB."""

KEYS: Final = ("edge", "token", "ca")
_VARIABLES: Final = {f"QUICTUNNEL_{key.upper()}": key for key in KEYS}
_PEM: Final = b"-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class Partial:
    """What one source says; None where it says nothing."""

    origin: str
    """Where it came from, as an error names it."""
    edge: str | None = None
    token: str | None = None
    ca: Path | None = None

    def __repr__(self) -> str:
        return f"Partial({self.origin!r}, edge={self.edge!r}, ca={self.ca!r})"


def read_config_file(path: Path) -> Partial | None:
    """The user's TOML file; None when there is none. A relative ``ca`` is relative to the file."""
    opened = _read_settings(path)
    if opened is None:
        return None
    text, mode = opened
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # Only the place is quoted: the line may hold the token.
        place = str(error).partition("(at ")[2].rstrip(")") or "an unknown place"
        raise ConfigError(f"{path} is not valid TOML (at {place}): correct the file.") from None
    values = _checked(path, content)
    if values.get("token") is not None:
        _check_private(path, mode)
    if values.get("edge") is None and values:
        raise ConfigError(f'{path} has {" and ".join(values)} but no edge: add a line edge = "host:port".')
    ca = values.get("ca")
    return Partial(
        origin=str(path),
        edge=values.get("edge"),
        token=values.get("token"),
        ca=path.parent / expanded(ca, f"{path}: ca") if ca else None,
    )


def read_client_env(path: Path) -> Partial | None:
    """What an edge on this machine wrote for its clients; None when there is none."""
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
            raise _stale(path, f"line {number} is not what an edge writes")
        values[key] = value
    if "edge" not in values or "token" not in values:
        raise _stale(path, "it names no edge or no token")
    ca = values.get("ca")
    if ca is not None and not Path(ca).is_absolute():
        raise _stale(path, "its QUICTUNNEL_CA is not an absolute path")
    return Partial(origin=str(path), edge=values["edge"], token=values["token"], ca=Path(ca) if ca else None)


def read_token_file(path: Path) -> str:
    """A token kept in a file of its own, one line. Its mode is not checked: container platforms mount secrets
    readable by all (0444), and the caller named this very file."""
    what = f"The token file {_named(path)}"
    token = _text(_require(path, MAX_SETTINGS, what), what).strip()
    if not token:
        raise ConfigError(f"{what} is empty: write the edge's token into it.")
    return token


def read_authority(path: Path, origin: str) -> None:
    """Check that a certificate authority can be used, before a handshake fails for want of it."""
    what = f"The authority {_named(path)} (from {origin})"
    if _PEM not in _require(path, MAX_AUTHORITY, what):
        raise ConfigError(f"{what} holds no PEM certificate: name the ca.pem that came with the edge.")


def _checked(path: Path, content: dict[str, object]) -> dict[str, str]:
    values: dict[str, str] = {}
    for key, value in content.items():
        if key not in KEYS:
            raise ConfigError(f"{path} has an unknown key {shown(key)}: the keys are {', '.join(KEYS)}.")
        if not isinstance(value, str) or not value:
            raise ConfigError(f'{path}: {key} should be a text in quotes, {key} = "...".')
        values[key] = value
    return values


def _read_settings(path: Path) -> tuple[str, int] | None:
    try:
        content, mode = _read(path, MAX_SETTINGS, str(path))
    except FileNotFoundError:
        return None
    return _text(content, str(path)), mode


def _read(path: Path, limit: int, what: str) -> tuple[bytes, int]:
    """Content and mode of one file, the mode of what was read and not of what lay there before. Raises
    FileNotFoundError for the caller to judge, ConfigError for all else."""
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


def _named(path: Path) -> str:
    """A path as an error names it: as it is, unless it holds what would break the line."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


def _text(content: bytes, what: str) -> str:
    try:
        return content.decode("utf-8-sig")  # Windows' editors begin a file with a mark, which is no part of it
    except UnicodeDecodeError:
        is_utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        encoding = "UTF-16, as PowerShell's > writes it" if is_utf_16 else "not UTF-8 text"
        raise ConfigError(f"{what} is {encoding}: save it as UTF-8.") from None


def _check_private(path: Path, mode: int) -> None:
    """A file with a token is its owner's alone, as for an SSH key. Windows has no such modes."""
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise ConfigError(
            f"{path} holds a token and others may read it: run `chmod 600 {shlex.quote(str(path))}`."
        )


def _stale(path: Path, why: str) -> ConfigError:
    return ConfigError(f"{path} is damaged ({why}): delete it and start the edge again.")
