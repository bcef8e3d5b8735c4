"""Line numbers of names in a TOML file, which :mod:`tomllib` does not tell.

Only for documents that tomllib has accepted, so that nothing has to be checked here.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from typing import Final

_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_INLINE: Final = re.compile(r"[ \t]*")
_STRING: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}' r"|'''.*?'{3,5}" r'|"(?:[^"\\]|\\.)*"' r"|'[^']*'",
    re.DOTALL,
)
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_PLAIN: Final = re.compile(r"[^\"'\[\]{}#\n]+")
_COMMENT: Final = re.compile(r"#[^\n]*")


def lines_of(text: str) -> dict[tuple[str, ...], int]:
    """The line, from 1, on which each table and each name is said first, by its path of keys. What stands in an
    inline table or an array is not listed: its name is."""
    return _Scanner(text).found


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._breaks = [match.start() for match in re.finditer("\n", text)]
        self._at = 0
        self.found: dict[tuple[str, ...], int] = {}
        table: tuple[str, ...] = ()
        while self._skip(_BLANK) < len(text):
            start = self._at
            if text[start] == "[":
                self._at += 2 if text.startswith("[[", start) else 1
                path = table = self._key()
                self._at = text.find("\n", self._at) if "\n" in text[self._at :] else len(text)
            else:
                path = table + self._key()
                self._value()
            line = bisect_right(self._breaks, start) + 1
            for length in range(1, len(path) + 1):
                self.found.setdefault(path[:length], line)

    def _skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self._text, self._at)
        assert match is not None, "not a document that tomllib has accepted"
        self._at = match.end()
        return self._at

    def _key(self) -> tuple[str, ...]:
        """A key, its dots taken apart; what follows it is next."""
        parts: list[str] = []
        while True:
            start = self._skip(_INLINE)
            if self._text[start] in "\"'":
                end = self._skip(_STRING)
                parts.append(tomllib.loads(f"key = {self._text[start:end]}")["key"])
            else:
                end = self._skip(_BARE)
                parts.append(self._text[start:end])
            if not self._text.startswith(".", self._skip(_INLINE)):
                return tuple(parts)
            self._at += 1

    def _value(self) -> None:
        """From ``=`` to the end of what it introduces."""
        depth = 0
        while self._at < len(self._text):
            match self._text[self._at]:
                case '"' | "'":
                    self._skip(_STRING)
                case "#":
                    self._skip(_COMMENT)
                case "[" | "{":
                    depth += 1
                    self._at += 1
                case "]" | "}":
                    depth -= 1
                    self._at += 1
                case "\n" if depth == 0:
                    return
                case "\n":
                    self._at += 1
                case _:
                    self._skip(_PLAIN)
