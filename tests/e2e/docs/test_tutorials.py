"""The tutorials of the documentation, typed in terminals: every command, every file, what they say is shown."""

import os
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.harness.acme_authority import certificate_authority
from tests.harness.netns import new_namespace
from tests.harness.programs import need
from tests.harness.tutorial_runner import Reader, steps_of

ROOT = Path(__file__).parents[3]
TUTORIALS = ROOT / "docs" / "tutorial"
DOMAIN = "tunnel.example.com"


def processes_of(home):
    """Return the command lines of processes that still run with this home directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            if f"HOME={home}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes())
    return found


@pytest.mark.early
@pytest.mark.parametrize(
    ("page", "directories", "typed"),
    [
        ("first-tunnel.md", {}, 11),
        (
            "edge-of-your-own.md",
            {
                "Server": "server",
                "Server, second terminal": "server",
                "Laptop": "laptop",
                "Laptop, second terminal": "laptop",
                "Laptop, third terminal": "laptop",
                "Visitor": "visitor",
            },
            9,
        ),
    ],
)
def test_a_tutorial(page, directories, typed, tmp_path):
    for program in ("bash", "curl", "ps", "setsid"):
        need(program)
    scripts = str(Path(sys.executable).parent)
    environ = {
        "HOME": str(tmp_path / "home"),
        "PATH": os.pathsep.join([scripts, os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "LANG": "C.UTF-8",
    }
    (tmp_path / "home").mkdir()
    with (
        new_namespace(tmp_path, DOMAIN, f"my-app.{DOMAIN}") as namespace,
        ExitStack() as processes,
        Reader(namespace.enter, tmp_path, environ, directories) as reader,
    ):
        if "--acme" in (TUTORIALS / page).read_text():
            processes.enter_context(certificate_authority(namespace, tmp_path))
        for step in steps_of((TUTORIALS / page).read_text()):
            reader.do(step)
    assert reader.typed == typed
    assert processes_of(tmp_path / "home") == []


def test_every_tutorial_is_tested():
    tested = test_a_tutorial.pytestmark[0].args[1]
    assert {path.name for path in TUTORIALS.glob("*.md")} == {page for page, *_ in tested}
