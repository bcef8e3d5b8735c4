"""The dashboard that comes with the documents."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edge_server.observability.metrics import METRICS, PREFIX, PROCESS_METRICS

DASHBOARD = Path(__file__).parents[3] / "docs" / "grafana.json"


@pytest.fixture(scope="module")
def panels() -> list[dict]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def expressions(panels: list[dict]) -> list[str]:
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_every_expression_uses_figures_and_labels_that_exist(panels):
    known = {PREFIX + name: figure for name, figure in METRICS.items()} | PROCESS_METRICS
    for name, figure in tuple(known.items()):
        if figure.kind == "histogram":
            known |= {f"{name}_{part}": figure for part in ("bucket", "sum", "count")}
    assert len(panels) > 15
    for expression in expressions(panels):
        used = re.findall(r"(?:quictunnel|process)_\w+", expression)
        assert used, expression
        assert set(used) <= set(known), expression
        labels = set().union(*(known[name].labels for name in used)) | {"job", "instance", "le"}
        named = re.findall(r"by \(([^)]*)\)", expression) + re.findall(r"[{,](\w+)=", expression)
        assert set(named) <= labels, expression
        for label, value in re.findall(r'(\w+)="(\w+)"', expression):
            assert any(value in known[name].labels.get(label, ()) for name in used), expression
        for name in used:
            is_rated = re.search(rf"(?:rate|increase)\({name}\b", expression) is not None
            assert is_rated == (known[name].kind != "gauge"), expression


def test_legends_use_labels_that_are_left(panels):
    for panel in panels:
        for target in panel["targets"]:
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                kept = re.findall(r"by \(([^)]*)\)", target["expr"])
                assert not kept or label in kept, target


def test_panels_do_not_overlap():
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_prometheus_understands_every_expression(panels, tmp_path):
    """As the expressions of rules, which promtool checks."""
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed")
    rules = [
        {"record": f"quictunnel:rule{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(expressions(panels))
    ]
    file = tmp_path / "rules.yml"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    ended = subprocess.run([tool, "check", "rules", file], capture_output=True, text=True, check=False, timeout=20)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{len(rules)} rules found" in ended.stdout
