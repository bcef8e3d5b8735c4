"""Inputs to begin with: what real programs send, and what ours do."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quictunnel.wire.codes import BindCode
from quictunnel.wire.framing import frame
from quictunnel.wire.messages import (
    Bind,
    BindRefused,
    Bound,
    Credits,
    GoAway,
    Hello,
    ResumeState,
    Unbind,
    Unbound,
    Welcome,
)
from quictunnel.wire.preface import Preface, encode_preface
from tests.fuzz.targets import GOOD_TICKET
from tests.harness import browser

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME: Final = "app.example.com"
PROGRAMS: Final = (
    ("openssl", "s_client", "-connect", "{address}", "-servername", NAME, "-tls1_3"),
    ("openssl", "s_client", "-connect", "{address}", "-servername", NAME, "-tls1_2", "-alpn", "h2,http/1.1"),
    ("openssl", "s_client", "-connect", "{address}", "-noservername"),
    ("curl", "--silent", "--insecure", "--connect-to", "::{address}", f"https://{NAME}/"),
    ("curl", "--silent", "--insecure", "--http1.1", "--connect-to", "::{address}", f"https://{NAME}/"),
    ("curl", "--silent", "http://{address}/"),
    ("wget", "--quiet", "--no-check-certificate", "-O", "-", "https://{address}/"),
    (*browser.command(Path("{profile}"), NAME, "{address}"), f"https://{NAME}/"),
    ("firefox", "--headless", "--screenshot", "/dev/null", "https://{address}/"),
)
"""Programs whose first bytes are recorded, where they are installed."""
HELLOS: Final = Path(__file__).with_name("hellos")
"""Recorded ClientHellos of browsers, for machines that have none; see ``tests.fuzz.record``."""
RECORDED_NAME: Final = "abc.tunnel.example"


def first_words(command: Sequence[str]) -> bytes:
    """Return the bytes that a program sends to a server that sends nothing."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
    ):
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        process = subprocess.Popen(
            [word.format(address=address, profile=profile) for word in command],
            env=browser.environment(Path(profile)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            listener.settimeout(10)
            with listener.accept()[0] as visitor:
                visitor.settimeout(0.5)
                said = b""
                with contextlib.suppress(TimeoutError):
                    while part := visitor.recv(65536):
                        said += part
                return said
        except TimeoutError:
            return b""
        finally:
            process.kill()
            process.wait()


def recorded_hellos() -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in sorted(HELLOS.glob("*.bin"))}


def client_hellos() -> list[bytes]:
    found = [first_words(command) for command in PROGRAMS if shutil.which(command[0])]
    found += recorded_hellos().values()
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context()
        context.maximum_version = version
        context.set_alpn_protocols(["h2", "http/1.1"])
        bios = ssl.MemoryBIO(), ssl.MemoryBIO()
        with contextlib.suppress(ssl.SSLWantReadError):
            context.wrap_bio(*bios, server_hostname=NAME).do_handshake()
        found.append(bios[1].read())
    return [said for said in found if said]


def dialogues() -> list[bytes]:
    """A client's words, and an edge's."""
    hello = Hello(1, "qt1.key.secret", 65_536, "quictunnel/0", b"")
    welcome = Welcome(1, 65_536, 100, "quictunnel/0", bytes(32), False, 120, 1_700_000_000, 0)
    bind = Bind(1, True, False, b"", "app", 20_000, True, False, 2, ["10.0.0.0/8"], ["::1/128"])
    bound = Bound(1, NAME, 443, "tcp.example.com", 20_000, GOOD_TICKET)
    credit = Credits([(0, 1, 65_537), (1, 2, 100_000)])
    standing = ResumeState([(0, 1, 1, 65_536)], True)
    client = (hello, standing, bind, credit, Unbind(1))
    edge = (welcome, standing, bound, BindRefused(2, BindCode.NAME_TAKEN), credit, Unbound(1), GoAway(30))
    return [b"".join(map(frame, words)) for words in (client, edge, client[:1], edge[:1], client[2:], edge[2:])]


def seeds_of(target: str) -> list[bytes]:
    match target:
        case "client-hello":
            return client_hellos()
        case "control":
            return dialogues()
        case "preface":
            return [encode_preface(Preface(number, 1, True, "203.0.113.9", 50_000)) for number in (0, 1 << 40)]
        case "credit":
            return [bytes(17), b"\0" * 6 + b"\1\0" * 5 + b"\3", bytes(range(170))]
        case "ticket":
            return [GOOD_TICKET, bytes(12)]
        case "names":
            return [b"my-app", b"xn--80ak6aa92e", b"203.0.113.0/24", b"2001:db8::/32", b"fe80::1%eth0"]
        case _:
            return [b"203.0.113.9 198.51.100.1 app.example.com h2"]
