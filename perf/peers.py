"""Other tunnels with their default settings: frp, rathole, chisel and bore.

A program that is not on the PATH raises Missing. None of them is part of this repository; docs/PERFORMANCE.md
names their sources.
"""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING, Final

from perf.iperf import free_port
from perf.targets import Target, need, running, wait_for_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

QUIET: Final = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
HTTPS_NAME: Final = "page.example.test"
"""Host name of the page when frp terminates TLS."""

_FRPS = """\
bindAddr = "127.0.0.1"
bindPort = {control}
quicBindPort = {control}
proxyBindAddr = "127.0.0.1"
vhostHTTPSPort = {https}
log.level = "error"
"""
_FRPC = """\
serverAddr = "127.0.0.1"
serverPort = {control}
log.level = "error"
transport.protocol = "{protocol}"
transport.tls.enable = {tls}
[[proxies]]
name = "p"
"""
_FRPC_TCP = """\
type = "tcp"
localIP = "127.0.0.1"
localPort = {origin}
remotePort = {public}
"""
_FRPC_HTTPS = """\
type = "https"
customDomains = ["{name}"]
[proxies.plugin]
type = "https2http"
localAddr = "127.0.0.1:{origin}"
"""
_RATHOLE = """\
[{side}]
{control}
default_token = "of no importance here"
[{side}.transport]
type = "{transport}"
{secrets}
[{side}.services.p]
{service}
"""
BORE_PORT: Final = 7835
"""Port of bore's server. It cannot be changed, so each server has an address of its own."""
_bore_addresses: Final = (f"127.0.7.{number}" for number in range(1, 255))


def frp(
    protocol: str, *, tls: bool, ends_tls: bool = False
) -> Callable[[int, Path], AbstractContextManager[Target]]:
    """Return a function that starts frp over ``protocol``. With ``ends_tls`` its client terminates visitors' TLS
    (plugin https2http)."""
    name = "frp, https2http" if ends_tls else f"frp, {protocol.upper()}" + ", TLS" * (tls and protocol == "tcp")

    @contextlib.contextmanager
    def start(origin: int, directory: Path) -> Iterator[Target]:
        programs = need("frps"), need("frpc")
        directory.mkdir(parents=True, exist_ok=True)
        control, public, https = free_port(), free_port(), free_port()
        slug = name.replace(", ", "-")
        server, client = directory / f"{slug}-frps.toml", directory / f"{slug}-frpc.toml"
        server.write_text(_FRPS.format(control=control, https=https))
        head = _FRPC.format(control=control, protocol=protocol, tls=str(tls).lower())
        rest = _FRPC_HTTPS if ends_tls else _FRPC_TCP
        client.write_text(head + rest.format(origin=origin, public=public, name=HTTPS_NAME))
        with running([programs[0], "-c", server], **QUIET) as edge:
            wait_for_port(control)
            with running([programs[1], "-c", client], **QUIET) as inside:
                port = https if ends_tls else public
                wait_for_port(port)
                yield Target(name, "127.0.0.1", port, edge.pid, inside.pid, HTTPS_NAME if ends_tls else "")

    return start


@contextlib.contextmanager
def chisel(origin: int, directory: Path) -> Iterator[Target]:  # noqa: ARG001  all targets have the same signature
    """Run chisel: SSH within a WebSocket."""
    program = need("chisel")
    control, public = free_port(), free_port()
    listen = ["--reverse", "--host", "127.0.0.1", "--port", str(control)]
    with running([program, "server", *listen], **QUIET) as edge:
        wait_for_port(control)
        way = [f"http://127.0.0.1:{control}", f"R:127.0.0.1:{public}:127.0.0.1:{origin}"]
        with running([program, "client", *way], **QUIET) as inside:
            wait_for_port(public)
            yield Target("chisel", "127.0.0.1", public, edge.pid, inside.pid)


def rathole(transport: str) -> Callable[[int, Path], AbstractContextManager[Target]]:
    """Return a function that starts rathole over ``transport``: plain TCP, or Noise as in its documentation."""
    name = "rathole" if transport == "tcp" else f"rathole, {transport.capitalize()}"

    @contextlib.contextmanager
    def start(origin: int, directory: Path) -> Iterator[Target]:
        program = need("rathole")
        directory.mkdir(parents=True, exist_ok=True)
        control, public = free_port(), free_port()
        private_key, public_key = _rathole_keys(program) if transport == "noise" else ("", "")
        sides = {
            "server": (
                f'bind_addr = "127.0.0.1:{control}"',
                f'local_private_key = "{private_key}"',
                f'bind_addr = "127.0.0.1:{public}"',
            ),
            "client": (
                f'remote_addr = "127.0.0.1:{control}"',
                f'remote_public_key = "{public_key}"',
                f'local_addr = "127.0.0.1:{origin}"',
            ),
        }
        files = {}
        for side, (where, secret, service) in sides.items():
            secrets = f"[{side}.transport.noise]\n{secret}" if transport == "noise" else ""
            files[side] = directory / f"rathole-{transport}-{side}.toml"
            files[side].write_text(
                _RATHOLE.format(side=side, control=where, transport=transport, secrets=secrets, service=service)
            )
        with running([program, files["server"]], **QUIET) as edge:
            wait_for_port(control)
            with running([program, files["client"]], **QUIET) as inside:
                wait_for_port(public)
                yield Target(name, "127.0.0.1", public, edge.pid, inside.pid)

    return start


def _rathole_keys(program: str) -> tuple[str, str]:
    said = subprocess.run([program, "--genkey"], check=True, capture_output=True, text=True).stdout.split()
    return said[said.index("Private") + 2], said[said.index("Public") + 2]


@contextlib.contextmanager
def bore(origin: int, directory: Path) -> Iterator[Target]:  # noqa: ARG001  all targets have the same signature
    """Run bore: plain TCP, with one connection through its server per visitor."""
    program = need("bore")
    host, public = next(_bore_addresses), free_port()
    with running([program, "server", "--bind-addr", host], **QUIET) as edge:
        wait_for_port(BORE_PORT, host)
        way = ["local", str(origin), "--to", host, "--port", str(public)]
        with running([program, *way], **QUIET) as inside:
            wait_for_port(public, host)
            yield Target("bore", host, public, edge.pid, inside.pid)
