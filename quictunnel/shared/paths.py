"""Where files are kept on each platform. The one module that knows; client and edge both ask here.

Only paths are computed: nothing is read, made or checked. The environment and the platform are arguments.
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
    """Return a path as a user may have written it, with the home directory in place of a ``~`` that no shell has
    replaced. ``what`` names it in an error. Raises ConfigError when there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{what} begins with ~, but there is no such home directory: write the path in full."
        ) from None


def default_state_dir(environ: Mapping[str, str] | None = None, *, platform: str = sys.platform) -> Path:
    """Where an edge keeps its authority, its keys and ``client.env`` unless it is told otherwise.

    ``$XDG_STATE_HOME/quictunnel`` (``~/.local/state/quictunnel``), on macOS ``~/Library/Application
    Support/quictunnel``, on Windows ``%LOCALAPPDATA%\\quictunnel``.
    """
    return _base(
        environ, platform, xdg=("XDG_STATE_HOME", ".local/state"), windows=("LOCALAPPDATA", "AppData/Local")
    )


def default_config_file(environ: Mapping[str, str] | None = None, *, platform: str = sys.platform) -> Path:
    """The user's own settings: ``$XDG_CONFIG_HOME/quictunnel/config.toml`` (``~/.config/...``), on macOS
    ``~/Library/Application Support/quictunnel/config.toml``, on Windows
    ``%APPDATA%\\quictunnel\\config.toml``."""
    base = _base(environ, platform, xdg=("XDG_CONFIG_HOME", ".config"), windows=("APPDATA", "AppData/Roaming"))
    return base / "config.toml"


def default_client_env(environ: Mapping[str, str] | None = None, *, platform: str = sys.platform) -> Path:
    """What an edge on this machine, run by this user without a ``--state-dir``, leaves for its clients."""
    return default_state_dir(environ, platform=platform) / CLIENT_ENV


def default_runtime_dir(environ: Mapping[str, str] | None = None, *, platform: str = sys.platform) -> Path:
    """Where running clients can be found by their user: ``$XDG_RUNTIME_DIR/quictunnel`` (where there is none, as
    in many containers, ``/tmp/quictunnel-UID``), on macOS ``$TMPDIR/quictunnel``, which is the user's own there,
    on Windows ``%LOCALAPPDATA%\\quictunnel\\run``. Short, because a Unix socket's path may have 104 bytes."""
    environ = os.environ if environ is None else environ
    if platform == "win32":
        return default_state_dir(environ, platform=platform) / "run"
    set_to = Path(environ.get("TMPDIR" if platform == "darwin" else "XDG_RUNTIME_DIR", ""))
    if set_to.is_absolute():
        return set_to / APP
    return Path("/tmp") / f"{APP}-{os.geteuid()}"  # noqa: S108 - its owner and mode are looked at before it is used


def _base(
    environ: Mapping[str, str] | None, platform: str, *, xdg: tuple[str, str], windows: tuple[str, str]
) -> Path:
    environ = os.environ if environ is None else environ
    if platform == "darwin":
        return _home(environ, "HOME") / "Library" / "Application Support" / APP
    variable, below_home = windows if platform == "win32" else xdg
    set_to = Path(environ.get(variable, ""))
    # The XDG base directory specification: a relative path is invalid and must be ignored.
    if set_to.is_absolute():
        return set_to / APP
    return _home(environ, "USERPROFILE" if platform == "win32" else "HOME") / below_home / APP


def _home(environ: Mapping[str, str], variable: str) -> Path:
    home = Path(environ.get(variable, ""))
    if home.is_absolute():
        return home
    try:
        return Path.home()  # a service may run without HOME; the user database still knows
    except RuntimeError:
        raise ConfigError(f"This user has no home directory: set {variable} to an absolute path.") from None
