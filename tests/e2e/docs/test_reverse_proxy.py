"""Port 443 shared by an edge and a web server: the configurations of the guide, with real nginx and HAProxy."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_server.certificates.authority import DevelopmentAuthority
from tests.harness.edge_process import children_environment
from tests.harness.netns import new_namespace
from tests.harness.programs import need
from tests.harness.tutorial_runner import steps_of

ROOT = Path(__file__).parents[3]
FILES = {
    step.title: step.text
    for step in steps_of((ROOT / "docs" / "how-to" / "reverse-proxy.md").read_text())
    if step.title.endswith((".conf", ".cfg"))
}
DOMAIN = "tunnel.example.com"
WEB = "www.example.com"
PUBLIC = "203.0.113.10"
MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
NGINX = """
{module}
daemon off;
pid {directory}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    server {{
        listen 127.0.0.2:443 ssl;
        ssl_certificate {directory}/web.pem;
        ssl_certificate_key {directory}/web.key;
        return 200 "the web server";
    }}
}}
{stream}
"""


@contextmanager
def running(namespace, *command: str):
    """Run a server in the namespace until the end of the block."""
    process = subprocess.Popen([*namespace.enter, *command], stderr=subprocess.PIPE, text=True)
    try:
        yield
        assert process.poll() is None, process.stderr.read()
    finally:
        process.terminate()
        process.communicate(timeout=20)


@contextmanager
def proxy_of(kind: str, namespace, directory: Path):
    """Run a web server at 127.0.0.2, and nginx or HAProxy at the public address."""
    stream = f"load_module {MODULE};" if kind == "nginx" else ""
    if kind == "nginx" and not MODULE.exists():
        pytest.skip("the module stream of nginx is not installed")
    config = directory / "nginx.conf"
    text = FILES["nginx.conf"] if kind == "nginx" else ""
    config.write_text(NGINX.format(directory=directory, module=stream, stream=text))
    with running(namespace, need("nginx"), "-e", "stderr", "-c", str(config)):
        if kind == "nginx":
            yield
        else:
            (directory / "haproxy.cfg").write_text(FILES["haproxy.cfg"])
            with running(namespace, need("haproxy"), "-f", str(directory / "haproxy.cfg")):
                yield


@pytest.mark.parametrize("kind", ["nginx", "haproxy"])
def test_a_proxy_shares_the_port(tmp_path, kind):
    need(kind)
    with new_namespace(tmp_path, DOMAIN) as namespace:
        namespace.run("ip", "address", "add", f"{PUBLIC}/32", "dev", "lo").check_returncode()
        namespace.start_edge("--domain", DOMAIN, "--https", "127.0.0.1:443", "--public-host", DOMAIN)
        chain, key = DevelopmentAuthority.load_or_create(namespace.edge.state_dir).issue([WEB])
        (tmp_path / "web.pem").write_bytes(chain)
        (tmp_path / "web.key").write_bytes(key)
        (tmp_path / "hello.txt").write_text("through the tunnel")
        tunnel = [sys.executable, "-m", "quictunnel", "run", "--json", "--name", "my-app", "--"]
        server = [sys.executable, "-m", "http.server", "8000", "--bind", "127.0.0.1"]
        with proxy_of(kind, namespace, tmp_path):
            client = subprocess.Popen(
                [*namespace.enter, *tunnel, *server],
                env=children_environment(namespace.edge),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                cwd=tmp_path,
            )
            try:
                assert f'"https://my-app.{DOMAIN}"' in client.stdout.readline()
                assert visit(namespace, f"my-app.{DOMAIN}", "/hello.txt") == b"through the tunnel"
                assert visit(namespace, WEB, "/") == b"the web server"
            finally:
                client.terminate()
                client.communicate(timeout=30)


def visit(namespace, host: str, path: str) -> bytes:
    """Return what a visitor gets at the public address."""
    patient = ("--retry", "20", "--retry-connrefused", "--retry-delay", "1", "--max-time", "30")
    done = namespace.curl(*patient, "--resolve", f"{host}:443:{PUBLIC}", f"https://{host}{path}")
    assert done.returncode == 0, done.stderr
    return done.stdout
