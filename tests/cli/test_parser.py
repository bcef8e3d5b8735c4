"""The command line's grammar: what is understood, what is refused with which words, what the help teaches."""

from __future__ import annotations

from pathlib import Path

import pytest

from quictunnel.cli import grammar
from quictunnel.cli.main import forward_options, main
from quictunnel.cli.parser import UsageError, build, check_command


def test_http() -> None:
    options = build().parse_args(["http", "8000"])
    assert vars(options) == {
        "command": "http",
        "version": False,
        "port": 8000,
        "h2": False,
        "edge": None,
        "ca": None,
        "token_file": None,
        "ticket": None,
        "passthrough": False,
        "name": None,
        "domain": None,
        "pool": False,
        "allow": None,
        "deny": None,
        "proxy_protocol": None,
        "wait": None,
        "inspect": False,
        "inspect_address": None,
        "json": False,
        "log_level": "warning",
    }


def test_every_option() -> None:
    line = "http 65535 --h2 --edge e:1 --ca ca.pem --token-file t --json --log-level debug"
    options = build().parse_args(line.split())
    assert (options.h2, options.edge, options.ca, options.token_file) == (True, "e:1", Path("ca.pem"), Path("t"))
    assert (options.json, options.log_level) == (True, "debug")
    assert build().parse_args(["demo", "--once", "--json"]).once


def test_what_a_command_line_asks_of_forward() -> None:
    line = "http 80 --name my-app --pool --passthrough --allow ::1/128,10.0.0.0/8 --deny 10.1.0.0/16"
    assert forward_options(build().parse_args([*line.split(), "--proxy-protocol", "v2"])) == {
        "unencrypted": False,
        "name": "my-app",
        "pool": True,
        "tls": "passthrough",
        "allow": ["::1/128", "10.0.0.0/8"],
        "deny": ["10.1.0.0/16"],
        "proxy_protocol": "v2",
    }
    assert forward_options(build().parse_args(["tcp", "22", "--tcp-port", "20022"])) == {
        "unencrypted": True,
        "tcp_port": 20022,
    }
    assert forward_options(build().parse_args(["http", "80", "--wait", "1.5"])) == {
        "unencrypted": False,
        "wait": 1.5,
    }
    assert forward_options(build().parse_args(["http", "80", "--h2"])) == {
        "unencrypted": False,
        "h2_enabled": True,
    }


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("http", "required: PORT"),
        ("http 0", "should be a port from 1 to 65535, not '0'"),
        ("http 65536", "should be a port"),
        ("http ٨٠", "should be a port"),
        ("http 80x", "should be a port"),
        ("http --json -1", "PORT"),
        ("http 80 81", "unrecognized arguments: 81"),
        ("http 80 --nonsense", "unrecognized arguments: --nonsense"),
        ("http 80 --token secret", "unrecognized arguments"),
        ("http 80 --edg e:1", "unrecognized arguments"),
        ("http 80 --log-level loud", "invalid choice: 'loud'"),
        ("http 80 --wait soon", "should be a number of seconds up to 86400, not 'soon'"),
        ("http 80 --wait -1", "--wait"),
        ("http 80 --wait nan", "should be a number of seconds"),
        ("tcp 22 --h2", "unrecognized arguments: --h2"),
        ("completion tcsh", "invalid choice: 'tcsh'"),
    ],
)
def test_refusals(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    first, hint = err.splitlines()
    assert out == ""
    assert first.startswith("quictunnel: error: ")
    assert words in first
    assert "--help` lists the arguments and options" in hint


@pytest.mark.parametrize(("word", "hint"), [("htp", "Did you mean `quictunnel http`?"), ("zz", "http, tcp, ")])
def test_unknown_commands_get_a_suggestion(word: str, hint: str) -> None:
    with pytest.raises(UsageError, match=f"unknown command '{word}'") as caught:
        check_command([word])
    assert hint in caught.value.hint


def help_of(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        main(line.split())
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_the_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of("--help", capsys)
    for words in ("quictunnel demo ", "quictunnel http 8000", "exit status", "examples:"):
        assert words in text


@pytest.mark.parametrize("command", grammar.COMMANDS, ids=lambda command: command.name)
def test_each_commands_help_has_examples_and_fits(
    command: grammar.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_of(f"{command.name} --help", capsys)
    assert f"quictunnel {command.name} " in text.partition("examples:")[2]
    for option in command.options:
        assert option.flag in text
    assert max(map(len, text.splitlines())) <= 105
    if command in (grammar.HTTP, grammar.TCP):
        assert "python -m edge_server" in text
        assert "The token is never an argument" in text


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "examples:" in capsys.readouterr().out
