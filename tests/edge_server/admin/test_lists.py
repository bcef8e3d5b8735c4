"""Search, order and pages of the lists."""

from __future__ import annotations

import random
from typing import Any

import pytest

from edge_server.admin.lists import ListQuery, ListView

NAMES = [f"n{number:03}" for number in range(250)]
VIEW: ListView[str, str] = ListView(
    key=lambda name: name,
    show=lambda name: f"<{name}>",
    texts=lambda name: (name, f"Owner {int(name[1:]) % 10}"),
    columns={"name": lambda name: name, "last": lambda name: name[::-1]},
)


def all_pages(**query: Any) -> list[str]:
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        page = VIEW.page(NAMES, ListQuery(limit=37, after=after, **query))
        assert len(page.items) <= 37
        found += page.items
        after = page.next
    return found


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, NAMES),
        ({"sort": "name"}, NAMES),
        ({"sort": "-name"}, NAMES[::-1]),
        ({"sort": "last"}, sorted(NAMES, key=lambda name: name[::-1])),
        ({"search": "OWNER 3"}, [name for name in NAMES if name.endswith("3")]),
        ({"search": "n24", "sort": "-name"}, NAMES[249:239:-1]),
        ({"search": "nothing like this"}, []),
    ],
)
def test_pages_add_up_to_the_list(query: dict[str, Any], expected: list[str]):
    expected = [f"<{name}>" for name in expected]
    assert all_pages(**query) == expected
    by_offset: list[str] = []
    while True:
        page = VIEW.page(NAMES, ListQuery(limit=41, offset=len(by_offset), **query))
        assert (page.total, page.offset) == (len(expected), len(by_offset))
        by_offset += page.items
        if page.next is None:
            break
    assert by_offset == expected


def test_entry_that_is_gone_is_where_the_offset_says():
    page = VIEW.page(NAMES, ListQuery(limit=2, after="gone", offset=10))
    assert page.items == ["<n010>", "<n011>"]
    assert VIEW.page(NAMES, ListQuery(limit=2, offset=5000)).items == []


def test_equal_values_keep_their_usual_order():
    entries = [(random.Random(7).randrange(3), number) for number in range(100)]
    view: ListView[tuple[int, int], int] = ListView(
        key=str, show=lambda entry: entry[1], columns={"group": lambda entry: entry[0]}
    )
    for sort, is_descending in (("group", False), ("-group", True)):
        ordered = [number for _, number in sorted(entries, key=lambda entry: entry[0], reverse=is_descending)]
        assert view.page(entries, ListQuery(limit=100, sort=sort)).items == ordered
