"""Tests of the file locations on each platform."""

from __future__ import annotations

import sys
from pathlib import Path

import platformdirs
import pytest
from platformdirs.macos import MacOS
from platformdirs.unix import Unix
from platformdirs.windows import Windows

from quictunnel.errors import ConfigError
from quictunnel.shared.paths import default_client_env, default_config_file, default_state_dir

KINDS = {"linux": Unix, "darwin": MacOS, "win32": Windows}
VARIABLES = ("HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """A function that makes this a machine of a platform, with an environment."""

    def become(platform: str, environ: dict[str, str]) -> None:
        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.setattr(platformdirs, "PlatformDirs", KINDS[platform])
        for variable in VARIABLES:
            monkeypatch.delenv(variable, raising=False)
        for variable, value in environ.items():
            monkeypatch.setenv(variable, value)

    return become


APPLICATION_SUPPORT = "/home/me/Library/Application Support/quictunnel"


@pytest.mark.parametrize(
    ("platform", "environ", "state", "config"),
    [
        ("linux", {}, "/home/me/.local/state/quictunnel", "/home/me/.config/quictunnel/config.toml"),
        (
            "linux",
            {"XDG_STATE_HOME": "/s", "XDG_CONFIG_HOME": "/c"},
            "/s/quictunnel",
            "/c/quictunnel/config.toml",
        ),
        (
            "linux",
            {"XDG_STATE_HOME": "relative", "XDG_CONFIG_HOME": ""},
            "/home/me/.local/state/quictunnel",
            "/home/me/.config/quictunnel/config.toml",
        ),
        ("darwin", {}, APPLICATION_SUPPORT, f"{APPLICATION_SUPPORT}/config.toml"),
        ("darwin", {"XDG_STATE_HOME": "/s"}, "/s/quictunnel", f"{APPLICATION_SUPPORT}/config.toml"),
        (
            "win32",
            {"WIN_PD_OVERRIDE_LOCAL_APPDATA": "C:\\local", "WIN_PD_OVERRIDE_APPDATA": "C:\\roaming"},
            "C:\\local/quictunnel",
            "C:\\roaming/quictunnel/config.toml",
        ),
    ],
)
def test_places(machine, platform: str, environ: dict[str, str], state: str, config: str) -> None:
    machine(platform, {"HOME": "/home/me"} | environ)
    assert default_state_dir() == Path(state)
    assert default_client_env() == Path(state) / "client.env"
    assert default_config_file() == Path(config)


def test_on_macos_files_stay_where_they_were_before_xdg_was_honoured(machine, tmp_path: Path) -> None:
    machine("darwin", {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "s")})
    before = tmp_path / "Library" / "Application Support" / "quictunnel"
    assert default_state_dir() == tmp_path / "s" / "quictunnel"
    before.mkdir(parents=True)
    assert default_state_dir() == before


@pytest.mark.parametrize("environ", [{}, {"HOME": "relative"}])
def test_without_home_the_user_database_knows(machine, environ: dict[str, str]) -> None:
    machine("linux", environ)
    assert default_state_dir().is_absolute()


def test_unknown_home_directory_is_an_error(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine("linux", {})
    monkeypatch.setattr("os.getuid", lambda: 54321)
    with pytest.raises(ConfigError, match="no home directory: set HOME to an absolute path"):
        default_state_dir()
