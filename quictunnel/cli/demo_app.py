"""Sample web app of the demo: one page that shows the received request, and ``/health``.

It is an ordinary blocking server of the standard library, without any code for tunnels.
"""

from __future__ import annotations

import html
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE: Final = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,">
<title>It works: quictunnel</title>
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 4rem auto; padding: 0 1rem;
    color: #223 }}
  pre {{ background: #f4f5f8; border-radius: 8px; padding: 1rem; overflow-x: auto; font-size: 14px }}
  h1 {{ font-size: 1.6rem }}
  @media (prefers-color-scheme: dark) {{
    body {{ background: #14161c; color: #dde }} pre {{ background: #1f222b }}
  }}
</style>
<h1>It works.</h1>
<p>Your request went over TLS to the edge, through one QUIC connection to the tunnel's client, and from there to
a small web server that listens on loopback only. This is what that server received:</p>
<pre>{request}</pre>
<p>Reload, or open this page in several tabs, and watch the terminal.
<a href="/health">/health</a> answers too.</p>
</html>
"""


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "quictunnel-demo"
    sys_version = ""
    timeout = 30.0  # a visitor that sends nothing must not keep a thread for ever

    def do_GET(self) -> None:
        if self.path.partition("?")[0] == "/health":
            self._answer(200, "text/plain", "ok\n")
            return
        seen = f"{self.requestline}\n{self.headers.as_string().strip()}\n"
        if "text/html" in self.headers.get("Accept", ""):
            self._answer(200, "text/html", PAGE.format(request=html.escape(seen)))
        else:
            self._answer(200, "text/plain", f"It works. The app received:\n\n{seen}")

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer(self, status: int, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
        """Print nothing: the terminal shows the tunnel's screen."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # an idle keep-alive connection would delay the end by its timeout

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore a visitor that disconnects early; the base class would print a traceback."""


@contextmanager
def sample_app() -> Iterator[int]:
    """Serve the app on a free loopback port and yield the port."""
    with _Server(("127.0.0.1", 0), _Requests) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
