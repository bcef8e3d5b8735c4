"""Where files are kept on each platform."""

from __future__ import annotations

from pathlib import Path

import pytest

from quictunnel.config.client_config import default_state_dir
from quictunnel.shared.paths import default_client_env, default_config_file

POSIX_HOME = {"HOME": "/home/me"}


@pytest.mark.parametrize(
    ("environ", "platform", "state", "config"),
    [
        (POSIX_HOME, "linux", "/home/me/.local/state/quictunnel", "/home/me/.config/quictunnel/config.toml"),
        (
            {**POSIX_HOME, "XDG_STATE_HOME": "/s", "XDG_CONFIG_HOME": "/c"},
            "linux",
            "/s/quictunnel",
            "/c/quictunnel/config.toml",
        ),
        (
            {**POSIX_HOME, "XDG_STATE_HOME": "relative", "XDG_CONFIG_HOME": ""},
            "linux",
            "/home/me/.local/state/quictunnel",
            "/home/me/.config/quictunnel/config.toml",
        ),
        (
            {**POSIX_HOME, "XDG_STATE_HOME": "/s"},
            "darwin",
            "/home/me/Library/Application Support/quictunnel",
            "/home/me/Library/Application Support/quictunnel/config.toml",
        ),
        (
            {"USERPROFILE": "/u", "LOCALAPPDATA": "/local", "APPDATA": "/roaming"},
            "win32",
            "/local/quictunnel",
            "/roaming/quictunnel/config.toml",
        ),
        (
            {"USERPROFILE": "/u"},
            "win32",
            "/u/AppData/Local/quictunnel",
            "/u/AppData/Roaming/quictunnel/config.toml",
        ),
    ],
)
def test_places(environ: dict[str, str], platform: str, state: str, config: str) -> None:
    assert default_state_dir(environ, platform=platform) == Path(state)
    assert default_client_env(environ, platform=platform) == Path(state) / "client.env"
    assert default_config_file(environ, platform=platform) == Path(config)


def test_without_home_the_user_database_knows() -> None:
    assert default_state_dir({}, platform="linux").is_absolute()
