"""A strict reader of qlog files."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def events(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON text sequence (RFC 7464): each begins with RS and ends with LF."""
    text = path.read_text()
    assert text.startswith("\x1e")
    assert text.endswith("\n")
    assert re.fullmatch("(\x1e[^\x1e\n]*\n)*", text)
    return [json.loads(record) for record in text.split("\x1e")[1:]]


def only_file(directory: Path) -> Path:
    """Return the only file of a directory."""
    (path,) = directory.iterdir()
    return path


def count(trace: list[dict[str, Any]], name: str) -> int:
    """Return the sum of the counts of the events with that name."""
    return sum(event["data"]["count"] for event in trace if event.get("name") == name)


def names(trace: list[dict[str, Any]]) -> list[str]:
    """Return the names of the events, without the header."""
    return [event["name"] for event in trace[1:]]
