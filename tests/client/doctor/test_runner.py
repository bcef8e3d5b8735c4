"""The doctor, on real sockets: for each thing that can be wrong, the right line and the right remedy."""

from __future__ import annotations

import datetime as dt
import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from edge_server.embedded import EmbeddedEdge
from quictunnel.cli import doctor as command
from quictunnel.cli.main import main
from quictunnel.config.client_config import ClientConfig, Secret
from quictunnel.doctor import certificate, edge, machine, runner
from quictunnel.doctor.result import fail, ok, warn
from quictunnel.doctor.runner import EDGE_CHECKS, examine
from quictunnel.transport import probe
from quictunnel.transport.engine import HandshakeReport
from quictunnel.wire.messages import Welcome
from tests.harness.quic_server import quic_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from quictunnel.doctor.result import Finding

ROOT = Path(__file__).parents[3]
NOW = 1_700_000_000


@pytest.fixture(scope="module")
def real_edge() -> Iterator[ClientConfig]:
    with EmbeddedEdge() as running:
        yield running.client_config


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def look(tmp_path: Path, authority: trustme.CA) -> Iterator[Callable[..., dict[str, Finding]]]:
    """Examine a bare QUIC server, or an address; findings by check."""
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca)
    with ExitStack() as stack:

        def looked(
            leaf: trustme.LeafCert | None = None, address: str = "", trusted: Path | None = ca, **options: str
        ) -> dict[str, Finding]:
            if leaf is not None:
                address = stack.enter_context(quic_server(leaf, tmp_path, **options))
            environ = {"QUICTUNNEL_EDGE": address, "QUICTUNNEL_TOKEN": "tok_0123456789"}
            if trusted is not None:
                environ["QUICTUNNEL_CA"] = str(trusted)
            return {finding.check: finding for finding in examine(environ=environ)}

        yield looked


def environ_of(config: ClientConfig, **more: str) -> dict[str, str]:
    told = {
        "QUICTUNNEL_EDGE": config.edge,
        "QUICTUNNEL_TOKEN": config.token.reveal(),
        "QUICTUNNEL_CA": str(config.ca),
    }
    return told | more


# A whole edge


def test_development_edge_passes_with_a_certificate_warning(real_edge: ClientConfig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        found = {each.check: each for each in examine(port, environ=environ_of(real_edge))}
    assert [each for each in found.values() if each.verdict in ("fail", "skip")] == []
    assert list(found)[-len(EDGE_CHECKS) :] == list(EDGE_CHECKS)
    assert found[f"port {port}"].message == "a server listens, on IPv4"
    assert found["configuration"].message.startswith(
        f"edge {real_edge.edge}, trusting {real_edge.ca}, from the env"
    )
    assert "QUIC answers at 127.0.0.1:" in found["udp"].message
    assert found["datagrams"].message == "at least 8952 bytes arrive unfragmented"
    assert "TLS 1.3 and quictunnel/1" in found["handshake"].message
    assert f"trusted by {real_edge.ca}" in found["certificate"].message
    assert "accepted; the edge runs quictunnel " in found["token"].message
    assert found["clock"].message.endswith("the same as the edge's clock")
    assert found["public address"].verdict == "warn"
    assert "answered through a tunnel" in found["public address"].message
    assert str(real_edge.ca) in found["public address"].remedy


def test_a_token_that_is_refused(real_edge: ClientConfig) -> None:
    environ = environ_of(real_edge, QUICTUNNEL_TOKEN="tok_of_somebody_else")
    found = {each.check: each for each in examine(environ=environ)}
    assert found["token"].verdict == "fail"
    assert found["token"].message == (
        f"the edge at {real_edge.edge} refused the token: it is not a token of this edge"
    )
    assert "token create" in found["token"].remedy
    assert found["public address"].verdict == "skip"
    assert not any("tok_of_somebody_else" in each.message + each.remedy for each in found.values())


def test_the_command_as_a_program_reads_it(
    real_edge: ClientConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ_of(real_edge, HTTPS_PROXY="http://proxy:3128").items():
        monkeypatch.setenv(name, value)
    assert main(["doctor", "--json"]) == 0
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert err == ""
    assert {tuple(line) for line in lines} == {("check", "verdict", "message", "remedy", "is_configuration")}
    assert {line["check"]: line["message"] for line in lines}["proxies"].startswith(
        "HTTPS_PROXY set, which a tunnel"
    )
    assert real_edge.token.reveal() not in out


# The way to it


def test_missing_configuration_is_a_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    findings = list(examine(environ={}))
    assert [each.verdict for each in findings[-9:]] == ["fail", *["skip"] * 8]
    assert findings[-9].message.startswith("No edge is configured. Run `quictunnel login`")
    assert command.show(findings, as_json=False) == 2
    assert "skip public address  not checked: no edge is configured\n" in capsys.readouterr().out


def test_a_name_that_does_not_exist(look: Callable[..., dict[str, Finding]]) -> None:
    found = look(address="edge.invalid:4433")
    assert found["name"].verdict == "fail"
    assert "edge.invalid has no address" in found["name"].message
    assert found["udp"].verdict == "skip"


def test_a_closed_port(look: Callable[..., dict[str, Finding]]) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        port = gone.getsockname()[1]
    found = look(address=f"127.0.0.1:{port}")["udp"]
    assert found.verdict == "fail"
    assert found.message == f"UDP port {port} of 127.0.0.1 is closed: the host reports that nobody listens there"


def test_silent_port_is_a_finding(
    look: Callable[..., dict[str, Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "ROUNDS", (0.05, 0.1))
    monkeypatch.setenv("ALL_PROXY", "http://proxy:3128")
    with socket.socket(type=socket.SOCK_DGRAM) as mute:
        mute.bind(("127.0.0.1", 0))
        found = look(address="{}:{}".format(*mute.getsockname()))
    assert "although the host answers TCP: UDP looks blocked" in found["udp"].message
    assert "Allow UDP port" in found["udp"].remedy
    assert {found[check].verdict for check in EDGE_CHECKS[2:]} == {"skip"}


def test_port_of_another_service_is_a_finding(
    look: Callable[..., dict[str, Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "ROUNDS", (0.2,))
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        other.settimeout(10)

        def echo() -> None:
            data, address = other.recvfrom(2048)
            other.sendto(b"NOT QUIC" + data, address)

        thread = threading.Thread(target=echo)
        thread.start()
        found = look(address="{}:{}".format(*other.getsockname()))
        thread.join()
    assert found["udp"].message.endswith("is not a QUIC server")


def test_packets_that_are_lost_are_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "ROUNDS", (0.1, 0.1, 5.0))
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)

        def answer_the_third() -> None:
            for number in range(3):
                data, address = server.recvfrom(2048)
                if number == 2:  # RFC 8999 section 6: the connection IDs change places
                    server.sendto(b"\x80" + bytes(4) + data[14:23] + data[5:14] + b"\0\0\0\1", address)

        thread = threading.Thread(target=answer_the_third)
        thread.start()
        address = server.getsockname()
        config = ClientConfig(edge="{}:{}".format(*address), token=Secret("tok"))
        found = edge.check_udp(config, (address,), has_proxy=False).finding
        thread.join()
    assert found.verdict == "warn"
    assert "after 2 lost attempts" in found.message
    assert "loses packets" in found.remedy


def test_single_reachable_address_is_enough(authority: trustme.CA, tmp_path: Path) -> None:
    with quic_server(authority.issue_cert("127.0.0.1"), tmp_path) as address:
        port = int(address.rpartition(":")[2])
        config = ClientConfig(edge=f"localhost:{port}", token=Secret("tok"))
        reached = edge.check_udp(config, (("::1", port, 0, 0), ("127.0.0.1", port)), has_proxy=False)
    assert reached.address == ("127.0.0.1", port)
    assert "not at ::1 (the port is closed)" in reached.finding.message


# Its certificate


def days(count: int) -> dt.datetime:
    return dt.datetime.now(dt.UTC) + dt.timedelta(days=count)


def test_an_authority_of_another_edge(look: Callable[..., dict[str, Finding]], tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    found = look(trustme.CA().issue_cert("127.0.0.1"), trusted=other)
    assert found["certificate"].verdict == "fail"
    assert f"which {other} does not contain" in found["certificate"].message
    assert "by ca.pem from this edge's state directory" in found["certificate"].remedy
    assert found["clock"].verdict == "ok"
    assert found["public address"].verdict == "skip"
    assert found["token"].message == "not checked: it is sent only to an edge with a valid certificate"


def test_no_authority_named(look: Callable[..., dict[str, Finding]], authority: trustme.CA) -> None:
    found = look(authority.issue_cert("127.0.0.1"), trusted=None)
    assert "which this system does not trust" in found["certificate"].message
    assert "Set QUICTUNNEL_CA" in found["certificate"].remedy


def test_another_name(look: Callable[..., dict[str, Finding]], authority: trustme.CA) -> None:
    found = look(authority.issue_cert("a.example", "b.example", "c.example", "d.example", "e.example"))
    assert found["certificate"].message == (
        "it is for a.example, b.example, c.example, d.example and 1 more, not for 127.0.0.1"
    )
    assert "QUICTUNNEL_EDGE" in found["certificate"].remedy


def test_expired_certificate_is_a_finding(look: Callable[..., dict[str, Finding]], authority: trustme.CA) -> None:
    found = look(authority.issue_cert("127.0.0.1", not_before=days(-9), not_after=days(-2)))
    assert found["certificate"].verdict == "fail"
    assert f"it expired on {days(-2):%Y-%m-%d}" in found["certificate"].message
    assert "Renew it on the edge" in found["certificate"].remedy
    assert found["clock"].verdict == "warn"


def test_future_certificate_is_a_finding(look: Callable[..., dict[str, Finding]], authority: trustme.CA) -> None:
    found = look(authority.issue_cert("127.0.0.1", not_before=days(2), not_after=days(9)))
    assert found["certificate"].verdict == found["clock"].verdict == "fail"
    assert "before the beginning of the edge's certificate" in found["clock"].message
    assert "timedatectl" in found["clock"].remedy


def test_certificate_near_expiry_is_a_warning(
    look: Callable[..., dict[str, Finding]], authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "HANDSHAKE_TIMEOUT", 1.0)
    found = look(authority.issue_cert("127.0.0.1", not_after=days(3)))
    assert found["certificate"].verdict == "warn"
    assert "should have renewed it" in found["certificate"].remedy
    assert found["token"].verdict == "fail", "a bare server greets nobody"
    assert "the edge did not answer" in found["token"].message


def test_a_quic_server_that_is_no_edge(look: Callable[..., dict[str, Finding]], authority: trustme.CA) -> None:
    found = look(authority.issue_cert("127.0.0.1"), alpn="h3")
    assert found["handshake"].message.endswith("is a QUIC server, but not an edge that speaks quictunnel/1")
    assert {found[check].verdict for check in EDGE_CHECKS[4:]} == {"skip"}


def test_a_certificate_that_cannot_be_read() -> None:
    found, _ = certificate.examine(HandshakeReport((b"\x30\x00",), "", 0.0), "edge", None, certificate.utc_now())
    assert "cannot be parsed" in found.message


def test_when_a_token_ends() -> None:
    def welcome_finding(left: int) -> Finding:
        return edge._accepted(Welcome(1, 65_536, 10, "edge/1", b"", False, 0, NOW, NOW + left))

    assert welcome_finding(-NOW) == ok("token", "accepted; the edge runs edge 1")
    assert welcome_finding(30 * edge.DAY) == ok("token", "accepted; the edge runs edge 1, for 30 days")
    soon = welcome_finding(3 * edge.DAY)
    assert (soon.verdict, soon.message[-10:]) == ("warn", "for 3 days")
    assert welcome_finding(7200).message.endswith("for 2 hours")


@pytest.mark.parametrize(
    ("ahead", "words"),
    [(0, "as the edge's clock"), (61, "61 s ahead of the edge's"), (-61, "61 s behind the edge's")],
)
def test_two_clocks(ahead: int, words: str) -> None:
    found = certificate.compare_clocks(dt.datetime.fromtimestamp(NOW + ahead, dt.UTC), NOW)
    assert words in found.message
    assert found.verdict == ("warn" if ahead else "ok")


# This machine


def run_alone(program: str) -> str:
    """Run a program in a process of its own and return its output."""
    done = subprocess.run(
        [sys.executable, "-c", f"from quictunnel.doctor import machine\n{program}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="reads the limit from /proc")
def test_small_socket_buffers() -> None:
    """Without the privilege to exceed it, the system's own limit holds."""
    limit = int(Path("/proc/sys/net/core/rmem_max").read_text())
    drop = "import os; os.geteuid() or os.seteuid(65534)"
    out = run_alone(f"{drop}; print(machine.check_buffers({4 * limit}))")
    assert "verdict='warn'" in out
    assert f"{limit // 1024} KiB to receive" in out
    assert f"sysctl -w net.core.rmem_max={4 * limit}" in out
    assert machine.check_buffers(limit // 2).verdict == "ok"


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on this system")
def test_few_open_files() -> None:
    limited = "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (256, 512))"
    out = run_alone(f"{limited}; print(machine.check_open_files())")
    assert "verdict='warn'" in out
    assert "remedy='ulimit -n 512'" in out
    assert machine.check_open_files().check == "open files"


def test_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "selected by QUICTUNNEL_ENGINE" in machine.check_engine({"QUICTUNNEL_ENGINE": "aioquic"}).message
    unknown = machine.check_engine({"QUICTUNNEL_ENGINE": "quinn"})
    assert (unknown.verdict, unknown.is_configuration) == ("fail", True)
    monkeypatch.setitem(sys.modules, "quictunnel_native", None)
    monkeypatch.delitem(sys.modules, "quictunnel.transport.engines.native", raising=False)
    found = machine.check_engine({})
    assert found.verdict == "warn"
    assert found.message.startswith("aioquic 1.")
    assert "cannot be used (" in found.message
    assert "pip install ./native" in found.remedy


def test_the_local_port() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        assert machine.check_local_port(listener.getsockname()[1]) == ok(
            f"port {listener.getsockname()[1]}", "a server listens, on IPv6"
        )
    nobody = machine.check_local_port(listener.getsockname()[1] if listener.fileno() >= 0 else 9)
    assert nobody.verdict == "fail"
    assert "Start the local service on port 9" in nobody.remedy


# What it says


@pytest.mark.parametrize(
    ("findings", "status"),
    [
        ([ok("a", "fine")], 0),
        ([ok("a", "fine"), warn("b", "so so", "do")], 0),
        ([fail("a", "bad", "do"), fail("b", "wrong", "do", is_configuration=True)], 1),
        ([fail("b", "wrong", "do", is_configuration=True)], 2),
    ],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_exit_statuses(findings: list[Finding], status: int, as_json: bool) -> None:
    assert command.show(findings, as_json=as_json) == status


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    command.show([fail("udp", "a\x1b[2J peer\nsaid " + "x" * 1000, "do this")], as_json=False)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("fail udp             a [2J peer said xxx")
    assert len(first) == 5 + command.NAME_WIDTH + command.MAX_TEXT
    assert second == " " * (5 + command.NAME_WIDTH) + "-> do this"
    assert max(map(len, runner.EDGE_CHECKS)) < command.NAME_WIDTH
    assert os.linesep not in first
