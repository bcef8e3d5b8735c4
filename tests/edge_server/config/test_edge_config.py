"""The edge's options: each one, from the command line and from TOML, and what a wrong one is told in one line."""

from __future__ import annotations

import dataclasses
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from edge_server.config.edge_config import EdgeConfig, parse
from edge_server.config.sources import MAX_CONFIG
from quictunnel.errors import ConfigError
from quictunnel.shared.paths import default_state_dir

ROOT = Path(__file__).parents[3]

# Option, a value, and the fields that it sets.
OPTIONS: list[tuple[str, str, dict[str, Any]]] = [
    ("state-dir", "/srv/edge", {"state_dir": Path("/srv/edge")}),
    ("domain", "Tunnel.Example.com.", {"domain": "tunnel.example.com"}),
    ("quic", "0.0.0.0:443", {"quic": ("0.0.0.0", 443)}),
    ("quic", "[::1]:0", {"quic": ("::1", 0)}),
    ("https", "10.0.0.1:443", {"https": ("10.0.0.1", 443), "tcp_host": "10.0.0.1"}),
    ("https", "[::]:8443", {"https": ("::", 8443), "tcp_host": "::"}),
    ("tcp-host", "::1", {"tcp_host": "::1"}),
    ("tcp-ports", "1-65535", {"tcp_ports": range(1, 65536)}),
    ("tcp-ports", "7000-7000", {"tcp_ports": range(7000, 7001)}),
    ("public-host", "edge.example.com", {"public_host": "edge.example.com"}),
    ("grace", "2.5", {"grace": 2.5}),
    ("grace", "0", {"grace": 0.0}),
    ("engine", "aioquic", {"engine": "aioquic"}),
    ("congestion", "bbr", {"congestion": "bbr"}),
    ("log-format", "json", {"log_format": "json"}),
    ("log-level", "debug", {"log_level": "debug"}),
]


ENVIRONMENT = {"QUICTUNNEL_ENGINE": "aioquic", "QUICTUNNEL_CONGESTION": "cubic"}


def difference(config: EdgeConfig) -> dict[str, Any]:
    """The fields that are not as they are without any option."""
    plain = parse([])
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(EdgeConfig)
        if getattr(config, field.name) != getattr(plain, field.name)
    }


def toml(tmp_path: Path, text: str) -> str:
    path = tmp_path / "edge.toml"
    path.write_text(text)
    return str(path)


def test_the_defaults():
    config = parse([])
    assert config == EdgeConfig(state_dir=default_state_dir().absolute())
    assert config.domain == "tunnel.localhost"
    assert config.quic == ("127.0.0.1", 4433)
    assert config.https == ("127.0.0.1", 8443)
    assert config.tcp_host == "127.0.0.1"
    assert config.tcp_ports == range(20000, 30000)
    assert config.announced_tcp_host == "127.0.0.1"
    assert (config.cert, config.key) == (None, None)
    assert (config.log_format, config.log_level) == ("text", "info")


@pytest.mark.parametrize(("option", "value", "fields"), OPTIONS)
def test_an_option_on_the_command_line(option, value, fields):
    assert difference(parse([f"--{option}", value])) == fields
    assert difference(parse([f"--{option}={value}"])) == fields


@pytest.mark.parametrize(("option", "value", "fields"), OPTIONS)
def test_an_option_in_a_file(tmp_path, option, value, fields):
    assert difference(parse(["--config", toml(tmp_path, f'{option} = "{value}"')])) == fields
    assert difference(parse(["--config", toml(tmp_path, f'{option.replace("-", "_")} = "{value}"')])) == fields


def test_values_that_toml_has_types_for(tmp_path):
    config = parse(["--config", toml(tmp_path, "grace = 7\nallow-wildcard-h2 = true\n")])
    assert (config.grace, config.allow_wildcard_h2) == (7.0, True)
    assert parse(["--allow-wildcard-h2"]).allow_wildcard_h2


def test_the_command_line_wins(tmp_path):
    path = toml(tmp_path, 'domain = "file.example"\nquic = "1.2.3.4:5"\n')
    config = parse(["--config", path, "--domain", "line.example"])
    assert (config.domain, config.quic) == ("line.example", ("1.2.3.4", 5))


def test_the_engine_of_the_environment_is_the_last_to_be_asked(tmp_path):
    path = toml(tmp_path, 'engine = "auto"')
    assert parse([], ENVIRONMENT).engine == "aioquic"
    assert parse(["--config", path], ENVIRONMENT).engine == "auto"
    assert parse(["--engine", "native"], ENVIRONMENT).engine == "native"
    assert parse([], ENVIRONMENT).congestion == "cubic"
    assert parse(["--congestion", "bbr"], ENVIRONMENT).congestion == "bbr"


def test_files_named_in_a_file_are_relative_to_it(tmp_path):
    path = toml(tmp_path, 'cert = "a.pem"\nkey = "/b.pem"\nstate-dir = "state"\n')
    config = parse(["--config", path])
    assert (config.cert, config.key) == (tmp_path / "a.pem", Path("/b.pem"))
    assert config.state_dir == tmp_path / "state"


def test_files_named_on_the_command_line_are_relative_to_where_it_is(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert parse(["--state-dir", "state"]).state_dir == tmp_path / "state"


def test_a_home_directory_is_found(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert parse(["--state-dir", "~/edge"]).state_dir == Path("/home/somebody/edge")


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ([], "127.0.0.1"),
        (["--tcp-host", "10.0.0.1"], "10.0.0.1"),
        (["--https", "0.0.0.0:443"], "tunnel.localhost"),
        (["--https", "[::]:443", "--domain", "a.example"], "a.example"),
        (["--https", "0.0.0.0:443", "--public-host", "1.2.3.4"], "1.2.3.4"),
    ],
)
def test_public_host_for_plain_tcp(options, shown):
    assert parse(options).announced_tcp_host == shown


WRONG = [
    ("domain", "-a.example", "--domain should be a DNS name"),
    ("domain", "", "--domain should be a DNS name"),
    ("domain", "a..b", "--domain should be a DNS name"),
    ("domain", "a" * 64, "--domain should be a DNS name"),
    ("domain", ".".join(["a" * 60] * 4), "--domain should be a DNS name"),
    ("domain", "bücher.example", "--domain should be a DNS name"),
    ("quic", "4433", "--quic should be host:port"),
    ("quic", "localhost:70000", "--quic should be host:port"),
    ("quic", "::1:4433", "--quic should be host:port"),
    ("https", "https://a:1", "--https should be host:port"),
    ("https", "a:-1", "--https should be host:port"),
    ("tcp-ports", "20000", "--tcp-ports should be a range"),
    ("tcp-ports", "0-10", "--tcp-ports should be a range"),
    ("tcp-ports", "20-10", "--tcp-ports should be a range"),
    ("tcp-ports", "1-65536", "--tcp-ports should be a range"),
    ("tcp-ports", "1-999999", "--tcp-ports should be a range"),
    ("public-host", "two words", "--public-host should be"),
    ("public-host", "a" * 254, "--public-host should be"),
    ("grace", "-1", "--grace should be seconds"),
    ("grace", "nan", "--grace should be seconds"),
    ("grace", "inf", "--grace should be seconds"),
    ("grace", "1e9", "--grace should be seconds"),
    ("grace", "soon", "--grace should be seconds"),
]


def check_one_line(error: ConfigError, begin: str) -> None:
    message = str(error)
    assert message.startswith(begin), message
    assert message.isprintable()
    assert len(message) < 400


@pytest.mark.parametrize(("option", "value", "begin"), WRONG)
def test_a_wrong_value_is_one_line(tmp_path, option, value, begin):
    with pytest.raises(ConfigError) as raised:
        parse([f"--{option}={value}"])
    check_one_line(raised.value, begin)
    path = toml(tmp_path, f'# of our own\n\n{option} = "{value}"')
    with pytest.raises(ConfigError) as raised:
        parse(["--config", path])
    check_one_line(raised.value, begin.replace("--", f"{path}:3: "))
    if value:  # an empty variable is as good as none
        variable = f"QUICTUNNEL_EDGE_SERVER_{option.replace('-', '_').upper()}"
        with pytest.raises(ConfigError) as raised:
            parse([], {variable: value})
        check_one_line(raised.value, variable + begin.removeprefix(f"--{option}"))


@pytest.mark.parametrize(
    ("text", "begin"),
    [
        ("domain = 7", "--domain should be text"),
        ("state-dir = []", "--state-dir should be text"),
        ('state-dir = "a\\u0000b"', "--state-dir contains a character"),
        ('domain = "a\\nb"', "--domain contains a character"),
        ("cert = true", "--cert should be text"),
        ("grace = []", "--grace should be seconds"),
        (f"grace = 1{'0' * 400}", "--grace should be seconds"),
        ('allow-wildcard-h2 = "yes"', "--allow-wildcard-h2 should be true or false"),
        ('engine = "steam"', "--engine should be one of"),
        ('log-format = "xml"', "--log-format should be one of"),
        ('log-level = "loud"', "--log-level should be one of"),
        ('cert = "a.pem"', "--cert: cert and key go together"),
        ('key = "a.pem"', "--key: cert and key go together"),
    ],
)
def test_a_wrong_value_in_a_file_is_one_line(tmp_path, text, begin):
    path = toml(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        parse(["--config", path])
    check_one_line(raised.value, begin.replace("--", f"{path}:1: "))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"domain", "not valid TOML"),
        (b"\xff\xfe", "not valid TOML"),
        (b"domian = 'a'", "unknown name 'domian'"),
        (b"config = 'again.toml'", "unknown name 'config'"),
        (b"[edge]\ndomain = 'a'", "unknown name 'edge'"),
        (b"'" + b"a\\u001b" * 20 + b"' = 1", "unknown name"),
        (b"#" * (MAX_CONFIG + 1), "larger than"),
        (b"grace = 1" + b"0" * 5000, "not valid TOML: Exceeds the limit"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, content, match):
    path = tmp_path / "edge.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=match) as raised:
        parse(["--config", str(path)])
    check_one_line(raised.value, "--config " if "larger" in match else f"{path}:1: ")


@pytest.mark.parametrize("name", ["absent.toml", "."])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, name):
    with pytest.raises(ConfigError, match="cannot be read") as raised:
        parse(["--config", str(tmp_path / name)])
    check_one_line(raised.value, "--config ")


@pytest.mark.parametrize(
    ("options", "begin"),
    [
        (["--htps", "a:1"], "No such option '--htps'. Did you mean '--https'?"),
        (["--dom", "a"], "No such option '--dom'. Did you mean '--domain'?"),
        (["x"], "Got unexpected extra argument (x); `quictunnel-edge --help`"),
        (["a\nb"], "Got unexpected extra argument (a"),
        (["--quic"], "Option '--quic' requires an argument; "),
        (["--takeover=yes"], "Option '--takeover' does not take a value; "),
        (["--engine", "steam"], "--engine should be one of auto, "),
        (["--log-level", "loud"], "--log-level should be one of debug, "),
    ],
)
def test_a_wrong_command_line_is_one_line(options, begin):
    with pytest.raises(ConfigError) as raised:
        parse(options)
    check_one_line(raised.value, begin)


def test_of_an_option_that_is_given_twice_the_last_counts():
    assert parse(["--domain", "a.example", "--domain", "b.example"]).domain == "b.example"


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as raised:
        parse(["--help"])
    assert raised.value.code == 0
    text = capsys.readouterr().out
    for field in dataclasses.fields(EdgeConfig):
        assert f"--{field.name.replace('_', '-')}" in text


@given(st.binary(max_size=200))
def test_random_files_raise_only_config_errors(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("config") / "edge.toml"
    path.write_bytes(content)
    try:
        parse(["--config", str(path)])
    except ConfigError as error:
        check_one_line(error, f"{path}:")


# What only shows when the edge starts.


@pytest.fixture
def files(tmp_path):
    """A certificate and key of the right kind, another key, and something that is neither."""
    authority = trustme.CA()
    for name in ("one", "two"):
        leaf = authority.issue_cert("*.tunnel.localhost")
        leaf.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        leaf.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
    foreign = authority.issue_cert("*.elsewhere.example")
    foreign.private_key_pem.write_to_path(tmp_path / "foreign.key")
    foreign.cert_chain_pems[0].write_to_path(tmp_path / "foreign.pem")
    (tmp_path / "text").write_text("no certificate")
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    return tmp_path


@pytest.fixture
def taken():
    """A TCP and a UDP port that somebody has."""
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        yield tcp.getsockname()[1], udp.getsockname()[1]


@pytest.mark.parametrize(
    ("options", "begin"),
    [
        ("--htps 127.0.0.1:0", "No such option '--htps'. Did you mean '--https'?"),
        ("--quic 127.0.0.1:{udp}", "--quic: UDP port {udp} of 127.0.0.1"),
        ("--quic 192.0.2.1:0", "--quic: UDP port 0 of 192.0.2.1"),
        ("--quic no.such.host.invalid:1", "--quic: UDP port 1 of no.such.host.invalid"),
        ("--https 127.0.0.1:{tcp}", "--https: port {tcp} of 127.0.0.1 is taken"),
        ("--https 192.0.2.1:0 --tcp-host 127.0.0.1", "--https 192.0.2.1:0 cannot be used"),
        ("--tcp-host 192.0.2.1", "--tcp-host 192.0.2.1 cannot be used"),
        ("--tcp-host no.such.host.invalid", "--tcp-host no.such.host.invalid cannot be used"),
        ("--cert {files}/absent --key {files}/one.key", "Cannot read the certificate {files}/absent"),
        ("--cert {files}/one.pem --key {files}/absent", "Cannot read the private key {files}/absent"),
        ("--cert {files}/one.pem --key {files}/two.key", "The private key {files}/two.key does not belong"),
        ("--cert {files}/text --key {files}/one.key", "Not a PEM certificate: {files}/text"),
        ("--cert {files}/binary --key {files}/binary", "Not a PEM certificate: {files}/binary"),
        ("--cert {files} --key {files}", "Cannot read the certificate {files}"),
        ("--cert {files}/foreign.pem --key {files}/foreign.key", "--cert"),
        ("--state-dir {files}/text/state", "The state directory"),
        ("--state-dir /proc/self/state", "The state directory"),
    ],
)
def test_an_edge_that_cannot_start_says_why_in_one_line_and_exits_2(files, taken, options, begin):
    places = {"files": files, "tcp": taken[0], "udp": taken[1]}
    command = ["--state-dir", str(files / "state"), "--quic", "127.0.0.1:0", "--https", "127.0.0.1:0"]
    ended = subprocess.run(
        [sys.executable, "-m", "edge_server", *command, *options.format(**places).split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("edge_server: error: " + begin.format(**places)), line
    assert not (files / "state" / "client.env").exists()
