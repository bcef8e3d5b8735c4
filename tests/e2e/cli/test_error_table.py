"""The table of errors in the reference: each is provoked with `quictunnel`, and printed as the table says."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest
import trustme

import quictunnel
from edge_server.clients import session_table
from edge_server.embedded import EmbeddedEdge
from quictunnel.shared.command_line import error_kind
from quictunnel.wire.codes import BindCode, SessionCode
from quictunnel.wire.messages import AnyMessage, Bind, BindRefused
from tests.e2e.cli.test_refused_token import let_expire
from tests.harness import hostile_peer
from tests.harness.edge_process import children_environment, start_edge
from tests.harness.hostile_peer import HostileEdge, Peer, ServedClient
from tests.harness.programs import free_port
from tests.harness.quic_server import quic_server
from tests.harness.token_commands import command, new_token, until_refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from quictunnel.wire.messages import Hello
    from tests.harness.edge_process import EdgeProcess

DOCUMENT: Final = Path(__file__).parents[3] / "docs" / "reference" / "errors.md"
FIRST_PORT: Final = 24_500
PORTS: Final = 2
"""TCP ports of the edge."""
NOT_PROVOKED: Final = {
    "this token has … clients": "takes as many clients as an edge has; test_session_table has it",
    "the name … is reserved for another token": "has the same answer as a name that another token owns",
}
"""Rows that no test here provokes, and why."""


class Row(NamedTuple):
    """A row of the table."""

    error: str
    exception: str
    status: int
    advice: str


def rows() -> list[Row]:
    """Return all rows with an exit status."""
    found = re.findall(r"^\| (.+) \| (\w+Error|Error) \| (\d) \| (.+) \|$", DOCUMENT.read_text(), re.MULTILINE)
    return [Row(error, exception, int(status), advice) for error, exception, status, advice in found]


def is_meant(row: Row, part: str) -> bool:
    """Return True if a part of an error, or its beginning if that is a capital letter, means a row."""
    return row.error.startswith(part) if part[0].isupper() else part in row.error


def pattern(text: str) -> str:
    """Return the regular expression of a text with ``…`` for any value."""
    return ".+?".join(map(re.escape, text.split("…"))) + r"\Z"


class Lab:
    """An edge with few TCP ports, and programs that use it."""

    def __init__(self, edge: EdgeProcess, folder: Path, stack: ExitStack) -> None:
        self.edge = edge
        self.folder = folder
        self.stack = stack

    def environ(self, token: str = "", **more: str) -> dict[str, str]:
        """Return the environment of a client."""
        environ = children_environment(self.edge) | more
        return environ | {"QUICTUNNEL_TOKEN": token} if token else environ

    def start(self, *arguments: str, environ: dict[str, str]) -> subprocess.Popen[str]:
        """Start ``quictunnel http 9 --json``, or another command."""
        words = arguments if arguments and arguments[0] in ("http", "tcp") else ("http", "9", *arguments)
        process = subprocess.Popen(
            [sys.executable, "-m", "quictunnel", *words, "--json"],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.stack.callback(stop, process)
        return process

    def run(self, *arguments: str, environ: dict[str, str]) -> subprocess.Popen[str]:
        """Start a command that ends by itself."""
        return self.start(*arguments, environ=environ)

    def ready(self, *arguments: str, environ: dict[str, str]) -> subprocess.Popen[str]:
        """Start a command and wait until its tunnel is open."""
        process = self.start(*arguments, environ=environ)
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "ready"
        return process

    def certificate(
        self, trusted: trustme.CA | None = None, name: str = "127.0.0.1", **validity: Any
    ) -> dict[str, str]:
        """Start a QUIC server with a certificate, and return the environment of a client of it."""
        authority = trustme.CA()
        (trusted or authority).cert_pem.write_to_path(str(self.folder / "trusted.pem"))
        alpn = validity.pop("alpn", "quictunnel/1")
        leaf = authority.issue_cert(name, **validity)
        address = self.stack.enter_context(quic_server(leaf, self.folder, alpn=alpn))
        return self.environ(QUICTUNNEL_EDGE=address, QUICTUNNEL_CA=str(self.folder / "trusted.pem"))


def stop(process: subprocess.Popen[str]) -> None:
    """End a process that may still run."""
    if process.poll() is None:
        process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def small_edge(tmp_path_factory: pytest.TempPathFactory, engines: object) -> Iterator[EdgeProcess]:
    """An edge with two TCP ports."""
    del engines  # for its effect
    state = tmp_path_factory.mktemp("edge") / "state"
    edge = start_edge(state, "--tcp-ports", f"{FIRST_PORT}-{FIRST_PORT + PORTS - 1}")
    yield edge
    assert edge.stop() == 0


@pytest.fixture
def lab(small_edge: EdgeProcess, tmp_path: Path) -> Iterator[Lab]:
    with ExitStack() as stack:
        yield Lab(small_edge, tmp_path, stack)


def days(number: int) -> dt.datetime:
    return dt.datetime.now(dt.UTC) + dt.timedelta(days=number)


def nothing_configured(lab: Lab) -> subprocess.Popen[str]:
    environ = {"PATH": os.environ["PATH"], "HOME": str(lab.folder)}
    return lab.run(environ=environ | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")})


def silent_edge(lab: Lab) -> subprocess.Popen[str]:
    sock = lab.stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.bind(("127.0.0.1", 0))
    return lab.run(environ=lab.environ(QUICTUNNEL_EDGE=f"127.0.0.1:{sock.getsockname()[1]}"))


def revoked_token(lab: Lab) -> subprocess.Popen[str]:
    token = new_token(lab.edge)
    command(lab.edge, "token", "revoke", token.split(".")[1])
    until_refused(lab.edge, token)
    return lab.run(environ=lab.environ(token))


def expired_token(lab: Lab) -> subprocess.Popen[str]:
    token = new_token(lab.edge)
    let_expire(lab.edge, token)
    until_refused(lab.edge, token)
    return lab.run(environ=lab.environ(token))


def revoked_in_use(lab: Lab) -> subprocess.Popen[str]:
    token = new_token(lab.edge)
    process = lab.ready(environ=lab.environ(token))
    command(lab.edge, "token", "revoke", token.split(".")[1])
    return process


def banned_address(lab: Lab) -> subprocess.Popen[str]:
    edge = start_edge(lab.folder / "state")
    lab.stack.callback(edge.stop)
    command(edge, "name", "ban", "127.0.0.0/8")
    return lab.run(environ=children_environment(edge))


def tunnel_limit(lab: Lab) -> subprocess.Popen[str]:
    token = new_token(lab.edge, "--tunnels", "1")
    lab.ready(environ=lab.environ(token))
    return lab.run(environ=lab.environ(token))


def name_of_another(lab: Lab) -> subprocess.Popen[str]:
    lab.ready("--name", "taken", environ=lab.environ(new_token(lab.edge)))
    return lab.run("--name", "taken", environ=lab.environ(new_token(lab.edge)))


def taken_over(lab: Lab) -> subprocess.Popen[str]:
    token = new_token(lab.edge)
    process = lab.ready("--name", "mine", environ=lab.environ(token))
    lab.ready("--name", "mine", environ=lab.environ(token))
    return process


def banned_name(lab: Lab) -> subprocess.Popen[str]:
    command(lab.edge, "name", "ban", "unwanted")
    token = new_token(lab.edge)
    return lab.run("--name", "unwanted", environ=lab.environ(token))


def banned_in_use(lab: Lab) -> subprocess.Popen[str]:
    process = lab.ready("--name", "unwelcome", environ=lab.environ(new_token(lab.edge)))
    command(lab.edge, "name", "ban", "unwelcome")
    return process


def banned_port_in_use(lab: Lab) -> subprocess.Popen[str]:
    return port_that_is_banned(lab)[0]


def banned_port(lab: Lab) -> subprocess.Popen[str]:
    process, words, environ = port_that_is_banned(lab)
    process.wait(30)
    return lab.run(*words, environ=environ)


def port_that_is_banned(lab: Lab) -> tuple[subprocess.Popen[str], list[str], dict[str, str]]:
    """Ban the port of a tunnel. Return its program, the arguments and the environment."""
    edge = start_edge(lab.folder / "state", "--tcp-ports", f"{(port := free_port())}-{port}")
    lab.stack.callback(edge.stop)
    words, environ = ["tcp", "9", "--tcp-port", str(port)], children_environment(edge)
    process = lab.ready(*words, environ=environ)
    command(edge, "name", "ban", f":{port}")
    return process, words, environ


def narrowed_in_use(*options: str, command_line: Sequence[str] = ()) -> Callable[[Lab], subprocess.Popen[str]]:
    def provoke(lab: Lab) -> subprocess.Popen[str]:
        token = new_token(lab.edge)
        if "--tunnels" in options:
            lab.ready(environ=lab.environ(token))
        process = lab.ready(*command_line, environ=lab.environ(token))
        command(lab.edge, "token", "change", token.split(".")[1], *options)
        return process

    return provoke


def port_of_another(lab: Lab) -> subprocess.Popen[str]:
    words = ("tcp", "9", "--tcp-port", str(FIRST_PORT))
    first = lab.ready(*words, environ=lab.environ(new_token(lab.edge)))
    first.send_signal(signal.SIGTERM)
    first.wait(30)
    return lab.run(*words, environ=lab.environ(new_token(lab.edge)))


def no_port_left(lab: Lab) -> subprocess.Popen[str]:
    edge = start_edge(lab.folder / "state", "--tcp-ports", f"{(port := free_port())}-{port}")
    lab.stack.callback(edge.stop)
    lab.ready("tcp", "9", environ=children_environment(edge))
    return lab.run("tcp", "9", environ=children_environment(edge))


def full_edge(lab: Lab) -> subprocess.Popen[str]:
    """An embedded edge, whose limit can be as low as one client."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_table, "MAX_SESSIONS", 1)
        edge = lab.stack.enter_context(EmbeddedEdge())
    client = lab.stack.enter_context(quictunnel.Client.from_config(edge.client_config))
    lab.stack.enter_context(quictunnel.forward(free_port(), client=client))
    config = edge.client_config
    environ = {"QUICTUNNEL_EDGE": config.edge, "QUICTUNNEL_TOKEN": config.token.reveal()}
    return lab.run(environ=lab.environ(**environ, QUICTUNNEL_CA=str(config.ca)))


@contextmanager
def scripted_edge(
    lab: Lab, answer: Callable[[ServedClient, Hello], None] | None = None
) -> Iterator[dict[str, str]]:
    """An edge that answers each Hello as the test says: what a real one does only in the moment of its end."""
    loop = asyncio.new_event_loop()
    started = threading.Event()
    environ: dict[str, str] = {}
    ended = asyncio.Event()

    async def serve() -> None:
        async with HostileEdge(lab.folder) as edge:
            edge.greetings.extend([answer] * 100 if answer is not None else [])
            config = edge.client_config
            environ.update(lab.environ(QUICTUNNEL_EDGE=config.edge, QUICTUNNEL_CA=str(config.ca)))
            started.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    started.wait(30)
    try:
        yield environ
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


def closing_with(code: SessionCode) -> Callable[[Lab], subprocess.Popen[str]]:
    def provoke(lab: Lab) -> subprocess.Popen[str]:
        environ = lab.stack.enter_context(scripted_edge(lab, lambda served, _: served.connection.close(code)))
        return lab.run(environ=environ)

    return provoke


class DrainingEdge(ServedClient):
    """An edge that drains: it greets, and refuses every Bind."""

    def hear(self, message: AnyMessage) -> None:
        if isinstance(message, Bind):
            Peer.hear(self, message)
            self.say(BindRefused(message.lease, BindCode.CLOSING))
        else:
            super().hear(message)


def draining(lab: Lab) -> subprocess.Popen[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hostile_peer, "ServedClient", DrainingEdge)
        environ = lab.stack.enter_context(scripted_edge(lab))
        process = lab.run(environ=environ)
        process.wait(60)
    return process


PROVOCATIONS: Final[dict[str, Callable[[Lab], subprocess.Popen[str]]]] = {
    "No edge is configured": nothing_configured,
    "Invalid value for 'PORT': should": lambda lab: lab.run("http", "x", environ=lab.environ()),
    "Invalid value for 'PORT': A tunnel": lambda lab: lab.run("http", "http://localhost/a", environ=lab.environ()),
    "Nobody listened": lambda lab: lab.run("http", str(free_port()), "--wait", "0.1", environ=lab.environ()),
    "The name of the edge": lambda lab: lab.run(environ=lab.environ(QUICTUNNEL_EDGE="edge.invalid:4433")),
    "answered that nothing listens on its UDP": lambda lab: lab.run(
        environ=lab.environ(QUICTUNNEL_EDGE=f"127.0.0.1:{free_port()}")
    ),
    "No answer from the edge": silent_edge,
    "speaks QUIC but is not an edge": lambda lab: lab.run(environ=lab.certificate(alpn="h3")),
    "no authority in": lambda lab: lab.run(environ=lab.certificate(trusted=trustme.CA())),
    "none of the public authorities": lambda lab: lab.run(environ=lab.certificate() | {"QUICTUNNEL_CA": ""}),
    "is for another name": lambda lab: lab.run(environ=lab.certificate(name="edge.example")),
    "has expired by": lambda lab: lab.run(environ=lab.certificate(not_before=days(-9), not_after=days(-2))),
    "is not valid yet": lambda lab: lab.run(environ=lab.certificate(not_before=days(2), not_after=days(9))),
    "Client and edge speak": closing_with(SessionCode.VERSION),
    "it is not a token of this edge": lambda lab: lab.run(environ=lab.environ("no-token-of-this-edge")),
    "The edge at … does not accept the token: it was": revoked_token,
    "The edge at … does not accept the token: it expired": expired_token,
    "The tunnel has ended: The edge at … does not accept": revoked_in_use,
    "has banned this address": banned_address,
    "it serves as many clients": full_edge,
    "The edge is shutting down. (edge": closing_with(SessionCode.GOING_AWAY),
    "accepts no new tunnel": draining,
    "The edge refused the tunnel: the token may have": tunnel_limit,
    "another token owns the name": name_of_another,
    "the edge reserves the name": lambda lab: lab.run("--name", "www", environ=lab.environ(new_token(lab.edge))),
    "The edge refused the tunnel: the token does not allow the name": lambda lab: lab.run(
        "--name", "other", environ=lab.environ(new_token(lab.edge, "--names", "web-*"))
    ),
    "the operator has banned the name": banned_name,
    "The edge refused the tunnel: the token allows no TCP port": lambda lab: lab.run(
        "tcp", "9", environ=lab.environ(new_token(lab.edge, "--tcp-ports", "none"))
    ),
    "does not allow TCP port": lambda lab: lab.run(
        *("tcp", "9", "--tcp-port", str(FIRST_PORT)),
        environ=lab.environ(new_token(lab.edge, "--tcp-ports", f"{FIRST_PORT + 1}-{FIRST_PORT + 1}")),
    ),
    "is outside this edge's range": lambda lab: lab.run(
        "tcp", "9", "--tcp-port", str(FIRST_PORT + PORTS), environ=lab.environ()
    ),
    "The edge refused the tunnel: the operator has banned TCP port": banned_port,
    "another token owns TCP port": port_of_another,
    "no TCP port of this edge's range": no_port_left,
    "has taken over the name": taken_over,
    "operator has banned this name": banned_in_use,
    "at …: the operator has banned TCP port": banned_port_in_use,
    "at …: the token does not allow the name": narrowed_in_use(
        "--names", "web-*", command_line=("--name", "narrowed")
    ),
    "at …: the token allows no TCP port": narrowed_in_use("--tcp-ports", "none", command_line=("tcp", "9")),
    "at …: the token may have": narrowed_in_use("--tunnels", "1"),
}
"""For a part of each row's error, the function that provokes it."""


def test_each_row_is_provoked_by_one_function() -> None:
    for row in rows():
        matching = [part for part in (*PROVOCATIONS, *NOT_PROVOKED) if is_meant(row, part)]
        assert len(matching) == 1, (row.error, matching)
    assert len(rows()) == len(PROVOCATIONS) + len(NOT_PROVOKED)


@pytest.mark.parametrize("part", PROVOCATIONS)
def test_errors_are_printed_as_the_table_says(lab: Lab, part: str) -> None:
    row = next(row for row in rows() if is_meant(row, part))
    process = PROVOCATIONS[part](lab)
    out, err = process.communicate(timeout=60)
    error, *hints = [line.strip() for line in err.splitlines() if not line.startswith("Usage")]
    assert re.match(pattern(row.error), error.removeprefix("quictunnel: error: ")), error
    assert hints == ([] if row.advice == "-" else [row.advice])
    assert process.returncode == row.status
    event = json.loads(out.splitlines()[-1])
    kind = error_kind(getattr(quictunnel, row.exception)())
    assert event["kind"] == ("usage" if "PORT" in row.error and "Invalid value" in row.error else kind)
