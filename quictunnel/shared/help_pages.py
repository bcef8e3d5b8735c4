"""Layout of help pages on click: as wide as the terminal, up to 100 columns, and readable with 40."""

from __future__ import annotations

import re
import shutil
import textwrap
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_WIDTH: Final = 100
"""Columns of the longest line: beyond it, text is hard to read."""
MIN_WIDTH: Final = 24
"""Columns of the shortest line that still has room for a word behind an indentation."""
MIN_TWO_COLUMNS: Final = 64
"""Columns from which on options and their meaning are side by side."""
MEANING_INDENT: Final = 4
"""Columns by which a meaning below its option is indented further."""
MAX_TERM_SHARE: Final = 0.3
"""Share of the line up to which a term and its indentation leave enough room for a meaning beside it."""
_GAP: Final = re.compile(r"(?<=\S) {2,}(?=\S)")
"""Spaces between an example and its meaning."""


class HelpFormatter(click.HelpFormatter):
    """Formatter of a help page for a width, which may be narrower than click's own minimum."""

    def __init__(self, width: int | None = None, max_width: int | None = None) -> None:
        """Create a formatter. ``width``: by default the terminal's; at most ``max_width``."""
        columns = shutil.get_terminal_size().columns if width is None else width
        super().__init__(width=max(MIN_WIDTH, min(columns, max_width or MAX_WIDTH)))

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write options or commands: with their meaning beside them, or below on a narrow terminal."""
        if self.width >= MIN_TWO_COLUMNS:
            super().write_dl(rows, col_max, col_spacing)
            return
        indent = " " * self.current_indent
        for term, meaning in rows:
            self.write(f"{_wrap(term, self.width, indent)}\n")
            if meaning:
                self.write(f"{_wrap(meaning, self.width, indent + ' ' * MEANING_INDENT)}\n")

    def write_lines(self, text: str) -> None:
        """Write text whose lines are kept as they are, but for those that do not fit."""
        for line in text.split("\n"):
            self.write("\n".join(fit(line, self.width)) + "\n")


def fit(line: str, width: int) -> list[str]:
    """Return a line of an epilog as lines of at most ``width`` columns, if its words allow that.

    The meaning of a short term, such as an exit status, stays beside it; that of an example comes below it.
    """
    if len(line) <= width:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()))
    gap = _GAP.search(line)
    if gap is None:
        return _wrap(line.strip(), width, indent, hanging=2 if indent else 0).split("\n")
    if gap.end() <= width * MAX_TERM_SHARE:
        text = _wrap(line[gap.end() :], width, " " * gap.end())
        return (line[: gap.end()] + text[gap.end() :]).split("\n")
    example = _wrap(line[: gap.start()].strip(), width, indent, hanging=2)
    meaning = _wrap(line[gap.end() :], width, indent + " " * MEANING_INDENT)
    return f"{example}\n{meaning}".split("\n")


def _wrap(text: str, width: int, indent: str, hanging: int = 0) -> str:
    """Return text in lines that begin with ``indent``; a long word, such as a URL, is kept whole."""
    return textwrap.fill(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent + " " * hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


class HelpContext(click.Context):
    """Context whose help pages have this layout."""

    formatter_class = HelpFormatter
