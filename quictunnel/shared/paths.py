"""Locations of files on each platform, for client and edge, by the conventions of platformdirs.

This module only computes paths; it creates and checks nothing. The directories:

- state: ``~/.local/state/quictunnel``, on macOS ``~/Library/Application Support/quictunnel``, on Windows
  ``%LOCALAPPDATA%\\quictunnel``;
- configuration: ``~/.config/quictunnel``, on macOS the same as for state, on Windows ``%APPDATA%\\quictunnel``.

On Linux and macOS an absolute ``$XDG_STATE_HOME`` or ``$XDG_CONFIG_HOME`` replaces the parent directory.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from quictunnel.errors import ConfigError
from quictunnel.shared.lazy_imports import import_module

APP = "quictunnel"
CLIENT_ENV = "client.env"
"""Name of the file in an edge's state directory with address, token and authority for clients on the same
machine."""


def expand_home(path: str | os.PathLike[str], what: str) -> Path:
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


def default_state_dir() -> Path:
    """Return the default directory for an edge's certificate authority, keys and ``client.env``.

    Raises:
        ConfigError: the user has no home directory.
    """
    return _user_dir("user_state_path")


def default_config_file() -> Path:
    """Return the path of the user's config file. Raises ConfigError where the user has no home directory."""
    return _user_dir("user_config_path", roaming=True) / "config.toml"


def default_client_env() -> Path:
    """Return the path of the file that an edge of this user, run without ``--state-dir``, writes for its
    clients. Raises ConfigError where the user has no home directory."""
    return default_state_dir() / CLIENT_ENV


def default_runtime_dir() -> Path:
    """Return the directory of the status sockets of this user's running clients.

    ``$XDG_RUNTIME_DIR/quictunnel`` (if that is not set, as in many containers, ``/tmp/quictunnel-UID``), on macOS
    ``$TMPDIR/quictunnel``, which belongs to the user there, on Windows ``%LOCALAPPDATA%\\quictunnel\\run``. Not
    platformdirs': its directories on macOS and without the variable are too long for the path of a Unix socket,
    which is limited to 104 bytes.
    """
    if sys.platform == "win32":
        return default_state_dir() / "run"
    directory = Path(os.environ.get("TMPDIR" if sys.platform == "darwin" else "XDG_RUNTIME_DIR", ""))
    if directory.is_absolute():
        return directory / APP
    return Path("/tmp") / f"{APP}-{os.geteuid()}"  # noqa: S108 - owner and mode are checked before use


def _user_dir(name: str, *, roaming: bool = False) -> Path:
    """Return a directory of platformdirs', which is imported here because most commands need none."""
    directories = import_module("platformdirs").PlatformDirs(APP, appauthor=False, roaming=roaming)
    try:
        path: Path = getattr(directories, name)
        # Until 0.2: before platformdirs, $XDG_STATE_HOME and $XDG_CONFIG_HOME meant nothing on macOS.
        before = Path("~/Library/Application Support", APP).expanduser() if sys.platform == "darwin" else path
    except (RuntimeError, OSError):
        raise ConfigError("This user has no home directory: set HOME to an absolute path.") from None
    return before if before.exists() else path
