"""Locations of files on each platform, for client and edge.

This module only computes paths: it reads, creates and checks nothing. Environment and platform are arguments.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

APP = "quictunnel"
CLIENT_ENV = "client.env"
"""Name of the file in an edge's state directory that tells clients on the same machine how to reach it."""


def expanded(path: str | os.PathLike[str], what: str) -> Path:
    """Return a path with a leading ``~`` replaced by the home directory, where no shell has done it.

    Args:
        path: the path as the user wrote it.
        what: name of the value in errors.

    Raises:
        ConfigError: the home directory does not exist.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{what} begins with ~, but there is no such home directory: write the path in full."
        ) from None


def default_state_dir(environ: Mapping[str, str] | None = None, *, platform: str = sys.platform) -> Path:
    """Return the default directory for an edge's certificate authority, keys and ``client.env``.

    ``$XDG_STATE_HOME/quictunnel`` (``~/.local/state/quictunnel``), on macOS ``~/Library/Application
    Support/quictunnel``, on Windows ``%LOCALAPPDATA%\\quictunnel``.
    """
    return _base(
        environ, platform, xdg=("XDG_STATE_HOME", ".local/state"), windows=("LOCALAPPDATA", "AppData/Local")
    )


def default_config_file(environ: Mapping[str, str] | None = None, *, platform: str = sys.platform) -> Path:
    """Return the path of the user's config file: ``$XDG_CONFIG_HOME/quictunnel/config.toml`` (``~/.config/...``),
    on macOS ``~/Library/Application Support/quictunnel/config.toml``, on Windows
    ``%APPDATA%\\quictunnel\\config.toml``."""
    base = _base(environ, platform, xdg=("XDG_CONFIG_HOME", ".config"), windows=("APPDATA", "AppData/Roaming"))
    return base / "config.toml"


def default_client_env(environ: Mapping[str, str] | None = None, *, platform: str = sys.platform) -> Path:
    """Return the path of the file that an edge of this user, run without ``--state-dir``, writes for its
    clients."""
    return default_state_dir(environ, platform=platform) / CLIENT_ENV


def default_runtime_dir(environ: Mapping[str, str] | None = None, *, platform: str = sys.platform) -> Path:
    """Return the directory of the status sockets of this user's running clients.

    ``$XDG_RUNTIME_DIR/quictunnel`` (if that is not set, as in many containers, ``/tmp/quictunnel-UID``), on macOS
    ``$TMPDIR/quictunnel``, which belongs to the user there, on Windows ``%LOCALAPPDATA%\\quictunnel\\run``. The
    path is short, because a Unix socket's path is limited to 104 bytes.
    """
    environ = os.environ if environ is None else environ
    if platform == "win32":
        return default_state_dir(environ, platform=platform) / "run"
    directory = Path(environ.get("TMPDIR" if platform == "darwin" else "XDG_RUNTIME_DIR", ""))
    if directory.is_absolute():
        return directory / APP
    return Path("/tmp") / f"{APP}-{os.geteuid()}"  # noqa: S108 - owner and mode are checked before use


def _base(
    environ: Mapping[str, str] | None, platform: str, *, xdg: tuple[str, str], windows: tuple[str, str]
) -> Path:
    environ = os.environ if environ is None else environ
    if platform == "darwin":
        return _home(environ, "HOME") / "Library" / "Application Support" / APP
    variable, below_home = windows if platform == "win32" else xdg
    directory = Path(environ.get(variable, ""))
    # The XDG base directory specification: a relative path is invalid and must be ignored.
    if directory.is_absolute():
        return directory / APP
    return _home(environ, "USERPROFILE" if platform == "win32" else "HOME") / below_home / APP


def _home(environ: Mapping[str, str], variable: str) -> Path:
    home = Path(environ.get(variable, ""))
    if home.is_absolute():
        return home
    try:
        return Path.home()  # a service may run without HOME; the user database has it
    except RuntimeError:
        raise ConfigError(f"This user has no home directory: set {variable} to an absolute path.") from None
