"""The documentation as a site: it builds without a warning, and a reader's browser asks nobody else."""

from __future__ import annotations

import contextlib
import functools
import html
import http.server
import json
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


def build(directory: Path, target: Path, *options: str) -> subprocess.CompletedProcess:
    """Build the site of a directory with warnings as errors.

    With ``--quiet`` MkDocs counts no warning, and --strict finds nothing wrong.
    """
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target), *options],
        cwd=directory,
        env=os.environ | nowhere | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Built as its readers get it, with warnings as errors and without a network."""
    target = tmp_path_factory.mktemp("site")
    built = build(ROOT, target)
    assert built.returncode == 0, built.stdout + built.stderr
    assert re.findall("^(?:WARNING|ERROR).*", built.stdout + built.stderr, re.MULTILINE) == []
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


def test_titles_say_what_a_page_is(site):
    """No two pages have the same title, which is also their heading; none is called by its file name."""
    titles = {}
    for document in DOCS.rglob("*.md"):
        page = document.relative_to(DOCS).with_suffix(".html").as_posix()
        title = re.search("<title>(.*?)</title>", (site / page).read_text())
        assert title is not None
        titles[page] = html.unescape(title[1]).removesuffix(" - quictunnel")
        heading = re.search("^# (.*)$", document.read_text(), re.MULTILINE)
        assert heading is not None
        assert page == "index.html" or heading[1] == titles[page]
    assert len(set(titles.values())) == len(titles)
    named = {Path(page).stem.lower() for page in titles} - {"architecture"}
    assert [title for page, title in titles.items() if page != "index.html" and title.lower() in named] == []
    verbs = {title.split()[0] for page, title in titles.items() if page.startswith(("how-to/", "examples/"))}
    assert all(re.fullmatch("[A-Z][a-z]+[a-rt-z]", verb) for verb in verbs), verbs
    assert "More" not in re.findall(r'<span class="md-ellipsis">\s*(.*?)\s*<', (site / "index.html").read_text())


def test_no_page_shows_a_directive(site):
    """An include that was not resolved, or a comment that is for the tests."""
    unprocessed = runpy.run_path(str(DOCS / "hooks.py"))["unprocessed"]
    for document in DOCS.rglob("*.md"):
        page = site / document.relative_to(DOCS).with_suffix(".html")
        article = re.search(r"<article.*?</article>", page.read_text(), re.DOTALL)
        assert article is not None
        assert unprocessed(article[0]) == [], document
    assert 'if __name__ == "__main__":' in text_of(site / "examples" / "flask.html")


INCLUDED = '# T\n\n<!-- file: examples/vite.config.js -->\n```js title="vite.config.js"\n{}\n```\n<!-- end -->\n'
VITE = (DOCS / "examples" / "vite.config.js").read_text().rstrip()


DIRECTIVES = {
    "snippet-in-code": ('```python\n--8<-- "examples/flask_app.py"\n```\n', 1),
    "snippet": ('--8<-- "examples/flask_app.py"\n', 1),
    "mkdocstrings": ("::: quictunnel.forward\n", 1),
    "includes": ("{! a.md !}\n\n{% include 'a.md' %}\n", 2),
    "sphinx": (".. include:: a.md\n", 1),
    "admonition": ("!!! note\n    Text.\n\n## Part { #part }\n", 2),
    "comment": ("    <!-- not run: reason -->\n", 1),
    "file-missing": ("<!-- file: examples/missing.py -->\n<!-- end -->\n", 1),
    "file-differs": (INCLUDED.format("changed"), 1),
    "file-not-shown": ("<!-- file: examples/vite.config.js -->\n", 1),
    "file-shown": (INCLUDED.format(VITE), 0),
    "plain": ("<!-- not run: reason -->\n```sh\na <b> [x] {y}\n```\n", 0),
}
"""Pages by name, and how many directives of each stay as they are in a site without extensions."""


@pytest.mark.parametrize("options", [(), ("--quiet",)])
def test_the_strict_build_fails_on_a_directive(tmp_path, options):
    """Also with --quiet, which drops the warnings of MkDocs itself before it counts them."""
    (tmp_path / "docs").mkdir()
    for name, (markdown, _) in DIRECTIVES.items():
        (tmp_path / "docs" / f"{name}.md").write_text(f"# {name}\n\n{markdown}")
    settings = {"site_name": "S", "nav": ["plain.md"], "hooks": [str(DOCS / "hooks.py")], "plugins": []}
    settings["markdown_extensions"] = ["pymdownx.superfences"]
    (tmp_path / "mkdocs.yml").write_text(json.dumps(settings))  # JSON is YAML
    built = build(tmp_path, tmp_path / "site", *options)
    said = built.stdout + built.stderr
    assert built.returncode == 1
    named = re.findall(r"^ERROR +-  (\S+)\.md (?:shows|does not show) ", said, re.MULTILINE)
    assert {name: named.count(name) for name in DIRECTIVES} == {
        name: count for name, (_, count) in DIRECTIVES.items()
    }


def test_the_strict_build_fails_on_a_broken_link(tmp_path):
    """A page that does not exist, and an anchor that does not, with the validation of the real site."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Home\n\n[a](other.md) [b](#nowhere) [c](#home)\n")
    validation = re.search(r"^validation:\n(?: .*\n)+", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert validation is not None
    (tmp_path / "mkdocs.yml").write_text(f"site_name: S\nplugins: []\n{validation[0]}")
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode == 1
    said = built.stdout + built.stderr
    assert "other.md" in said
    assert "#nowhere" in said
    assert "2 warnings" in said


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
            assert (parameter.help or "").replace("`", "") in said


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
