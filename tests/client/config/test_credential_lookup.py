"""Where a credential comes from (the environment, a stored profile, an argument), and what precedes what."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from quictunnel.client import Client
from quictunnel.config.client_config import ClientConfig, client_config_of, load
from quictunnel.config.credential import Credential
from quictunnel.config.profiles import MAX_PROFILES, Profiles
from quictunnel.config.secret import Secret
from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "qt1.abcdefghijklmnop.secret-of-somebody"  # of nobody
PIN = bytes(range(32))
CREDENTIAL = Credential(("e:1", "f:2"), PIN, Secret(TOKEN))
TEXT = CREDENTIAL.encode()
FOUND = ClientConfig(edge="e:1", more_edges=("f:2",), pin=PIN, token=Secret(TOKEN))
WORK = Credential(("work:1",), b"", Secret("token-of-work"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


@pytest.fixture
def profiles(home: Path) -> Profiles:
    found = Profiles()
    assert found.directory == home / ".config/quictunnel/profiles"
    return found


def write_config(home: Path, edge: str = "mine:1") -> Path:
    path = home / ".config/quictunnel/config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'edge = "{edge}"\ntoken = "of-the-config-file"\n')
    path.chmod(0o600)
    return path


def refusal(environ: dict[str, str], **arguments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(environ, **arguments)  # type: ignore[arg-type]  # keywords by name
    message = str(caught.value)
    assert message.isprintable()
    assert TOKEN not in message
    assert TEXT not in message
    return message


def test_the_variable_is_enough(home):
    found = load({"QUICTUNNEL_CREDENTIAL": f"{TEXT}\n"})
    assert found == FOUND
    assert found.source == "QUICTUNNEL_CREDENTIAL"


def test_a_credential_is_accepted_wherever_a_token_is(home, tmp_path):
    """So that scripts which pass on what ``token create`` prints need no change."""
    file = tmp_path / "token"
    file.write_text(f"{TEXT}\n")
    assert load({"QUICTUNNEL_TOKEN": TEXT}) == FOUND
    alone = ClientConfig(edge="other:1", token=Secret(TOKEN), pin=PIN)
    assert load({"QUICTUNNEL_EDGE": "other:1", "QUICTUNNEL_TOKEN": TEXT}) == alone
    assert load({"QUICTUNNEL_EDGE": "other:1"}, token_file=file) == alone
    assert Client("other:1", token=TEXT).config == alone


@pytest.mark.parametrize(
    "other",
    [
        {"QUICTUNNEL_EDGE": "e:1"},
        {"QUICTUNNEL_EDGE": "f:2", "QUICTUNNEL_TOKEN": TOKEN},
        {"QUICTUNNEL_TOKEN": TOKEN},
        {"QUICTUNNEL_TOKEN": TEXT},
    ],
)
def test_variables_that_agree(home, other):
    assert load({"QUICTUNNEL_CREDENTIAL": TEXT} | other) == FOUND


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ({"QUICTUNNEL_EDGE": "g:1"}, "QUICTUNNEL_EDGE"),
        ({"QUICTUNNEL_TOKEN": "other"}, "QUICTUNNEL_TOKEN"),
        ({"QUICTUNNEL_EDGE": "e:1", "QUICTUNNEL_TOKEN": "other"}, "QUICTUNNEL_TOKEN"),
    ],
)
def test_variables_that_differ(home, other, name):
    message = refusal({"QUICTUNNEL_CREDENTIAL": TEXT} | other)
    assert f"QUICTUNNEL_CREDENTIAL and {name} are both set and differ" in message


def test_a_damaged_variable_is_named(home):
    assert refusal({"QUICTUNNEL_CREDENTIAL": TEXT[:-9]}).startswith("QUICTUNNEL_CREDENTIAL is cut off")
    assert refusal({"QUICTUNNEL_TOKEN": TEXT[:-9]}).startswith("QUICTUNNEL_TOKEN is cut off")


def test_an_edge_of_the_command_line_gets_the_credential_only_if_it_is_its_own(home):
    found = load({"QUICTUNNEL_CREDENTIAL": TEXT}, edge="f:2")
    assert found == ClientConfig(edge="f:2", token=Secret(TOKEN), pin=PIN)
    assert found.source == "the command line"
    assert "no token" in refusal({"QUICTUNNEL_CREDENTIAL": TEXT}, edge="other:1")


def test_an_authority_of_the_command_line_replaces_the_pin(home, tmp_path):
    authority = tmp_path / "ca.pem"
    authority.write_text("-----BEGIN CERTIFICATE-----")
    found = load({"QUICTUNNEL_CREDENTIAL": TEXT}, ca=authority)
    assert (found.pin, found.ca) == (b"", authority)


def test_the_default_profile(profiles):
    profiles.write("default", CREDENTIAL)
    assert load({}) == FOUND
    assert load({}).source == "the profile default"


def test_profiles_by_name(profiles):
    profiles.write("default", CREDENTIAL)
    profiles.write("work", WORK)
    expected = ClientConfig(edge="work:1", token=Secret("token-of-work"))
    assert load({"QUICTUNNEL_PROFILE": "work"}) == expected
    assert load({}, profile="work") == Client(profile="work").config == expected
    assert load({"QUICTUNNEL_EDGE": "e:1"}, profile="work") == expected, "the command line wins"


def test_a_profile_that_does_not_exist(profiles):
    profiles.write("work", WORK)
    message = refusal({}, profile="wrok")
    assert "no profile 'wrok'" in message
    assert "there are: work" in message
    assert "no profile 'home'" in refusal({"QUICTUNNEL_PROFILE": "home"})
    assert "No edge is configured" in refusal({}, profile="default")


def test_order_of_the_files(home, profiles):
    write_config(home)
    assert load({}).edge == "mine:1"
    profiles.write("default", CREDENTIAL)
    assert load({}) == FOUND
    assert load({"QUICTUNNEL_EDGE": "g:1", "QUICTUNNEL_TOKEN": "t"}).edge == "g:1"


@pytest.mark.parametrize("name", ["QUICTUNNEL_TOKEN", "QUICTUNNEL_CA"])
def test_a_profile_is_complete(profiles, name):
    profiles.write("default", CREDENTIAL)
    message = refusal({name: "other"})
    assert name in message
    assert "the profile default" in message


def test_a_profile_and_an_edge_of_the_environment(profiles):
    profiles.write("work", WORK)
    environ = {"QUICTUNNEL_PROFILE": "work", "QUICTUNNEL_CREDENTIAL": TEXT}
    assert "QUICTUNNEL_PROFILE and an edge in the environment (e:1) are both set" in refusal(environ)
    assert "--profile or the others" in refusal({}, profile="work", edge="e:1")


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_a_profile_is_its_owners_alone(profiles):
    path = profiles.write("work", WORK)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(profiles.directory.stat().st_mode) == 0o700
    path.chmod(0o644)
    assert f"chmod 600 {path}" in refusal({}, profile="work")


def test_a_damaged_profile_is_named(profiles):
    path = profiles.write("work", WORK)
    path.write_text(TEXT[:50])
    assert f"The credential in {path} is cut off" in refusal({}, profile="work")


@pytest.mark.parametrize("name", ["", "../work", "Work", "a b", "-", ".", "a" * 33, "ä", "a/b"])
def test_names_that_no_profile_has(profiles, name):
    with pytest.raises(ConfigError, match="The name of a profile"):
        profiles.write(name, WORK)


def test_names_are_listed_and_removed(profiles):
    assert profiles.names() == []
    for name in ("work", "a", "a" * 32):
        profiles.write(name, WORK)
    (profiles.directory / "notes.txt").write_text("something else")
    assert profiles.names() == ["a", "a" * 32, "work"]
    assert profiles.remove("work")
    assert not profiles.remove("work")
    assert profiles.read("work") is None


def test_the_most_profiles(profiles):
    for number in range(MAX_PROFILES):
        profiles.write(f"p{number}", WORK)
    profiles.write("p7", CREDENTIAL)
    with pytest.raises(ConfigError, match=f"{MAX_PROFILES} profiles already"):
        profiles.write("one-more", WORK)


def test_a_folder_that_cannot_be_written(profiles):
    profiles.directory.parent.mkdir(parents=True)
    profiles.directory.write_text("a file")
    with pytest.raises(ConfigError, match="cannot be written"):
        profiles.write("work", WORK)


def test_a_program_states_one_way(home):
    assert Client(credential=TEXT).config == FOUND
    for arguments in ({}, {"edge": "e:1", "profile": "p"}, {"token": "t"}, {"credential": TEXT, "token": "t"}):
        with pytest.raises(ConfigError, match="either edge and token, or a profile, or a credential"):
            client_config_of(**arguments)  # type: ignore[arg-type]  # keywords by name
    with pytest.raises(ConfigError, match="needs a token"):
        Client("e:1")


def test_secrets_are_not_shown(home):
    shown = repr(load({"QUICTUNNEL_CREDENTIAL": TEXT}))
    assert TOKEN not in shown
    assert TEXT not in shown
