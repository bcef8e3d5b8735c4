"""Logs: one record is one bounded line, whatever a peer put into it."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge_server.config.edge_config import EdgeConfig
from edge_server.observability import logs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NASTY = "\x1b[31mred\x1b[0m \u202e\x00 \x07\x7f\x9b2J\u2028"


@pytest.fixture
def lines(request: pytest.FixtureRequest) -> Iterator[Callable[[], list[str]]]:
    """Function that returns the lines logged so far; the root logger is restored afterwards."""
    root, asyncio_logger = logging.getLogger(), logging.getLogger("asyncio")
    before = root.handlers[:], root.level, asyncio_logger.level
    stream = io.StringIO()
    logs.configure_logging(EdgeConfig(state_dir=Path(), log_format=request.param, log_level="info"), stream)
    yield lambda: stream.getvalue().splitlines()
    root.handlers[:], root.level = before[:2]
    asyncio_logger.setLevel(before[2])


text = pytest.mark.parametrize("lines", ["text"], indirect=True)
as_json = pytest.mark.parametrize("lines", ["json"], indirect=True)
both = pytest.mark.parametrize("lines", ["text", "json"], indirect=True)
logger = logging.getLogger("edge_server.test")


@text
def test_a_line_for_people(lines):
    logger.info("client %s connected", "abc")
    (line,) = lines()
    assert re.fullmatch(rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ INFO    \[{os.getpid()}\] client abc connected", line)


def test_lines_for_the_journal_have_a_priority_each():
    formatter = logs.JournalFormatter()
    wanted = {"DEBUG": "<7>", "INFO": "<6>", "WARNING": "<4>", "ERROR": "<3>", "CRITICAL": "<2>"}
    for name, prefix in wanted.items():
        record = logging.LogRecord("a", getattr(logging, name), "", 0, "one\ntwo %s", ("x",), None)
        assert formatter.format(record) == rf"{prefix}one\ntwo x"
    try:
        raise ValueError("wrong")
    except ValueError:
        record = logging.LogRecord("a", logging.ERROR, "", 0, "it failed", (), sys.exc_info())
    lines = formatter.format(record).split("\n")
    assert lines[0] == "<3>it failed"
    assert lines[-1] == "<3>ValueError: wrong"
    assert all(line.startswith("<3>") for line in lines)


@as_json
def test_an_object_for_machines(lines):
    logger.warning("client %s connected", "abc")
    (entry,) = map(json.loads, lines())
    assert entry.pop("time").endswith("Z")
    assert entry == {"level": "warning", "logger": "edge_server.test", "message": "client abc connected"}


@both
def test_below_the_level_is_nothing(lines):
    logger.debug("no")
    assert lines() == []


@both
def test_a_line_break_makes_no_second_line(lines):
    logger.info("a\nb\r\nc\u2028d")
    assert len(lines()) == 1


@both
def test_control_characters_are_shown_and_not_obeyed(lines):
    logger.info("%s", NASTY)
    assert all(character.isprintable() for character in lines()[0])


@both
def test_a_record_is_bounded(lines):
    logger.info("x" * 100_000)
    assert len(lines()[0]) < logs.MAX_LINE + 200


@text
def test_a_traceback_goes_over_lines_and_is_bounded(lines):
    try:
        raise ValueError("y" * 100_000)
    except ValueError:
        logger.exception("it failed")
    written = lines()
    assert written[1] == "Traceback (most recent call last):"
    assert sum(map(len, written)) <= logs.MAX_LINE + 10


@as_json
def test_a_traceback_is_a_field_and_is_bounded(lines):
    try:
        raise ValueError("y" * 100_000)
    except ValueError:
        logger.exception("it failed")
    (entry,) = map(json.loads, lines())
    assert entry["exception"].startswith("Traceback")
    assert len(entry["exception"]) <= logs.MAX_LINE
