"""``quictunnel login`` and what follows: tunnels with nothing but a credential, for each engine of the client."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import quictunnel
from quictunnel.config.client_config import load
from quictunnel.config.credential import Credential, decode
from tests.harness.edge_process import start_edge
from tests.harness.programs import free_port
from tests.harness.token_commands import command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness.edge_process import EdgeProcess

ROOT = Path(__file__).parents[3]
QUICTUNNEL = [sys.executable, "-m", "quictunnel"]


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeProcess]:
    """An edge of this machine, for all tests of this file."""
    edge = start_edge(tmp_path_factory.mktemp("edge") / "state")
    yield edge
    assert edge.stop() == 0


@pytest.fixture(scope="module")
def credential(edge: EdgeProcess) -> str:
    return command(edge, "token", "create", "--note", "login")


@pytest.fixture(params=["native", "aioquic"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment of a user who has configured nothing."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("QUICTUNNEL_", "XDG_"))}
    ours = {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return kept | ours | {"QUICTUNNEL_ENGINE": request.param}


def run(home: dict[str, str], *words: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*QUICTUNNEL, *words], env=home, input=given, capture_output=True, text=True, timeout=60, check=False
    )


def open_tunnel(
    running: Callable[..., subprocess.Popen[str]], home: dict[str, str], *words: str
) -> subprocess.Popen[str]:
    """Return a client whose tunnel is open."""
    process = running(
        [*QUICTUNNEL, "http", str(free_port()), "--json", *words],
        env=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["event"] == "ready"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")


def stored(home: dict[str, str]) -> Path:
    return Path(home["HOME"], ".config/quictunnel/profiles")


@pytest.mark.smoke
def test_login_tunnel_logout(home, credential, running):
    done = run(home, "login", "-", given=f"{credential}\n")
    assert done.returncode == 0, done.stderr
    assert "Logged in to the edge at 127.0.0.1:" in done.stdout
    assert (stored(home) / "default.credential").stat().st_mode & 0o777 == 0o600
    process = open_tunnel(running, home)
    token = decode(credential).token.reveal()
    shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    assert token.encode() not in shown
    end(process)
    for text in (done.stdout, done.stderr, run(home, "profiles").stdout, run(home, "profiles", "--json").stdout):
        assert token not in text
        assert credential not in text
    assert run(home, "logout").returncode == 0
    assert list(stored(home).iterdir()) == []
    assert "No credential is stored as profile default" in run(home, "logout").stderr
    assert "No edge is configured" in run(home, "http", "8000").stderr


def test_a_variable_is_enough_in_a_container(home, credential, running):
    process = open_tunnel(running, home | {"QUICTUNNEL_CREDENTIAL": credential})
    end(process)
    assert list(Path(home["HOME"]).rglob("*.credential")) == []


def test_a_program_gets_no_credential(home, credential):
    port = str(free_port())
    code = f"import os, sys; print(sorted(os.environ)); sys.exit({port} and 3)"
    words = ("run", "--port", port, "--", sys.executable, "-c", code)
    done = run(home | {"QUICTUNNEL_CREDENTIAL": credential}, *words)
    assert "QUICTUNNEL_ENGINE" in done.stdout
    assert "QUICTUNNEL_CREDENTIAL" not in done.stdout


def test_profiles_and_a_program(home, edge, credential, monkeypatch):
    other = command(edge, "token", "create", "--tunnels", "1")
    for name, text in (("default", credential), ("work", other)):
        said = run(home, "login", "--profile", name, "--json", text)
        assert json.loads(said.stdout) | {"profile": name, "checked": True} == json.loads(said.stdout)
    lines = [json.loads(line) for line in run(home, "profiles", "--json").stdout.splitlines()]
    assert [line["profile"] for line in lines] == ["default", "work"]
    for name in ("HOME", "QUICTUNNEL_ENGINE"):
        monkeypatch.setenv(name, home[name])
    with quictunnel.Client(profile="work") as client, quictunnel.forward(free_port(), client=client) as tunnel:
        assert tunnel.url.startswith("https://")
    assert load({"QUICTUNNEL_PROFILE": "work"}).token == decode(other).token
    assert load({}).token == decode(credential).token


def test_the_prompt_shows_nothing(home, credential):
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*QUICTUNNEL, "login"], env=home, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    )
    os.close(slave)
    said = b""
    while b"not shown" not in said:
        said += os.read(master, 1024)
    os.write(master, f"{credential}\n".encode())
    while True:
        try:
            said += os.read(master, 1024)
        except OSError:  # the other end is closed
            break
    os.close(master)
    assert process.wait(30) == 0, said
    assert b"Logged in" in said
    assert credential.encode() not in said


def refused(home: dict[str, str], text: str) -> str:
    done = run(home, "login", "-", given=text)
    assert done.returncode == 2
    assert done.stdout == ""
    assert not stored(home).exists(), "nothing is stored"
    assert text not in done.stderr
    return done.stderr


def test_a_copy_that_is_cut_off(home, credential):
    assert "cut off" in refused(home, credential[:-7])
    assert "has version qt2" in refused(home, f"qt2{credential[3:]}")
    assert "Standard input has no credential" in run(home, "login", "-", given="\n").stderr


def test_a_revoked_token_is_not_stored(home, edge):
    text = command(edge, "token", "create")
    command(edge, "token", "revoke", decode(text).token.reveal().split(".")[1])
    assert "run `quictunnel login` with it. Nothing was stored." in refused(home, text)
    done = run(home, "login", "--no-check", "-", given=text)
    assert (done.returncode, "not checked" in done.stdout) == (0, True)
    assert "the token is from the profile default" in run(home, "http", "8000").stderr


def test_another_server_in_place_of_the_edge(home, edge, credential, tmp_path):
    """The one in the middle is an edge as well and would accept any connection, but never sees the token."""
    other = start_edge(tmp_path / "other")
    try:
        found = decode(credential)
        misled = Credential((other.config.edge,), found.pin, found.token).encode()
        message = refused(home, misled)
        assert "is not the one of this credential" in message
        assert "get a new credential" in message
    finally:
        assert other.stop() == 0
    log = (tmp_path / "other.log").read_text()
    assert "connected" not in log
    assert "token" not in log


def test_an_edge_that_was_set_up_anew(home, tmp_path, running):
    state = tmp_path / "state"
    first = start_edge(state)
    address = first.config.edge
    text = command(first, "token", "create")
    assert run(home, "login", "-", given=text).returncode == 0
    assert first.stop() == 0
    (state / "ca.key").unlink()
    second = start_edge(state, "--quic", address)
    try:
        done = run(home, "http", "8000")
        assert done.returncode == 2
        assert "is not the one of this credential (from the profile default)" in done.stderr
        assert "certificate" in run(home, "doctor").stdout
        assert run(home, "login", "-", given=command(second, "token", "create")).returncode == 0
        end(open_tunnel(running, home))
    finally:
        assert second.stop() == 0
    assert decode(text).token.reveal() not in (tmp_path / "state.log").read_text()


def test_doctor_knows_the_credential(home, credential):
    done = run(home | {"QUICTUNNEL_CREDENTIAL": credential}, "doctor", "--json")
    findings = {each["check"]: each for each in map(json.loads, done.stdout.splitlines())}
    assert findings["configuration"]["message"].endswith("from QUICTUNNEL_CREDENTIAL")
    assert "trusted by the authority of the credential" in findings["certificate"]["message"]
    assert findings["token"]["verdict"] == "ok"
    assert "answered through a tunnel" in findings["public address"]["message"]
    assert decode(credential).token.reveal() not in done.stdout


def test_a_second_address_is_dialled(home, edge, credential, tmp_path):
    found = decode(credential)
    text = Credential((f"127.0.0.1:{free_port()}", *found.addresses), found.pin, found.token).encode()
    done = run(home, "login", "-", given=text)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("engine", ["native", "aioquic"])
def test_edges_of_each_engine_send_their_authority(home, tmp_path, engine):
    edge = start_edge(tmp_path / "state", "--engine", engine)
    try:
        text = next(line.strip() for line in edge.banner.splitlines() if line.startswith("  qt1"))
        assert run(home, "login", "-", given=text).returncode == 0
    finally:
        assert edge.stop() == 0
