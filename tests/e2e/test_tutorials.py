"""The tutorials of the documentation, typed in terminals: every command, every file, what they say is shown."""

import os
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import need
from tests.e2e.walkthrough import Reader, steps_of
from tests.e2e.world import new_world

ROOT = Path(__file__).parents[2]
TUTORIALS = ROOT / "docs" / "tutorial"
DOMAIN = "tunnel.example.com"


@pytest.mark.parametrize(
    ("page", "directories", "typed"),
    [
        ("first-tunnel.md", {}, 9),
        (
            "edge-of-your-own.md",
            {
                "Server": "server",
                "Server, second terminal": "server",
                "Laptop": "laptop",
                "Laptop, second terminal": "laptop",
                "Visitor": "visitor",
            },
            9,
        ),
    ],
)
def test_a_tutorial(page, directories, typed, tmp_path):
    for program in ("bash", "curl", "setsid", "ps"):
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
        new_world(tmp_path, DOMAIN, f"my-app.{DOMAIN}") as world,
        Reader(world.enter, tmp_path, environ, directories) as reader,
    ):
        for step in steps_of((TUTORIALS / page).read_text()):
            reader.do(step)
    assert reader.typed == typed


def test_every_tutorial_is_tested():
    tested = test_a_tutorial.pytestmark[0].args[1]
    assert {path.name for path in TUTORIALS.glob("*.md")} == {page for page, *_ in tested}
