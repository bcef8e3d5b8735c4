"""The files of a release: their contents, and what somebody has who installs them and nothing else."""

import email
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement

from tests.harness.programs import need
from tests.harness.wheels import REPOSITORY, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
URL = re.compile(r"https://[a-z0-9]+\.tunnel\.localhost:\d+")


def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


def test_the_sdist_has_every_file_of_the_repository(wheels):
    with tarfile.open(wheels.sdist) as archive:
        held = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("this is no clone")
    generated = {name for name in held if "egg-info" in name} | {"PKG-INFO", "setup.cfg"}
    assert held - generated == {name for name in tracked.stdout.split() if (ROOT / name).exists()}


def test_the_wheel_has_two_packages_and_the_manual(wheels):
    with zipfile.ZipFile(wheels.main) as archive:
        names = archive.namelist()
    data = [name.partition(".data/")[2] for name in names if ".data/" in name]
    assert sorted(data) == ["data/share/man/man1/quictunnel.1", "data/share/man/man8/quictunnel-edge.8"]
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if "." not in top} == {"quictunnel", "edge_server"}
    for package in ("quictunnel", "edge_server"):
        here = {
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert {name for name in names if name.startswith(f"{package}/")} == here


def test_an_index_can_show_the_page(wheels):
    """The wheel has the README, but no other file of the repository."""
    described = metadata(wheels.main)
    base = f"https://github.com/{REPOSITORY}"
    urls = dict(line.split(", ") for line in described.get_all("Project-URL"))
    assert urls["Repository"] == base
    assert set(urls) == {"Repository", "Documentation", "Changelog", "Issues"}
    page = described.get_payload()
    targets = [*re.findall(r"\]\(([^)\s]+)\)", page), *re.findall(r'(?:src|srcset)="([^"]+)"', page)]
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []
    for target in targets:
        if target.startswith(base):
            kind, tag, path = target.removeprefix(base + "/").split("/", 2)
            assert kind in ("blob", "raw")
            assert tag == f"v{described['Version']}"
            assert (ROOT / path.partition("#")[0]).exists(), target


@pytest.mark.parametrize(
    ("system", "machine", "implementation", "is_there"),
    [
        ("linux", "x86_64", "CPython", True),
        ("linux", "aarch64", "CPython", True),
        ("linux", "riscv64", "CPython", False),
        ("linux", "x86_64", "PyPy", False),
        ("darwin", "arm64", "CPython", True),
        ("win32", "AMD64", "CPython", True),
        ("win32", "ARM64", "CPython", False),
        ("freebsd14", "amd64", "CPython", False),
    ],
)
def test_the_native_engine_is_a_dependency_where_it_has_wheels(wheels, system, machine, implementation, is_there):
    if not wheels.has_native:
        pytest.skip("the native engine is not installed here")
    required = map(Requirement, metadata(wheels.main).get_all("Requires-Dist"))
    (marker,) = [each.marker for each in required if each.name == "quictunnel-native" and "extra" not in str(each)]
    assert isinstance(marker, Marker)
    platform = {
        "sys_platform": system,
        "platform_machine": machine,
        "platform_python_implementation": implementation,
    }
    assert marker.evaluate(platform) == is_there


@pytest.fixture(scope="module")
def installed(wheels, tmp_path_factory):
    """A directory with an empty home, and a virtual environment with quictunnel and what it depends on."""
    place = tmp_path_factory.mktemp("installed")
    environ = wheels.environ(place / "home")
    uv = Path(sys.executable).with_name("uv")
    # tests/e2e/docs/test_readme.py does the same with pip, which takes longer.
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable], cwd=place, env=environ, check=True)
    subprocess.run([uv, "pip", "install", "--quiet", "quictunnel"], cwd=place, env=environ, check=True)
    return place, environ | {"PATH": f"{place}/.venv/bin:{environ['PATH']}"}


def said(installed, *command: str) -> str:
    place, environ = installed
    ended = subprocess.run(
        command, cwd=place, env=environ, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@contextmanager
def running(installed, *command: str):
    """Run a program until the block ends, as somebody does who then presses Ctrl-C."""
    place, environ = installed
    process = subprocess.Popen(
        command, cwd=place, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
        process.send_signal(2)
        rest = process.communicate(timeout=30)[0]
        assert process.returncode == 0, rest
    finally:
        process.kill()
        process.wait()


def test_a_base_install_has_all_that_a_tunnel_needs(wheels, installed):
    version = said(installed, "quictunnel", "--version")
    assert f"engine {'native' if wheels.has_native else 'aioquic'} " in version
    assert version.split(",")[0] == said(installed, "quictunnel-edge", "--version").strip()
    assert said(installed, "python", "-m", "edge_server", "--help").startswith("Usage: python -m edge_server")
    assert "certificate verified" in said(installed, "quictunnel", "demo", "--once")
    with running(installed, "quictunnel-edge", "--quic", "127.0.0.1:0", "--https", "127.0.0.1:0") as edge:
        shown = ""
        while "Try:" not in shown:
            shown += edge.stdout.readline() or pytest.fail(shown)
        with running(installed, "quictunnel", "http", "8000", "--json") as tunnel:
            assert URL.match(json.loads(tunnel.stdout.readline())["url"])
        said(installed, "quictunnel-edge", "token", "create")
        said(installed, "quictunnel-edge", "health")


def test_nothing_else_is_installed(installed):
    place, _ = installed
    (packages,) = (place / ".venv" / "lib").glob("python*/site-packages")
    assert not any((packages / name).exists() for name in ("certs", "tests", "docs", "perf", "release"))
    assert (place / ".venv/share/man/man1/quictunnel.1").is_file()
    assert (place / ".venv/share/man/man8/quictunnel-edge.8").is_file()


@pytest.mark.parametrize("option", ["--inspect", "--acme"])
def test_what_an_extra_is_for_names_the_extra(installed, option):
    place, environ = installed
    command = {
        "--inspect": ["quictunnel", "http", "8000", "--inspect", "--edge", "127.0.0.1:1", "--token-file", "token"],
        "--acme": ["quictunnel-edge", "--acme", "you@example.com", "--domain", "t.example.com", "--check-config"],
    }[option]
    (place / "token").write_text("x" * 20)
    ended = subprocess.run(
        command, cwd=place, env=environ, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 2
    extra = "inspect" if option == "--inspect" else "edge"
    assert f"pip install 'quictunnel[{extra}]'" in ended.stderr


@pytest.mark.parametrize("runner", [("uvx",), ("pipx", "run")])
def test_a_runner_needs_no_install(wheels, tmp_path, runner):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    program = need(runner[0]) if runner[0] == "pipx" else str(Path(sys.executable).with_name("uvx"))
    environ = wheels.environ(tmp_path / "home") | {"PATH": path}
    ended = subprocess.run(
        [program, *runner[1:], "quictunnel", "demo", "--once"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert "certificate verified" in ended.stdout, ended.stdout + ended.stderr
