"""Help, version and errors of the edge's commands."""

import json

import pytest

from edge_server.__main__ import main
from edge_server.cli.commands import COMMANDS
from quictunnel.shared.version import VERSION


def output_of(capsys, *words):
    """Return what a command prints that succeeds, perhaps by ending the program."""
    try:
        status = main(words)
    except SystemExit as end:
        status = end.code
    assert status == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_version(capsys):
    assert {output_of(capsys, word) for word in ("version", "--version", "-V")} == {f"quictunnel {VERSION}\n"}


def test_help_of_the_edge_lists_the_commands(capsys):
    text = output_of(capsys, "help")
    assert text == output_of(capsys, "--help") == output_of(capsys, "-h")
    for name, (_, summary) in COMMANDS.items():
        assert f"\n  {name:<11}{summary}\n" in text


@pytest.mark.parametrize("line", ["token", "token create", "name history", "health", "backup"])
def test_help_of_a_command(capsys, line):
    text = output_of(capsys, "help", *line.split())
    assert text == output_of(capsys, *line.split(), "--help")
    assert text.startswith(f"Usage: quictunnel-edge {line} ")


def test_help_at_40_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    text = output_of(capsys, "help") + output_of(capsys, "help", "token", "create")
    for line in text.splitlines():
        assert len(line) <= 40 or " " not in line.strip().partition(" ")[2], line


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("tokn create", "No such command 'tokn'. Did you mean 'token'?"),
        ("help tokn", "No such command 'tokn'. Did you mean 'token'?"),
        ("help token creat", "No such command 'creat'. Did you mean 'create'?"),
        ("help health x", "Got unexpected extra argument (x)"),
        ("help token create x y", "Got unexpected extra arguments (x y)"),
        ("token list --jsn", "No such option '--jsn'. Did you mean '--json'?"),
    ],
)
def test_suggestions(capsys, line, words):
    assert main(line.split()) == 2
    assert words in capsys.readouterr().err


def test_an_error_is_an_event_under_json(capsys, tmp_path):
    place = tmp_path / "file"
    place.touch()
    for line, kind in (
        ("token list --json --nonsense", "usage"),
        (f"token list -j --state-dir {place}/x", "config"),
    ):
        assert main(line.split()) == 2
        out, err = capsys.readouterr()
        event = json.loads(out)
        assert (event["event"], event["kind"], event["exit_status"]) == ("error", kind, 2)
        assert f": error: {event['message']}\n" in err
