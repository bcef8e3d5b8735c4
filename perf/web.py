"""HTTP load: nginx as the origin, and wrk as the visitors.

nginx serves a page of five bytes and a large one, and a location that discards uploads. wrk takes the server name
for TLS from its URL and resolves it as usual. So it runs in a mount namespace of its own with another
``/etc/hosts``, which needs root.
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

from perf.iperf import free_port
from perf.targets import Missing, need, running, wait_for_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from perf.iperf import Direction

CONNECTIONS: Final = 64
THREADS: Final = 1
PAGE: Final = "hello"
LARGE: Final = 4 * 1024 * 1024
UPLOAD: Final = 1024 * 1024
"""Small relative to a run, because the last upload of each visitor is not counted."""
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
        # Reads an upload to its end and then requests the page: wrk hangs at an early response.
        location = /sink {{
            client_max_body_size 0;
            client_body_buffer_size 2m;
            proxy_pass http://127.0.0.1:{http}/;
            proxy_method GET;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
        }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Web:
    """A running nginx."""

    http: int
    https: int


@contextlib.contextmanager
def origin(directory: Path) -> Iterator[Web]:
    """Run nginx during a ``with`` block. Raises Missing."""
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


@dataclass(frozen=True, slots=True)
class WebLoad:
    """Parameters of wrk for one target. The methods raise Missing, and RuntimeError if a visitor failed or none
    was served."""

    host: str
    """Host name that visitors use."""
    address: str
    port: int
    seconds: int
    directory: Path

    def requests_per_second(self, *, tls: bool, fresh: bool) -> float:
        """Return the requests a second of :data:`CONNECTIONS` visitors; ``fresh``: each on a new connection."""
        options = ["-H", "Connection: close"] if fresh else []
        said = self._wrk("https" if tls else "http", "", f"-c{CONNECTIONS}", *options)
        return float(said["rate"])

    def mb_per_second(self, direction: Direction, visitors: int) -> float:
        """Return the MB/s that ``visitors`` visitors over HTTPS download, or upload, together."""
        if direction == "down":
            said = self._wrk("https", "large", f"-c{visitors}")
            return float(said["read"]) * UNITS[said["unit"]] / self.seconds / 1e6
        script = self.directory / "upload.lua"
        script.write_text(f'wrk.method = "POST"\nwrk.body = string.rep("x", {UPLOAD})\n')
        said = self._wrk("https", "sink", f"-c{visitors}", "-s", str(script))
        return float(said["rate"]) * UPLOAD / 1e6

    def _wrk(self, scheme: str, page: str, *options: str) -> dict[str, str]:
        program = need("wrk")
        if not shutil.which("unshare"):
            raise Missing("unshare")
        hosts = self.directory / "hosts"
        hosts.write_text(f"{self.address} {self.host}\n")
        command = [program, f"-t{THREADS}", f"-d{self.seconds}s", "--timeout", "10s", *options]
        command.append(f"{scheme}://{self.host}:{self.port}/{page}")
        there = 'mount --bind "$0" /etc/hosts && exec "$@"'
        inside = ["unshare", "--mount", "sh", "-c", there, str(hosts), *command]
        said = subprocess.run(inside, capture_output=True, text=True, check=False, timeout=self.seconds + 60)
        found = _SAID.search(said.stdout)
        failed = re.search(
            r"Non-2xx.*|Socket errors: connect (?!0, ).*|^ *0 requests in.*", said.stdout, re.MULTILINE
        )
        if said.returncode or found is None or failed:
            raise RuntimeError(
                f"wrk at {self.host}: {failed[0].strip() if failed else said.stderr or said.stdout}"
            )
        return found.groupdict()
