"""``quictunnel`` with a token that its edge does not accept, or not any more: the message and the exit status."""

import json
import subprocess
import sys
import time

import pytest

from edge_server.auth.permissions import Permissions
from edge_server.auth.token_store import TokenStore, _encode_permissions
from tests.harness.edge_process import children_environment, start_edge
from tests.harness.programs import free_port
from tests.harness.token_commands import command

WORDS = {"revoked": "was revoked", "expired": "expired"}


@pytest.fixture
def own_edge(tmp_path):
    """An edge that may be told to refuse everybody."""
    edge = start_edge(tmp_path / "state")
    yield edge
    assert edge.stop() == 0


def tunnel(running, edge, token: str, **environ: str) -> subprocess.Popen:
    return running(
        [sys.executable, "-m", "quictunnel", "http", str(free_port()), "--json"],
        env=children_environment(edge) | {"QUICTUNNEL_TOKEN": token} | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def exit_of(process: subprocess.Popen, token: str) -> tuple[int, str]:
    """Return the exit status and the error line. Check that the hint below it is not about the network."""
    _, err = process.communicate(timeout=30)
    line, hint = err.splitlines()
    assert line.startswith("quictunnel: error: ")
    assert "UDP" not in err
    assert token not in err
    assert any(words in hint for words in ("QUICTUNNEL_TOKEN", "QUICTUNNEL_CA", "Ask the operator"))
    return process.returncode, line


def let_expire(edge, token: str) -> None:
    """Have a token end now; the command that makes one would need an hour for it."""
    store = TokenStore(edge.state_dir)
    rights = _encode_permissions(Permissions(expires=int(time.time())))
    with store._database.writing() as database:
        database.execute("UPDATE token SET rights = ? WHERE key = ?", (rights, token.split(".")[1]))
    store.close()


def test_a_token_that_is_revoked_or_expires_while_the_tunnel_is_open(own_edge, running):
    tokens = {why: command(own_edge, "token", "create", "--token-only") for why in ("revoked", "expired")}
    processes = {why: tunnel(running, own_edge, token) for why, token in tokens.items()}
    for process in processes.values():
        assert json.loads(process.stdout.readline())["event"] == "ready"
    command(own_edge, "token", "revoke", tokens["revoked"].split(".")[1])
    let_expire(own_edge, tokens["expired"])
    for why, process in processes.items():
        status, line = exit_of(process, tokens[why])
        assert status == 2
        assert f"does not accept the token: it {WORDS[why]} at 20" in line
    again = [tunnel(running, own_edge, token) for token in tokens.values()]
    for process, (why, token) in zip(again, tokens.items(), strict=True):
        status, line = exit_of(process, token)
        assert status == 2
        assert f"does not accept the token: it {WORDS[why]} at 20" in line
    wrong_secret = tokens["revoked"][:-1] + ("a" if tokens["revoked"][-1] != "a" else "b")
    status, line = exit_of(tunnel(running, own_edge, wrong_secret), wrong_secret)
    assert "refused the token: it is not a token of this edge" in line


def test_a_token_of_another_edge(own_edge, edge, running):
    token = edge.environ["QUICTUNNEL_TOKEN"]
    status, line = exit_of(tunnel(running, own_edge, token), token)
    assert status == 2
    assert "it is not a token of this edge" in line
    # With the other edge's authority as well, it is the certificate that does not fit.
    status, line = exit_of(tunnel(running, own_edge, token, QUICTUNNEL_CA=str(edge.ca)), token)
    assert status == 2
    assert "The certificate of the edge" in line


def test_client_of_a_banned_address_is_refused(own_edge, running):
    token = own_edge.environ["QUICTUNNEL_TOKEN"]
    process = tunnel(running, own_edge, token)
    assert json.loads(process.stdout.readline())["event"] == "ready"
    command(own_edge, "name", "ban", "127.0.0.0/8")
    for each in (process, tunnel(running, own_edge, token)):
        status, line = exit_of(each, token)
        assert status == 2
        assert "has banned this address" in line


def test_lines_of_a_revoked_token(own_edge, running):
    """The event has the reason on one whole line, the error also what to do; `doctor` says the same reason."""
    token = command(own_edge, "token", "create", "--token-only")
    environ = children_environment(own_edge) | {"QUICTUNNEL_TOKEN": token}
    quictunnel = [sys.executable, "-m", "quictunnel"]
    process = running(
        [*quictunnel, "http", str(free_port())],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.stdout.readline() != "Press Ctrl-C to stop.\n":
        assert process.poll() is None
    command(own_edge, "token", "revoke", token.split(".")[1])
    out, err = process.communicate(timeout=30)
    line, hint = err.splitlines()
    reason = line.removeprefix("quictunnel: error: The tunnel has ended: ")
    assert "does not accept the token: it was revoked at 20" in reason
    assert "Ask the edge's operator" in hint
    event, end = out.splitlines()
    assert event.partition("  ")[2] == reason
    assert end == "Closed."
    doctor = subprocess.run([*quictunnel, "doctor"], env=environ, capture_output=True, text=True, check=False)
    assert doctor.returncode == 2
    assert reason[1:].removesuffix(".") in doctor.stdout
