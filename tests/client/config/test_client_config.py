"""Tests of the client's configuration: the edge, the token, and the message for every wrong value."""

from __future__ import annotations

import codecs
import os
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trustme

from edge_server.cli.commands import main as run_command
from edge_server.config.edge_config import parse
from quictunnel.cli.main import commands
from quictunnel.config import files
from quictunnel.config.client_config import MAX_TOKEN, ClientConfig, Secret, load
from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "tok_0123456789abcdef"
posix_modes = pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")


@dataclass
class UserMachine:
    """A user's machine: an environment and the files that may be there."""

    home: Path
    ca: Path

    def __post_init__(self) -> None:
        self.environ: dict[str, str] = {}
        self.config_file = self.home / ".config/quictunnel/config.toml"
        self.client_env = self.home / ".local/state/quictunnel/client.env"

    def write(self, path: Path, text: str | bytes, mode: int = 0o600) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(mode)
        return path

    def write_env(self, edge: str = "127.0.0.1:4433") -> None:
        self.write(
            self.client_env, f"QUICTUNNEL_EDGE={edge}\nQUICTUNNEL_TOKEN={TOKEN}-env\nQUICTUNNEL_CA={self.ca}\n"
        )

    def load(self, *, edge: str | None = None, ca: Path | None = None, **more: str) -> ClientConfig:
        return load({**self.environ, **more}, edge=edge, ca=ca)

    def refusal(self, **more: str) -> str:
        with pytest.raises(ConfigError) as caught:
            self.load(**more)
        message = str(caught.value)
        assert TOKEN not in message
        assert message.isprintable(), "one line"
        return message


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UserMachine:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for variable in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    ca = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(ca)
    return UserMachine(tmp_path / "home", ca)


# Look-up order


def test_missing_configuration_is_an_error(machine: UserMachine) -> None:
    message = machine.refusal()
    for name in ("QUICTUNNEL_EDGE", "QUICTUNNEL_TOKEN", "QUICTUNNEL_CA", "quictunnel-edge"):
        assert name in message


def test_the_environment_alone(machine: UserMachine) -> None:
    config = machine.load(QUICTUNNEL_EDGE="e:1", QUICTUNNEL_TOKEN=TOKEN, QUICTUNNEL_CA=str(machine.ca))
    assert config == ClientConfig(edge="e:1", token=Secret(TOKEN), ca=machine.ca, engine="auto")
    assert config.address == ("e", 1)


def test_without_an_authority_the_systems_store_is_meant(machine: UserMachine) -> None:
    assert machine.load(QUICTUNNEL_EDGE="e:1", QUICTUNNEL_TOKEN=TOKEN).ca is None


def test_when_the_environment_names_the_edge_no_file_is_read(machine: UserMachine) -> None:
    """A container with somebody else's broken or unreadable home still works."""
    machine.write(machine.config_file, b"\xff\x00 not toml")
    machine.write(machine.client_env, b"\xff")
    assert machine.load(QUICTUNNEL_EDGE="e:1", QUICTUNNEL_TOKEN=TOKEN).edge == "e:1"


def test_a_token_is_never_sent_to_an_edge_it_was_not_written_down_for(machine: UserMachine) -> None:
    machine.write(machine.config_file, f'edge = "mine:1"\ntoken = "{TOKEN}"\n')
    machine.write_env()
    message = machine.refusal(QUICTUNNEL_EDGE="other:1")
    assert "'other:1'" in message
    assert "QUICTUNNEL_TOKEN" in message


def test_config_file_precedes_local_edge(machine: UserMachine) -> None:
    machine.write(machine.config_file, f'edge = "mine:1"\ntoken = "{TOKEN}"\nca = "../../../ca.pem"\n')
    machine.write_env()
    config = machine.load()
    assert (config.edge, config.token) == ("mine:1", Secret(TOKEN))
    assert config.ca is not None
    assert config.ca.resolve() == machine.ca.resolve(), "relative to the file"


def test_the_environment_overrides_single_values_of_the_config_file(machine: UserMachine) -> None:
    machine.write(machine.config_file, f'edge = "mine:1"\ntoken = "{TOKEN}"\n')
    config = machine.load(QUICTUNNEL_TOKEN="other", QUICTUNNEL_CA=str(machine.ca))
    assert config == ClientConfig(edge="mine:1", token=Secret("other"), ca=machine.ca)


def test_a_local_edge_is_found(machine: UserMachine) -> None:
    machine.write_env("[::1]:4433")
    config = machine.load()
    assert config == ClientConfig(edge="[::1]:4433", token=Secret(f"{TOKEN}-env"), ca=machine.ca)


def test_an_empty_config_file_says_nothing(machine: UserMachine) -> None:
    machine.write(machine.config_file, "# later\n", 0o644)
    machine.write_env()
    assert machine.load().edge == "127.0.0.1:4433"


@pytest.mark.parametrize("name", ["QUICTUNNEL_TOKEN", "QUICTUNNEL_CA"])
def test_half_an_environment_is_not_mixed_with_a_local_edge(machine: UserMachine, name: str) -> None:
    machine.write_env()
    message = machine.refusal(**{name: str(machine.ca)})
    assert message.startswith(name)
    assert " is set but no edge" in message


def test_empty_variables_count_as_unset(machine: UserMachine) -> None:
    machine.write_env()
    config = machine.load(QUICTUNNEL_EDGE="", QUICTUNNEL_TOKEN="", QUICTUNNEL_CA="", QUICTUNNEL_ENGINE="")
    assert (config.edge, config.engine) == ("127.0.0.1:4433", "auto")


def test_command_line_precedes_environment(machine: UserMachine) -> None:
    config = machine.load(edge="cli:1", ca=machine.ca, QUICTUNNEL_EDGE="e:1", QUICTUNNEL_TOKEN=TOKEN)
    assert config == ClientConfig(edge="cli:1", token=Secret(TOKEN), ca=machine.ca)
    with pytest.raises(
        ConfigError, match=r"^The command line names the edge 'cli:1' but no token: give --token-file"
    ):
        machine.load(edge="cli:1")


def test_token_file_precedes_environment_and_may_be_public(machine: UserMachine) -> None:
    path = machine.write(machine.home / "secret", f"{TOKEN}\n", 0o444)
    config = load({"QUICTUNNEL_EDGE": "e:1", "QUICTUNNEL_TOKEN": "env"}, token_file=path)
    assert config.token.reveal() == TOKEN


@pytest.mark.parametrize(("content", "why"), [(None, "does not exist"), ("\n", "is empty"), (b"\xff", "UTF-8")])
def test_bad_token_files(machine: UserMachine, content: str | bytes | None, why: str) -> None:
    path = machine.home / "secret"
    if content is not None:
        machine.write(path, content)
    with pytest.raises(ConfigError, match=why) as caught:
        load({"QUICTUNNEL_EDGE": "e:1"}, token_file=path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("engine", ["auto", "native", "aioquic"])
def test_engines(machine: UserMachine, engine: str) -> None:
    assert machine.load(QUICTUNNEL_EDGE="e:1", QUICTUNNEL_TOKEN=TOKEN, QUICTUNNEL_ENGINE=engine).engine == engine


# What is wrong is refused, by name


def test_unknown_engine(machine: UserMachine) -> None:
    message = machine.refusal(QUICTUNNEL_EDGE="e:1", QUICTUNNEL_TOKEN=TOKEN, QUICTUNNEL_ENGINE="quinn")
    assert message == "QUICTUNNEL_ENGINE should be one of auto, native, aioquic, not 'quinn'."


@pytest.mark.parametrize("congestion", ["auto", "bbr", "cubic"])
def test_the_congestion_control_is_the_environments(machine, congestion):
    found = machine.load(QUICTUNNEL_EDGE="e:1", QUICTUNNEL_TOKEN=TOKEN, QUICTUNNEL_CONGESTION=congestion)
    assert found.congestion == congestion
    message = machine.refusal(QUICTUNNEL_EDGE="e:1", QUICTUNNEL_TOKEN=TOKEN, QUICTUNNEL_CONGESTION="reno")
    assert message == "QUICTUNNEL_CONGESTION should be one of auto, bbr, cubic, not 'reno'."


@pytest.mark.parametrize(
    ("token", "why"),
    [(f"{TOKEN} ", "space"), (f"{TOKEN}\n", "space"), (f"{TOKEN}é", "ASCII"), (TOKEN * 100, str(MAX_TOKEN))],
)
def test_malformed_tokens_are_not_shown(machine: UserMachine, token: str, why: str) -> None:
    assert why in machine.refusal(QUICTUNNEL_EDGE="e:1", QUICTUNNEL_TOKEN=token)


def test_the_longest_token(machine: UserMachine) -> None:
    token = "x" * MAX_TOKEN
    assert machine.load(QUICTUNNEL_EDGE="e:1", QUICTUNNEL_TOKEN=token).token.reveal() == token


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (f'edge = "mine:1"\ntoken = {TOKEN}\n', "is not valid TOML (at line 2, column 9)"),
        (f'edge = "mine:1"\ntoken = "{TOKEN}', "is not valid TOML (at end of document)"),
        (f'edge = "mine:1"\ntokn = "{TOKEN}"\n', "unknown key 'tokn': the keys are edge, token, ca"),
        (f'"{"k" * 5000}" = "{TOKEN}"\n', "unknown key 'kkk"),
        ("edge = 4433\n", "edge should be a text in quotes"),
        ('edge = ""\n', "edge should be a text in quotes"),
        (f'token = "{TOKEN}"\n', "token but no edge"),
        ('edge = "mine"\ntoken = "x"\n', "the port is missing"),
        ('edge = "mine:1"\n', "but no token"),
        (f'edge = "mine:1"\ntoken = "{TOKEN}"\nca = "gone.pem"\n', "gone.pem"),
        (b'edge = "\xff"\n', "UTF-8"),
        (b"#" * (files.MAX_SETTINGS + 1), "larger than 64 KiB"),
    ],
)
def test_malformed_config_files(machine: UserMachine, content: str | bytes, why: str) -> None:
    machine.write(machine.config_file, content)
    message = machine.refusal()
    assert str(machine.config_file) in message
    assert why in message


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_files_of_windows_editors(machine: UserMachine, mark: bytes, tmp_path: Path) -> None:
    """A byte order mark in front, and lines that end with two characters."""
    machine.ca.write_bytes(mark + machine.ca.read_bytes())
    text = f'edge = "mine:1"\r\nca = "{machine.ca}"\r\n'
    machine.write(machine.config_file, mark + text.encode())
    token = machine.write(tmp_path / "token", mark + TOKEN.encode() + b"\r\n")
    found = load(machine.environ, token_file=token)
    assert (found.edge, found.token.reveal(), found.ca) == ("mine:1", TOKEN, machine.ca)
    machine.config_file.unlink()
    machine.write(machine.client_env, mark + f"QUICTUNNEL_EDGE=e:1\r\nQUICTUNNEL_TOKEN={TOKEN}\r\n".encode())
    assert machine.load().token.reveal() == TOKEN


def test_utf16_file_of_powershell_is_recognised(machine: UserMachine) -> None:
    machine.write(machine.config_file, 'edge = "mine:1"'.encode("utf-16"))
    assert "UTF-16, as PowerShell's > writes it: save it as UTF-8" in machine.refusal()


class TestAUserWithoutAHome:
    @pytest.fixture(autouse=True)
    def _nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As with ``docker run -u 54321``: neither a variable nor the user database knows."""
        monkeypatch.delenv("HOME", raising=False)
        monkeypatch.setattr(os, "getuid", lambda: 54321)

    def test_nothing_is_configured(self) -> None:
        with pytest.raises(ConfigError, match=r"No edge is configured.*no home directory"):
            load({})

    def test_the_environment_is_enough(self) -> None:
        environ = {"QUICTUNNEL_EDGE": "mine:1", "QUICTUNNEL_TOKEN": TOKEN}
        assert load(environ).edge == "mine:1"

    @pytest.mark.parametrize("variable", ["QUICTUNNEL_CA", "QUICTUNNEL_QLOG"])
    def test_unexpanded_tilde_is_reported(self, variable: str) -> None:
        environ = {"QUICTUNNEL_EDGE": "mine:1", "QUICTUNNEL_TOKEN": TOKEN, variable: "~/file"}
        with pytest.raises(ConfigError, match=f"{variable} begins with ~"):
            load(environ)

    def test_the_edge(self) -> None:
        with pytest.raises(ConfigError, match=r"no home directory.*--state-dir"):
            parse([])
        with pytest.raises(ConfigError, match="--state-dir begins with ~"):
            parse(["--state-dir", "~/edge"])

    def test_the_commands_beside_the_edge(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run_command(["token", "list"]) == 2
        assert "--state-dir" in capsys.readouterr().err
        assert run_command(["health", "--state-dir", str(tmp_path)]) == 1


def test_a_tilde_stands_for_the_home(machine: UserMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(machine.ca.parent))
    environ = {"QUICTUNNEL_EDGE": "mine:1", "QUICTUNNEL_TOKEN": TOKEN}
    assert machine.load(**environ, QUICTUNNEL_CA="~/ca.pem").ca == machine.ca
    assert commands.load("http").make_context("http", ["1", "--ca=~/ca.pem"]).params["ca"] == machine.ca


def test_the_largest_config_file(machine: UserMachine) -> None:
    text = f'edge = "mine:1"\ntoken = "{TOKEN}"\n'
    machine.write(machine.config_file, text + "#" * (files.MAX_SETTINGS - len(text)))
    assert machine.load().edge == "mine:1"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"QUICTUNNEL_EDGE=e:1\n",
        b"QUICTUNNEL_TOKEN=t\n",
        b"QUICTUNNEL_EDGE=e:1\nQUICTUNNEL_EDGE=f:1\nQUICTUNNEL_TOKEN=t\n",
        b"QUICTUNNEL_EDGE=e:1\nQUICTUNNEL_TOKEN=t\nPATH=/bin\n",
        b"QUICTUNNEL_EDGE=e:1\nQUICTUNNEL_TOKEN=\n",
        b"QUICTUNNEL_EDGE=e:1\nQUICTUNNEL_TOKEN=t\nQUICTUNNEL_CA=relative.pem\n",
        b"export QUICTUNNEL_EDGE=e:1\nQUICTUNNEL_TOKEN=t\n",
        b"QUICTUNNEL_EDGE e:1\n",
    ],
)
def test_damaged_client_env(machine: UserMachine, content: bytes) -> None:
    machine.write(machine.client_env, content)
    message = machine.refusal()
    assert f"{machine.client_env} is damaged" in message
    assert "start the edge again" in message


@posix_modes
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o644])
def test_a_file_with_a_token_is_its_owners_alone(machine: UserMachine, mode: int) -> None:
    machine.write_env()
    machine.client_env.chmod(mode)
    assert f"chmod 600 {machine.client_env}" in machine.refusal()
    machine.write(machine.config_file, f'edge = "mine:1"\ntoken = "{TOKEN}"\n', mode)
    assert f"chmod 600 {machine.config_file}" in machine.refusal()


@posix_modes
def test_a_config_file_without_a_token_may_be_read_by_all(machine: UserMachine) -> None:
    machine.write(machine.config_file, 'edge = "mine:1"\n', 0o644)
    assert machine.load(QUICTUNNEL_TOKEN=TOKEN).edge == "mine:1"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_config_file(machine: UserMachine) -> None:
    machine.write(machine.config_file, 'edge = "mine:1"\n', 0o000)
    assert "cannot be read (Permission denied)" in machine.refusal()


def test_a_directory_in_place_of_a_file(machine: UserMachine) -> None:
    machine.config_file.mkdir(parents=True)
    message = machine.refusal()
    assert str(machine.config_file) in message
    assert "cannot be read" in message


@pytest.mark.parametrize(
    ("content", "why"), [(None, "does not exist"), (b"", "no PEM"), (b"\x00" * 5_000_000, "larger than")]
)
def test_bad_authorities(machine: UserMachine, content: bytes | None, why: str) -> None:
    path = machine.home / "their.pem"
    if content is not None:
        machine.write(path, content)
    message = machine.refusal(QUICTUNNEL_EDGE="e:1", QUICTUNNEL_TOKEN=TOKEN, QUICTUNNEL_CA=str(path))
    assert why in message
    assert str(path) in message


def test_a_path_that_no_file_can_have(machine: UserMachine) -> None:
    machine.write(machine.config_file, f'edge = "mine:1"\ntoken = "{TOKEN}"\nca = "/a\\u0000\\nb"\n')
    message = machine.refusal()
    assert "cannot be read" in message
    assert str(machine.config_file) in message


# A secret does not show


def test_a_secret_shows_nowhere() -> None:
    config = ClientConfig(edge="e:1", token=Secret(TOKEN))
    for text in (
        repr(config),
        str(config),
        f"{config.token}",
        f"{config.token!s} {config.token!r}",
    ):
        assert TOKEN not in text
    assert TOKEN not in repr(files.Partial("x", token=TOKEN))
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(config)


def test_secrets_compare_by_value() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1
    assert Secret("é") != Secret("e")


@pytest.mark.parametrize(("edge", "token"), [("e", "t"), ("e:1", "")])
def test_existing_config_has_to_be_well_formed(edge: str, token: str) -> None:
    with pytest.raises(ConfigError):
        ClientConfig(edge=edge, token=Secret(token))
