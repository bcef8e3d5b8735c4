"""This machine: the engine, its socket buffers, its limits, its proxies, the local port."""

from __future__ import annotations

import errno
import socket
import sys
from typing import TYPE_CHECKING, Final

from quictunnel.config.client_config import ENGINE
from quictunnel.connection.capacity import reserve_of
from quictunnel.doctor.result import Finding, fail, ok, warn
from quictunnel.errors import ConfigError
from quictunnel.transport import sockopts
from quictunnel.transport.engines import describe_engine, why_not

if TYPE_CHECKING:
    from collections.abc import Mapping

FEW_FILES: Final = 1024
"""Open files below which a busy tunnel runs out: each visitor has one, and so has the origin's side of it where it
runs in this process."""
CONNECT_TIMEOUT: Final = 2.0
"""Seconds for a connection on this machine."""
PROXIES: Final = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
LOOPBACKS: Final = (("IPv4", "127.0.0.1"), ("IPv6", "::1"))


def engine(environ: Mapping[str, str]) -> Finding:
    """Which QUIC engine carries a tunnel, and why not the fast one."""
    wanted = environ.get(ENGINE) or "auto"
    try:
        found = describe_engine(wanted)
    except ConfigError as error:
        return fail("engine", str(error), f"Unset {ENGINE}, or install the engine.", is_configuration=True)
    if found.startswith("native"):
        return ok("engine", found)
    if wanted == "aioquic":
        return ok("engine", f"{found}, because {ENGINE} says so")
    return warn(
        "engine",
        f"{found}; the native engine, several times faster, cannot be used ({why_not('native')})",
        "Build it, which needs Rust: pip install ./native, in a clone of the repository (docs/ENGINES.md).",
    )


def buffers(wished: int = sockopts.BUFFER_BYTES) -> Finding:
    """What the system grants a UDP socket of what is asked for."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        received, sent = sockopts.enlarge_buffers(sock, wished)
    granted = f"{received // 1024} KiB to receive and {sent // 1024} KiB to send"
    if min(received, sent) >= wished:
        return ok("socket buffers", granted)
    return warn(
        "socket buffers",
        f"{granted}, of {wished // 1024} KiB wished for; a fast tunnel may lose packets",
        f"Raise them: {sockopts.buffers_remedy(wished)}",
    )


def open_files() -> Finding:
    """How many visitors this process has room for."""
    if sys.platform == "win32":
        return ok("open files", "this system has no such limit")
    import resource  # noqa: PLC0415 - not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return ok("open files", "without limit")
    if soft >= FEW_FILES:
        return ok("open files", f"{soft}, so at most {soft - reserve_of(soft)} visitors at once")
    most = "a higher one" if hard == resource.RLIM_INFINITY else str(hard)
    kept = reserve_of(soft)
    room = f"{soft}, so not even {soft - kept} visitors at once; {kept} are kept for the program"
    return warn("open files", room, f"ulimit -n {most}")


def has_proxy(environ: Mapping[str, str]) -> bool:
    return bool(_proxies(environ))


def proxies(environ: Mapping[str, str]) -> Finding:
    """Proxies that do not matter to a tunnel."""
    found = _proxies(environ)
    if not found:
        return ok("proxies", "none is set")
    names = " and ".join(found)
    return ok("proxies", f"{names} set, which a tunnel does not use: it speaks UDP to the edge itself")


def _proxies(environ: Mapping[str, str]) -> list[str]:
    return [name for name in PROXIES if environ.get(name) or environ.get(name.lower())]


def local_port(port: int) -> Finding:
    """Whether somebody takes connections on the port that is to be exposed."""
    check = f"port {port}"
    faults = {name: _connect(host, port) for name, host in LOOPBACKS}
    listening = [name for name, fault in faults.items() if fault is None]
    if listening:
        return ok(check, f"somebody listens, on {' and '.join(listening)}")
    if any(fault == errno.ETIMEDOUT for fault in faults.values()):
        return fail(check, "somebody listens but takes no connection", "Is the local server stuck? Restart it.")
    return fail(
        check,
        "nobody listens on it, neither on 127.0.0.1 nor on ::1",
        f"Start the local server on port {port}; a server in a container has to publish it to this machine.",
    )


def _connect(host: str, port: int) -> int | None:
    """Why a connection was not taken, as an errno; None when it was."""
    try:
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT).close()
    except TimeoutError:
        return errno.ETIMEDOUT
    except OSError as error:
        return error.errno or errno.ECONNREFUSED
    return None
