"""Lines of a TOML file: for whatever tomllib accepts, every name is found where it stands."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_server.config.toml_lines import lines_of

DOCUMENT = '''\
# a comment with "quotes" and [brackets]
plain = 1

"quoted name" = "a # that is no comment"   # one that is
'literal' = 'C:\\path'
dotted . "in.side" . x = true
long = """
not = "a name"
[nor a table]
\\""" still inside
""""
raw = \'\'\'
no = 'name'\'\'\'
list = [
    1, # one ]
    "two]",
    { inner = 3 },
]
table = { a = 1, b = { c = "}" } }

[ first ]
x = 1
[first."se.cond"]
y = 2
[[many]]
z = 1
[[many]]
z = 2'''


def test_every_name_is_found_where_it_stands():
    tomllib.loads(DOCUMENT)
    assert lines_of(DOCUMENT) == {
        ("plain",): 2,
        ("quoted name",): 4,
        ("literal",): 5,
        ("dotted",): 6,
        ("dotted", "in.side"): 6,
        ("long",): 7,
        ("raw",): 12,
        ("list",): 14,
        ("table",): 19,
        ("table", "a"): 19,
        ("table", "b"): 19,
        ("first",): 21,
        ("first", "x"): 22,
        ("first", "se.cond"): 23,
        ("many",): 25,
        ("many", "z"): 26,
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("\n\n# only a comment", {}),
        ("a=1", {("a",): 1}),
        ("\r\na = 1\r\n\r\nb = 2\r\n", {("a",): 2, ("b",): 4}),
        ('a = ""\nb = 1', {("a",): 1, ("b",): 2}),
        ('a = """a"""""\nb = 1', {("a",): 1, ("b",): 2}),
        ("a = ''''''\nb = 1", {("a",): 1, ("b",): 2}),
        ('"\\u0061\\n" = 1', {("a\n",): 1}),
        ("[a] # [b]\nc = 1", {("a",): 1, ("a", "c"): 2}),
        ("a = 1979-05-27T07:32:00Z\nb = inf", {("a",): 1, ("b",): 2}),
    ],
)
def test_small_documents(text, found):
    tomllib.loads(text)
    assert lines_of(text) == found


NAMES = st.sampled_from(["a", "b-c", '"q u"', "'l # ['", '"\\u00e9\\""', "d.e", "f . 'g'"])
STRINGS = st.sampled_from(
    ['"x"', "'y'", '"""m\n\\"""\n[t]\nk = 1"""', "'''r\nk = 1\n'''", '""', '"# \\" ="', '"""a""b"""', "'''''x'''"]
)
VALUES = st.recursive(
    st.one_of(st.sampled_from(["1", "true", "1.5e3", "1979-05-27"]), STRINGS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: "[\n " + ", # ] }\n".join(parts) + "\n]"),
        inner.filter(lambda value: "\n" not in value).map(lambda value: "{ k = " + value + " }"),
    ),
    max_leaves=6,
)
STATEMENTS = st.one_of(
    st.tuples(NAMES, VALUES).map(lambda pair: f"{pair[0]} = {pair[1]}"),
    NAMES.map(lambda name: f"[{name}]  # of its own"),
    NAMES.map(lambda name: f"[[ {name} ]]"),
    st.sampled_from(["", "# [no] = 1", "   "]),
)


def names_of(content: dict[str, Any]) -> set[tuple[str, ...]]:
    """Return the paths of one or two keys; those of arrays of tables as well."""
    paths = {(key,) for key in content}
    for key, value in content.items():
        tables = value if isinstance(value, list) else [value]
        paths |= {(key, name) for table in tables if isinstance(table, dict) for name in table}
    return paths


@given(st.lists(STATEMENTS, max_size=8))
def test_keys_of_any_valid_toml_have_their_lines(statements):
    text = "\n".join(statements)
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return  # such as a name that is there twice
    found = lines_of(text)
    for key in content:
        assert text.split("\n")[found[(key,)] - 1].strip(" [")[0] in (key[0], '"', "'")
    assert set(found) <= names_of(content)


def test_a_value_of_too_many_lines_ends_the_search():
    text = "a = 1\nb = [\n" + "1,\n" * 20_000 + "]\nc = 1\n"
    tomllib.loads(text)
    assert lines_of(text) == {("a",): 1}


def test_a_name_of_too_many_keys_costs_no_recursion():
    text = "a." * 2_000 + "b = 1\nc = 1"
    assert lines_of(text) == {("a",): 1, ("a", "a"): 1, ("c",): 2}
