"""Both programs as they are started: what they print, and the status they end with."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

import quictunnel
from tests.harness.edge_process import children_environment, start_edge
from tests.harness.programs import free_port, need
from tests.harness.visitors import curl

ROOT = Path(__file__).parents[3]
CLIENT = (sys.executable, "-m", "quictunnel")
EDGE = (sys.executable, "-m", "edge_server")
FREE_PORTS = ("--quic", "127.0.0.1:0", "--https", "127.0.0.1:0")


def finish(*command: str, env: dict[str, str] | None = None, timeout: float = 60) -> subprocess.CompletedProcess:
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


def one_line(done: subprocess.CompletedProcess, program: str) -> str:
    """The error: one line that begins with the program's name, and no traceback."""
    errors = [line for line in done.stderr.splitlines() if line.startswith(f"{program}: error: ")]
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return errors[0]


@pytest.fixture
def cli(edge, running):
    """Start ``quictunnel`` with its stdout as a pipe of text."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: str, **options) -> subprocess.Popen:
            options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT} | options
            process = running([*CLIENT, *arguments], env=children_environment(edge), **options)
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    stack.callback(pipe.close)
            return process

        yield start


class TestTunnel:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_http_as_json(self, edge, cli, nginx, number):
        process = cli("http", str(nginx.port), "--json")
        ready = json.loads(process.stdout.readline())
        host, port = ready["tls_socket"]
        assert ready == {
            "event": "ready",
            "url": f"https://{host}:{port}",
            "tls_socket": [host, port],
            "tcp_socket": None,
            "target": f"localhost:{nginx.port}",
        }
        (nginx.root / "page").write_text("page\n")
        assert curl(edge, "--fail", f"{ready['url']}/page").stdout == b"page\n"
        visitor = json.loads(process.stdout.readline())
        assert visitor["event"] == "visitor"
        assert str(nginx.port) in visitor["message"]

        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (0, "")
        assert json.loads(out.splitlines()[-1]) == {"event": "closed"}
        assert curl(edge, ready["url"]).stdout.startswith(b"404 Not Found"), "the name is gone"

    def test_tcp_as_json(self, cli):
        with socket.create_server(("127.0.0.1", 0)) as origin:
            process = cli("tcp", str(origin.getsockname()[1]), "--json")
            ready = json.loads(process.stdout.readline())
            host, port = ready["tcp_socket"]
            with socket.create_connection((host, port), timeout=30) as visitor:
                visitor.sendall(b"hello")
                connection, _ = origin.accept()
                with connection:
                    assert connection.recv(5) == b"hello"
                    connection.sendall(b"world")
                assert visitor.recv(5) == b"world"
            process.terminate()
            assert process.wait(20) == 0

    def test_lines_for_a_log(self, edge, cli, nginx):
        """Neither JSON nor a terminal: plain lines without anything that moves a cursor."""
        process = cli("tcp", str(nginx.port))
        lines = [process.stdout.readline() for _ in range(4)]
        url = lines[0].split()[-1]
        assert curl(edge, url).returncode == 0
        process.terminate()
        out, _ = process.communicate(timeout=20)
        assert process.returncode == 0
        assert out.endswith("Closed.\n")
        assert "\x1b" not in "".join([*lines, out])

    def test_a_person_at_a_terminal(self, edge, running, nginx):
        master, slave = pty.openpty()
        environment = children_environment(edge) | {
            "TERM": "xterm-256color",
            "COLUMNS": "100",
            "LINES": "30",
            "CI": "",
        }
        process = running(
            [*CLIENT, "http", str(nginx.port)], env=environment, stdin=slave, stdout=slave, stderr=slave, cwd=ROOT
        )
        os.close(slave)
        try:
            seen = b""

            def look_for(pattern: bytes) -> re.Match[bytes]:
                nonlocal seen
                while (found := re.search(pattern, seen)) is None:
                    readable, _, _ = select.select([master], [], [], 30)
                    assert readable, seen
                    seen += os.read(master, 65536)
                return found

            url = look_for(rb"https://[a-z2-7]{16}\.tunnel\.localhost:[0-9]+")[0].decode()
            look_for(rb"connected")
            assert curl(edge, url).returncode == 0
            look_for(rb"1 in total")
            process.send_signal(signal.SIGINT)
            look_for(rb"Closed\.")
            look_for(rb"\x1b\[\?25h")  # the cursor was given back
            assert process.wait(20) == 0
        finally:
            os.close(master)

    def test_closed_origin_port_is_reported(self, edge, cli):
        port = free_port()
        process = cli("http", str(port), "--json")
        url = json.loads(process.stdout.readline())["url"]
        assert b" 502 " in curl(edge, "--include", url).stdout
        events = [json.loads(process.stdout.readline()) for _ in range(2)]
        assert [event["event"] for event in events] == ["visitor", "origin"]
        process.terminate()
        assert process.wait(20) == 0

    def test_stopped_while_a_visitor_is_served(self, edge, cli):
        """The drain: the port closes at once, and the answer under way arrives whole."""
        with socket.create_server(("127.0.0.1", 0)) as origin:
            process = cli("http", str(origin.getsockname()[1]), "--json")
            url = json.loads(process.stdout.readline())["url"]
            command = [need("curl"), "--silent", "--show-error", "--cacert", str(edge.ca), url]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as visitor:
                connection, _ = origin.accept()
                with connection:
                    connection.recv(65536)
                    process.terminate()
                    while curl(edge, url).returncode != 35:  # until the name is gone
                        pass
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nlate")
                assert visitor.communicate(timeout=20) == (b"late", b"")
            assert process.wait(20) == 0


class TestTunnelRefused:
    def test_a_wrong_token(self, edge):
        environment = children_environment(edge) | {"QUICTUNNEL_TOKEN": "wrong-token-of-mine"}
        done = finish(*CLIENT, "http", "8000", "--json", env=environment)
        assert done.returncode == 2
        assert json.loads(done.stdout)["kind"] == "auth"
        assert "is not a token of this edge" in one_line(done, "quictunnel")
        assert "QUICTUNNEL_TOKEN" in done.stderr
        assert "wrong-token-of-mine" not in done.stdout + done.stderr

    def test_no_configuration(self, tmp_path):
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        done = finish(*CLIENT, "http", "8000", env=environment)
        assert (done.returncode, done.stdout) == (2, "")
        line = one_line(done, "quictunnel")
        for words in ("QUICTUNNEL_EDGE", "QUICTUNNEL_TOKEN", "QUICTUNNEL_CA", "quictunnel-edge"):
            assert words in line

    @pytest.mark.parametrize(
        "arguments", [["http"], ["http", "0"], ["http", "x"], ["htpp", "80"], ["tcp", "--h2", "1"]]
    )
    def test_wrong_usage(self, arguments):
        done = finish(*CLIENT, *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        one_line(done, "quictunnel")

    def test_a_closed_port(self, edge):
        address = f"127.0.0.1:{free_port()}"
        done = finish(*CLIENT, "http", "8000", env=children_environment(edge) | {"QUICTUNNEL_EDGE": address})
        assert (done.returncode, done.stdout) == (3, "")
        line = one_line(done, "quictunnel")
        assert address in line
        assert " answered that nothing listens on its UDP port " in line


class TestDemo:
    def test_once(self, tmp_path):
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        done = finish(*CLIENT, "demo", "--once", env=environment)
        assert (done.returncode, done.stderr) == (0, "")
        assert "https://" in done.stdout
        assert "It works" in done.stdout
        assert not any(tmp_path.iterdir())  # nothing is left in the user's places

    def test_once_as_json(self, tmp_path):
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        done = finish(*CLIENT, "demo", "--once", "--json", env=environment)
        events = [json.loads(line) for line in done.stdout.splitlines()]
        assert events[0]["event"] == "ready"
        assert events[-1]["event"] == "closed"
        fetched = next(event for event in events if event["event"] == "fetched")
        assert (fetched["status"], fetched["verified"]) == (200, True)


class TestEdge:
    """``python -m edge_server``."""

    def test_edge_prints_the_client_settings(self, tmp_path):
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        state = tmp_path / ".local" / "state" / "quictunnel"
        process = subprocess.Popen(
            [*EDGE, *FREE_PORTS],
            env=environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        banner = []
        for line in process.stdout:
            banner.append(line)
            if line.startswith("Try:"):
                break
        said = dict(re.findall(r"export (\w+)=(\S+)", "".join(banner)))
        env_file = state / "client.env"
        assert dict(line.split("=", 1) for line in env_file.read_text().splitlines()) == said
        assert list(said) == ["QUICTUNNEL_EDGE", "QUICTUNNEL_TOKEN", "QUICTUNNEL_CA"]
        assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
        assert Path(said["QUICTUNNEL_CA"]).is_absolute()
        assert not said["QUICTUNNEL_EDGE"].endswith(":0")

        # A client of the same user finds it with nothing configured.
        script = f"import quictunnel\nwith quictunnel.forward({free_port()}) as t: print(t.url)"
        done = finish(sys.executable, "-c", script, env=environment)
        assert done.stdout.startswith("https://"), done.stderr

        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)
        assert process.returncode == 0
        assert not env_file.exists()
        assert "Traceback" not in log
        assert said["QUICTUNNEL_TOKEN"] not in log

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_edge_stops_cleanly(self, tmp_path, number):
        edge = start_edge(tmp_path / "state")
        with edge.client() as client, quictunnel.forward(free_port(), client=client):
            assert edge.stop(number, timeout=20) == 0
        assert not (edge.state_dir / "client.env").exists()
        assert "Traceback" not in (tmp_path / "state.log").read_text()

    def test_edge_drains_at_sigterm(self, tmp_path):
        """At SIGTERM no new visitor is let in, and the answer under way arrives whole."""
        edge = start_edge(tmp_path / "state")
        with (
            socket.create_server(("127.0.0.1", 0)) as origin,
            edge.client() as client,
            quictunnel.forward(origin.getsockname()[1], client=client, unencrypted=True) as tunnel,
            socket.create_connection(tunnel.tcp_socket, timeout=30) as visitor,
        ):
            visitor.sendall(b"question")
            connection, _ = origin.accept()
            with connection:
                assert connection.recv(8) == b"question"
                edge.process.send_signal(signal.SIGTERM)
                refused = 0
                deadline = time.monotonic() + 20
                while refused < 2:
                    assert time.monotonic() < deadline
                    refused = sum(
                        not connects(address) for address in (("127.0.0.1", tunnel.port), tunnel.tcp_socket)
                    )
                connection.sendall(b"answer")
            assert visitor.recv(6) == b"answer"
            visitor.close()
            assert edge.process.wait(20) == 0
            assert edge.stop() == 0

    def test_the_name_and_the_token_outlive_it(self, tmp_path):
        first = start_edge(tmp_path / "state")
        before = first.environ
        assert first.stop() == 0
        second = start_edge(tmp_path / "state")
        assert second.environ["QUICTUNNEL_TOKEN"] == before["QUICTUNNEL_TOKEN"]
        assert second.environ["QUICTUNNEL_CA"] == before["QUICTUNNEL_CA"]
        assert second.stop() == 0

    def test_a_config_file(self, tmp_path):
        config = tmp_path / "edge.toml"
        quic, first = free_udp_port(), 31000
        config.write_text(
            f'state_dir = "here"\ndomain = "from.file.localhost"\nquic = "127.0.0.1:{quic}"\n'
            f'tcp-ports = "{first}-{first + 50}"\npublic-host = "tcp.example"\nlog-format = "json"\n'
        )
        edge = start_edge(tmp_path / "here", "--config", str(config), "--domain", "from.line.localhost", "--quic",
                          f"127.0.0.1:{quic}")  # fmt: skip
        with edge.client() as client, quictunnel.forward(free_port(), client=client, unencrypted=True) as tunnel:
            assert edge.environ["QUICTUNNEL_EDGE"] == f"127.0.0.1:{quic}"
            assert tunnel.host.endswith(".from.line.localhost")  # the command line wins
            assert tunnel.unencrypted_host == "tcp.example"
            assert first <= tunnel.unencrypted_port <= first + 50
        assert edge.stop() == 0
        log = (tmp_path / "here.log").read_text().splitlines()
        assert all(isinstance(json.loads(line), dict) for line in log)

    def test_a_certificate_of_the_operators(self, tmp_path):
        from edge_server.certificates.authority import DevelopmentAuthority

        authority = DevelopmentAuthority.load_or_create(tmp_path / "authority")
        chain, key = authority.issue(["*.own.localhost", "own.localhost"])
        (tmp_path / "chain.pem").write_bytes(chain)
        (tmp_path / "key.pem").write_bytes(key)
        options = ("--cert", str(tmp_path / "chain.pem"), "--key", str(tmp_path / "key.pem"))
        edge = start_edge(tmp_path / "state", "--domain", "own.localhost", *options)
        with (
            socket.create_server(("127.0.0.1", 0)) as origin,
            edge.client() as client,
            quictunnel.forward(origin.getsockname()[1], client=client) as tunnel,
        ):
            command = [
                need("curl"),
                "--silent",
                "--cacert",
                str(authority.certificate),
                "--noproxy",
                "*",
                tunnel.url,
            ]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as visitor:
                connection, _ = origin.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nyes")
                assert visitor.communicate(timeout=20)[0] == b"yes"
            # Under one wildcard certificate h2 would mix tenants: refused, with the reason.
            with (
                pytest.raises(quictunnel.InvalidError, match=r"(?i)certificate"),
                quictunnel.forward(free_port(), h2_enabled=True, client=client),
            ):
                pass
        assert edge.stop() == 0


def connects(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=5).close()
    except OSError:
        return False
    return True


def free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class TestEdgeRefuses:
    """Exit status 2, one clear line, and nothing left behind."""

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--nonsense"], "--nonsense"),
            (["--quic", "nowhere"], "--quic"),
            (["--quic", "127.0.0.1:99999"], "--quic"),
            (["--https", ""], "--https"),
            (["--tcp-ports", "9-1"], "--tcp-ports"),
            (["--tcp-ports", "all"], "--tcp-ports"),
            (["--domain", "a b"], "--domain"),
            (["--log-format", "xml"], "--log-format"),
            (["--log-level", "loud"], "--log-level"),
            (["--grace", "-1"], "--grace"),
            (["--cert", "x.pem"], "--key"),
            (["--config", "/nowhere/edge.toml"], "/nowhere/edge.toml"),
            (["--cert", "/nowhere/c.pem", "--key", "/nowhere/k.pem"], "/nowhere/"),
            (["--https", "192.0.2.1:0"], "--https"),
            (["--quic", "192.0.2.1:0"], "--quic"),
            (["--https", "no.such.name.invalid:0"], "--https"),
        ],
    )
    def test_a_bad_option(self, tmp_path, options, words):
        options = [*FREE_PORTS, *options]  # the last one counts
        done = finish(*EDGE, "--state-dir", str(tmp_path / "state"), *options)
        assert (done.returncode, done.stdout) == (2, "")
        errors = [line for line in done.stderr.splitlines() if "error:" in line]
        assert len(errors) == 1, done.stderr
        assert words in errors[0]
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "state" / "client.env").exists()

    @pytest.mark.parametrize("text", ["quic = ", "colour = 'red'", "quic = 5", "\xff"])
    def test_a_bad_config_file(self, tmp_path, text):
        config = tmp_path / "edge.toml"
        config.write_bytes(text.encode("latin-1"))
        done = finish(*EDGE, "--state-dir", str(tmp_path / "state"), "--config", str(config))
        assert (done.returncode, done.stdout) == (2, "")
        one_line(done, "edge_server")

    def test_busy_ports(self, tmp_path):
        edge = start_edge(tmp_path / "first")
        try:
            with edge.client() as client, quictunnel.forward(free_port(), client=client) as tunnel:
                taken = {"--https": f"127.0.0.1:{tunnel.port}", "--quic": edge.environ["QUICTUNNEL_EDGE"]}
            for option, address in taken.items():
                done = finish(*EDGE, "--state-dir", str(tmp_path / "second"), *FREE_PORTS, option, address)
                assert (done.returncode, done.stdout) == (2, "")
                line = one_line(done, "edge_server")
                assert option in line
                assert address.rpartition(":")[2] in line
                assert not (tmp_path / "second" / "client.env").exists()
        finally:
            assert edge.stop() == 0

    def test_a_certificate_that_cannot_be_used(self, tmp_path):
        from edge_server.certificates.authority import DevelopmentAuthority

        authority = DevelopmentAuthority.load_or_create(tmp_path / "authority")
        good, key = authority.issue(["*.tunnel.localhost"])
        other, _ = authority.issue(["*.tunnel.localhost"])
        elsewhere, elsewhere_key = authority.issue(["*.example.com"])
        garbage = b"garbage"
        for number, (chain, private) in enumerate(
            [(garbage, key), (good, garbage), (other, key), (elsewhere, elsewhere_key), (key, good)]
        ):
            cert_file, key_file = tmp_path / f"{number}.pem", tmp_path / f"{number}.key"
            cert_file.write_bytes(chain)
            key_file.write_bytes(private)
            done = finish(
                *(*EDGE, *FREE_PORTS, "--state-dir", str(tmp_path / "state")),
                *("--cert", str(cert_file), "--key", str(key_file)),
            )
            assert (done.returncode, done.stdout) == (2, ""), number
            assert str(number) in one_line(done, "edge_server")

    def test_a_state_directory_that_cannot_be_written(self, tmp_path):
        """A file in its place, because root may write anywhere."""
        (tmp_path / "file").write_text("")
        for path in (tmp_path / "file", tmp_path / "file" / "below"):
            done = finish(*EDGE, *FREE_PORTS, "--state-dir", str(path))
            assert (done.returncode, done.stdout) == (2, "")
            assert str(path) in one_line(done, "edge_server")
        assert (tmp_path / "file").read_text() == ""

    def test_a_damaged_state_directory(self, tmp_path):
        edge = start_edge(tmp_path / "state")
        assert edge.stop() == 0
        (tmp_path / "state" / "ticket.key").write_bytes(b"short")
        done = finish(*EDGE, *FREE_PORTS, "--state-dir", str(tmp_path / "state"))
        assert (done.returncode, done.stdout) == (2, "")
        assert "ticket.key" in one_line(done, "edge_server")
