"""``--check-config``: what is wrong, all of it, or what would be run; nothing is opened and nothing made."""

from __future__ import annotations

import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from edge_server.cli import check_config
from edge_server.config.edge_config import read

ROOT = Path(__file__).parents[3]
NOW = datetime(2030, 6, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def issue(authority, tmp_path):
    """Write a certificate for a name that is good for so many days from NOW; the options that use it."""

    def write(name: str = "*.tunnel.localhost", days: float = 90, begins: float = -1) -> list[str]:
        leaf = authority.issue_cert(
            name, not_before=NOW + timedelta(days=begins), not_after=NOW + timedelta(days=days)
        )
        leaf.private_key_pem.write_to_path(tmp_path / "key.pem")
        leaf.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
        return ["--cert", str(tmp_path / "cert.pem"), "--key", str(tmp_path / "key.pem")]

    return write


def report(tmp_path: Path, *options: str) -> tuple[list[str], list[str]]:
    return check_config.report(read(["--state-dir", str(tmp_path / "state"), *options]), NOW)


def test_effective_settings_are_printed_without_a_start(tmp_path, issue):
    wrong, lines = report(tmp_path, *issue(), "--domain", "tunnel.localhost", "--https", "0.0.0.0:443")
    assert wrong == []
    assert lines[0] == "ok"
    assert "  https = 0.0.0.0:443" in lines
    assert f"  cert = {tmp_path}/cert.pem" in lines
    assert "  the certificate expires at 2030-08-30 00:00 UTC, in 90 days" in lines
    assert any(line.startswith("  the QUIC engine is ") for line in lines)
    assert not (tmp_path / "state").exists()


def test_certificate_near_expiry_is_a_warning(tmp_path, issue):
    _, lines = report(tmp_path, *issue(days=13))
    assert "  the certificate expires at 2030-06-14 00:00 UTC, in 13 days: renew it soon" in lines


@pytest.mark.parametrize(
    ("certificate", "said"),
    [
        ({"days": -0.5}, "The certificate in {}/cert.pem has expired at 2030-05-31 12:00 UTC; renew it."),
        (
            {"begins": 1},
            "The certificate in {}/cert.pem is not valid before 2030-06-02 00:00 UTC; check the clock",
        ),
        ({"name": "*.else.example"}, "--cert {}/cert.pem does not cover *.tunnel.localhost, "),
    ],
)
def test_a_certificate_that_visitors_would_refuse(tmp_path, issue, certificate, said):
    wrong, lines = report(tmp_path, *issue(**certificate))
    assert lines == []
    assert [line.startswith(said.format(tmp_path)) for line in wrong] == [True], wrong


def test_an_issuer_that_has_expired(tmp_path, issue, authority):
    options = issue()
    with (tmp_path / "cert.pem").open("ab") as chain:
        old = trustme.CA().issue_cert("old.example", not_after=NOW - timedelta(days=2))
        chain.write(old.cert_chain_pems[0].bytes())
    (said,) = report(tmp_path, *options)[0]
    assert said.startswith(f"The issuer's certificate in {tmp_path}/cert.pem has expired")


def test_all_problems_are_reported_at_once(tmp_path, issue):
    issue()
    (tmp_path / "state").write_text("a file")
    files = ["--cert", str(tmp_path / "cert.pem"), "--key", str(tmp_path / "absent")]
    wrong, _ = report(tmp_path, *files, "--https", "no.such.host.invalid:443", "--tcp-host", "127.0.0.1")
    assert [line.split(":")[0].removesuffix(".") for line in wrong] == [
        f"The state directory {tmp_path}/state cannot be written; choose another (--state-dir)",
        f"Cannot read the private key {tmp_path}/absent",
        "--https no.such.host.invalid cannot be used",
    ]


def test_a_state_directory_that_cannot_be_made(tmp_path):
    (said,) = report(tmp_path, "--state-dir", "/proc/self/cmdline/state")[0]
    assert said == (
        "The state directory /proc/self/cmdline/state cannot be created in /proc/self/cmdline; choose another "
        "(--state-dir)."
    )


def test_a_token_that_is_none(tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "token").write_text("short")
    (said,) = report(tmp_path)[0]
    assert said.startswith(f"{tmp_path}/state/token is no token")


def test_ports_that_tunnels_would_not_get(tmp_path, monkeypatch):
    ephemeral = tmp_path / "range"
    ephemeral.write_text("32768\t60999\n")
    monkeypatch.setattr(check_config, "EPHEMERAL_RANGE_FILE", ephemeral)
    _, lines = report(tmp_path, "--https", "0.0.0.0:443", "--tcp-ports", "400-33000")
    assert "  the https port 443 is within tcp-ports: no tunnel can use it" in lines
    (both,) = [line for line in lines if "ip_local_reserved_ports" in line]
    assert "ip_local_reserved_ports=32768-33000" in both
    ephemeral.write_text("nonsense")
    assert not any("reserved" in line for line in report(tmp_path, "--tcp-ports", "400-33000")[1])


def run_check_config(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edge_server", "--check-config", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_command_prints_each_error_on_its_line_and_exits_2(tmp_path):
    path = tmp_path / "edge.toml"
    path.write_text("htps = 'a:1'\n\ngrace = 'soon'\n")
    ended = run_check_config("--config", str(path), "--state-dir", str(tmp_path / "state"))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines() == [
        f"edge_server: error: {path}:1: unknown name 'htps'; did you mean \"https\"?",
        f"edge_server: error: {path}:3: grace should be seconds between 0 and 3600, not 'soon'.",
    ]


def test_check_succeeds_while_the_ports_are_in_use(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = run_check_config("--https", address, "--state-dir", str(tmp_path / "state"))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[0] == "ok"
    assert f"  https = {address}" in ended.stdout.splitlines()
    assert not (tmp_path / "state").exists()
