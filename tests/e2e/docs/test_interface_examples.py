"""The three examples that the interface is measured by, run as they stand by real programs.

They name ports 8000 and 22. Each runs in a network namespace of its own, edge and visitors included, where these
are free whatever else the machine does; that needs root.
"""

import ast
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.edge_process import children_environment
from tests.harness.netns import new_namespace
from tests.harness.programs import need
from tests.harness.tutorial_runner import steps_of

EXAMPLES = Path(__file__).with_name("examples")
ROOT = Path(__file__).parents[3]
DOCUMENTED = ROOT / "docs" / "examples"


@pytest.fixture
def namespace(tmp_path):
    with new_namespace(tmp_path) as namespace:
        namespace.start_edge()
        yield namespace


@pytest.fixture
def example(namespace):
    """Start an example in that namespace; it ends with the test, with whatever it started."""
    processes = []

    def start(name: str | Path, *prefix: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [*namespace.enter, *prefix, sys.executable, str(EXAMPLES / name)],
            env=children_environment(namespace.edge),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_the_web_server(namespace, example):
    process = example("web.py")
    said = process.stdout.readline().split()
    assert said[:3] == ["Server", "listening", "at"]
    url = said[3]
    # Flask starts after that line; until it listens, visitors are told that nobody does.
    done = namespace.curl("--fail", "--retry", "50", "--retry-delay", "1", "--retry-max-time", "30", url)
    assert done.stdout == b"Hello, World!", done.stderr
    done = namespace.curl("--include", "--http1.0", f"{url}/nowhere")
    assert done.stdout.startswith(b"HTTP/1.1 404")

    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    # The port is no longer exposed.
    gone = namespace.curl(url)
    assert gone.stdout.startswith(b"404 Not Found: there is no open tunnel"), gone.stderr


TALK = """
import socket, sys
words = sys.stdin.buffer.read()
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30) as visitor:
    visitor.sendall(words)
    visitor.shutdown(socket.SHUT_WR)
    while chunk := visitor.recv(65536):
        sys.stdout.buffer.write(chunk)
"""


def test_the_echo_server(namespace, example):
    process = example("echo.py")
    said, _, address = process.stdout.readline().partition(": ")
    assert said == "TCP tunnel listening at"
    host, port = ast.literal_eval(address)

    def talk(words: bytes) -> subprocess.CompletedProcess:
        return namespace.run(sys.executable, "-c", TALK, host, str(port), input=words)

    words = bytes(range(256)) * 400
    answers = [talk(b"hello"), talk(words)]
    while any(done.returncode for done in answers):  # it listens a moment after that line
        assert b"ConnectionReset" in b"".join(done.stderr for done in answers)
        answers = [talk(b"hello"), talk(words)]
    assert [done.stdout for done in answers] == [b"hello", words]
    assert process.stdout.readline().startswith("Connection from: ('127.0.0.1', ")

    process.send_signal(signal.SIGINT)
    assert process.wait(20) == -signal.SIGINT
    gone = talk(b"hello")
    assert b"ConnectionRefusedError" in gone.stderr


@pytest.mark.parametrize("program", [EXAMPLES / "login.py", DOCUMENTED / "ssh_login.py", "README"])
def test_the_ssh_server(namespace, example, tmp_path, program):
    """The container's image brings sshd, its keys and root's authorized_keys: here, mounts that only the
    example sees."""
    need("sshd")
    if program == "README":
        steps = steps_of((ROOT / "README.md").read_text())
        program = tmp_path / "login.py"
        program.write_text(next(step.text for step in steps if step.title == "login.py"))
    if not Path("/root/.ssh").is_dir():
        pytest.skip("root has no .ssh directory to mount over")
    keys, etc = tmp_path / "keys", tmp_path / "etc"
    keys.mkdir(mode=0o700)
    etc.mkdir()
    for path in (tmp_path / "id", etc / "host_key"):
        subprocess.run([need("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    (keys / "authorized_keys").write_bytes((tmp_path / "id.pub").read_bytes())
    (etc / "sshd_config").write_text("HostKey /etc/ssh/host_key\nUsePAM no\nPasswordAuthentication no\n")
    image = (
        f"mount --bind {shlex.quote(str(keys))} /root/.ssh && mount --bind {shlex.quote(str(etc))} /etc/ssh && "
        'mount -t tmpfs none /run && mkdir /run/sshd && exec "$@"'
    )
    process = example(program, need("unshare"), "--mount", "sh", "-ec", image, "container")
    said, _, command = process.stdout.readline().strip().partition(": ")
    assert said == "ssh into container using", process.stderr.read()
    ssh, *arguments = shlex.split(command)
    assert ssh == "ssh"

    trust = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    login = [
        need("ssh"),
        "-F",
        "none",
        "-i",
        str(tmp_path / "id"),
        "-o",
        "BatchMode=yes",
        *trust,
        *arguments,
    ]
    done = namespace.run(*login, "echo $SSH_CONNECTION; cat", input=b"over ssh")
    assert done.returncode == 0, done.stderr
    connection, _, rest = done.stdout.partition(b"\n")
    assert connection.endswith(b" 127.0.0.1 22")
    assert rest == b"over ssh"
