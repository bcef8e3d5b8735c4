"""The manual pages."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.harness.programs import need
from tests.harness.wheels import ROOT

PAGES = """
import json, runpy
pages = runpy.run_path("docs/man.py")["pages"]()
print(json.dumps([(str(page.path), page.text) for page in pages]))
"""


@pytest.fixture(scope="module")
def pages():
    """The pages as a fresh process makes them: click's commands keep state of tests that ran before."""
    made = subprocess.run([sys.executable, "-c", PAGES], cwd=ROOT, capture_output=True, text=True, check=True)
    return [SimpleNamespace(path=Path(path), text=text) for path, text in json.loads(made.stdout)]


def test_the_pages_say_what_the_help_says(pages):
    for page in pages:
        assert page.path.read_text() == page.text, "`python docs/man.py --write` renews them"


def test_mandoc_finds_nothing_wrong(pages):
    for page in pages:
        linted = subprocess.run(
            [need("mandoc"), "-T", "lint", "-W", "warning", page.path], capture_output=True, text=True, check=False
        )
        found = [line for line in linted.stdout.splitlines() if "missing date" not in line]
        assert found == []


def test_every_command_and_option_is_there(pages):
    shown = [
        subprocess.run(
            [need("mandoc"), "-T", "ascii", page.path], capture_output=True, text=True, check=True
        ).stdout
        for page in pages
    ]
    client, edge = ("".join(_without_overstrikes(text)) for text in shown)
    for name in ("quictunnel http [OPTIONS]", "quictunnel doctor", "--name NAME", "EXIT STATUS"):
        assert name in client
    for name in ("quictunnel-edge token create", "--domain", "--acme", "SIGUSR2"):
        assert name in edge


def _without_overstrikes(text):
    """Remove the backspaces that make letters bold on a printer."""
    kept = []
    for char in text:
        if char == "\b":
            kept.pop()
        else:
            kept.append(char)
    return kept
