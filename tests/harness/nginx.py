"""nginx as the origin."""

import os
from dataclasses import dataclass
from pathlib import Path

from tests.harness.programs import free_port, need, wait_for_port


@dataclass(frozen=True)
class Nginx:
    """A running nginx that serves ``root`` and accepts PUT below ``/up/``."""

    port: int
    root: Path


_NGINX = """\
daemon off;
{user}
worker_processes 1;
pid {base}/pid;
error_log {base}/error.log;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {base}/body;
    proxy_temp_path {base}/proxy;
    fastcgi_temp_path {base}/fastcgi;
    uwsgi_temp_path {base}/uwsgi;
    scgi_temp_path {base}/scgi;
    client_max_body_size 0;
    keepalive_requests 10000;
    server {{
        listen 127.0.0.1:{port} {listen};
        {more}
        root {base}/root;
        location /up/ {{ dav_methods PUT; }}
    }}
}}
"""


def start_nginx(running, base: Path, listen: str = "backlog=512", more: str = "") -> Nginx:
    """Start nginx. ``running`` is the fixture, ``listen`` are parameters of its listener, ``more`` are lines of
    its server block."""
    (base / "root" / "up").mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = base / "nginx.conf"
    # Its workers leave root otherwise, and then may not read a directory that is root's alone.
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(_NGINX.format(base=base, port=port, user=user, listen=listen, more=more))
    running([need("nginx"), "-c", config, "-e", base / "start.log"])
    wait_for_port(port)
    return Nginx(port, base / "root")
