"""The structure of the source tree: which folder imports which, sizes of files, reasons for exemptions."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ROOT = Path(__file__).parents[1]
PACKAGES = ("quictunnel", "edge_server", "certs")
MAX_MODULE = 500
MAX_FUNCTION = 60


def for_each(modules: Iterable[str]) -> Callable[[Callable[[str], None]], Callable[[], None]]:
    """Return a decorator that makes one test of a check of a module: thousands of tests would take a minute."""

    def decorate(check: Callable[[str], None]) -> Callable[[], None]:
        def test() -> None:
            failures = []
            for module in modules:
                try:
                    check(module)
                except AssertionError as error:
                    failures.append(f"{module}: {error}")
            assert failures == []

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate


@cache
def sources() -> dict[str, Path]:
    """Return every module of the product by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(module: str) -> ast.Module:
    """Return the syntax tree of a module."""
    return ast.parse(sources()[module].read_text())


def statements(node: ast.AST, *, lazy: bool, typing: bool) -> Iterator[ast.stmt]:
    """Yield the import statements below a node.

    Args:
        lazy: include those within functions.
        typing: include those that only a type checker runs.
    """
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
    """Return the dotted names that a module imports.

    Of ``from a import b`` these are ``a``, and ``a.b`` if that is a module.
    """
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


def is_in(name: str, package: str) -> bool:
    """Return True if a module is a package, or is within it."""
    return name == package or name.startswith(package + ".")


def modules_of(*packages: str) -> list[str]:
    """Return the modules within some packages."""
    return sorted(module for module in sources() if any(is_in(module, package) for package in packages))


def ours(names: frozenset[str]) -> list[str]:
    """Return the names of this project's modules, without the top packages, which load their parts lazily."""
    return sorted(name for name in names if name.partition(".")[0] in PACKAGES and name not in PACKAGES)


# Imports between folders.

ROOT_FOLDER: Final = "(root)"
"""The files at the root of a package: its composition root, and what its users import."""


class Folder(NamedTuple):
    """A folder of a package, and the folders of the same package that it may import."""

    reason: str
    may_import: tuple[str, ...] = ()


EDGE_FOLDERS: Final = {
    ROOT_FOLDER: Folder("puts the edge together, starts, reloads and stops it", ("*",)),
    "cli": Folder(
        "the operator's commands, on the files of an edge that runs or does not",
        ("admin", "auth", "certificates", "clients", "config", "observability", "storage", "tunnels"),
    ),
    "admin": Folder(
        "the operator's page and API, which show and end what the folders below hold",
        ("auth", "certificates", "clients", "config", "observability", "storage", "tunnels"),
    ),
    "observability": Folder(
        "metrics, health and dumps read every part that serves, and change none",
        ("auth", "certificates", "clients", "config", "ingress", "tunnels"),
    ),
    "handoff": Folder(
        "hot restart and the snapshot pass tunnels, their ports and their owners on",
        ("auth", "ingress", "storage", "tunnels"),
    ),
    "clients": Folder(
        "a client's session checks its token, has its share of memory, and binds tunnels",
        ("auth", "resources", "tunnels"),
    ),
    "tunnels": Folder(
        "a tunnel has an owner, certificates, places for visitors, and a record that outlives the process",
        ("auth", "certificates", "ingress", "resources", "storage"),
    ),
    "config": Folder("the options name ACME's challenges and check its settings", ("certificates",)),
    "certificates": Folder(
        "certificates are met by visitors, proved on the public ports, and kept on disk",
        ("ingress", "resources", "storage"),
    ),
    "auth": Folder("tokens are kept on disk; strangers are counted by their network", ("resources", "storage")),
    "ingress": Folder("visitors get a share of the places and descriptors that there are", ("resources",)),
    "storage": Folder("the state directory and its databases know nothing of what is kept in them"),
    "resources": Folder("budgets and shares know nothing of what they are shared out to"),
}
"""Folders of ``edge_server`` from the top to the bottom; each may import only what stands below it."""

CLIENT_FOLDERS: Final = {
    "cli": Folder(
        "the command line runs the public API, and shows what the other folders report",
        ("doctor", ROOT_FOLDER, "status", "origin", "config", "shared", "transport"),
    ),
    "doctor": Folder(
        "each check tries one part of the way from this machine to the edge",
        (ROOT_FOLDER, "connection", "origin", "config", "shared", "transport", "wire"),
    ),
    "integrations": Folder(
        "notebooks and test suites use the public API as any program does",
        (ROOT_FOLDER, "origin", "config", "shared"),
    ),
    ROOT_FOLDER: Folder(
        "the public API: a client and its tunnels, put together from the folders below",
        ("status", "inspect", "connection", "origin", "config", "shared", "transport"),
    ),
    "status": Folder("running clients tell their state over a local socket", ("shared",)),
    "inspect": Folder(
        "the inspector copies what passes between a stream and its origin",
        ("origin", "shared", "transport", "wire"),
    ),
    "connection": Folder(
        "one connection to the edge dials, binds, resumes, and hands streams to their origin",
        ("origin", "config", "shared", "transport", "wire"),
    ),
    "origin": Folder("streams are joined to sockets of the local service", ("shared", "transport", "wire")),
    "config": Folder("options come from files and the environment", ("shared",)),
    "transport": Folder("sessions and QUIC engines carry the messages of the wire", ("shared", "wire")),
    "wire": Folder("messages and their state machines, without input or output"),
    "shared": Folder("helpers of client, edge and transport"),
}
"""Folders of ``quictunnel``, likewise. ``errors`` is a file that every folder may import."""

UPWARD: Final = {
    ("quictunnel.__main__", "quictunnel.cli.main"): "``python -m quictunnel`` is the command line",
}
"""Single imports that run against the tables, until they are mended: file, file, and why."""

LEAVES: Final = ("quictunnel.errors",)
"""Parts that the edge shares with the client, besides the transport."""


def folder_of(module: str) -> str:
    """Return the folder of a module within its package."""
    package, *parts = module.split(".")
    is_folder = bool(parts) and (ROOT / package / parts[0]).is_dir()
    return parts[0] if is_folder else ROOT_FOLDER


@pytest.mark.parametrize(("package", "folders"), [("edge_server", EDGE_FOLDERS), ("quictunnel", CLIENT_FOLDERS)])
def test_folders_import_only_what_stands_below_them(package, folders):
    order = list(folders)
    for name, folder in folders.items():
        below = order[order.index(name) + 1 :]
        assert "*" in folder.may_import or set(folder.may_import) <= set(below), (
            f"{name}: the table is not ordered"
        )
    wrong = set()
    for module in modules_of(package):
        here = folder_of(module)
        for name in ours(imports(module)):
            there = folder_of(name)
            if name in LEAVES or not is_in(name, package) or name not in sources() or there == here:
                continue
            if there not in folders[here].may_import and "*" not in folders[here].may_import:
                wrong.add((module, name))
    known = {pair for pair in UPWARD if is_in(pair[0], package)}
    assert wrong - known == set(), "imports that the table of folders does not allow"
    assert known - wrong == set(), "mended: remove them from UPWARD"


CIRCLES: Final[dict[frozenset[str], str]] = {}
"""Circles of files that are not mended yet, and why."""


def circles() -> set[frozenset[str]]:
    """Return the groups of modules that import each other, directly or not (Tarjan 1972).

    Imports within functions and those for a type checker count.
    """
    graph = {module: [n for n in imports(module) if n in sources()] for module in sources()}
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: set[frozenset[str]] = set()

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for following in graph[module]:
            if following not in index:
                visit(following)
                low[module] = min(low[module], low[following])
            elif following in stack:
                low[module] = min(low[module], index[following])
        if low[module] == index[module]:
            group = frozenset(stack[stack.index(module) :])
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.add(group)

    for module in graph:
        if module not in index:
            visit(module)
    return found


def test_no_file_is_in_a_circle_of_imports():
    """Typing imports count: a reader who follows names runs in circles as an interpreter does."""
    found = circles()
    assert [sorted(each) for each in found - CIRCLES.keys()] == []
    assert [sorted(each) for each in CIRCLES.keys() - found] == [], "mended: remove them from CIRCLES"


def test_errors_import_nothing_of_ours():
    assert ours(imports("quictunnel.errors")) == []


@for_each(modules_of("quictunnel.wire"))
def test_the_wire_does_no_input_or_output(module):
    allowed = ("quictunnel.errors", "quictunnel.wire")
    assert [name for name in ours(imports(module)) if not any(is_in(name, each) for each in allowed)] == []
    forbidden = {"asyncio", "socket", "time", "random", "secrets", "threading", "datetime", "os", "ssl", "aioquic"}
    assert {name.partition(".")[0] for name in imports(module)} & forbidden == set()


@for_each(modules_of("quictunnel.transport"))
def test_the_transport_imports_the_wire_alone(module):
    allowed = ("quictunnel.errors", "quictunnel.shared", "quictunnel.wire", "quictunnel.transport")
    assert [name for name in ours(imports(module)) if not any(is_in(name, each) for each in allowed)] == []


@for_each(modules_of(*PACKAGES))
def test_a_quic_library_is_imported_by_its_adapter_only(module):
    libraries = {"aioquic", "quictunnel_native"} & {name.partition(".")[0] for name in imports(module)}
    if not is_in(module, "quictunnel.transport.engines"):
        assert libraries == set()
    if not is_in(module, "quictunnel.transport.engines.aioquic"):
        assert "aioquic" not in libraries
        adapters = [n for n in imports(module) if is_in(n, "quictunnel.transport.engines.aioquic")]
        assert adapters == [], "adapters are made by create_engine"


@for_each(modules_of("quictunnel"))
def test_the_client_does_not_import_the_edge(module):
    """``quictunnel demo`` and the fixtures for pytest run an edge, and load it only then."""
    other = {name for name in imports(module) if name.partition(".")[0] in ("edge_server", "certs")}
    if module not in ("quictunnel.cli.demo", "quictunnel.integrations.pytest_plugin"):
        assert other == set()
    at_once = imports(module, lazy=False, typing=False)
    assert {name for name in at_once if name.partition(".")[0] in ("edge_server", "certs")} == set()


SHARED: Final = ("quictunnel.config", "quictunnel.shared")


@for_each(modules_of("edge_server", "certs"))
def test_the_edge_imports_only_what_it_shares_with_the_client(module):
    allowed = ("quictunnel.errors", "quictunnel.wire", "quictunnel.transport", "edge_server", "certs", *SHARED)
    assert [name for name in ours(imports(module)) if not any(is_in(name, each) for each in allowed)] == []


@for_each(modules_of(*SHARED))
def test_shared_modules_import_nothing_else(module):
    allowed = ("quictunnel.errors", *SHARED)
    assert [name for name in ours(imports(module)) if not any(is_in(name, each) for each in allowed)] == []


@for_each(modules_of("certs"))
def test_the_certs_command_takes_only_the_authority_from_the_edge(module):
    assert {name for name in imports(module) if is_in(name, "edge_server")} <= {
        "edge_server.certificates.authority",
        "edge_server.certificates.authority.DevelopmentAuthority",
    }


@for_each(modules_of("quictunnel", "edge_server"))
def test_installed_packages_do_not_import_certs(module):
    """certs/ is a command of the repository and not part of the wheel."""
    assert [name for name in imports(module) if is_in(name, "certs")] == []


def loaded_by(statement: str) -> set[str]:
    """Return the modules that a fresh interpreter has loaded after a statement."""
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
        (
            "import edge_server.service, edge_server.__main__",
            {"quictunnel.client", "rich", "starlette", "uvicorn"},
        ),
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
def test_import_does_not_load_optional_modules(statement, absent):
    assert loaded_by(statement) & absent == set()


# Modules.


@for_each(modules_of(*PACKAGES))
def test_a_module_has_a_docstring_and_stays_small(module):
    source = sources()[module].read_text()
    if source.strip():
        assert ast.get_docstring(tree(module)), "no docstring"
    assert len(source.splitlines()) <= MAX_MODULE
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < MAX_FUNCTION, f"{node.name} is too long"


NO_OPENING: Final = re.compile(
    r"(what|who|whom|whose|which|where|when|why|how|whether|whoever|whatever|it|they|he|she|this|these|those|that"
    r"|we|you|nobody|somebody|everybody|see)\b",
    re.IGNORECASE,
)
"""Words with which no docstring begins: it begins with a verb or a noun."""


@for_each(modules_of(*PACKAGES))
def test_docstrings_begin_with_a_verb_or_a_noun(module):
    found = []
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            texts = [
                part.value.value.strip()
                for part in node.body
                if isinstance(part, ast.Expr)
                and isinstance(part.value, ast.Constant)
                and isinstance(part.value.value, str)
            ]
            found += [text for text in texts if NO_OPENING.match(text)]
    assert found == []


@for_each(modules_of(*PACKAGES))
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
    """A folder of tests has the name of a folder of the source, or of a way to test several."""
    known = {
        "load",
        "simnet",
        "model",
        "fuzz",
        "netlab",
        "e2e",
        "harness",
        "release",
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
    } <= known
