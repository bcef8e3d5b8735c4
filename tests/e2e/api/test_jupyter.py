"""``%quictunnel`` in IPython's own shell, and in a kernel that runs a notebook."""

import atexit
import os
import re
import sys
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

from quictunnel.client import Client
from tests.harness.echo_origin import EchoOrigin, echoes
from tests.harness.edge_process import children_environment
from tests.harness.visitors import curl, tls_connect

ROOT = Path(__file__).parents[3]
LINK = re.compile(r'<div><a href="(https://[^"]+)" target="_blank" rel="noopener">\1</a> &rarr; port (\d+)')


@pytest.fixture
def origin():
    with EchoOrigin() as origin:
        yield origin


@pytest.fixture
def environ(edge, monkeypatch):
    for name, value in edge.environ.items():
        monkeypatch.setenv(name, value)
    yield edge.environ
    Client.from_env().close()


class Notebook:
    """Cells for a shell; what they print and show."""

    def __init__(self, directory):
        config = Config()
        config.HistoryManager.enabled = False
        self.shell = InteractiveShell.instance(config=config, ipython_dir=str(directory))
        self.shell.colors = "nocolor"

    def run(self, cell):
        with capture_output() as said:
            result = self.shell.run_cell(cell)
        html = "".join(output.data.get("text/html", "") for output in said.outputs)
        return result, html, said.stdout + said.stderr

    def link(self, cell):
        result, html, said = self.run(cell)
        assert result.success, said
        (found,) = LINK.findall(html)
        return found

    def refusal(self, cell):
        """The one line that says what is wrong."""
        result, html, said = self.run(cell)
        assert not result.success
        assert html == ""
        (line,) = said.strip().splitlines()
        return line


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    for name in ("stdout", "stderr", "displayhook", "excepthook"):
        monkeypatch.setattr(sys, name, getattr(sys, name))  # a shell leaves its own behind
    notebook = Notebook(tmp_path)
    yield notebook
    notebook.run("%unload_ext quictunnel")
    notebook.shell.restore_sys_module_state()
    atexit.unregister(notebook.shell.atexit_operations)
    notebook.shell.atexit_operations()
    InteractiveShell.clear_instance()


def test_a_link_that_stays_until_it_is_stopped(edge, environ, notebook, origin):
    assert notebook.run("%load_ext quictunnel")[0].success
    url, port = notebook.link(f"%quictunnel {origin.port} --name notebook --tcp")
    assert url.startswith("https://notebook.tunnel.localhost:")
    assert port == str(origin.port)
    client = Client.from_env()
    (shown,) = notebook.shell.magics_manager.registry["QuictunnelMagics"].tunnels.displays()
    assert re.fullmatch(rf"{re.escape(url)} -> port {port}, TCP [\w.]+:\d+", repr(shown))

    # Run again: the same; with other options: another.
    assert notebook.link(f"%quictunnel {origin.port} --name notebook --tcp") == (url, port)
    notebook.run("%load_ext quictunnel")
    assert notebook.link("%quictunnel") == (url, port)
    other, _ = notebook.link(f"%quictunnel {origin.port}")
    assert other != url
    with EchoOrigin() as second:
        notebook.link(f"%quictunnel {second.port}")
        assert len(LINK.findall(notebook.run("%quictunnel")[1])) == 2
        (tunnel, _) = (
            shown.tunnel for shown in notebook.shell.magics_manager.registry["QuictunnelMagics"].tunnels.displays()
        )
        with tls_connect(edge, tunnel) as visitor:
            assert echoes(visitor)
        assert notebook.run(f"%quictunnel --stop {origin.port}")[2] == f"port {origin.port} closed\n"
        assert b"no open tunnel" in curl(edge, other).stdout
        assert notebook.run("%quictunnel --stop")[2] == "1 closed\n"
    assert notebook.run("%quictunnel --stop")[2] == "0 closed\n"
    assert "No tunnel is open. %quictunnel PORT" in notebook.run("%quictunnel")[2]
    last, _ = notebook.link(f"%quictunnel {origin.port}")
    notebook.run("%reload_ext quictunnel")
    assert b"no open tunnel" in curl(edge, last).stdout
    assert "No tunnel is open" in notebook.run("%quictunnel")[2]
    assert not client.is_closed


def test_tunnel_of_a_closed_client_is_reopened(edge, environ, notebook, origin):
    notebook.run("%load_ext quictunnel")
    first = notebook.link(f"%quictunnel {origin.port}")
    Client.from_env().close()
    assert "No tunnel is open" in notebook.run("%quictunnel")[2]
    assert notebook.link(f"%quictunnel {origin.port}") != first
    Client.from_env().close()
    assert notebook.link(f"%quictunnel {origin.port}") != first


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("80000", "a port is a number from 1 to 65535"),
        ("0", "a port is a number from 1 to 65535"),
        ("٣٠٠٠", "a port is a number from 1 to 65535"),
        ("nonsense", "'nonsense' is neither the number of a local port"),
        ("8000 9000", "unrecognized arguments: 9000"),
        ("--name x", "The port is missing."),
        ("8000 --name 'x", "No closing quotation"),
        ("8000 --name -_-", "expected one argument"),
        ("8000 --name UPPER", "The name"),
        ("8000 --tcp --h2", "H2 can only be used with encrypted ports"),
        ("--stop 8000", "No tunnel is open for port 8000"),
    ],
)
def test_error_is_one_line(environ, notebook, line, said):
    notebook.run("%load_ext quictunnel")
    wrong = notebook.refusal(f"%quictunnel {line}")
    assert wrong.startswith("UsageError: ")
    assert said in wrong


def test_no_edge_is_one_line_with_the_remedy(notebook, monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith(("QUICTUNNEL_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    notebook.run("%load_ext quictunnel")
    assert "quictunnel-edge" in notebook.refusal("%quictunnel 8000")


def test_html_is_escaped():
    from quictunnel.integrations.jupyter import TunnelDisplay
    from quictunnel.tunnel import Tunnel

    assert "<script>" not in TunnelDisplay(1, Tunnel('"><script>', 443, "<script>", 1))._repr_html_()


@pytest.mark.long
def test_a_notebook_in_a_real_kernel(edge, origin, tmp_path, monkeypatch):
    """The example notebook's cells run by nbclient; the kernel's end closes what is open."""
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    for name, value in children_environment(edge).items():
        monkeypatch.setenv(name, value)
    cells = ["%load_ext quictunnel", f"%quictunnel {origin.port} --name kernel", "%quictunnel nonsense"]
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    done = nbclient.NotebookClient(page, kernel_name="python3", allow_errors=True).execute()
    (shown,) = done.cells[1].outputs
    (url, _) = LINK.search(shown.data["text/html"]).groups()
    assert url.startswith("https://kernel.")
    assert b"no open tunnel" in curl(edge, url).stdout
    assert any(
        "'nonsense' is neither the number of a local port" in output.get("text", "")
        for output in done.cells[2].outputs
    )
    assert not any(output.output_type == "error" and output.traceback[1:] for output in done.cells[2].outputs)
