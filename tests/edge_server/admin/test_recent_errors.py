"""Tests of the recent errors that the page keeps: the last ones, one line each, as text."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from edge_server.admin.recent_errors import MAX_MESSAGE, MAX_RECORDS, RecentErrors

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger("edge_server.test")


@pytest.fixture
def ring() -> Iterator[RecentErrors]:
    ring = RecentErrors()
    ring.open()
    yield ring
    ring.shut()
    before = ring.recent(1).total
    logger.error("nobody listens")
    assert ring.recent(1).total == before


def test_newest_errors_come_first_and_are_bounded(ring: RecentErrors):
    for number in range(MAX_RECORDS + 50):
        logger.warning("number %d", number)
    logger.info("no warning")
    errors = ring.recent(1000)
    assert errors.total == MAX_RECORDS + 50
    assert [one.message for one in errors.items] == [f"number {n}" for n in range(MAX_RECORDS + 49, 49, -1)]
    assert len(ring.recent(3).items) == 3


def test_a_line_is_one_line_of_what_can_be_printed(ring: RecentErrors):
    logger.error("a\nb\x1b[31m\u202e%s", "<b>" + "x" * MAX_MESSAGE)
    (one,) = ring.recent(1).items
    assert one.message.startswith(r"a\nb\x1b[31m\u202e<b>xxx")
    assert one.message.isprintable()
    assert len(one.message) < 2 * MAX_MESSAGE
    assert (one.level, one.logger) == ("error", "edge_server.test")


def test_keys_of_tokens_have_the_name_of_their_owner():
    names = {"abcdefghij234567": "Ada" + "x" * 100, "0123456789ab": "own"}
    ring = RecentErrors(lambda key: names.get(key, ""))
    message = "client abcdefghij234567 of 0123456789ab, not abcdefghij234567x or bbcdefghij234567"
    ring.handle(logging.LogRecord("a", logging.ERROR, "b.py", 1, message, (), None))
    (record,) = ring.recent().items
    ada = f"Ada{'x' * 57}"
    assert record.message == (
        f"client abcdefghij234567 ({ada}) of 0123456789ab (own), not abcdefghij234567x or bbcdefghij234567"
    )


def test_unformattable_record_does_not_raise(ring: RecentErrors):
    for arguments in (("no number",), ({},)):
        ring.handle(logging.LogRecord("a", logging.ERROR, "b.py", 1, "%(wrong)d", arguments, None))
    assert [one.message for one in ring.recent(2).items] == ["%(wrong)d (formatting failed)"] * 2


def test_exception_text_is_kept(ring: RecentErrors):
    try:
        raise ValueError("the reason")
    except ValueError:
        logger.exception("it failed")
    assert ring.recent(1).items[0].message == "it failed: ValueError('the reason')"
