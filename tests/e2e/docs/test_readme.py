"""README from top to bottom, as its reader runs it who has nothing of it on the path."""

import contextlib
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.netns import new_namespace
from tests.harness.programs import need
from tests.harness.tutorial_runner import Reader, steps_of

ROOT = Path(__file__).parents[3]
STEPS = steps_of((ROOT / "README.md").read_text())
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH of a user who has installed nothing."""
TALK = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 9) as visitor:
    visitor.sendall(b"echo\\n")
    print(visitor.recv(9))
"""
CONFTEST = """
import http.server, threading, types, pytest

class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(204)
        self.end_headers()

@pytest.fixture
def my_app():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield types.SimpleNamespace(port=server.server_port)
        server.shutdown()
"""


@pytest.fixture
def environ(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    return {"HOME": str(home), "PATH": PATH, "LANG": "C.UTF-8", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def clone(directory: Path, environ: dict[str, str]) -> None:
    """Do what README begins with, in a clean clone, and what needs the network, which the namespace lacks."""
    for command in (
        ["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", str(directory)],
        ["python3", "bootstrap.py", "demo", "--once"],
        [".venv/bin/pip", "install", "--quiet", "flask", ".[edge]"],
    ):
        cwd = directory if directory.exists() else None
        subprocess.run(command, env=environ | {"QUICTUNNEL_NATIVE": "0"}, cwd=cwd, check=True)


IN_A_CLONE = pytest.param(True, marks=[pytest.mark.long, pytest.mark.timeout(900)])


@pytest.mark.slow
@pytest.mark.parametrize("is_clean", [False, IN_A_CLONE])
def test_the_readme(tmp_path, environ, is_clean):
    for program in ("bash", "curl", "ps", "setsid"):
        need(program)
    place = tmp_path / "clone"
    if is_clean:
        clone(place, environ)
    else:
        place.mkdir()
        (place / ".venv").symlink_to(sys.prefix)
    done = []
    with new_namespace(tmp_path) as namespace, Reader(namespace.enter, place, environ, {}) as reader:
        for step in STEPS:
            if "each" in step.notes:
                try_each(namespace, place, environ, [line.partition("#")[0] for line in step.text.splitlines()])
            else:
                reader.do(step)
            done += [word for word in re.findall(r"python (?:\S+\.py|-m \S+)", step.text) if step.kind == "sh"]
            if step.text.endswith("python web.py\n"):
                url = re.search(r"Server listening at (\S+)", reader.shown)[1]
                ca = f"{environ['HOME']}/.local/state/quictunnel/ca.pem"
                visit = namespace.run("curl", "--silent", "--show-error", "--cacert", ca, url)
                assert visit.stdout == b"Hello, World!", visit.stderr
            elif step.text.endswith("python echo.py\n"):
                address = re.search(r"TCP tunnel listening at: (\S+) (\d+)", reader.shown).groups()
                said = namespace.run(sys.executable, "-c", TALK, *address)
                assert said.stdout == b"b'echo\\n'\n", said.stderr
    assert done == [
        *("python -m edge_server", "python web.py", "python echo.py"),
        *("python -m http.server", "python -m edge_server"),
    ]


def try_each(namespace, place: Path, environ: dict[str, str], lines: list[str]) -> None:
    """Run the commands side by side; those that open a tunnel until it is open."""

    def start(line: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*namespace.enter, "bash", "-c", f". .venv/bin/activate && exec {line}"],
            env=environ,
            cwd=place,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    with contextlib.ExitStack() as stack:
        server = stack.enter_context(start("python -m http.server 8000"))
        stack.callback(server.kill)
        tunnels = {line: start(line) for line in lines if not re.match("quictunnel (doctor|status)", line)}
        for line, process in tunnels.items():
            stack.callback(process.kill)
            said = ""
            while "https://" not in said:
                more = process.stdout.readline()
                assert more, f"{line}: {said}"
                said += more
        for line in set(lines) - set(tunnels):
            process = start(line)
            said = process.communicate(timeout=60)[0]
            assert process.returncode == 0, f"{line}: {said}"
        for line, process in tunnels.items():
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=20)[0]
            assert process.returncode == 0, f"{line}: {said}"
    assert len(lines) > 8


def test_the_test_of_the_readme(tmp_path, environ):
    (text,) = (step.text for step in STEPS if step.title == "test_webhook.py")
    (tmp_path / "test_webhook.py").write_text(text)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_webhook.py"]
    ran = subprocess.run(
        command, env=environ | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "1 passed" in ran.stdout, ran.stdout + ran.stderr
