"""The manual pages."""

import runpy
import subprocess

import pytest

from tests.harness.programs import need
from tests.harness.wheels import ROOT


@pytest.fixture(scope="module")
def pages():
    return runpy.run_path(str(ROOT / "docs" / "man.py"))["pages"]()


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
