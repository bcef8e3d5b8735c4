"""The fixtures for pytest, as projects use them: each test here runs a pytest of its own in another process."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[3]
APP = """
import contextlib, http.server, threading

class Hello(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

@contextlib.contextmanager
def serving():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server.server_port
        server.shutdown()
"""


@pytest.fixture
def project(pytester, monkeypatch):
    """An empty project whose pytest loads the plugin of this source, whatever is installed."""
    for name in [name for name in os.environ if name.startswith(("QUICTUNNEL_", "SSL_CERT", "REQUESTS_CA"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # A proxy that nothing must go through.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    pytester.makepyfile(app=APP)
    pytester.makeini("[pytest]\nfilterwarnings = error\nasyncio_mode = auto\n"
                     "asyncio_default_fixture_loop_scope = function\n")  # fmt: skip

    def run(*options: str) -> pytest.RunResult:
        return pytester.runpytest_subprocess(
            "-p",
            "no:quictunnel",
            "-p",
            "quictunnel.integrations.pytest_plugin",
            "-p",
            "no:cacheprovider",
            *options,
            timeout=100,
        )

    return run


def test_every_http_client_trusts_the_url(project, pytester):
    pytester.makepyfile(
        test_it="""
        import socket, subprocess, urllib.request
        import httpx, pytest, quictunnel, requests
        from app import serving

        def test_sync(public_url):
            with serving() as port:
                url = public_url(port)
                assert url.startswith("https://") and ".tunnel.localhost:" in url
                assert httpx.get(url).text == "hello"
                assert requests.get(url).text == "hello"
                with urllib.request.urlopen(url) as answer:
                    assert answer.read() == b"hello"

        def test_curl_by_the_environment_and_by_the_file(public_url, quictunnel_ca):
            with serving() as port:
                url = public_url(port)
                for more in ([], ["--cacert", quictunnel_ca]):
                    assert subprocess.check_output(["curl", "-sS", *more, url]) == b"hello"

        async def test_async(public_url, quictunnel_ssl_context):
            with serving() as port:
                async with httpx.AsyncClient(verify=quictunnel_ssl_context) as client:
                    url = public_url(port)
                    assert (await client.get(url)).text == "hello"

        def test_names_and_tcp(public_url, public_tunnel):
            with serving() as port:
                assert public_url(port, name="my-app").startswith("https://my-app.tunnel.localhost:")
            with serving() as port:
                tunnel = public_tunnel(port, unencrypted=True)
                host, number = tunnel.tcp_socket
                assert httpx.get(f"http://{host}:{number}").text == "hello"

        def test_http2_is_offered_when_asked_for(public_tunnel, quictunnel_ssl_context):
            tunnel = public_tunnel(1, h2_enabled=True)
            quictunnel_ssl_context.set_alpn_protocols(["h2"])
            with (
                socket.create_connection(tunnel.tls_socket) as plain,
                quictunnel_ssl_context.wrap_socket(plain, server_hostname=tunnel.host) as visitor,
            ):
                assert visitor.selected_alpn_protocol() == "h2"

        def test_a_port_keeps_its_url(public_url, public_tunnel):
            with serving() as port:
                assert public_url(port) == public_url(port) == public_tunnel(port).url
                with pytest.raises(quictunnel.InvalidError, match="other options"):
                    public_tunnel(port, unencrypted=True)

        kept = None

        def test_a_visitor_who_stays_holds_nothing_up(public_url, quictunnel_ssl_context):
            global kept
            kept = httpx.Client(verify=quictunnel_ssl_context)
            with serving() as port:
                global left
                left = public_url(port)
                assert kept.get(left).text == "hello"

        def test_it_is_gone_with_its_test(quictunnel_trust):
            status = kept.get(left).status_code
            kept.close()
            assert status == 404
        """
    )
    project("--durations=3", "--durations-min=2").assert_outcomes(passed=8)


def test_the_code_under_test_finds_the_edge_and_loses_nothing(project, pytester, monkeypatch, tmp_path):
    theirs = tmp_path / "theirs.pem"
    theirs.write_bytes(b"# theirs\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(theirs))
    monkeypatch.setenv("NO_PROXY", "example.com")
    pytester.makepyfile(
        test_it="""
        import os, subprocess, sys
        from pathlib import Path
        import httpx, pytest, quictunnel
        from app import serving

        def test_what_was_trusted_before_still_is(quictunnel_trust, quictunnel_ca):
            assert Path(os.environ["SSL_CERT_FILE"]) == quictunnel_trust
            assert quictunnel_trust.read_bytes() == b"# theirs\\n\\n" + quictunnel_ca.read_bytes()
            assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "example.com,localhost,.localhost"

        CHILD = "import quictunnel\\nwith quictunnel.forward({}) as tunnel: print(tunnel.url)"

        @pytest.mark.parametrize("turn", [1, 2])
        def test_it(quictunnel_environ, turn):
            with serving() as port, quictunnel.forward(port) as tunnel:
                assert httpx.get(tunnel.url).text == "hello"
                child = subprocess.check_output([sys.executable, "-c", CHILD.format(port)], text=True)
                assert child.startswith("https://")

        def test_nothing_is_left():
            assert not [name for name in os.environ if name.startswith("QUICTUNNEL")]
            assert Path(os.environ["SSL_CERT_FILE"]).name == "theirs.pem"
            assert os.environ["NO_PROXY"] == "example.com"

        def test_a_default_client_of_another_edge_is_left_alone(request, monkeypatch):
            monkeypatch.setenv("QUICTUNNEL_EDGE", "127.0.0.1:9")
            monkeypatch.setenv("QUICTUNNEL_TOKEN", "t")
            other = quictunnel.Client.from_env()
            with pytest.raises(pytest.fail.Exception, match="127.0.0.1:9"):
                request.getfixturevalue("quictunnel_environ")
            assert not other.is_closed
            other.close()
        """
    )
    project().assert_outcomes(passed=5)


EMPTY_PROJECT = """
import http.server, threading
import httpx, pytest

@pytest.fixture
def port():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()

@pytest.mark.parametrize("turn", range(4))
def test_the_public_sees_it(public_url, port, turn):
    assert httpx.get(public_url(port, name="same-name")).status_code == 200

async def test_from_a_coroutine(public_url, port):
    async with httpx.AsyncClient() as visitor:
        assert (await visitor.get(public_url(port))).status_code == 200
"""


@pytest.mark.long
@pytest.mark.timeout(600)
def test_in_an_empty_project_in_a_clean_virtual_environment(tmp_path):
    """Built, installed from the wheel with its dependencies, used by a project that says nothing of it; beside
    pytest-xdist each worker has its edge, so that all may have the same name at once."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "QUICTUNNEL_"))}

    def run(*command: object) -> str:
        done = subprocess.run(
            [str(word) for word in command], capture_output=True, text=True, env=clean, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    source, wheels = tmp_path / "source", tmp_path / "wheels"
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if name.startswith(("quictunnel/", "edge_server/", "certs/", "docs/man/")) or "/" not in name:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = (python, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--wheel-dir", wheels, source)
    (wheel,) = wheels.glob("quictunnel-*.whl")
    run(*pip, "install", wheel, "pytest", "pytest-asyncio", "pytest-xdist", "httpx")
    project = tmp_path / "project"
    project.mkdir()
    (project / "test_app.py").write_text(EMPTY_PROJECT)
    scope = ("-o", "asyncio_default_fixture_loop_scope=function")  # pytest-asyncio warns of projects without it
    command = (python, "-m", "pytest", "-W", "error", "--asyncio-mode=auto", *scope, project)
    said = run(*command)
    assert "5 passed" in said
    assert "quictunnel-" in next(line for line in said.splitlines() if line.startswith("plugins:"))
    assert "5 passed" in run(*command, "-n", "2")
    assert sys.prefix not in run(python, "-c", "import quictunnel, edge_server; print(quictunnel.__path__)")
