"""The documentation as a site: it builds without a warning, and a reader's browser asks nobody else."""

from __future__ import annotations

import contextlib
import functools
import html
import http.server
import os
import re
import runpy
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from playwright.sync_api import expect

from quictunnel.cli.main import COMMANDS, commands
from tests.harness import browser

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Built as its readers get it, with warnings as errors and without a network."""
    target = tmp_path_factory.mktemp("site")
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(target)],
        cwd=ROOT,
        env=os.environ | nowhere | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert built.stdout + built.stderr == ""
    return target


def text_of(page: Path) -> str:
    """Return the text of a page."""
    article = re.search(r"<article.*?</article>", page.read_text(), re.DOTALL)
    assert article is not None
    return html.unescape(re.sub(r"<[^>]+>", "", article[0]))


def test_every_document_is_a_page_and_can_be_found(site):
    home = (site / "index.html").read_text()
    for document in DOCS.rglob("*.md"):
        page = document.relative_to(DOCS).with_suffix(".html").as_posix()
        assert (site / page).is_file()
        assert f'href="{page}"' in home or page == "index.html", f"{page} is not in the navigation"
    assert {path.name for path in site.rglob("*.py")} == {path.name for path in DOCS.glob("examples/*.py")}


def test_no_page_shows_a_directive(site):
    """An include that was not resolved, or a comment that is for the tests."""
    for document in DOCS.rglob("*.md"):
        said = text_of(site / document.relative_to(DOCS).with_suffix(".html"))
        assert re.findall(r"-+8 ?<|^:::.*|<!--.*", said, re.MULTILINE) == [], document
    assert 'if __name__ == "__main__":' in text_of(site / "examples" / "flask.html")


def test_pages_load_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)=\"([^\"]*)\"", page.read_text()
        )
        assert [url for url in loaded if re.match("(?:https?:)?//", url)] == [], page
        assert "mermaid" not in page.read_text(), "the theme loads what draws these from elsewhere"
    for sheet in site.rglob("*.css"):
        assert re.findall(r"url\(['\"]?(?:https?:)?//[^)]*|@import[^;]*//[^;]*", sheet.read_text()) == []


def test_the_reference_has_every_command_and_option(site):
    said = text_of(site / "reference" / "command-line.html")
    for name in COMMANDS:
        assert f"quictunnel {name}" in said
        for parameter in commands.load(name).params:
            assert parameter.opts[0] in said.lower()
            assert (parameter.help or "") in said


def test_the_reference_has_what_docstrings_say(site):
    said = text_of(site / "reference" / "python.html")
    for words in (
        "Expose a local port",
        "Client of an edge, with one session",
        "tcp_socket",
        "EdgeUnavailableError",
        "public_url",
    ):
        assert words in said
    assert ":class:" not in said
    assert "::\n" not in said


@pytest.mark.slow
def test_a_browser_shows_it_and_searches_in_it(site, tmp_path):
    """Nothing is asked of anybody else, nothing is missing, and the console stays empty."""
    handler = functools.partial(Quiet, directory=site)
    asked, wrong = [], []
    with serving(handler) as port, browser.driven(tmp_path) as chromium:
        page = chromium.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("response", lambda answer: wrong.append(answer.url) if answer.status >= 400 else None)
        page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        for path in ("reference/python", "tutorial/first-tunnel", "PERFORMANCE", "index"):
            page.goto(f"http://127.0.0.1:{port}/{path}.html")
        page.get_by_role("textbox", name="Search").fill("public_url")
        expect(page.get_by_role("link", name="Test public URLs with pytest").first).to_be_visible()
    assert wrong == []
    assert [url for url in asked if not url.startswith(f"http://127.0.0.1:{port}/")] == []


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@contextlib.contextmanager
def serving(handler):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_docstrings_become_markdown():
    markdown = runpy.run_path(str(DOCS / "docstrings.py"))["markdown"]
    assert markdown("A :class:`~a.B` and :data:`C`.") == "A `a.B` and `C`."
    assert markdown("Use::\n\n    a = 1\n\n    b\n\nThen.") == "Use:\n\n```python\na = 1\n\nb\n```\n\nThen."
    assert markdown("::\n\n    a") == "```python\na\n```"
