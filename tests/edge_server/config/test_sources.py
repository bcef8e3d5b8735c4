"""Options from the environment and from a file; every problem is reported with its place and a remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edge_server.config.edge_config import OPTIONS, parse, read
from edge_server.config.sources import MAX_PROBLEMS

if TYPE_CHECKING:
    from pathlib import Path


def toml(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "edge.toml"
    path.write_text(text)
    return ["--config", str(path)]


def problems(tmp_path: Path, text: str) -> list[str]:
    """Without the path."""
    return [problem.removeprefix(f"{tmp_path}/") for problem in read(toml(tmp_path, text)).problems]


def test_command_line_precedes_environment_precedes_file(tmp_path):
    arguments = toml(tmp_path, 'domain = "file.example"\ngrace = 1\nhold = 1\n')
    environ = {"QUICTUNNEL_EDGE_SERVER_DOMAIN": "env.example", "QUICTUNNEL_EDGE_SERVER_GRACE": "2"}
    config = parse([*arguments, "--domain", "line.example"], environ)
    assert (config.domain, config.grace, config.hold) == ("line.example", 2.0, 1.0)


def test_the_environment_may_name_the_file(tmp_path):
    _, path = toml(tmp_path, 'domain = "file.example"')
    environ = {"QUICTUNNEL_EDGE_SERVER_CONFIG": path}
    assert parse([], environ).domain == "file.example"
    other = tmp_path / "other.toml"
    other.write_text('domain = "other.example"')
    assert parse(["--config", str(other)], environ).domain == "other.example"


def test_every_option_has_a_variable_that_is_read():
    for row in OPTIONS:
        problem = read([], {row.variable: "\0"}).problems[0]
        assert problem.startswith(f"{row.variable} ")


def test_variables_of_clients_and_empty_ones_say_nothing():
    environ = {
        "QUICTUNNEL_EDGE": "edge.example.com:4433",
        "QUICTUNNEL_TOKEN": "t",
        "QUICTUNNEL_CA": "/ca.pem",
        "QUICTUNNEL_EDGE_SERVER_QUIC": "",
        "QUICTUNNEL_EDGE_SERVER_CONFIG": "",
    }
    assert parse([], environ) == parse([])


@pytest.mark.parametrize(("text", "is_on"), [("true", True), ("false", False)])
def test_a_switch_in_the_environment(text, is_on):
    assert parse([], {"QUICTUNNEL_EDGE_SERVER_ALLOW_WILDCARD_H2": text}).allow_wildcard_h2 is is_on


def test_a_switch_that_is_neither():
    (problem,) = read([], {"QUICTUNNEL_EDGE_SERVER_TAKEOVER": "yes"}).problems
    assert problem == "QUICTUNNEL_EDGE_SERVER_TAKEOVER should be true or false, not 'yes'."


def test_an_unknown_variable_gets_a_hint():
    (problem,) = read([], {"QUICTUNNEL_EDGE_SERVER_HTPS": "a:1"}).problems
    assert problem == (
        "The environment has an unknown variable 'QUICTUNNEL_EDGE_SERVER_HTPS'; did you mean "
        '"QUICTUNNEL_EDGE_SERVER_HTTPS"?'
    )


def test_tables_are_prefixes_of_option_names(tmp_path):
    config = parse(toml(tmp_path, "[tcp]\nhost = '::1'\nports = '5-6'\n[log]\nformat = 'json'\n"))
    assert (config.tcp_host, config.tcp_ports, config.log_format) == ("::1", range(5, 7), "json")
    assert parse(toml(tmp_path, "log = { level = 'error' }\ntcp.ports = '5-6'")).log_level == "error"
    assert parse(toml(tmp_path, "allow = { wildcard_h2 = true }")).allow_wildcard_h2
    own = "domain = 'tunnel.example.com'\n"
    config = parse(toml(tmp_path, own + "[acme]\nemail = 'you@example.com'\nchallenge = 'tls-alpn-01'\n"))
    assert (config.acme, config.acme_challenge) == ("you@example.com", "tls-alpn-01")
    assert parse(toml(tmp_path, own + "acme = 'you@example.com'")).acme == "you@example.com"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("\n\nhtps = 'a:1'", "edge.toml:3: unknown name 'htps'; did you mean \"https\"?"),
        ("[log]\nlevl = 'debug'", "edge.toml:2: unknown name 'log.levl'; did you mean \"log.level\"?"),
        ("log = 'debug'", "edge.toml:1: unknown name 'log'; "),
        ("[[log]]\nlevel = 'debug'", "edge.toml:1: unknown name 'log'; "),
        ("tcp.ports.x = 1", "edge.toml:1: tcp.ports should be text, not "),
        ("[edge.a]\nb = 1", "edge.toml:1: unknown name 'edge'; docs/CONFIGURATION.md and "),
        ("grace = 1\n[tcp]\nports = 7", "edge.toml:3: tcp.ports should be text, not '7'."),
        ("grace = true", "edge.toml:1: grace should be seconds between 0 and 3600, not 'True'."),
        ("log-level = 'info'\nlog_level = 'debug'", "edge.toml:2: log-level is given twice ("),
        ("log-level = 'info'\n[log]\nlevel = 'debug'", "edge.toml:3: log-level is given twice ("),
        ("a = 1\na = 2", "edge.toml:2: not valid TOML: Cannot overwrite a value."),
        ("\n = 2", "edge.toml:2: not valid TOML: Invalid statement (column 2)."),
        ("a = 1\n\nb = [1,\n", "edge.toml:3: not valid TOML: Invalid value."),
    ],
)
def test_a_problem_is_reported_with_its_line(tmp_path, text, problem):
    (found,) = problems(tmp_path, text)
    assert found.startswith(problem), found


def test_bytes_that_are_no_text_are_reported_with_their_line(tmp_path):
    path = tmp_path / "edge.toml"
    path.write_bytes(b"# fine\n\ndomain = '\xff'\n")
    (found,) = read(["--config", str(path)]).problems
    assert found == f"{path}:3: not valid TOML: the text is not UTF-8."


def test_all_problems_are_reported_at_once(tmp_path):
    arguments = toml(tmp_path, "htps = 1\nquic = 'x'\ngrace = -1\n")
    reading = read([*arguments, "--hold", "soon"], {"QUICTUNNEL_EDGE_SERVER_DOMAIN": "-"})
    assert reading.config is None
    assert [problem.removeprefix(f"{tmp_path}/").partition(" should")[0] for problem in reading.problems] == [
        "edge.toml:1: unknown name 'htps'; did you mean \"https\"?",
        "QUICTUNNEL_EDGE_SERVER_DOMAIN",
        "edge.toml:2: quic",
        "edge.toml:3: grace",
        "--hold",
    ]


def test_problems_have_a_bound(tmp_path):
    assert len(problems(tmp_path, "".join(f"x{n} = 1\n" for n in range(MAX_PROBLEMS + 5)))) == MAX_PROBLEMS


def test_a_file_that_is_nested_too_deeply_is_refused_in_one_line(tmp_path):
    (found,) = problems(tmp_path, "a = " + "[" * 30_000)
    assert "nested too deeply" in found or "not valid TOML" in found


def test_a_file_of_a_windows_editor_is_read(tmp_path):
    """With a byte order mark, and two characters at the end of each line."""
    path = tmp_path / "edge.toml"
    path.write_bytes(b'\xef\xbb\xbfdomain = "tunnel.example.com"\r\nlog-level = "debug"\r\n')
    config = parse(["--state-dir", str(tmp_path), "--config", str(path)])
    assert (config.domain, config.log_level) == ("tunnel.example.com", "debug")
