"""OpenSSH and rsync through the TCP address of a tunnel."""

import os
import pty
import select
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

import quictunnel
from tests.harness.programs import free_port, need, random_file, sha256, wait_for_port

BULK = 100
IDLE = 60.0
"""Seconds in which nothing is typed: twice the idle time-out of the QUIC connection."""
PATIENCE = 30.0


@dataclass(frozen=True)
class SshLogin:
    """SSH login through the tunnel: host, port and key."""

    host: str
    port: int
    key: Path

    @property
    def options(self) -> list[str]:
        return [
            *("-F", "none", "-i", str(self.key), "-o", "BatchMode=yes", "-o", "Compression=no"),
            *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"),
        ]

    def ssh(self, *arguments: str) -> list[str]:
        return [need("ssh"), *self.options, "-p", str(self.port), self.host, *arguments]


def make_key(path: Path) -> Path:
    subprocess.run([need("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


@pytest.fixture
def login(tmp_path, running, client):
    """An sshd of our own that lets this user in with a fresh key, and the tunnel to it."""
    program = need("sshd")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it locks its unprivileged half up; distributions make it
    key, host_key = make_key(tmp_path / "key"), make_key(tmp_path / "host_key")
    port = free_port()
    config = tmp_path / "sshd_config"
    config.write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {host_key}\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {key}.pub\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
        "Subsystem sftp internal-sftp\nMaxStartups 100\nUseDNS no\n"
    )
    log = tmp_path / "sshd.log"
    running([program, "-D", "-f", config, "-E", log])
    wait_for_port(port)
    with quictunnel.forward(port, unencrypted=True, client=client) as tunnel:
        host, public_port = tunnel.tcp_socket
        yield SshLogin(host, public_port, key)


def run(command: list[str], **options) -> subprocess.CompletedProcess:
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(command, capture_output=True, timeout=100, check=False, **options)


def test_a_command_its_output_and_its_status(login):
    done = run(login.ssh("echo out; echo err >&2; exit 7"))
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 7)


def test_piped_input_comes_back(login, tmp_path):
    """The end of the input passes through as an end, while output still flows."""
    original = random_file(tmp_path / "original", 5)
    with original.open("rb") as file:
        done = run(login.ssh("cat"), stdin=file)
    assert done.returncode == 0, done.stderr
    assert done.stdout == original.read_bytes()


def test_scp_of_100_mib_each_way_is_equal(login, tmp_path):
    original = random_file(tmp_path / "original", BULK)
    there, back = tmp_path / "there", tmp_path / "back"
    scp = [need("scp"), *login.options, "-q", "-P", str(login.port)]
    done = run([*scp, str(original), f"{login.host}:{there}"])
    assert done.returncode == 0, done.stderr
    done = run([*scp, f"{login.host}:{there}", str(back)])
    assert done.returncode == 0, done.stderr
    assert sha256(original) == sha256(there) == sha256(back)
    for path in (original, there, back):
        path.unlink()


def test_rsync_copies_and_then_only_the_difference(login, tmp_path):
    source = tmp_path / "source"
    (source / "below").mkdir(parents=True)
    for n in range(50):
        (source / "below" / f"file{n}").write_bytes(os.urandom(n * 1000))
    big = random_file(source / "big", 10)
    target = tmp_path / "target"
    shell = " ".join([need("ssh"), *login.options, "-p", str(login.port)])

    def rsync() -> int:
        done = run([need("rsync"), "-a", "--stats", "-e", shell, f"{source}/", f"{login.host}:{target}/"])
        assert done.returncode == 0, done.stderr
        sent = next(line for line in done.stdout.decode().splitlines() if line.startswith("Total bytes sent"))
        return int(sent.rpartition(":")[2].replace(",", ""))

    assert rsync() > 10 * 1024 * 1024
    for path in source.rglob("*"):
        if path.is_file():
            assert (target / path.relative_to(source)).read_bytes() == path.read_bytes()
    with big.open("r+b") as file:
        file.seek(5_000_000)
        file.write(b"changed")
    os.utime(big, (1, 1))
    assert rsync() < 1024 * 1024
    assert (target / "big").read_bytes() == big.read_bytes()


def test_several_at_once(login):
    sessions = [
        subprocess.Popen(login.ssh(f"echo {n}; cat; echo {n}"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for n in range(8)
    ]
    for session in sessions:  # all are logged in before any may end
        assert session.stdout.readline().strip().isdigit()
    for n, session in reversed(list(enumerate(sessions))):
        out, _ = session.communicate(f"hello {n}\n".encode(), timeout=PATIENCE)
        assert out.decode() == f"hello {n}\n{n}\n"
        assert session.returncode == 0


class Terminal:
    """A person at a terminal, logged in."""

    def __init__(self, login: SshLogin) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            login.ssh("-tt", "exec env PS1='ready$ ' sh"),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._seen = b""

    def type(self, text: bytes) -> None:
        os.write(self._master, text)

    def wait_for(self, text: bytes) -> None:
        deadline = time.monotonic() + PATIENCE
        while text not in self._seen:
            ready, _, _ = select.select([self._master], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"only {self._seen!r} was shown"
            self._seen += os.read(self._master, 65536)
        self._seen = self._seen.partition(text)[2]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def terminal(login):
    terminal = Terminal(login)
    try:
        terminal.wait_for(b"ready$ ")
        yield terminal
    finally:
        terminal.close()


def test_an_interactive_session(terminal):
    terminal.type(b"tty | cut -c1-8\r")
    terminal.wait_for(b"/dev/pts")
    terminal.wait_for(b"ready$ ")
    terminal.type(b"cat\r")
    for key in b"each key is echoed":
        terminal.type(bytes((key,)))
        terminal.wait_for(bytes((key,)))
    terminal.type(b"\r\x03")
    terminal.wait_for(b"ready$ ")
    terminal.type(b"exit 3\r")
    assert terminal.process.wait(PATIENCE) == 3


@pytest.mark.long  # a minute; over WebSockets it is part of every full run
def test_an_interactive_session_that_idles_still_answers(terminal):
    terminal.type(b"expr 6 '*' 7\r")
    terminal.wait_for(b"\n42\r")
    terminal.wait_for(b"ready$ ")
    time.sleep(IDLE)  # the idling itself is what is tested
    terminal.type(b"expr 7 '*' 8\r")
    terminal.wait_for(b"\n56\r")
    terminal.type(b"exit\r")
    assert terminal.process.wait(PATIENCE) == 0
