"""Checks of this machine: engine, socket buffers, limits, proxies, local port."""

from __future__ import annotations

import errno
import socket
import sys
from typing import TYPE_CHECKING, Final

from quictunnel.config.variables import ENGINE
from quictunnel.connection.capacity import kept_free
from quictunnel.doctor.result import Finding, fail, ok, warn
from quictunnel.errors import ConfigError
from quictunnel.transport import sockopts
from quictunnel.transport.engines import describe_engine, unavailable_reason

if TYPE_CHECKING:
    from collections.abc import Mapping

MIN_OPEN_FILES: Final = 1024
"""Limit of open files below which a busy tunnel may run out. Each visitor needs one, and another one if the origin
runs in this process."""
CONNECT_TIMEOUT: Final = 2.0
"""Seconds for a connection on this machine."""
PROXIES: Final = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
LOOPBACKS: Final = (("IPv4", "127.0.0.1"), ("IPv6", "::1"))


def check_engine(environ: Mapping[str, str]) -> Finding:
    """Report the QUIC engine, and the reason if it is not the native one."""
    wanted = environ.get(ENGINE) or "auto"
    try:
        found = describe_engine(wanted)
    except ConfigError as error:
        return fail("engine", str(error), f"Unset {ENGINE}, or install the engine.", is_configuration=True)
    if found.startswith("native"):
        return ok("engine", found)
    if wanted == "aioquic":
        return ok("engine", f"{found}, selected by {ENGINE}")
    return warn(
        "engine",
        f"{found}; the native engine, several times faster, cannot be used ({unavailable_reason('native')})",
        "Build it with Rust: pip install ./native, in a clone of the repository (docs/ENGINES.md).",
    )


def check_buffers(wanted: int = sockopts.BUFFER_BYTES) -> Finding:
    """Check whether the system grants a UDP socket the wanted buffer size in bytes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        received, sent = sockopts.enlarge_buffers(sock, wanted)
    granted = f"{received // 1024} KiB to receive and {sent // 1024} KiB to send"
    if min(received, sent) >= wanted:
        return ok("socket buffers", granted)
    return warn(
        "socket buffers",
        f"{granted}, of {wanted // 1024} KiB wanted; a fast tunnel may lose packets",
        f"Raise them: {sockopts.buffers_remedy(wanted)}",
    )


def check_open_files() -> Finding:
    """Check how many visitors the limit of open files allows."""
    if sys.platform == "win32":
        return ok("open files", "no limit on this system")
    import resource  # noqa: PLC0415 - not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return ok("open files", "unlimited")
    if soft >= MIN_OPEN_FILES:
        return ok("open files", f"{soft}, enough for {soft - kept_free(soft)} visitors at once")
    most = "a higher one" if hard == resource.RLIM_INFINITY else str(hard)
    kept = kept_free(soft)
    message = f"{soft}, enough for fewer than {soft - kept} visitors at once; {kept} are kept free for the program"
    return warn("open files", message, f"ulimit -n {most}")


def has_proxy(environ: Mapping[str, str]) -> bool:
    """Return True if the environment configures a proxy."""
    return bool(_proxies(environ))


def check_proxies(environ: Mapping[str, str]) -> Finding:
    """Report proxies in the environment, which a tunnel does not use."""
    found = _proxies(environ)
    if not found:
        return ok("proxies", "none is set")
    names = " and ".join(found)
    return ok("proxies", f"{names} set, which a tunnel does not use: it sends UDP to the edge directly")


def _proxies(environ: Mapping[str, str]) -> list[str]:
    return [name for name in PROXIES if environ.get(name) or environ.get(name.lower())]


def check_local_port(port: int) -> Finding:
    """Check whether a server accepts connections on a local port."""
    check = f"port {port}"
    errors = {name: _connect(host, port) for name, host in LOOPBACKS}
    listening = [name for name, error in errors.items() if error is None]
    if listening:
        return ok(check, f"a server listens, on {' and '.join(listening)}")
    if any(error == errno.ETIMEDOUT for error in errors.values()):
        return fail(
            check, "a server listens, but accepts no connection", "Is the local service stuck? Restart it."
        )
    return fail(
        check,
        "nobody listens on it, neither on 127.0.0.1 nor on ::1",
        f"Start the local service on port {port}; a server in a container must publish it to this machine.",
    )


def _connect(host: str, port: int) -> int | None:
    """Connect to a port of this machine. Return the errno of the failure, or None on success."""
    try:
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT).close()
    except TimeoutError:
        return errno.ETIMEDOUT
    except OSError as error:
        return error.errno or errno.ECONNREFUSED
    return None
