"""Tests of the alert rules for Prometheus, by promtool and against the edge's metrics."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edge_server.observability.metrics import METRICS, PREFIX, PROCESS_METRICS

DOCS = Path(__file__).parents[3] / "docs"
DIRECTORY = DOCS / "deploy" / "prometheus"
RULES = (DIRECTORY / "alerts.yml").read_text()
NAMES = re.findall(r"^      - alert: (\w+)$", RULES, re.MULTILINE)


def promtool(*words: str, directory: Path = DIRECTORY) -> subprocess.CompletedProcess[str]:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed")
    return subprocess.run([tool, *words], cwd=directory, capture_output=True, text=True, check=False)


def test_the_rules_are_valid():
    done = promtool("check", "rules", "alerts.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(NAMES)} rules found" in done.stdout


def test_each_condition_raises_its_alert_and_no_other():
    done = promtool("test", "rules", "alerts_test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


# promtool takes seconds for each rule; all are changed with -m long.
@pytest.mark.parametrize(
    "name", [NAMES[0], NAMES[-1], *(pytest.param(name, marks=pytest.mark.long) for name in NAMES[1:-1])]
)
@pytest.mark.parametrize("broken", ["vector(0) > 1", "vector(1)"], ids=["never", "always"])
def test_the_tests_notice_a_rule_that_is_wrong(tmp_path: Path, name: str, broken: str):
    changed, count = re.subn(
        rf"(- alert: {name}\n        expr: )(?:>\n(?:          .*\n)+|.*\n)", rf"\g<1>{broken}\n", RULES
    )
    assert count == 1
    (tmp_path / "alerts.yml").write_text(changed)
    shutil.copy(DIRECTORY / "alerts_test.yml", tmp_path)
    assert promtool("test", "rules", "alerts_test.yml", directory=tmp_path).returncode == 1


def test_the_rules_use_metrics_and_labels_that_exist():
    used = set(re.findall(rf"\b{PREFIX}\w+|\bprocess_\w+", RULES))
    known = {PREFIX + name for name in METRICS} | set(PROCESS_METRICS)
    assert used <= known
    for metric, selector in re.findall(rf"\b{PREFIX}(\w+)\{{([^}}]*)\}}", RULES):
        for label, values in re.findall(r'(\w+)=~?"([^"]*)"', selector):
            assert set(values.split("|")) <= set(METRICS[metric].labels[label]), (metric, label)


def test_every_alert_is_documented():
    text = (DOCS / "METRICS.md").read_text()
    assert len(NAMES) == len(set(NAMES)) >= 12
    for name in NAMES:
        assert f"| `{name}` |" in text
