"""The guides for operators, run on a machine with a systemd of its own: each command as it stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.harness import ready_wheel
from tests.harness.acme_authority import certificate_authority
from tests.harness.programs import need
from tests.harness.systemd_machine import booted
from tests.harness.tutorial_runner import Reader, steps_of

ROOT = Path(__file__).parents[3]
GUIDES = ROOT / "docs" / "how-to"
DOMAIN = "tunnel.example.com"
PAGES = ("public-edge", "tokens-and-names", "monitoring", "upgrade", "backup", "certificates")
"""In the order in which one machine is led through them."""
NEW_VERSION = "9.9.9"
PROJECT = """
[build-system]
requires = []
build-backend = "ready_wheel"
backend-path = ["."]
"""
DOWNLOAD = 24 * 1024 * 1024


def source_tree(directory: Path) -> None:
    """Create the source tree that the guides install, with a build that needs no network."""
    for name in (*ready_wheel.PACKAGES, "docs/deploy"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ready_wheel.__file__, directory)
    shutil.copy(ROOT / "pyproject.toml", directory / "project.toml")
    (directory / "pyproject.toml").write_text(PROJECT)


class Visitors:
    """One visitor who downloads slowly, and others who come one after the other, while something else happens."""

    def __init__(self, operator: Machine) -> None:
        url = f"https://my-app.{DOMAIN}"
        trust = ("--silent", "--show-error", "--fail", "--cacert", str(operator.directory / "roots.pem"))
        self._target = operator.directory / "downloaded"
        self._download = subprocess.Popen(
            [
                *operator.machine.enter,
                "curl",
                *trust,
                "--limit-rate",
                "4M",
                "--output",
                self._target,
                f"{url}/large",
            ]
        )
        self._ended = threading.Event()
        self._statuses: list[int] = []

        def visit() -> None:
            self._statuses.append(operator.machine.run("curl", *trust, f"{url}/hello.txt").returncode)

        def visit_again() -> None:
            while not self._ended.is_set():
                visit()

        self._visit = visit
        self._others = threading.Thread(target=visit_again, daemon=True)
        self._others.start()

    def finish(self) -> None:
        """Assert that all were served, and the download to its end."""
        self._ended.set()
        self._others.join()
        self._visit()
        assert len(self._statuses) > 1
        assert set(self._statuses) == {0}
        assert self._download.wait(60) == 0
        assert self._target.stat().st_size == DOWNLOAD


class Machine:
    """A machine, and a reader who works on it."""

    def __init__(self, machine, reader: Reader, directory: Path) -> None:
        self.machine = machine
        self.reader = reader
        self.directory = directory

    def shell(self, command: str, timeout: float = 60) -> str:
        """Return what a command prints that is no reader's."""
        done = self.machine.run("sh", "-ec", command, timeout=timeout)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def follow(self, page: str) -> None:
        """Do every step of a guide, and what the test adds between."""
        for step in steps_of((GUIDES / f"{page}.md").read_text()):
            if before := getattr(self, f"before_{page.replace('-', '_')}", None):
                before(step)
            self.reader.do(step)
            if after := getattr(self, f"after_{page.replace('-', '_')}", None):
                after(step)

    def after_public_edge(self, step) -> None:
        if step.title.endswith("edge.toml"):
            config = self.machine.path(step.title)
            shutil.copy(self.directory / "web" / "ca.pem", config.parent / "acme.pem")
            (config.parent / "acme.pem").chmod(0o644)
            with config.open("a") as file:
                file.write('acme-directory = "https://localhost:14000/dir"\nacme-ca = "acme.pem"\n')
        elif "until" in step.notes and "http.server" in step.text:
            (self.directory / "laptop" / "hello.txt").write_text("Hello\n")
            (self.directory / "laptop" / "large").write_bytes(bytes(DOWNLOAD))
        elif step.title == "Visitor":
            assert "Hello" in self.reader.shown

    def before_monitoring(self, step) -> None:
        if step.kind == "toml":
            self.machine.path("/etc/prometheus").mkdir(exist_ok=True)
            with self.machine.path("/etc/quictunnel/edge.toml").open("a") as file:
                file.write(step.text)

    def before_certificates(self, step) -> None:
        if step.kind == "toml" and "acme-http" in step.text:
            with self.machine.path("/etc/quictunnel/edge.toml").open("a") as file:
                file.writelines(line for line in step.text.splitlines(True) if "@" not in line)

    def before_upgrade(self, step) -> None:
        if "pip install" in step.text:
            version = self.machine.path("/usr/local/src/quictunnel/quictunnel/shared/version.py")
            version.write_text(
                re.sub('VERSION: Final = ".*"', f'VERSION: Final = "{NEW_VERSION}"', version.read_text())
            )
        elif "signal=USR2" in step.text:
            self.old_version = (
                re.search('version="([^"]*)"', self.shell(VERSION))[1]
                if "readlink" in step.text
                else self.old_version
            )
            self.visitors = Visitors(self)

    def after_upgrade(self, step) -> None:
        if "signal=USR2" in step.text:
            wanted = NEW_VERSION if "readlink" in step.text else self.old_version
            self.shell(f"until {VERSION} | grep -q '{wanted}'; do sleep 0.1; done", 20)
            self.visitors.finish()


VERSION = (
    'curl --silent --header "Authorization: Bearer $(cat /var/lib/private/quictunnel/admin.token)" '
    "http://127.0.0.1:9443/metrics | grep ^quictunnel_build_info"
)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_guides(tmp_path):
    for program in ("bash", "curl", "ps", "setsid"):
        need(program)
    scripts = Path(sys.executable).parent
    (tmp_path / "home").mkdir()
    environ = {
        "HOME": str(tmp_path / "home"),
        "PATH": os.pathsep.join(["/opt/python/bin", str(scripts), os.environ["PATH"]]),
        "PYTHONUNBUFFERED": "1",
        "LANG": "C.UTF-8",
        "PIP_NO_INDEX": "1",
        "PIP_NO_COMPILE": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    directories = {
        "Server": "server",
        "Laptop": "laptop",
        "Laptop, second terminal": "laptop",
        "Visitor": "visitor",
    }
    with booted(tmp_path, DOMAIN, f"my-app.{DOMAIN}") as machine:
        source_tree(machine.path("/usr/local/src/quictunnel"))
        with (
            certificate_authority(machine, tmp_path),
            Reader(machine.enter, tmp_path, environ, directories, tmp_path / "machine") as reader,
        ):
            operator = Machine(machine, reader, tmp_path)
            for page in PAGES:
                try:
                    operator.follow(page)
                except AssertionError as error:
                    error.add_note(operator.shell("journalctl --no-pager --unit quictunnel-edge --lines 60"))
                    raise
