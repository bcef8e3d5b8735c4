"""Take the screenshots of the error pages: ``python docs/screenshots_error_pages.py [DIRECTORY]``.

The default directory is ``docs/images``. A real edge and Chromium: the pages of a wrong name and of a dead local
service are fetched. That of a tunnel that is offline is rendered from the same text, because its client would have
to be lost for half a minute first.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from playwright.sync_api import sync_playwright

import quictunnel
from edge_server.embedded import EmbeddedEdge
from edge_server.ingress.error_pages import PAGES
from quictunnel.shared.error_page import RequestHead, http_response
from quictunnel.transport.refusal import Refusal

if TYPE_CHECKING:
    from playwright.sync_api import Browser

IMAGES: Final = Path(__file__).parent / "images"
SIZES: Final = {"light": (900, 420), "dark": (900, 420), "390": (390, 480)}
"""Width and height by the end of a picture's name."""


def take(browser: Browser, directory: Path, name: str, address: str = "", html: str = "") -> None:
    """Save the pictures of one page, which is at an address or given."""
    for ending, (width, height) in SIZES.items():
        page = browser.new_page(
            viewport={"width": width, "height": height},
            color_scheme="dark" if ending == "dark" else "light",
            ignore_https_errors=True,
        )
        if html:
            page.set_content(html)
        else:
            page.goto(address)
        page.screenshot(path=directory / f"error-pages-{name}-{ending}.png")
        page.close()


def main(directory: Path) -> None:
    """Save all pictures."""
    offline = http_response(PAGES[Refusal.OFFLINE], RequestHead("GET", accepts_html=True)).partition(b"\r\n\r\n")[
        2
    ]
    with EmbeddedEdge() as edge, sync_playwright() as playwright:
        rules = "--host-resolver-rules=MAP *.tunnel.localhost 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=[rules, "--no-sandbox"])
        with (
            quictunnel.Client.from_config(edge.client_config) as client,
            quictunnel.forward(9, name="shop", client=client) as tunnel,
        ):
            take(browser, directory, "local-service", tunnel.url)
            wrong = tunnel.url.replace("shop.", "shpo.")
            take(browser, directory, "no-tunnel", wrong)
            take(browser, directory, "offline", html=offline.decode())
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES)
