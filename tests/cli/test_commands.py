"""The command line: accepted arguments, errors, help pages."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from quictunnel import errors
from quictunnel.cli.common_options import forward_arguments
from quictunnel.cli.main import COMMANDS, commands, main
from quictunnel.shared.command_line import error_kind
from tests.cli.fake_client import FakeApi, run_with


def parse(line: str) -> dict[str, Any]:
    """Return the values of a command line by the names of their parameters."""
    name, *words = line.split()
    return commands.load(name).make_context(name, words).params


def test_http() -> None:
    assert parse("http 8000") == {
        "port": 8000,
        "h2_enabled": False,
        "edge": None,
        "ca": None,
        "token_file": None,
        "profile": None,
        "ticket": None,
        "tls": None,
        "insecure_origin": False,
        "origin_ca": None,
        "name": None,
        "domain": None,
        "pool": False,
        "allow": None,
        "deny": None,
        "proxy_protocol": None,
        "wait": None,
        "inspect": False,
        "inspect_address": None,
        "quiet": False,
        "requests": None,
        "as_json": False,
    }


def test_every_option() -> None:
    options = parse("http 65535 --h2 --edge e:1 --ca ca.pem --token-file t --json --log-level debug")
    expected = {"h2_enabled": True, "edge": "e:1", "ca": Path("ca.pem"), "token_file": Path("t"), "as_json": True}
    assert options | expected == options
    assert parse("demo --once --json") == {"once": True, "as_json": True, "quiet": False, "requests": None}
    options = parse("http https://web:8443 --insecure-origin --inspect-address :0")
    assert options["port"] == "https://web:8443"
    assert forward_arguments(options)["verify_origin"] is False
    options = parse("run --port 80 -- ls --json -- x")
    assert (options["port"], options["program"]) == (80, ("ls", "--json", "--", "x"))
    assert not options["as_json"]


@pytest.mark.parametrize(
    ("line", "name", "program"),
    [
        ("run python -m http.server 8000", None, "python -m http.server 8000"),
        ("run -n app python -m http.server 8000 --name x", "app", "python -m http.server 8000 --name x"),
        ("run -n app -- ls", "app", "ls"),
        ("run ls -- -l", None, "ls -- -l"),
        ("run -- --strange", None, "--strange"),
    ],
)
def test_the_program_begins_with_the_first_word_that_is_no_option(
    line: str, name: str | None, program: str
) -> None:
    options = parse(line)
    assert (options["name"], options["program"]) == (name, tuple(program.split()))


@pytest.mark.usefixtures("edge_configured")
@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        (
            "http 80 --name app --pool --passthrough --allow ::1/128,10.0.0.0/8 --deny ::/0 --proxy-protocol v2",
            {
                "name": "app",
                "pool": True,
                "tls": "passthrough",
                "allow": ["::1/128", "10.0.0.0/8"],
                "deny": ["::/0"],
                "proxy_protocol": "v2",
            },
        ),
        ("tcp 80 --tcp-port 20022", {"unencrypted": True, "tcp_port": 20022}),
        ("http 80 --wait 1.5", {"wait": 1.5}),
        ("http 80 --h2", {"h2_enabled": True}),
        ("http 80 --inspect-address [::1]:0", {"inspect": True, "inspect_address": "[::1]:0"}),
    ],
)
def test_command_line_becomes_forward_arguments(line: str, arguments: dict[str, object]) -> None:
    api = FakeApi("ConfigError")
    assert run_with(api, *line.split()) == 2
    assert api.forwarded == [{"port": 80, "unencrypted": False, "h2_enabled": False} | arguments]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("http", "Missing argument 'PORT'"),
        ("http 0", "should be a port from 1 to 65535, not '0'"),
        ("http 65536", "should be a port"),
        ("http ٨٠", "should be a port"),
        ("http 80x", "should be a port"),
        ("http --pool -1", "No such option '-1'."),
        ("http 80 81", "unexpected extra argument (81)"),
        ("http 80 --nonsense", "No such option '--nonsense'."),
        ("http 80 --token secret", "'--token-file'"),
        ("http 80 --edg e:1", "Did you mean '--edge'?"),
        ("http 80 --log-level loud", "Invalid value for '--log-level': 'loud' is not one of 'debug'"),
        ("http 80 --ca", "Option '--ca' requires an argument."),
        ("http 80 --json=1", "Option '--json' does not take a value."),
        ("http 80 --ca=~no-such-user/ca.pem", "begins with ~, but there is no such home directory"),
        ("http 80 --wait soon", "should be a number of seconds up to 86400, not 'soon'"),
        ("http 80 --wait -1", "--wait"),
        ("http 80 --wait nan", "should be a number of seconds"),
        ("tcp 22 --h2", "No such option '--h2'."),
        ("completion tcsh", "'tcsh' is not one of 'bash', 'zsh', 'fish'."),
        ("http 80 --nmae x", "No such option '--nmae'. Did you mean '--name'?"),
        ("run --po ls", "Did you mean one of: '--pool', '--port'?"),
        ("run", "The program is missing"),
        ("run --port 80 --", "The program is missing"),
        ("run --name -- ls", "Option '--name' requires an argument."),
        ("htpp", "No such command 'htpp'. Did you mean 'http'?"),
        ("zz", "No such command 'zz'."),
        ("--verison", "No such option '--verison'. Did you mean '--version'?"),
    ],
)
def test_refusals(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    first, hint = err.splitlines()
    assert out == ""
    assert first.startswith("quictunnel: error: ")
    assert words in first
    known = line.split(maxsplit=1)[0]
    command = f"quictunnel {known}" if known in COMMANDS else "quictunnel"
    assert hint == f"  `{command} --help` lists the arguments and options."


def help_of(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(line.split()) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_the_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of("--help", capsys)
    for words in ("quictunnel demo ", "quictunnel http 8000", "Exit status:", "Examples:"):
        assert words in text


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_has_examples_and_fits(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    text = help_of(f"{name} --help", capsys)
    assert help_of(f"help {name}", capsys) == text
    assert f"quictunnel {name} " in text.partition("Examples:")[2]
    for parameter in commands.load(name).params:
        assert parameter.help or name == "run"
        if isinstance(parameter, click.Option):
            assert parameter.opts[0] in text
    assert max(map(len, text.splitlines())) <= 100
    if name in ("http", "tcp", "run"):
        assert "quictunnel-edge" in text
        assert "The token is never an argument" in text
    assert help_of(f"{name} -h", capsys) == text


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("columns", [40, 60, 80])
def test_help_is_as_wide_as_the_terminal(
    name: str, columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    whole = help_of(f"{name} --help", capsys)
    monkeypatch.setenv("COLUMNS", str(columns))
    text = help_of(f"{name} --help", capsys)
    for line in text.splitlines():
        # Only what cannot be broken is longer: a list of choices, a path.
        assert len(line) <= columns or " " not in line.strip().partition(" ")[2], line
    assert "".join(text.split()) == "".join(whole.split()), "no word is lost"


def test_help_and_version_as_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert help_of("help", capsys) == help_of("--help", capsys) == help_of("-h", capsys)
    assert help_of("version", capsys) == help_of("--version", capsys) == help_of("-V", capsys)
    assert main(["help", "htpp"]) == 2
    assert "No such command 'htpp'. Did you mean 'http'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "extra"),
    [
        ("help run x", "argument (x)"),
        ("help http x y", "arguments (x y)"),
        ("help help help", "argument (help)"),
        ("version x", "argument (x)"),
    ],
)
def test_help_takes_one_command(line: str, extra: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    command = line.partition(" ")[0]
    assert err == (
        f"quictunnel: error: Got unexpected extra {extra}\n"
        f"  `quictunnel {command} --help` lists the arguments and options.\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["http", "8000", "--name", ""], "The name is empty: leave --name out for a random one."),
        (["run", "-n", " ", "ls"], "The name is empty: leave --name out for a random one."),
        (["tcp", "22", "--name="], "The name is empty: leave --name out for a random one."),
        (
            ["http", "8000", "--domain="],
            "The domain is empty: leave --domain out for a name below the edge's domain.",
        ),
    ],
)
def test_an_empty_name_opens_no_random_address(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of an unset variable: --name "$NAME"."""
    assert main(words) == 2
    assert capsys.readouterr().err == (
        f"quictunnel: error: {message}\n  `quictunnel {words[0]} --help` lists the arguments and options.\n"
    )


def test_short_options() -> None:
    assert parse("http 80 -n app -ijq") == parse("http 80 --name app --inspect --json --quiet")


@pytest.mark.usefixtures("edge_configured")
@pytest.mark.parametrize(
    ("line", "kind", "status", "words"),
    [
        ("tcp 22 --tcp-port x --json", "usage", 2, "should be a port"),
        ("http --jsn -j", "usage", 2, "No such option '--jsn'. Did you mean '--json'?"),
        ("http 80 -ij --name app", "auth", 2, "A AuthError. On two lines."),
    ],
)
def test_an_error_is_an_event_under_json(
    line: str, kind: str, status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_with(FakeApi("AuthError"), *line.split()) == status
    out, err = capsys.readouterr()
    event = json.loads(out)
    assert (event["event"], event["kind"], event["exit_status"]) == ("error", kind, status)
    assert words in event["message"]
    assert err == f"quictunnel: error: {event['message']}\n  {event['hint']}\n"


@pytest.mark.usefixtures("edge_configured")
@pytest.mark.parametrize("line", ["http 80", "http 80 -n json", "run -- ls --json", "help --help x"])
def test_no_event_without_json(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_with(FakeApi("AuthError"), *line.split())
    assert '"event"' not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.EdgeUnavailableError(""), "edge_unavailable"),
        (errors.Error(""), "other"),
        (errors.AuthError(""), "auth"),
    ],
)
def test_kinds_of_errors(error: Exception, kind: str) -> None:
    assert error_kind(error) == kind


def test_the_list_of_commands_and_each_command_agree() -> None:
    for name, (_, summary) in COMMANDS.items():
        assert commands.load(name).name == name
        assert commands.commands[name].short_help == summary


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "Examples:" in capsys.readouterr().out


@pytest.mark.alone
def test_the_program_starts_in_150_ms(clean_environ: dict[str, str]) -> None:
    """The processor time counts: another program may keep this one waiting."""
    times = []
    for _ in range(10):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "quictunnel", "--help"], env=clean_environ, check=True, capture_output=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 0.15
