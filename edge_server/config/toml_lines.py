"""Line numbers of names in a TOML file, which :mod:`tomllib` does not report."""

from __future__ import annotations

import tomllib
from typing import Final

MAX_LINES: Final = 200
"""Lines of one value. After a longer value no line numbers are found: the search for its end takes quadratic
time."""


def lines_of(text: str) -> dict[tuple[str, ...], int]:
    """Return the line number, from 1, of the first occurrence of each name.

    Names are paths: ``(key,)``, or ``(table, key)``. A statement ends with the first line up to which tomllib
    accepts it alone.

    Args:
        text: a valid TOML document.
    """
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    begin, statement = 1, ""
    for number, line in enumerate(text.split("\n"), 1):
        statement += line + "\n"
        try:
            content = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            if number - begin >= MAX_LINES:
                break
            continue
        is_header = statement.lstrip(" \t").startswith("[")
        paths = _paths(content, () if is_header else table)
        for path in paths:
            found.setdefault(path, begin)
        table = paths[-1] if is_header else table
        begin, statement = number + 1, ""
    return found


def _paths(content: dict[str, object], table: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the paths of one or two keys that a statement in a table sets, the outer ones first."""
    paths: list[tuple[str, ...]] = []
    for key, value in content.items():
        if len(table) < 2:
            paths.append((*table, key))
        if not table and isinstance(value, dict):
            paths += [(key, inner) for inner in value]
    return paths
