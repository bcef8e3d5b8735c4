"""Hooks for MkDocs, besides mkdocs.yml: places in the navigation, diagrams as pictures, and a search of each
finished page for directives that nothing has replaced."""

from __future__ import annotations

import hashlib
import html
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mkdocs.exceptions import PluginError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

DOCS: Final = Path(__file__).parent
OTHERS: Final = "More"
LOGGER: Final = logging.getLogger("mkdocs.hooks.directives")
"""Below the logger of MkDocs. With --strict its warnings end the build, unless --quiet drops them before they are
counted: so these are errors."""
DIRECTIVE: Final = re.compile(
    r"-+8 ?<.*|^:::.*|\{!.*?!\}|\{%.*?%\}|\[\[.*?\]\]|^\.\. \w+::.*|<!--.*"
    r"|^(?:!!!|\?\?\?)[+ ].*|\{ ?[:#][\w-].*?\}",
    re.MULTILINE,
)
"""Directives as a reader would see them: PyMdown's snippets and blocks, mkdocstrings, includes, Jinja, wiki links,
Sphinx, comments, admonitions, attribute lists. Markdown shows as text whatever none of its extensions knows."""
FILE: Final = re.compile(
    r"^<!-- file: (\S+) -->$(?:\n```.*?\n(.*?)^```$\n<!-- end -->$)?", re.MULTILINE | re.DOTALL
)
MERMAID: Final = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Diagram(NamedTuple):
    """One Mermaid block of a page, and the picture that the site shows instead of it."""

    source: str
    picture: Path
    stamp: str
    """A comment in the picture that identifies its source."""
    title: str


def diagram(page: str, number: int, source: str) -> Diagram:
    """Return the diagram with that number, from 1, of a page (``ARCHITECTURE.md``)."""
    digest = hashlib.sha256(source.encode()).hexdigest()
    title = re.search(r"^\s*accTitle: (.*)$", source, re.MULTILINE)
    if title is None:
        raise PluginError(f"{page}: diagram {number} needs an accTitle, which says what it shows")
    picture = DOCS / "images" / f"{Path(page).stem.lower()}-{number}.svg"
    return Diagram(source, picture, f"<!-- mermaid sha256:{digest} -->", title[1])


def diagrams(page: str, markdown: str) -> list[Diagram]:
    """Return the Mermaid blocks of a page in order."""
    return [diagram(page, number, found[1]) for number, found in enumerate(MERMAID.finditer(markdown), 1)]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append the pages that the navigation does not list, so that a new page is reachable at once."""
    assert config.nav is not None
    named = set(_pages(config.nav))
    root = Path(config.docs_dir)
    others = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.md"))
    rest: list[Any] = [page for page in others if page not in named]
    if rest:
        config.nav.append({OTHERS: rest})
    return config


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Show each Mermaid block as the picture drawn from it: the site loads no script from elsewhere.

    Also report each included file that the page shows differently, or does not show at all.
    """
    path = page.file.src_uri
    for name, shown in FILE.findall(markdown):
        file = DOCS / name
        if not file.is_file() or shown.rstrip() != file.read_text().rstrip():
            LOGGER.error("%s does not show %s as it is; `python docs/tables.py --write docs/%s`", path, name, path)
    drawn = iter(diagrams(path, markdown))

    def picture(_match: re.Match[str]) -> str:
        shown = next(drawn)
        if not shown.picture.is_file() or shown.stamp not in shown.picture.read_text():
            raise PluginError(f"{path}: {shown.picture.name} is stale; `python docs/diagrams.py` draws it")
        depth = path.count("/") * "../"
        return f"![{shown.title}]({depth}images/{shown.picture.name})"

    return MERMAID.sub(picture, markdown)


def on_page_content(content: str, page: Page, **_: object) -> str:
    """Report each directive that readers would see."""
    for directive in unprocessed(content):
        LOGGER.error("%s shows a directive that nothing has replaced: %r", page.file.src_uri, directive)
    return content


def unprocessed(content: str) -> list[str]:
    """Return the directives in the text of a page, given as HTML."""
    text = re.sub(r"<[^>]+>", "", re.sub("<!--.*?-->", "", content, flags=re.DOTALL))
    return DIRECTIVE.findall(html.unescape(text))


def _pages(nav: Sequence[Any]) -> Iterator[str]:
    for entry in nav:
        if isinstance(entry, str):
            yield entry
        else:
            for below in entry.values():
                yield from [below] if isinstance(below, str) else _pages(below)
