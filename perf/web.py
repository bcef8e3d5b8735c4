"""Visitors of web pages: nginx as the origin, and wrk in front.

nginx has a page of five bytes, a large one and one that swallows uploads.

wrk takes the name for TLS from its URL and looks it up like any other, so it runs where ``/etc/hosts`` says what
we want: in a mount namespace of its own, which takes root.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trustme

from perf.contenders import Missing, need, running, wait_for_port
from perf.iperf import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from perf.iperf import Direction

CONNECTIONS: Final = 64
THREADS: Final = 1
PAGE: Final = "hello"
LARGE: Final = 64 * 1024 * 1024
UPLOAD: Final = 1024 * 1024
"""Small beside what is moved: at the end of a run one of each visitor is not counted."""
UNITS: Final = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}

_SAID = re.compile(
    r"requests in [\d.]+m?s, (?P<read>[\d.]+)(?P<unit>[KMG]?)B read.*Requests/sec:\s+(?P<rate>[\d.]+)", re.DOTALL
)
_NGINX = """\
daemon off;
user root;
worker_processes 1;
pid {base}/pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 100000000;
    ssl_certificate {base}/chain.pem;
    ssl_certificate_key {base}/key.pem;
    {paths}
    server {{
        listen 127.0.0.1:{http} backlog=2048;
        listen 127.0.0.1:{https} ssl backlog=2048;
        root {base}/root;
        location = /sink {{ client_max_body_size 0; return 204; }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Web:
    """One nginx."""

    http: int
    https: int


@contextlib.contextmanager
def origin(directory: Path) -> Iterator[Web]:
    """Raises Missing."""
    program = need("nginx")
    if os.geteuid() != 0:
        raise Missing("root")
    base = directory / "nginx"
    (base / "root").mkdir(parents=True)
    (base / "root" / "index.html").write_text(PAGE)
    (base / "root" / "large").write_bytes(bytes(LARGE))
    certificate = trustme.CA().issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(base / "key.pem")
    for part in certificate.cert_chain_pems:
        part.write_to_path(base / "chain.pem", append=True)
    web = Web(free_port(), free_port())
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = " ".join(f"{kind}_temp_path {base}/{kind};" for kind in kinds)
    config = base / "nginx.conf"
    config.write_text(_NGINX.format(base=base, http=web.http, https=web.https, paths=paths))
    with running([program, "-c", config, "-e", base / "error.log"]):
        wait_for_port(web.https)
        yield web


def requests_per_second(host: str, port: int, *, tls: bool, fresh: bool, seconds: int, directory: Path) -> float:
    """Requests a second of :data:`CONNECTIONS` visitors at 127.0.0.1:``port``, for whom the place is called
    ``host``; ``fresh``: each with a connection of its own. Raises Missing, and RuntimeError when any of them
    failed."""
    options = [f"-c{CONNECTIONS}", *(["-H", "Connection: close"] if fresh else [])]
    said = _wrk(host, f"{'https' if tls else 'http'}://{host}:{port}/", options, seconds, directory)
    return float(said["rate"])


def mb_per_second(
    host: str, port: int, direction: Direction, visitors: int, *, seconds: int, directory: Path
) -> float:
    """MB/s that so many visitors over HTTPS download, or upload, together; otherwise as above."""
    options = [f"-c{visitors}"]
    if direction == "down":
        said = _wrk(host, f"https://{host}:{port}/large", options, seconds, directory)
        return float(said["read"]) * UNITS[said["unit"]] / seconds / 1e6
    script = directory / "upload.lua"
    script.write_text(f'wrk.method = "POST"\nwrk.body = string.rep("x", {UPLOAD})\n')
    said = _wrk(host, f"https://{host}:{port}/sink", [*options, "-s", str(script)], seconds, directory)
    return float(said["rate"]) * UPLOAD / 1e6


def _wrk(host: str, url: str, options: list[str], seconds: int, directory: Path) -> dict[str, str]:
    program = need("wrk")
    if not shutil.which("unshare"):
        raise Missing("unshare")
    hosts = directory / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {host}\n")
    command = [program, f"-t{THREADS}", f"-d{seconds}s", "--timeout", "10s", *options, url]
    there = 'mount --bind "$0" /etc/hosts && exec "$@"'
    inside = ["unshare", "--mount", "sh", "-c", there, str(hosts), *command]
    said = subprocess.run(inside, capture_output=True, text=True, check=False, timeout=seconds + 60)
    found = _SAID.search(said.stdout)
    failed = re.search(r"Non-2xx.*|Socket errors: connect (?!0, ).*", said.stdout)
    if said.returncode or found is None or failed:
        raise RuntimeError(f"wrk at {host}: {failed[0] if failed else said.stderr or said.stdout}")
    return found.groupdict()
