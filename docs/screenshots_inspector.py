"""Take the screenshots of the inspector: ``python docs/screenshots_inspector.py [DIRECTORY]`` (``docs/images``).

A real edge, a tunnel with ``inspect=True``, a small shop behind it, and Chromium (see ``screenshots.py``).
"""

from __future__ import annotations

import http.client
import http.server
import json
import socket
import ssl
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from playwright.sync_api import sync_playwright

import quictunnel
from edge_server.embedded import EmbeddedEdge

if TYPE_CHECKING:
    from collections.abc import Mapping

    from playwright.sync_api import Page

IMAGES: Final = Path(__file__).parent / "images"
TEAS: Final = [{"name": "Sencha", "price": 9.5}, {"name": "Assam", "price": 7.25}]
PRICES: Final = [{"tea": "Sencha", "price": 9.5}, {"tea": "Assam", "price": 7.4}, {"tea": "Sencha", "price": 9.25}]
ORDER: Final = 6
"""Number of the request that most pictures show."""


class Shop(http.server.BaseHTTPRequestHandler):
    """A sample web application."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/prices":
            self._send_prices()
            return
        known: Mapping[str, tuple[int, object]] = {
            "/": (200, "<h1>Tea</h1>"),
            "/api/teas": (200, TEAS),
            "/basket": (303, ""),
            "/report": (500, {"error": "no such table: sales"}),
        }
        self._answer(*known.get(path, (404, {"error": "not found"})))

    def do_POST(self) -> None:
        order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(201, {"order": 1042, "total": 28.5, **order})

    def _send_prices(self) -> None:
        events = "".join(f"event: price\ndata: {json.dumps(each)}\n\n" for each in PRICES).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Length", str(len(events)))
        self.end_headers()
        for event in events.splitlines(keepends=True):
            self.wfile.write(event)
            if event == b"\n":
                time.sleep(0.4)

    def _answer(self, status: int, content: object) -> None:
        is_page = isinstance(content, str)
        body = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if is_page else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def main(directory: Path) -> None:
    """Write the screenshots to a directory."""
    directory.mkdir(exist_ok=True)
    with ExitStack() as stack:
        shop = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shop)
        threading.Thread(target=shop.serve_forever, daemon=True).start()
        stack.callback(shop.shutdown)
        edge = stack.enter_context(EmbeddedEdge())
        client = stack.enter_context(quictunnel.Client.from_config(edge.client_config))
        wish = quictunnel.forward(shop.server_port, name="tea-shop", inspect=True, client=client)
        tunnel = stack.enter_context(wish)
        context = ssl.create_default_context(cafile=edge.server.ca)
        visitor = http.client.HTTPSConnection("127.0.0.1", tunnel.port, context=context)
        raw = socket.create_connection(("127.0.0.1", tunnel.port))
        visitor.sock = stack.enter_context(context.wrap_socket(raw, server_hostname=tunnel.host))
        order = json.dumps({"tea": "Sencha", "grams": 300, "note": "a gift, please wrap it"})
        for method, path, body in (
            ("GET", "/", None),
            ("GET", "/api/teas?sort=price", None),
            ("GET", "/basket", None),
            ("GET", "/favicon.ico", None),
            ("GET", "/report", None),
            ("POST", "/api/orders", order),
            ("GET", "/api/teas?page=2", None),
            ("GET", "/prices", None),
        ):
            kind = {"Content-Type": "application/json"} if body else {}
            visitor.request(method, path, body, {"Host": tunnel.host, "User-Agent": "Mozilla/5.0", **kind})
            visitor.getresponse().read()
        browser = stack.enter_context(sync_playwright()).chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 1180, "height": 760}, color_scheme=scheme)
            take_wide(page, tunnel.inspector_url, directory, scheme)
            page.close()
        narrow = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="light")
        take_narrow(narrow, tunnel.inspector_url, directory)
        browser.close()


def choose(page: Page, number: int) -> None:
    """Open the details of an exchange."""
    page.locator(f'#rows tr[data-number="{number}"]').click()
    page.locator("#parts .body").last.wait_for()


def take_wide(page: Page, url: str, directory: Path, scheme: str) -> None:
    """Write the pictures of a large screen."""
    page.goto(url)
    page.locator("#link.live").wait_for()
    choose(page, ORDER)
    if scheme == "light":
        page.locator("#replay").click()
        page.locator('#rows tr[data-number="9"] .s2').wait_for()
        choose(page, ORDER)
    page.screenshot(path=directory / f"inspector-{scheme}.png")
    if scheme == "light":
        page.locator("#edit").click()
        page.locator("#edit-body").fill('{"tea": "Sencha", "grams": 3000}')
        page.screenshot(path=directory / "inspector-edit.png")
    else:
        choose(page, 8)
        page.screenshot(path=directory / "inspector-events.png")


def take_narrow(page: Page, url: str, directory: Path) -> None:
    """Write the pictures of a telephone: the list, a request, and the page without its token."""
    page.goto(url)
    page.locator("#link.live").wait_for()
    page.locator("#rows tr").first.wait_for()
    page.screenshot(path=directory / "inspector-390.png")
    choose(page, ORDER)
    page.screenshot(path=directory / "inspector-request-390.png")
    page.evaluate("sessionStorage.clear()")
    page.goto(url.partition("#")[0])
    page.locator("#locked").wait_for()
    page.screenshot(path=directory / "inspector-locked-390.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES)
