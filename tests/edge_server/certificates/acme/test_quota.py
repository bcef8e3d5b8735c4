"""Tests of the quota by itself, with times as numbers, and of its file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edge_server.certificates.acme import quota as quota_module
from edge_server.certificates.acme.quota import (
    MAX_CERTIFICATES,
    MAX_NEW_NAMES,
    MAX_ORDERS,
    MAX_PER_OWNER,
    ORDER_PERIOD,
    WEEK,
    Quota,
)
from edge_server.certificates.acme.quota_file import MAX_FILE, QuotaFile

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("owned", "total", "words"),
    [
        (0, 0, ""),
        (MAX_PER_OWNER - 1, MAX_CERTIFICATES - 1, ""),
        (MAX_PER_OWNER, 0, f"its limit of {MAX_PER_OWNER} certificates"),
        (0, MAX_CERTIFICATES, f"the limit of {MAX_CERTIFICATES} certificates"),
    ],
)
def test_number_of_certificates_is_limited(owned: int, total: int, words: str):
    why = Quota().refusal("a.example", "t", owned=owned, total=total, now=NOW)
    assert why.startswith(words)
    assert bool(why) is bool(words)


def refusal(quota: Quota, name: str, owner: str = "t", now: float = NOW) -> str:
    return quota.refusal(name, owner, owned=0, total=0, now=now)


def test_new_names_recover_after_a_week_and_withdrawn_ones_at_once():
    quota = Quota()
    for number in range(MAX_NEW_NAMES):
        quota.request(f"n{number}.example.com", f"t{number}", NOW)
    assert "in a week is reached" in refusal(quota, "one-more.example.com")
    assert refusal(quota, "n7.example.com") == ""
    assert refusal(quota, "one-more.example.org") == ""
    quota.cancel_request("n7.example.com")
    assert refusal(quota, "one-more.example.com") == ""
    quota.request("n7.example.com", "t7", NOW)
    quota.begin("n7.example.com", "t7", is_new=True, now=NOW)
    quota.cancel_request("n7.example.com")
    assert refusal(quota, "one-more.example.com"), "the order of a withdrawn name counts"
    assert refusal(quota, "one-more.example.com", now=NOW + WEEK) == ""


def test_orders_wait_until_the_oldest_leaves_the_period():
    quota = Quota()
    for number in range(MAX_ORDERS):
        assert quota.wait("t", is_new=False, now=NOW + number) == 0.0
        quota.begin("a.example.com", "t", is_new=False, now=NOW + number)
    now = NOW + MAX_ORDERS
    assert quota.wait("t", is_new=False, now=now) == ORDER_PERIOD - MAX_ORDERS
    assert quota.wait("t", is_new=False, now=NOW + ORDER_PERIOD) == 0.0


@pytest.mark.parametrize("move", [-300 * 86_400.0, 300 * 86_400.0])
def test_moved_clock_changes_no_wait(move: float):
    quota = Quota()
    for _ in range(MAX_ORDERS):
        quota.begin("a.example.com", "t", is_new=True, now=NOW)
    quota.adjust_clock(move)
    assert quota.wait("t", is_new=False, now=NOW + move) == ORDER_PERIOD
    assert quota.state.names["a.example.com"].at == NOW + move


def test_limits_that_were_lowered_since_the_state_was_stored(monkeypatch: pytest.MonkeyPatch):
    """An edge with smaller limits takes over the counts of one with larger ones."""
    before = Quota()
    for number in range(40):
        before.begin(f"n{number}.example.com", "t", is_new=True, now=NOW + number)
    for limit in ("MAX_NEW_NAMES", "MAX_ORDERS", "MAX_NEW_ORDERS"):
        monkeypatch.setattr(quota_module, limit, 10)
    quota, now = Quota(), NOW + 40
    quota.restore(before.state, now)
    assert "the limit of 10 new names" in refusal(quota, "one-more.example.com", "other", now)
    assert quota.wait("other", is_new=True, now=now) == ORDER_PERIOD - 40
    assert quota.wait("other", is_new=False, now=now) == ORDER_PERIOD - 40
    later = NOW + ORDER_PERIOD + 30
    assert quota.wait("other", is_new=False, now=later) == 0.0
    assert quota.wait("other", is_new=True, now=later) == 0.0


def test_state_is_stored_once_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    quota, file = Quota(), QuotaFile(tmp_path / "acme" / "quota.json")
    file.save()
    assert not (tmp_path / "acme").exists(), "nothing has changed yet"
    quota.request("requested.example.com", "t", NOW)
    quota.begin("ordered.example.com", "t", is_new=True, now=NOW)
    file.update(quota.state)
    file.save()
    found = QuotaFile(tmp_path / "acme" / "quota.json").read()
    assert found == quota.state
    assert list(found.names) == ["ordered.example.com"]
    with monkeypatch.context() as patch:
        patch.setattr("edge_server.certificates.acme.quota_file.replace_file", None)
        file.save()  # already written


@pytest.mark.parametrize("content", [b"", b"[]", b'{"names": []}', b'{"names": [["x"]], "orders": []}', b"big"])
def test_damaged_file_counts_as_empty(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "quota.json"
    path.write_bytes(content if content != b"big" else b" " * (MAX_FILE + 1))
    assert QuotaFile(path).read() == Quota().state
    assert "the count of orders starts at zero" in caplog.text


def test_failed_write_is_repeated_at_the_next_order(tmp_path: Path):
    quota, file = Quota(), QuotaFile(tmp_path / "acme" / "quota.json")
    quota.begin("a.example.com", "t", is_new=True, now=NOW)
    file.update(quota.state)
    (tmp_path / "acme").write_bytes(b"")  # a file where the folder should be
    with pytest.raises(OSError):  # noqa: PT011 - which one depends on the system
        file.save()
    (tmp_path / "acme").unlink()
    file.save()
    assert file.read() == quota.state
