"""README from top to bottom, as its reader runs it who has an empty home and wheels that pip can find."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import tutorial_runner
from tests.harness.acme_authority import certificate_authority
from tests.harness.netns import new_namespace
from tests.harness.programs import need
from tests.harness.tutorial_runner import Reader, Step, steps_of
from tests.harness.wheels import built_wheels

ROOT = Path(__file__).parents[3]
STEPS = steps_of((ROOT / "README.md").read_text())
DOMAIN = "tunnel.example.com"
TALK = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 9) as visitor:
    visitor.sendall(b"echo\\n")
    print(visitor.recv(9))
"""


@pytest.fixture
def environ(tmp_path, tmp_path_factory):
    """The environment of somebody with an empty home, whose pip finds the wheels of this tree, and the Python that
    runs these tests."""
    wheels = built_wheels(tmp_path_factory)
    found = wheels.environ(tmp_path / "home")
    # The Python beneath the virtual environment of these tests: the wheels are for its version.
    python = Path(sys.executable).resolve()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(python)
    return found | {"PATH": f"{tmp_path}/bin:{found['PATH']}", "PYTHONUNBUFFERED": "1"}


@pytest.mark.early
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_readme(tmp_path, environ, monkeypatch):
    monkeypatch.setattr(tutorial_runner, "PATIENCE", 120.0)  # for pip
    for program in ("bash", "curl", "ps", "setsid"):
        need(program)
    place = tmp_path / "reader"
    place.mkdir()
    done = []
    with (
        new_namespace(tmp_path, DOMAIN) as namespace,
        certificate_authority(namespace, place),
        Reader(namespace.enter, place, environ, {}) as reader,
    ):
        for step in STEPS:
            if "each" in step.notes:
                try_each(namespace, place, environ, [line.partition("#")[0] for line in step.text.splitlines()])
            else:
                reader.do(step)
            if step.kind == "sh":
                done.append(step.text.splitlines()[-1].split()[-1])
            if "--acme" in step.text:  # the programs that follow use an edge without public names
                reader.do(Step("sh", "edge", "quictunnel-edge\n", {"press Ctrl-C": "edge", "until": "Try:"}))
            check_shown(namespace, environ, step.text, reader)
    assert done[:3] == ["quictunnel", "quictunnel-edge", "hello.py"], "three commands to the first URL"
    assert [name for name in done if name.endswith(".py")] == ["hello.py", "web.py", "echo.py", "test_hello.py"]


def check_shown(namespace, environ: dict[str, str], text: str, reader: Reader) -> None:
    """Visit the tunnel that a program has just opened."""
    if text.endswith(("python hello.py\n", "python web.py\n")):
        url = re.search(r"(?:Open|Server listening at) (\S+)", reader.shown)[1]
        host, port = re.fullmatch(r"https://([^:/]+):?(\d*)", url).groups()
        ca = f"{environ['HOME']}/.local/state/quictunnel/ca.pem"
        resolve = f"{host}:{port or 443}:127.0.0.1"
        visit = namespace.run("curl", "--silent", "--show-error", "--cacert", ca, "--resolve", resolve, url)
        wanted = b"Hello from my machine" if "hello.py" in text else b"Hello, World!"
        assert wanted in visit.stdout, visit.stderr
    elif text.endswith("python echo.py\n"):
        address = re.search(r"TCP tunnel listening at: (\S+) (\d+)", reader.shown).groups()
        said = namespace.run(sys.executable, "-c", TALK, *address)
        assert said.stdout == b"b'echo\\n'\n", said.stderr
    elif "pytest test_hello.py" in text:
        assert "1 passed" in reader.shown


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

    for line in [line for line in lines if line.startswith("pip ")]:
        with start(line) as process:
            said = process.communicate(timeout=240)[0]
        assert process.returncode == 0, said
        lines.remove(line)
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


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_clean_clone(tmp_path):
    """The commands for a clone, without Rust."""
    home = tmp_path / "home"
    home.mkdir()
    environ = {"HOME": str(home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "QUICTUNNEL_NATIVE": "0"}
    place = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", str(place)], check=True)
    for arguments in (["demo", "--once"], ["test", "tests/wire"]):
        subprocess.run(["python3", "bootstrap.py", *arguments], cwd=place, env=environ, check=True)
