"""Requests a second: nginx with a page of five bytes as the origin, wrk as the visitors.

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

CONNECTIONS: Final = 64
THREADS: Final = 1
PAGE: Final = "hello"

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
    program = need("wrk")
    if not shutil.which("unshare"):
        raise Missing("unshare")
    hosts = directory / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {host}\n")
    command = [program, f"-t{THREADS}", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "10s"]
    command += ["-H", "Connection: close"] if fresh else []
    command.append(f"{'https' if tls else 'http'}://{host}:{port}/")
    there = 'mount --bind "$0" /etc/hosts && exec "$@"'
    inside = ["unshare", "--mount", "sh", "-c", there, str(hosts), *command]
    said = subprocess.run(inside, capture_output=True, text=True, check=False, timeout=seconds + 60)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said.stdout)
    failed = re.search(r"Non-2xx.*|Socket errors: connect (?!0, ).*", said.stdout)
    if said.returncode or rate is None or failed:
        raise RuntimeError(f"wrk at {host}: {failed[0] if failed else said.stderr or said.stdout}")
    return float(rate[1])
