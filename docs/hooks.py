"""What MkDocs is told besides mkdocs.yml: a place in the navigation for pages that have none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mkdocs.config.defaults import MkDocsConfig

OTHERS: Final = "More"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Pages that stand nowhere in the navigation come last."""
    assert config.nav is not None
    named = set(_pages(config.nav))
    root = Path(config.docs_dir)
    others = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.md"))
    rest: list[Any] = [page for page in others if page not in named]
    if rest:
        config.nav.append({OTHERS: rest})
    return config


def _pages(nav: Sequence[Any]) -> Iterator[str]:
    for entry in nav:
        if isinstance(entry, str):
            yield entry
        else:
            for below in entry.values():
                yield from [below] if isinstance(below, str) else _pages(below)
