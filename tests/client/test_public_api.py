"""Tests of the public docstrings: meaning, arguments, units, errors, cancellation. Read from the source, as the
site's reference is made."""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

import griffe
import pytest

import quictunnel

ROOT = Path(__file__).parents[2]
PACKAGE = griffe.load("quictunnel", search_paths=[ROOT], resolve_aliases=True)
CLASSES = (
    "forwarding.forward",
    "opening.OpenTunnel",
    "tunnel.Tunnel",
    "client.Client",
    "events.Snapshot",
    "events.TunnelStats",
    "events.ClientEvent",
    "inspect.summaries.RequestSummary",
    "inspect.summaries.RequestQueue",
    "errors.Error",
    "errors.InvalidError",
    "errors.ClientClosedError",
    "errors.ConfigError",
    "errors.AuthError",
    "errors.EdgeUnavailableError",
    "errors.OriginUnavailableError",
    "errors.ProtocolError",
)
FUNCTIONS = (
    "opening.open",
    "opening.aopen",
    "integrations.jupyter.load_ipython_extension",
    "integrations.jupyter.unload_ipython_extension",
    "loopback.localhost_resolved",
    "integrations.pytest_plugin.public_tunnel",
    "integrations.pytest_plugin.public_url",
    "integrations.pytest_plugin.quictunnel_ca",
    "integrations.pytest_plugin.quictunnel_edge",
    "integrations.pytest_plugin.quictunnel_environ",
    "integrations.pytest_plugin.quictunnel_ssl_context",
    "integrations.pytest_plugin.quictunnel_trust",
)
INTERNAL = {"client.Client.loop_thread_and_manager", "tunnel.Tunnel.set_inspector_url", "tunnel.Tunnel.with_stats"}
"""Public in the code only for the room beside it."""
BLOCKING = ("forwarding.forward", "client.Client.close", "opening.open", "opening.OpenTunnel.close")
"""Blocking calls. The docstring of each has to state what an interruption does."""
RAISES = {
    "forwarding.forward": {
        "AuthError", "ConfigError", "EdgeUnavailableError", "InvalidError", "OriginUnavailableError"
    },
    "client.Client": {"ConfigError"},
    "client.Client.from_env": {"ConfigError"},
    "tunnel.Tunnel.tcp_socket": {"InvalidError"},
    "tunnel.Tunnel.stats": {"InvalidError"},
}  # fmt: skip
"""Errors that come from deeper than the function's own text, where the test would find them."""


def member_of(name: str) -> griffe.Object:
    found = PACKAGE[name]
    return found.final_target if isinstance(found, griffe.Alias) else found


def public() -> dict[str, griffe.Object]:
    """Everything that users call or read, by its name below the package."""
    found = {name: member_of(name) for name in (*CLASSES, *FUNCTIONS)}
    for name in CLASSES:
        for attribute, member in found[name].all_members.items():
            if not attribute.startswith("_") and f"{name}.{attribute}" not in INTERNAL:
                found[f"{name}.{attribute}"] = member
    return found


PUBLIC = public()


def documentation(name: str) -> str:
    docstring = PUBLIC[name].docstring
    return "" if docstring is None else " ".join(docstring.value.split())


def test_the_list_is_complete():
    """Every name of the package, every error and every fixture is one of those that are looked at."""
    listed = {name.rpartition(".")[2] for name in (*CLASSES, *FUNCTIONS)}
    assert set(quictunnel.__all__) - {"__version__"} <= listed
    errors = {
        name for name, member in PACKAGE["errors"].members.items() if not member.is_alias and member.is_class
    }
    assert len(errors) >= 7
    assert errors <= listed
    fixtures = re.findall(
        r"^@pytest\.fixture.*\ndef (\w+)", PACKAGE["integrations.pytest_plugin"].source, re.MULTILINE
    )
    assert len(fixtures) >= 7
    assert set(fixtures) <= listed


def test_public_names_have_docstrings():
    """A sentence at least."""
    said = {name: documentation(name) for name in PUBLIC}
    assert {name: words for name, words in said.items() if not re.fullmatch(r".{10,}[.:)`]", words)} == {}


@pytest.mark.parametrize("name", ["forwarding.forward", "client.Client"])
def test_every_argument_is_explained(name):
    arguments = [parameter.name for parameter in PUBLIC[name].all_members["__init__"].parameters][1:]
    explained = re.findall(r"^ {4}(\w+): ", PUBLIC[name].docstring.value, re.MULTILINE)
    assert explained == arguments


def test_numbers_have_units():
    silent = []
    for name, thing in PUBLIC.items():
        said = documentation(name).lower()
        values = [thing] if thing.is_attribute else []
        values += thing.parameters if thing.is_function else []
        if any("float" in str(value.annotation) for value in values) and not re.search("second|likewise", said):
            silent.append(name)
        if thing.name.startswith("bytes_") and "bytes" not in said:
            silent.append(name)
    assert silent == []


def test_errors_are_named():
    silent = []
    for name, thing in PUBLIC.items():
        raised = set(RAISES.get(name, ()))
        if thing.is_function or "property" in thing.labels:
            for node in ast.walk(ast.parse(textwrap.dedent(thing.source))):
                if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                    raised.add(ast.unparse(node.exc.func))
        silent += [f"{name}: {error}" for error in raised if error not in documentation(name)]
    assert silent == []


@pytest.mark.parametrize("name", BLOCKING)
def test_blocking_calls_document_interruption(name):
    assert re.search("cancel|interrupt", documentation(name), re.IGNORECASE)


def test_a_forward_says_that_it_is_not_open() -> None:
    shown = repr(quictunnel.forward(8000))
    assert shown == "<forward(8000), not open: use it with `with`, or quictunnel.open()>"
