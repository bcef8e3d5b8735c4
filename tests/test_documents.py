"""Tests that the documents describe the code as it is."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest

from edge_server.cli import check_config
from edge_server.config.edge_config import parse, read

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
DOCUMENTS = [
    path.relative_to(ROOT).as_posix() for path in (*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md")))
]
FILLED = [
    name for name in DOCUMENTS if re.search("^<!-- (?:table|file): ", (ROOT / name).read_text(), re.MULTILINE)
]
DIRECTIVE = re.compile(r"-+8 ?<|:::|\{!|\{%|\[\[|\.\. \w+::")
"""Directives that site generators replace: PyMdown's snippets, mkdocstrings, includes, Jinja, Sphinx."""


@pytest.fixture(scope="module")
def tables():
    return runpy.run_path(str(DOCS / "tables.py"))


@pytest.mark.parametrize("name", FILLED)
def test_generated_parts_match_the_code(tables, name):
    document = (ROOT / name).read_text()
    assert tables["renewed"](document) == document, f"`python docs/tables.py --write {name}` renews it"


def test_every_example_is_shown_by_its_page():
    shown = {name for page in FILLED for name in re.findall("<!-- file: (.*) -->", (ROOT / page).read_text())}
    files = {
        f"examples/{path.name}"
        for path in DOCS.glob("examples/*")
        if path.suffix not in (".md", ".ipynb") and path.name != "__pycache__"
    }
    assert shown == files


def test_python_blocks_import_what_they_use(tmp_path):
    """Python blocks can be copied into a file of its own."""
    for name in DOCUMENTS:
        blocks = re.findall(r"^```python[^\n]*\n(.*?)^```", (ROOT / name).read_text(), re.MULTILINE | re.DOTALL)
        for number, block in enumerate(blocks):
            (tmp_path / f"{name.replace('/', '-')}-{number}.py").write_text(block)
    assert len(list(tmp_path.iterdir())) > 20
    ruff = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--isolated",
        "--select",
        "F401,F821",
        "--output-format",
        "concise",
    ]
    found = subprocess.run([*ruff, str(tmp_path)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("name", DOCUMENTS)
def test_plain_markdown_is_complete(name):
    """Most readers see the files as they are in the repository, where nothing is included."""
    text = (ROOT / name).read_text()
    # The one page that only the site can fill; it says where the same is to be read without.
    left = (
        text
        if name != "docs/reference/python.md"
        else re.sub(r"^::: quictunnel\S+$", "", text, flags=re.MULTILINE)
    )
    assert DIRECTIVE.findall(left) == []
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", prose):
        assert ((ROOT / name).parent / target).exists(), f"{name} links to {target}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_tests_that_a_page_names_exist(name):
    """A file, a folder or a pattern below tests/, and ``::`` with a class or function in that file."""
    if name == "CHANGELOG.md":  # history keeps the names of its time
        return
    text = (ROOT / name).read_text()
    for path, inside in re.findall(r"(?<![\w/.])(tests/[\w/*.-]*\w)((?:::\w+)*)", text):
        files = list(ROOT.glob(path))
        assert files, f"{name} names {path}"
        for symbol in inside.split("::")[1:]:
            code = files[0].read_text()
            assert re.search(rf"^\s*(?:async )?(?:def|class) {symbol}\b", code, re.MULTILINE), f"{name}: {symbol}"


@pytest.mark.parametrize("name", ["SECURITY.md", "OUTAGES.md", "PROTOCOL.md"])
def test_promises_name_their_tests_by_full_paths(name):
    text = (DOCS / name).read_text()
    assert re.findall(r"(?<![\w/*])(?!tests/)[\w/*]*\btest_\w+(?:\.py)?", text) == []
    assert text.count("`tests/") > 10


def test_the_schema_of_a_configuration_is_that_of_the_code(tables):
    written = (DOCS / "edge.schema.json").read_text()
    assert tables["schema"]() == written, "`python docs/tables.py --schema docs/edge.schema.json` renews it"


def example(document: str, language: str) -> str:
    """The first block of that language in a document."""
    found = re.search(rf"```{language}[^\n]*\n(.*?)```", (DOCS / document).read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def test_the_example_of_a_configuration_is_one(tmp_path):
    path = tmp_path / "edge.toml"
    path.write_text(example("CONFIGURATION.md", "toml"))
    config = parse(["--config", str(path)])
    assert (config.domain, config.tcp_ports, config.log_format) == (
        "tunnel.example.com",
        range(20000, 21000),
        "json",
    )


def test_the_configuration_of_the_guide_is_one_and_passes_the_check(tmp_path):
    path = tmp_path / "edge.toml"
    path.write_text(example("how-to/public-edge.md", "toml"))
    reading = read(["--config", str(path), "--state-dir", str(tmp_path / "state")])
    wrong, lines = check_config.report(reading)
    assert wrong == []
    assert lines[0] == "ok"
    assert "  acme = you@example.com" in lines


@pytest.mark.parametrize(
    ("text", "is_good"),
    [
        ("", True),
        (example("CONFIGURATION.md", "toml"), True),
        ("tcp_ports = '1-2'", True),
        ("log = { level = 'debug' }", True),
        ("htps = 'a:1'", False),
        ("grace = 3601", False),
        ("quic = 'localhost'", False),
        ("[log]\nlevl = 'debug'", False),
        ("engine = 'steam'", False),
        ("takeover = 'yes'", False),
    ],
)
def test_the_schema_judges_as_the_edge_does(tmp_path, text, is_good):
    schema = json.loads((DOCS / "edge.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert jsonschema.Draft202012Validator(schema).is_valid(tomllib.loads(text)) == is_good
    path = tmp_path / "edge.toml"
    path.write_text(text)
    assert (read(["--config", str(path)]).config is not None) == is_good
