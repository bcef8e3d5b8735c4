"""The house, held up by its walls: who may import whom, how large a room may be, what a test may leave out."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
PACKAGES = ("quictunnel", "edge_server", "certs")
MAX_MODULE = 500
MAX_FUNCTION = 100


@cache
def sources() -> dict[str, Path]:
    """Every module of the product, by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(sources()[module].read_text())


def statements(node: ast.AST, *, lazy: bool, typing: bool) -> Iterator[ast.stmt]:
    """Import statements below a node: those within functions too (``lazy``), and those that only a type checker
    runs (``typing``)."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not lazy:
            continue
        elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            if typing:
                yield from statements(child, lazy=lazy, typing=typing)
            for other in child.orelse:
                yield from statements(other, lazy=lazy, typing=typing)
        else:
            yield from statements(child, lazy=lazy, typing=typing)


@cache
def imports(module: str, *, lazy: bool = True, typing: bool = True) -> frozenset[str]:
    """Dotted names that a module imports; of ``from a import b`` both ``a`` and, where b is a module, ``a.b``."""
    names = set()
    for statement in statements(tree(module), lazy=lazy, typing=typing):
        if isinstance(statement, ast.Import):
            names.update(alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, f"{module}: a relative import"
            assert statement.module is not None
            names.add(statement.module)
            names.update(
                name for alias in statement.names if (name := f"{statement.module}.{alias.name}") in sources()
            )
    return frozenset(names)


def is_in(name: str, room: str) -> bool:
    return name == room or name.startswith(room + ".")


def modules_of(*rooms: str) -> list[str]:
    return sorted(module for module in sources() if any(is_in(module, room) for room in rooms))


def ours(names: frozenset[str]) -> list[str]:
    """The names that are this project's; the package alone is only its lazy door."""
    return sorted(name for name in names if name.partition(".")[0] in PACKAGES and name not in PACKAGES)


# The arrows.


def test_errors_import_nothing_of_ours():
    assert ours(imports("quictunnel.errors")) == []


@pytest.mark.parametrize("module", modules_of("quictunnel.wire"))
def test_the_wire_only_thinks(module):
    allowed = ("quictunnel.errors", "quictunnel.wire")
    assert [name for name in ours(imports(module)) if not any(is_in(name, room) for room in allowed)] == []
    forbidden = {"asyncio", "socket", "time", "random", "secrets", "threading", "datetime", "os", "ssl", "aioquic"}
    assert {name.partition(".")[0] for name in imports(module)} & forbidden == set()


@pytest.mark.parametrize("module", modules_of("quictunnel.transport"))
def test_the_transport_stands_on_the_wire_alone(module):
    allowed = ("quictunnel.errors", "quictunnel.wire", "quictunnel.transport")
    assert [name for name in ours(imports(module)) if not any(is_in(name, room) for room in allowed)] == []


@pytest.mark.parametrize("module", modules_of(*PACKAGES))
def test_a_quic_library_is_known_to_its_adapter_only(module):
    libraries = {"aioquic", "quictunnel_native"} & {name.partition(".")[0] for name in imports(module)}
    if not is_in(module, "quictunnel.transport.engines"):
        assert libraries == set()
    if not is_in(module, "quictunnel.transport.engines.aioquic"):
        assert "aioquic" not in libraries
        adapters = [n for n in imports(module) if is_in(n, "quictunnel.transport.engines.aioquic")]
        assert adapters == [], "adapters are made by create_engine"


@pytest.mark.parametrize("module", modules_of("quictunnel"))
def test_the_client_half_does_not_know_the_edge(module):
    """Except ``quictunnel demo`` and the fixtures for pytest, which are both, and which load the edge when they
    run."""
    other = {name for name in imports(module) if name.partition(".")[0] in ("edge_server", "certs")}
    if module not in ("quictunnel.cli.demo", "quictunnel.integrations.pytest_plugin"):
        assert other == set()
    at_once = imports(module, lazy=False, typing=False)
    assert {name for name in at_once if name.partition(".")[0] in ("edge_server", "certs")} == set()


# What the edge shares with the client besides the transport: leaves, which know nothing of either.
SHARED = ("quictunnel.config", "quictunnel.shared", "quictunnel.version")


@pytest.mark.parametrize("module", modules_of("edge_server", "certs"))
def test_the_edge_does_not_know_the_client_half(module):
    allowed = ("quictunnel.errors", "quictunnel.wire", "quictunnel.transport", "edge_server", "certs", *SHARED)
    assert [name for name in ours(imports(module)) if not any(is_in(name, room) for room in allowed)] == []


@pytest.mark.parametrize("module", modules_of(*SHARED))
def test_what_both_halves_share_stands_on_nothing_but_itself(module):
    # The package of transport is empty, and these two of its modules know the standard library alone.
    transport = tuple(f"quictunnel.transport{module}" for module in ("", ".lazy_imports", ".unpatched"))
    allowed = ("quictunnel.errors", *transport)
    found = ours(imports(module))
    assert [name for name in found if name not in allowed and not any(is_in(name, room) for room in SHARED)] == []


@pytest.mark.parametrize("module", modules_of("certs"))
def test_certificates_do_not_know_the_edge(module):
    assert [name for name in imports(module) if is_in(name, "edge_server")] == []


def test_no_module_imports_itself_in_a_circle():
    """At import time, that is; what only a type checker needs may point back."""
    graph = {
        module: [n for n in imports(module, lazy=False, typing=False) if n in sources()] for module in sources()
    }
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for following in graph[module]:
                visit(following, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def loaded_by(statement: str) -> set[str]:
    """Modules that a fresh interpreter has after a statement."""
    program = f"{statement}\nimport sys; print(' '.join(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(ended.stdout.split())


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        (
            "import quictunnel.wire.messages, quictunnel.wire.control_state",
            {"aioquic", "asyncio", "quictunnel.client"},
        ),
        (
            "import quictunnel",
            {
                "aioquic",
                "asyncio",
                "quictunnel.client",
                "quictunnel.forwarding",
                "quictunnel.integrations.jupyter",
                "IPython",
            },
        ),
        (
            "from quictunnel import forward, Client",
            {"aioquic", "edge_server", "certs", "rich", "quictunnel.cli", "h11", "starlette"},
        ),
        ("import quictunnel.transport.session, quictunnel.transport.endpoint", {"aioquic", "quictunnel.client"}),
        ("import edge_server.server, edge_server.__main__", {"quictunnel.client", "rich", "starlette", "uvicorn"}),
        (
            "import edge_server.server, edge_server.tunnels.domain_check",
            {"acme", "josepy", "dns", "requests", "urllib3"},
        ),
        ("import quictunnel.cli.main", {"edge_server", "certs"}),
        (
            "import quictunnel.integrations.pytest_plugin",
            {
                "aioquic",
                "asyncio",
                "ssl",
                "edge_server",
                "certs",
                "quictunnel.client",
                "quictunnel.config.client_config",
            },
        ),
    ],
)
def test_what_an_import_does_not_load(statement, absent):
    assert loaded_by(statement) & absent == set()


# The rooms.


@pytest.mark.parametrize("module", modules_of(*PACKAGES))
def test_a_room_says_what_it_is_for_and_stays_small(module):
    source = sources()[module].read_text()
    if source.strip():
        assert ast.get_docstring(tree(module)), "no docstring"
    assert len(source.splitlines()) <= MAX_MODULE
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < MAX_FUNCTION, f"{node.name} is too long"


@pytest.mark.parametrize("module", modules_of(*PACKAGES))
def test_every_exemption_has_a_reason(module):
    """``noqa`` and ``type: ignore`` say on their own line why."""
    for number, line in enumerate(sources()[module].read_text().splitlines(), 1):
        exemption = re.search(r"# (?:noqa|type: ignore)\S*(?: [A-Z]+[0-9]+)*,?(.*)", line)
        if exemption:
            assert re.search("[a-z]{3}", exemption[1]), f"{module}:{number} gives no reason: {line.strip()}"


# The tests.


def test_no_test_is_skipped_without_a_reason():
    bare = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        text = path.read_text()
        bare += [f"{path}: {found[0]}" for found in re.finditer(r"@pytest\.mark\.(?:skip|xfail)\b(?!\()", text)]
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call):
                reasons = [word for word in node.keywords if word.arg == "reason"]
                match ast.unparse(node.func):
                    case "pytest.skip" | "pytest.xfail":
                        reasoned = bool(node.args or reasons)
                    case "pytest.mark.skip" | "pytest.mark.skipif" | "pytest.mark.xfail":
                        reasoned = bool(reasons)
                    case _:
                        continue
                if not reasoned:
                    bare.append(f"{path}:{node.lineno}")
    assert bare == []


def test_the_test_tree_mirrors_the_source():
    """A folder of tests is a room of the source, or one of the beds that several rooms are tested in."""
    beds = {
        "load",
        "simnet",
        "model",
        "fuzz",
        "netlab",
        "e2e",
        "perf",
        "client",
        "cli",
        "inspect",
        "wire",
        "transport",
        "edge_server",
        "certs",
    }
    assert {
        path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"
    } <= beds
