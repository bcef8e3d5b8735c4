"""Rows of text as a table, for a terminal or as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]], *, markdown: bool) -> str:
    """Return the table. The first row is the head; all rows have the same length."""
    if markdown:
        head, *rest = rows
        return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rest))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows)
