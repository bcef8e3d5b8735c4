"""Each block of commands in the documents is run by a test, or says why it is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.e2e.docs.test_edge_guides import GUIDES, PAGES
from tests.e2e.docs.test_tutorials import TUTORIALS
from tests.harness.tutorial_runner import steps_of

ROOT = Path(__file__).parents[3]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = {"sh", "bash", "shell", "console", "zsh", "powershell"}
COMMAND = re.compile(
    r"\$ |(?:sudo |\S*/)?(?:python3?|pip|pipx|uvx?|quictunnel[-\w]*|curl|git|export|docker|kubectl) "
)
FOLLOWED = {ROOT / "README.md", *TUTORIALS.glob("*.md"), *(GUIDES / f"{page}.md" for page in PAGES)}
"""Pages that a test does from top to bottom, so that only ``not run`` leaves a block out."""


def names(documents):
    return [path.relative_to(ROOT).as_posix() for path in documents]


def faults_of(page: str, is_followed: bool) -> list[str]:
    """Return the first lines of the blocks of commands that no test runs and that give no reason."""
    faults = [f"indented: {line.strip()}" for line in re.findall(r"^ +```\w+", page, re.MULTILINE)]
    for step in steps_of(page):
        first = step.text.partition("\n")[0]
        if not step.kind and (COMMAND.match(first) or not is_followed):
            faults.append(f"without a language: {first}")
        elif step.kind in SHELL and not is_followed and not {"not run", "run by"} & set(step.notes):
            faults.append(f"not run: {first}")
        elif any(step.notes.get(note) == "" for note in ("not run", "run by")):
            faults.append(f"without a reason: {first}")
    return faults


@pytest.mark.parametrize("name", names(DOCUMENTS))
def test_commands_are_run_or_say_why_not(name):
    path = ROOT / name
    assert faults_of(path.read_text(), path in FOLLOWED) == []


@pytest.mark.parametrize("name", names(path for path in DOCUMENTS if path not in FOLLOWED))
def test_the_test_that_a_block_names_reads_the_page(name):
    for step in steps_of((ROOT / name).read_text()):
        if (test := step.notes.get("run by")) is not None:
            text = (ROOT / test).read_text()
            assert Path(name).name in text or Path(name).stem in text, f"{test} does not know {name}"


@pytest.mark.parametrize(
    ("page", "is_followed", "count"),
    [
        ("```sh\na\n```\n", False, 1),
        ("```sh\na\n```\n", True, 0),
        ("```console\n$ a\n```\n", False, 1),
        ("```\na\n```\n", False, 1),
        ("```\na\n```\n", True, 0),
        ("```\ncurl a\n```\n", True, 1),
        ("<!-- not run: needs a cluster -->\n```sh\na\n```\n", False, 0),
        ("<!-- not run:  -->\n```sh\na\n```\n", True, 1),
        ("<!-- run by: tests/a.py -->\n```sh\na\n```\n", False, 0),
        ("<!-- until: a -->\n```sh\na\n```\n", False, 1),
        ("1. a\n\n    ```sh\n    a\n    ```\n", True, 1),
        ("```toml\na\n```\n", False, 0),
    ],
)
def test_an_unmarked_block_is_found(page, is_followed, count):
    assert len(faults_of(page, is_followed)) == count
