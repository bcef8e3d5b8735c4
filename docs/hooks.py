"""Hooks for MkDocs, besides mkdocs.yml: places in the navigation, and diagrams as pictures."""

from __future__ import annotations

import hashlib
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
    """Show each Mermaid block as the picture drawn from it: the site loads no script from elsewhere."""
    path = page.file.src_uri
    drawn = iter(diagrams(path, markdown))

    def picture(_match: re.Match[str]) -> str:
        shown = next(drawn)
        if not shown.picture.is_file() or shown.stamp not in shown.picture.read_text():
            raise PluginError(f"{path}: {shown.picture.name} is stale; `python docs/diagrams.py` draws it")
        depth = path.count("/") * "../"
        return f"![{shown.title}]({depth}images/{shown.picture.name})"

    return MERMAID.sub(picture, markdown)


def _pages(nav: Sequence[Any]) -> Iterator[str]:
    for entry in nav:
        if isinstance(entry, str):
            yield entry
        else:
            for below in entry.values():
                yield from [below] if isinstance(below, str) else _pages(below)
