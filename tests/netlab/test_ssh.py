"""An SSH session and a copy of a gigabyte, through everything that can happen to a network.

Visitors come and leave all the while.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.load.churn import waited
from tests.load.plan import WAITING_RATE
from tests.netlab.rig import Tunnelled

if TYPE_CHECKING:
    from tests.netlab.fixture import StartLab
    from tests.netlab.lab import Lab

pytestmark = [
    pytest.mark.alone,
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.usefixtures("pairing_in_force"),
]

GIGABYTE = 1_000_000_000
PORT = 2222
PATIENCE = 200.0
BETWEEN = 4.0
"""Seconds in which the copy goes on, between two events."""

_SSHD = """\
ListenAddress 127.0.0.1:{port}
HostKey {base}/host_key
AuthorizedKeysFile {base}/key.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
UseDNS no
MaxStartups 1000
"""


class Typist:
    """User with a shell at the other end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._count = 0

    def types(self) -> float:
        """A line, and how long its answer took."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._count += 1
        begun = time.monotonic()
        self._process.stdin.write(f"{self._count}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == f"got {self._count}\n"
        return time.monotonic() - begun


def prepare(directory: Path) -> None:
    for name in ("host_key", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    (directory / "sshd_config").write_text(_SSHD.format(base=directory, port=PORT))


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def black_hole(lab: Lab, seconds: float) -> None:
    with lab.blackout():
        time.sleep(seconds)


@pytest.mark.timeout(900)
def test_a_session_and_a_gigabyte_outlive_everything(netlab: StartLab, tmp_path: Path) -> None:
    for program in ("ssh", "scp", "sshd", "ssh-keygen"):
        if shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin") is None:
            pytest.skip(f"{program} is not installed")
    prepare(tmp_path)
    source, copy = tmp_path / "gigabyte", tmp_path / "copy"
    with source.open("wb") as file:
        for _ in range(100):
            file.write(os.urandom(GIGABYTE // 100))
    lab = netlab(delay_ms=25, rate_mbit=100, nat=True)
    lab.client.popen([shutil.which("sshd", path="/usr/sbin:/usr/bin"), "-D", "-f", tmp_path / "sshd_config"])
    with Tunnelled(lab, tmp_path, port=PORT, patience=PATIENCE) as tunnel, tunnel.visit() as visitor:
        banner = visitor.recv(100).decode()
        churn = tunnel.churn(patience=PATIENCE, rate=WAITING_RATE, conversation="banner", prefix=banner)
        host, port = tunnel.ready["tcp_socket"]
        options = ["-F", "none", "-i", tmp_path / "key", "-o", "BatchMode=yes", "-o", "Compression=no"]
        options += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        with churn:
            shell = lab.edge.popen(
                ["ssh", *options, "-p", str(port), host, "while read line; do echo got $line; done"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            typist = Typist(shell)
            typist.types()
            scp = lab.edge.popen(["scp", *options, "-P", str(port), f"{host}:{source}", copy])
            events = {
                "another address": lab.move_client,
                "another port of the NAT": lab.nat_rebind,
                "black hole of 2 s": lambda: black_hole(lab, 2),
                "black hole of 5 s": lambda: black_hole(lab, 5),
                "black hole of 20 s": lambda: black_hole(lab, 20),
                "frozen for 60 s": lambda: freeze(tunnel, 60),
                "black hole of 90 s": lambda: black_hole(lab, 90),
                "ten moves": lambda: moves(lab),
            }
            for name, happen in events.items():
                time.sleep(BETWEEN)
                assert scp.poll() is None, "the copy was over before the end of the story"
                happen()
                print(f"{name}: the next line came back after {typist.types():.1f} s")
            assert scp.wait(300) == 0
            assert shell.stdin is not None
            shell.stdin.close()
            assert shell.wait(20) == 0
            assert shell.stdout is not None
            shell.stdout.close()
            churn.finish(waited)
        assert digest(copy) == digest(source)


def freeze(tunnel: Tunnelled, seconds: float) -> None:
    tunnel.signal_client(signal.SIGSTOP)
    time.sleep(seconds)  # the length of the freeze
    tunnel.signal_client(signal.SIGCONT)


def moves(lab: Lab) -> None:
    for _ in range(10):
        lab.move_client()
        time.sleep(1)  # the time between two moves
