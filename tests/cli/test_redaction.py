"""Tokens and credentials given where another value was expected: no error shows the secret in them."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

import pytest

from edge_server.__main__ import main as edge_main
from edge_server.auth.token import key_of
from quictunnel.cli.main import main
from quictunnel.client import Client
from quictunnel.config.credential import Credential
from quictunnel.config.secret import Secret
from quictunnel.errors import MIN_SECRET, ConfigError, InvalidError, redact
from quictunnel.forwarding import forward
from quictunnel.shared.address import short_repr
from quictunnel.shared.command_line import MIN_REST, error_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

KEY: Final = "vq2osakur5ggoakn"
SECRET: Final = "Zr8-kQ2_vN7yTb4XwLd0pJc9sHf6mGa3eUi5oRx1KtE"
TOKEN: Final = f"qt1.{KEY}.{SECRET}"
CREDENTIAL: Final = Credential(("edge.example.com:4433",), bytes(32), Secret(TOKEN)).encode()
BREAK: Final = 80
"""Columns of the terminal from which the broken credential was copied."""
PARTS: Final = [CREDENTIAL[begin : begin + BREAK] for begin in range(0, len(CREDENTIAL), BREAK)]
PIECE: Final = 12
"""Characters in a row of which one finds a part of a secret that was printed: 72 bits."""


def pieces(secret: str) -> set[str]:
    """Return all pieces of a secret, in lower case."""
    secret = secret.lower()
    return {secret[start : start + PIECE] for start in range(len(secret) - PIECE + 1)}


def assert_hidden(text: str, *secrets: str) -> None:
    text = text.lower()
    for secret in secrets or (SECRET, CREDENTIAL[MIN_SECRET:]):
        assert [piece for piece in pieces(secret) if piece in text] == []


CLIENT_LINES: Final = [
    "{secret}",
    "{secret} --json",
    "http 8000 {secret}",
    "http 8000 {secret} --json",
    "http {secret}",
    "http {secret} --json",
    "http unix:/{secret} --wait x",
    "http --{secret}",
    "http 8000 --{secret} --json",
    "http 8000 --{secret}=1",
    "http 8000 --name {secret}",
    "http 8000 --domain {secret}",
    "http 8000 --allow {secret}",
    "http 8000 --ticket /missing/{secret} --json",
    "http 8000 --wait {secret}",
    "http 8000 --log-level {secret}",
    "tcp {secret}",
    "tcp 22 --tcp-port {secret}",
    "run --port {secret} true",
    "run /missing/{secret} --port 8000",
    "doctor {secret}",
    "doctor {secret} --json",
    "doctor 8000 {secret}",
    "status {secret}",
    "http 8000 --token-file {secret}",
    "http 8000 --token-file {secret} --json",
    "http 8000 --edge {secret}",
    "http 8000 --edge {secret} --json",
    "http 8000 --profile {secret}",
    "http 8000 --ca {secret} --edge e:1",
    "doctor --edge {secret}",
    "login --profile {secret}",
    "login {secret} {secret}",
    "logout --profile {secret}",
    "logout {secret}",
    "profiles {secret}",
    "demo {secret}",
    "completion {secret}",
    "help {secret}",
    "help http {secret}",
    "version {secret}",
]
EDGE_LINES: Final = [
    "{secret}",
    "{secret} --json",
    "--{secret}",
    "--quic {secret}",
    "--domain {secret} --check-config",
    "--config /missing/{secret}",
    "--quic 127.0.0.1:0 {secret}",
    "token {secret}",
    "token show {secret}",
    "token show {secret} --json",
    "token revoke {secret}",
    "token change {secret}",
    "token change {secret} --note x",
    "token create {secret}",
    "token create --edge {secret} --json",
    "token create --expires {secret}",
    "name show {secret}",
    "name ban {secret} --state-dir /dev/null",
    "admin {secret}",
    "health {secret}",
    "help {secret}",
]


@pytest.fixture
def output_of(
    clean_environ: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Callable[[Callable[[Sequence[str]], int], str], str]:
    """Return a function that runs a command line in this process, and returns all of its output."""
    monkeypatch.chdir(tmp_path)
    for name in ("QUICTUNNEL_EDGE", "QUICTUNNEL_TOKEN", "QUICTUNNEL_CREDENTIAL", "QUICTUNNEL_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, clean_environ[name])

    def run(program: Callable[[Sequence[str]], int], line: str) -> str:
        try:
            status: Any = program(shlex.split(line))
        except SystemExit as end:
            status = end.code
        out, err = capsys.readouterr()
        assert status not in (0, None), "this is an error"
        assert out or err
        return str(out + err)

    return run


@pytest.mark.parametrize("secret", [TOKEN, CREDENTIAL, " ".join(PARTS)], ids=["token", "credential", "broken"])
@pytest.mark.parametrize("line", CLIENT_LINES)
def test_no_error_of_the_client_shows_a_secret(output_of: Any, line: str, secret: str) -> None:
    assert_hidden(output_of(main, line.format(secret=secret)))


@pytest.mark.parametrize("secret", [TOKEN, CREDENTIAL, " ".join(PARTS)], ids=["token", "credential", "broken"])
@pytest.mark.parametrize("line", EDGE_LINES)
def test_no_error_of_the_edge_shows_a_secret(output_of: Any, line: str, secret: str) -> None:
    assert_hidden(output_of(edge_main, line.format(secret=secret)))


@pytest.mark.parametrize("secret", [TOKEN, CREDENTIAL], ids=["token", "credential"])
@pytest.mark.parametrize("line", ["http 8000", "http 8000 --json", "doctor", "doctor --json"])
@pytest.mark.parametrize("variable", ["EDGE", "PROFILE", "ENGINE", "CONGESTION", "CA", "QLOG"])
def test_no_variable_is_shown(
    output_of: Any, variable: str, line: str, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable != "PROFILE":
        monkeypatch.setenv("QUICTUNNEL_EDGE", "127.0.0.1:1")
        monkeypatch.setenv("QUICTUNNEL_TOKEN", "tok_0123456789")
    monkeypatch.setenv(f"QUICTUNNEL_{variable}", secret)
    assert_hidden(output_of(main, line))


@pytest.mark.parametrize("extra", ["", " --json"])
@pytest.mark.parametrize("cut", [5, 20, BREAK, len(CREDENTIAL) - 5])
def test_a_credential_in_several_words(output_of: Any, cut: int, extra: str) -> None:
    text = output_of(main, f"login {CREDENTIAL[:cut]} {CREDENTIAL[cut:]}{extra}")
    assert "A credential is one word, and this one was broken into 2" in text
    assert "paste it at the prompt of `quictunnel login`" in text
    assert_hidden(text, CREDENTIAL)


def test_a_token_is_identified_by_its_key(output_of: Any) -> None:
    assert f"there is no token 'qt1.{KEY}...'" in output_of(edge_main, f"token show {TOKEN}")


@pytest.mark.parametrize("secret", [TOKEN, CREDENTIAL], ids=["token", "credential"])
def test_no_exception_of_the_api_shows_a_secret(secret: str) -> None:
    for call, kind in (
        (lambda: Client(secret, token="x"), ConfigError),
        (lambda: Client(profile=secret), ConfigError),
        (lambda: Client(f"e:{secret}", token="x"), ConfigError),
        (lambda: forward(secret), InvalidError),  # type: ignore[arg-type]
        (lambda: forward(8000, name=secret), InvalidError),
    ):
        with pytest.raises(kind) as caught:
            call()
        error = caught.value
        assert isinstance(error, ConfigError | InvalidError)
        assert_hidden("\n".join([str(error), repr(error), error.message, error.advice]))


def test_redact() -> None:
    assert key_of(TOKEN) == KEY, "the form of the edge's tokens"
    assert redact(f"no {TOKEN}, and no {CREDENTIAL}!") == f"no qt1.{KEY}..., and no qt1...!"
    assert redact(f"qt1.{KEY}.a") == f"qt1.{KEY}...", "however little of the secret follows the key"
    assert redact("qt1" + "a" * MIN_SECRET) == "qt1..."
    assert redact("qt1" + "a" * (MIN_SECRET - 1)) == "qt1" + "a" * (MIN_SECRET - 1)
    assert redact("qt1a " + "b" * MIN_SECRET + " c") == "qt1... c"
    assert redact("qt1a " + "b" * (MIN_SECRET - 1)) == "qt1a " + "b" * (MIN_SECRET - 1)
    assert redact(ascii(f"{CREDENTIAL[:9]}\n{CREDENTIAL[9:]}")) == "'qt1...'"


@pytest.mark.parametrize(
    "text", [f"qt1.{KEY}", "qt1.tunnel.example.com", "https://qt1-app.tunnel.example.com", "it begins with qt1..."]
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_a_secret_is_hidden_before_a_value_is_cut() -> None:
    assert short_repr("x" * 70 + CREDENTIAL) == "'" + "x" * 70 + "qt1...'"


def test_the_rest_of_a_broken_credential_is_known_by_the_word_before() -> None:
    words = ["http", "--edge", *PARTS, "--json"]
    for part in PARTS[1:]:
        assert error_text(f"not '{part[:60]}'", words) == "not '...'"
    rest = "b" * MIN_REST
    assert error_text(f"no {rest} --no-such", ["qt1a", rest, "--no-such"]) == "no ... --no-such"
    assert error_text(f"no {rest[1:]}", ["qt1a", rest[1:]]) == f"no {rest[1:]}"
    assert error_text(f"no {rest}", ["a", rest]) == f"no {rest}"
