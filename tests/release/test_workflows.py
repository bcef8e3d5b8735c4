"""The workflows of GitHub Actions, judged by linters: nothing here can run them."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.markers import Marker

from tests.harness.programs import need
from tests.harness.wheels import ROOT

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
SYSTEMS = {"linux": "linux", "apple": "darwin", "windows": "win32"}
MACHINES = {
    ("linux", "x86_64"): "x86_64",
    ("linux", "aarch64"): "aarch64",
    ("darwin", "x86_64"): "x86_64",
    ("darwin", "aarch64"): "arm64",
    ("win32", "x86_64"): "AMD64",
}
WRITES = {
    ("release.yml", "publish"): {"contents": "read", "id-token": "write", "attestations": "write"},
    ("release.yml", "image"): {
        "contents": "read",
        "packages": "write",
        "id-token": "write",
        "attestations": "write",
    },
    ("release.yml", "announce"): {"contents": "write"},
}
"""Jobs that may do more than read the repository."""


def loaded(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


def lint(directory: Path, program: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([program, *arguments], cwd=directory, capture_output=True, text=True, check=False)


def copied(to: Path, wrong: str = "", right: str = "") -> Path:
    """Copy .github to a directory, with something replaced in release.yml."""
    for path in (path for path in GITHUB.rglob("*") if path.is_file()):
        text = path.read_text()
        if path.name == "release.yml":
            assert right in text
            text = text.replace(right, wrong, 1) if right else text
        target = to / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return to


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("", "", ""),
        ("needs: [publish, image]", "needs: [publish, images]", "images"),
        ("runs-on: ubuntu-24.04", "runs-on: ubuntu-24.4", "ubuntu-24.4"),
        ("matrix.libc", "matrix.glibc", "glibc"),
    ],
)
def test_actionlint(tmp_path, right, wrong, complaint):
    program = need("actionlint")
    (tmp_path / ".git").mkdir()
    ended = lint(copied(tmp_path, wrong, right), program, "-no-color", "-oneline")
    assert (ended.returncode == 0) == (not complaint), ended.stdout
    assert complaint in ended.stdout


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("", "", ""),
        ("permissions:\n  contents: read", "permissions: write-all", "excessive-permissions"),
        ('"v$(python', '"${{ github.ref_name }}$(python', "template-injection"),
    ],
)
def test_zizmor(tmp_path, right, wrong, complaint):
    program = str(Path(sys.executable).with_name("zizmor"))
    ended = lint(copied(tmp_path, wrong, right), program, "--offline", "--no-progress", "--color=never", ".github")
    assert (ended.returncode == 0) == (not complaint), ended.stdout + ended.stderr
    assert complaint in ended.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_to_a_version(path):
    used = re.findall(r"uses: (\S+)", path.read_text())
    assert used
    assert [name for name in used if not re.search(r"@v?\d+\.\d+\.\d+$|^\./", name)] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_jobs_may_read_alone_unless_they_publish(path):
    workflow = loaded(path)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert job.get("permissions") == WRITES.get((path.name, name)), name
        if (path.name, name) in WRITES:
            assert job["if"] == "github.ref_type == 'tag'"


def test_there_is_a_wheel_for_every_platform_that_requires_it():
    """A platform that had the dependency and no wheel could not install quictunnel without Rust."""
    marker = Marker(runpy.run_path(str(ROOT / "release" / "build.py"))["MARKER"])
    built = set()
    for row in loaded(GITHUB / "workflows" / "release.yml")["jobs"]["native"]["strategy"]["matrix"]["include"]:
        machine, vendor, *_ = row["target"].split("-")
        system = next(name for word, name in SYSTEMS.items() if word in row["target"])
        built.add((system, MACHINES[system, machine], "musl" if "musl" in row["target"] else vendor))
    for libc in ("unknown", "musl"):
        assert {("linux", "x86_64", libc), ("linux", "aarch64", libc)} <= built
    for system in (*SYSTEMS.values(), "freebsd14"):
        for machine in {*MACHINES.values(), "riscv64", "ARM64"}:
            platform = {
                "sys_platform": system,
                "platform_machine": machine,
                "platform_python_implementation": "CPython",
            }
            assert marker.evaluate(platform) == any(each[:2] == (system, machine) for each in built), platform


def test_what_is_tested_and_published():
    jobs = loaded(GITHUB / "workflows" / "release.yml")["jobs"]
    assert set(jobs["publish"]["needs"]) == {"ci", "main", "native", "native-sdist", "install"}
    steps = [step for step in loaded(GITHUB / "workflows" / "ci.yml")["jobs"]["test"]["steps"] if "run" in step]
    assert "bash .ci/run" in steps[-1]["run"]
    published = [
        step["with"]["packages-dir"] for step in jobs["publish"]["steps"] if "pypi" in step.get("uses", "")
    ]
    assert published == ["native", "main"], "the main wheel depends on the engine"
    (image,) = [step for step in jobs["image"]["steps"] if "build-push" in step.get("uses", "")]
    assert (ROOT / image["with"]["file"]).is_file()
