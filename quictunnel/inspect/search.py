"""Search for text in everything that is stored of the exchanges: targets, headers, decoded bodies and messages."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from quictunnel.inspect import limits
from quictunnel.inspect.decoding import decode_body

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quictunnel.inspect.exchange_store import Exchange, ExchangeStore, HttpMessage

CONTEXT: Final = 40
"""Bytes around a match that are shown."""


class Match(NamedTuple):
    """First match in an exchange."""

    number: int
    where: str
    """Part of the exchange, such as "response body"."""
    around: str
    """The match with the text around it."""


class SearchResult(NamedTuple):
    """Result of a search."""

    matches: list[Match]
    """One match for each exchange, the newest first."""
    searched: int
    """Number of exchanges that were searched."""
    is_complete: bool
    """False if the time was not enough for all."""


class Searches:
    """The running searches. Used only on the store's thread."""

    def __init__(self, store: ExchangeStore) -> None:
        self._store = store
        self._running = 0

    @property
    def is_busy(self) -> bool:
        """True if the limit of running searches is reached."""
        return self._running >= limits.MAX_SEARCHES

    async def find(self, text: str) -> SearchResult:
        """Search for a text, without regard to the case of ASCII letters.

        It takes at most ``limits.SEARCH_TIME`` seconds of work, in slices, so that recording goes on."""
        pattern = _pattern(text)
        matches: list[Match] = []
        searched, worked = 0, 0.0
        self._running += 1
        try:
            for exchange in reversed(tuple(self._store)):
                if worked >= limits.SEARCH_TIME:
                    return SearchResult(matches, searched, is_complete=False)
                began = time.monotonic()
                searched += 1
                if (match := find_in(exchange, pattern)) is not None:
                    matches.append(match)
                took = time.monotonic() - began
                worked += took
                await asyncio.sleep(took * limits.SEARCH_PAUSE_FACTOR)
        finally:
            self._running -= 1
        return SearchResult(matches, searched, is_complete=True)


def find_in(exchange: Exchange, pattern: re.Pattern[bytes]) -> Match | None:
    """Return the first match in an exchange."""
    for where, data in _parts(exchange):
        match = pattern.search(data)
        if match is not None:
            around = data[max(0, match.start() - CONTEXT) : match.end() + CONTEXT]
            return Match(exchange.number, where, around.decode("utf-8", "replace"))
    return None


def _pattern(text: str) -> re.Pattern[bytes]:
    """Return a pattern for the text in UTF-8 or Latin-1."""
    found = [text.encode()]
    with contextlib.suppress(UnicodeEncodeError):  # other characters are in no Latin-1 body
        found.append(text.encode("latin-1"))
    return re.compile(b"|".join(re.escape(each) for each in dict.fromkeys(found)), re.IGNORECASE)


def _parts(exchange: Exchange) -> Iterator[tuple[str, bytes]]:
    yield "request", exchange.request.head or exchange.target.encode("latin-1", "replace")
    yield "request body", _decoded(exchange.request)
    yield "response", exchange.response.head
    yield "response body", _decoded(exchange.response)
    for frame in exchange.frames:
        yield "message", frame.data


def _decoded(message: HttpMessage) -> bytes:
    return decode_body(bytes(message.body.data), message.header_values(b"content-encoding"))[0]
