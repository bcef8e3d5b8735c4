"""The name that the edge calls itself by."""

import sys

import pytest

from edge_server.cli.commands import main as run_command
from edge_server.config.command_line import parse_arguments
from edge_server.config.edge_config import OPTIONS
from edge_server.config.program_name import error_name, usage_name


@pytest.mark.parametrize(
    ("called", "usage", "error"),
    [
        ("/usr/local/bin/quictunnel-edge", "quictunnel-edge", "quictunnel-edge"),
        ("C:\\Scripts\\quictunnel-edge.exe", "quictunnel-edge", "quictunnel-edge"),
        ("/usr/lib/python3/edge_server/__main__.py", "python -m edge_server", "edge_server"),
        ("/usr/lib/python3/pytest/__main__.py", "quictunnel-edge", "quictunnel-edge"),
    ],
)
def test_the_program_is_named_as_it_was_called(monkeypatch, capsys, called, usage, error):
    monkeypatch.setattr(sys, "argv", [called])
    assert (usage_name(), error_name()) == (usage, error)
    with pytest.raises(SystemExit):
        parse_arguments(OPTIONS, ["--help"])
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: {usage} [OPTIONS]")
    assert f"\n  {usage} --domain tunnel.example.com" in text
    assert run_command(["token", "mint"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{error} token: error: ")
    assert f"`{usage} token --help`" in said


def test_no_argument_at_all(monkeypatch):
    """As in an interpreter that a program embeds."""
    monkeypatch.setattr(sys, "argv", [])
    assert usage_name() == "quictunnel-edge"
