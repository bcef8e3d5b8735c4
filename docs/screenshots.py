"""Take the screenshots of the operator's page: ``python docs/screenshots.py [DIRECTORY]``, else ``docs/images``.

A real edge with three tokens and their tunnels, real visitors, and Chromium (Debian's ``chromium``; playwright of
the extra ``dev``). So that a minute gives as much to see as an hour does, the history is sampled each tenth of a
second.
"""

from __future__ import annotations

import math
import random
import socket
import ssl
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from playwright.sync_api import sync_playwright

import quictunnel
from edge_server.admin import history
from edge_server.auth.permissions import Permissions
from edge_server.auth.token_store import TokenStore
from edge_server.embedded import EmbeddedEdge

IMAGES: Final = Path(__file__).parent / "images"
SECONDS: Final = 40
TOKENS: Final = (
    ("Shop team", ("shop", "orders"), Permissions(names=("shop", "orders", "shop-*"), tunnels=5, domains=())),
    ("Data science", ("notebook",), Permissions(bandwidth=10_000_000, domains=(), tcp_ports=range(0))),
    (
        "Ada's laptop",
        ("ada",),
        Permissions(names=("ada",), tunnels=1, domains=(), expires=2_000_000_000),
    ),
)
"""Note, names of the tunnels, and permissions of each token."""
SHOTS: Final = (
    ("admin-light", "#/", (1180, 860), "light"),
    ("admin-dark", "#/", (1180, 860), "dark"),
    ("admin-phone", "#/", (390, 844), "light"),
    ("admin-tunnel", "#/tunnels/shop", (1180, 860), "light"),
    ("admin-tokens", "#/tokens", (1180, 420), "dark"),
)
"""Name, view, size and colours of each picture."""
CHUNK: Final = bytes(16 * 1024)


class Origin:
    """Answers each line, a number, with that many chunks."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=self.listener.accept()[:1], daemon=True).start()

    @staticmethod
    def _serve(sock: socket.socket) -> None:
        with suppress(OSError), sock, sock.makefile("rb") as lines:
            for line in lines:
                for _ in range(int(line)):
                    sock.sendall(CHUNK)


def visit(tunnel: quictunnel.Tunnel, ca: Path, until: float) -> None:
    """Run one visitor for some seconds, with requests of changing sizes."""
    context = ssl.create_default_context(cafile=ca)
    with suppress(OSError), ExitStack() as stack:
        sock = stack.enter_context(socket.create_connection(("127.0.0.1", tunnel.port), 10))
        sock = stack.enter_context(context.wrap_socket(sock, server_hostname=tunnel.host))
        while (left := until - time.monotonic()) > 0:
            chunks = max(1, round(4 + 4 * math.sin(left / 3) + random.uniform(-2, 2)))  # noqa: S311 - for looks
            sock.sendall(b"%d\n" % chunks)
            wanted = chunks * len(CHUNK)
            while wanted > 0:
                wanted -= len(sock.recv(min(wanted, 65536)))
            time.sleep(random.uniform(0.05, 0.3))  # noqa: S311 - for looks


def come_and_go(tunnels: list[quictunnel.Tunnel], ca: Path) -> None:
    """Run visitors until the samples of an hour are complete; some stay connected."""
    end = time.monotonic() + SECONDS
    while (now := time.monotonic()) < end:
        if threading.active_count() < 12 + 9 * math.sin(now / 5):
            stay = now + random.uniform(1, 15)  # noqa: S311 - for looks
            tunnel = random.choices(tunnels, (6, 3, 2, 1))[0]  # noqa: S311 - for looks
            threading.Thread(target=visit, args=(tunnel, ca, stay), daemon=True).start()
        time.sleep(0.05)
    for number in range(8):
        threading.Thread(target=visit, args=(tunnels[number % 4], ca, end + 90), daemon=True).start()
        time.sleep(0.3)


def open_tunnels(stack: ExitStack, edge: EmbeddedEdge) -> list[quictunnel.Tunnel]:
    """Create the tokens of :data:`TOKENS`, and a client with the tunnels of each."""
    store = TokenStore(edge.server.config.state_dir)
    stack.callback(store.close)
    tunnels = []
    for note, names, permissions in TOKENS:
        token, _ = store.create(permissions, note, int(time.time()))
        config = edge.client_config
        client = stack.enter_context(quictunnel.Client(config.edge, token=token, ca=config.ca))
        for name in names:
            origin = Origin()
            stack.callback(origin.listener.close)
            forward = quictunnel.forward(origin.port, name=name, unencrypted=name == "orders", client=client)
            tunnels.append(stack.enter_context(forward))
    return tunnels


def guess_token(url: str) -> None:
    """Send a wrong token to the operator's page, which is a warning in the log."""
    wrong = {"Authorization": "Bearer wrong"}
    with suppress(HTTPError), urlopen(Request(f"{url}api/v1/edge", headers=wrong)):  # noqa: S310 - of this edge
        pass


def main(directory: Path) -> None:
    """Write the screenshots to a directory."""
    directory.mkdir(exist_ok=True)
    history.SAMPLE_INTERVAL = 0.1  # type: ignore[misc]  # see the module
    with ExitStack() as stack:
        edge = stack.enter_context(EmbeddedEdge(admin=True))
        admin = edge.server.admin
        assert admin is not None
        tunnels = open_tunnels(stack, edge)
        guess_token(admin.url)
        browser = stack.enter_context(sync_playwright()).chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        come_and_go(tunnels, edge.server.ca)
        for name, view, (width, height), scheme in SHOTS:
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto(f"{admin.url}#token={admin.token}")
            page.locator("#state[data-state=live]").wait_for()
            page.evaluate("(view) => { location.hash = view; }", view)
            page.wait_for_timeout(2500)
            page.screenshot(path=directory / f"{name}.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES)
