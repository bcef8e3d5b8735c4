"""Sockets of a service manager: the right ones are taken, wrong ones are one clear line."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

import pytest

from edge_server import systemd
from edge_server.config.edge_config import EdgeConfig
from edge_server.listeners import acme_http_socket, https_socket, quic_socket
from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HERE = ("127.0.0.1", 0)


def listening() -> socket.socket:
    return socket.create_server(HERE)


def bound(port: int = 0) -> socket.socket:
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", port))
    return sock


@pytest.fixture
def passed() -> Iterator[Callable[..., tuple[dict[str, str], int]]]:
    """Put sockets at descriptors that follow each other, as an exec leaves them, the first of which is told."""
    with contextlib.ExitStack() as stack:

        def put(*makers: Callable[[], socket.socket], names: str = "") -> tuple[dict[str, str], int]:
            first = 200
            for number, make in enumerate(makers):
                with make() as sock:
                    os.dup2(sock.fileno(), first + number)
                stack.callback(close, first + number)
            environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(makers)), "KEPT": "1"}
            if names:
                environ["LISTEN_FDNAMES"] = names
            return environ, first

        yield put


def close(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # taken, and closed by who took it
        os.close(descriptor)


@pytest.mark.parametrize("names", ["", "https:quic", "edge.socket:edge.socket", "only-one"])
def test_both_are_taken(passed, names):
    environ, first = passed(listening, bound, names=names)
    given = systemd.take_activated_sockets(environ, first=first)
    assert given.https is not None
    assert given.quic is not None
    assert given.https.type == socket.SOCK_STREAM
    assert given.quic.type == socket.SOCK_DGRAM
    assert not given.https.get_inheritable()
    assert environ == {"KEPT": "1"}  # children see nothing of it
    given.close()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_PID": "1", "LISTEN_FDS": "2"},
        {"LISTEN_FDS": "2"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0"},
    ],
)
def test_there_are_none(environ):
    assert systemd.take_activated_sockets(environ) == systemd.ActivatedSockets()
    assert environ == {}


def plain_file():
    return open(os.devnull, "rb")  # noqa: PTH123 - for its descriptor


def connected() -> socket.socket:
    one, other = socket.socketpair()
    other.close()
    return one


def not_listening() -> socket.socket:
    sock = socket.socket()
    sock.bind(HERE)
    return sock


@pytest.mark.parametrize(
    ("makers", "names", "said"),
    [
        ([plain_file], "", r"LISTEN_FDS: file descriptor 200 is no socket"),
        ([connected], "x", r"LISTEN_FDS: file descriptor 200 \(x\) is neither a listening TCP socket nor a UDP"),
        ([not_listening], "", "is neither a listening TCP socket nor a UDP socket"),
        ([listening, listening], "", "file descriptor 201 is a second socket for --https"),
        ([bound, bound], "", "file descriptor 201 is a second socket for --quic"),
        ([bound], "https", r"file descriptor 200 \(https\) should come from ListenStream= \(TCP\)"),
        (
            [listening, listening],
            "https:quic",
            r"descriptor 201 \(quic\) should come from ListenDatagram= \(UDP\)",
        ),
        ([bound], "acme-http", r"file descriptor 200 \(acme-http\) should come from ListenStream= \(TCP\)"),
        ([listening, listening], "acme-http:acme-http", r"201 \(acme-http\) is a second socket for --acme-http"),
        ([listening, bound, listening, listening], "", "takes one TCP and one UDP socket .*, not '4'"),
    ],
)
def test_unusable_socket_is_one_line(passed, makers, names, said):
    environ, first = passed(*makers, names=names)
    with pytest.raises(ConfigError, match=said) as raised:
        systemd.take_activated_sockets(environ, first=first)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("count", ["", "-1", "two", "9" * 5000, "\u0662"])
def test_a_count_that_is_none(count):
    with pytest.raises(ConfigError, match="takes one TCP and one UDP socket"):
        systemd.take_activated_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count})


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_acme_socket_is_recognised_by_name(passed, order):
    makers, names = [listening, bound, listening], ["edge.socket", "edge.socket", "acme-http"]
    environ, first = passed(*(makers[each] for each in order), names=":".join(names[each] for each in order))
    given = systemd.take_activated_sockets(environ, first=first)
    assert given.https is not None
    assert given.quic is not None
    assert given.acme_http is not None
    with socket.socket(fileno=os.dup(first + order.index(2))) as other:
        assert given.acme_http.getsockname() == other.getsockname()
    given.close()
    assert given.acme_http.fileno() == -1


def test_the_port_of_acme_http_is_that_of_its_socket(tmp_path: Path):
    with listening() as sock:
        port = sock.getsockname()[1]
    for wanted in (0, port):
        given = systemd.ActivatedSockets(acme_http=socket.create_server(("127.0.0.1", port)))
        taken = acme_http_socket(EdgeConfig(state_dir=tmp_path, acme_http=("::", wanted)), given)
        assert taken is not None
        assert taken.getsockname()[1] == port
        assert given == systemd.ActivatedSockets()
        taken.close()
    for address, said in ((("::", 1), "--acme-http has port 1, the socket"), (None, "--acme-http does not say")):
        given = systemd.ActivatedSockets(acme_http=listening())
        with pytest.raises(ConfigError, match=said):
            acme_http_socket(EdgeConfig(state_dir=tmp_path, acme_http=address), given)
        assert given == systemd.ActivatedSockets()
    assert (
        acme_http_socket(EdgeConfig(state_dir=tmp_path, acme_http=("::", 80)), systemd.ActivatedSockets()) is None
    )


async def test_configured_ports_have_to_match_the_sockets(tmp_path: Path):
    with listening() as https, bound() as quic:
        ports = https.getsockname()[1], quic.getsockname()[1]
    for config in (
        EdgeConfig(state_dir=tmp_path, https=("::", 0), quic=("::", 0)),
        EdgeConfig(state_dir=tmp_path, https=("::", ports[0]), quic=("::", ports[1])),
    ):
        given = systemd.ActivatedSockets(socket.create_server(("127.0.0.1", ports[0])), bound(ports[1]))
        taken = https_socket(config, given), await quic_socket(config, given)
        assert (taken[0].getsockname()[1], taken[1].local_address[1]) == ports
        assert given == systemd.ActivatedSockets()
        for one in taken:
            one.close()
    for option, make in (("https", https_socket), ("quic", quic_socket)):
        given = systemd.ActivatedSockets(listening(), bound())
        try:
            with pytest.raises(ConfigError, match=f"--{option} has port 1, the socket that was passed has [0-9]+"):
                await make_one(make, EdgeConfig(state_dir=tmp_path, https=("::", 1), quic=("::", 1)), given)
        finally:
            given.close()


async def make_one(make, config, given):
    made = make(config, given)
    return await made if make is quic_socket else made
