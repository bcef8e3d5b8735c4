"""Decisions of the certificate manager without a CA: for which names it orders, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from edge_server.certificates.acme.errors import MAX_TEXT, AcmeError, OrderStoppedError, printable
from edge_server.certificates.acme.quota import (
    MAX_CERTIFICATES,
    MAX_NEW_ORDERS,
    MAX_PER_OWNER,
    ORDER_PERIOD,
    TOKEN_MAX_PER_FREE,
    WEEK,
    registered_domain,
)
from edge_server.certificates.acme.scheduler import (
    FORCED_RENEWAL,
    MIN_AGE,
    POLL_INTERVAL,
    RENEWAL_JITTER,
    RENEWAL_POINT,
)
from edge_server.certificates.acme.store import MAX_FILE, IssuedCertificate
from edge_server.storage.steady_clock import CONFIRMATION_TIME
from tests.edge_server.certificates.acme.conftest import DOMAIN
from tests.edge_server.certificates.acme.fake_certificates import issue
from tests.edge_server.certificates.acme.fake_worker import FakeWorker, postpone_advice
from tests.edge_server.certificates.acme.renewal_rig import DAY, RenewalRig
from tests.edge_server.storage.test_steady_clock import BEGIN, SystemClocks
from tests.harness.manual_clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


async def test_certificate_is_renewed_at_two_thirds_of_its_life(rig: RenewalRig, clock: ManualClock):
    assert rig.want("a.example.com")
    assert rig.due() == ["a.example.com"]
    rig.fulfil("a.example.com")
    begin = clock.now
    status = rig.manager.status("a.example.com")
    assert status is not None
    assert status.renew_at == status.next_try
    assert status.renew_at is not None
    assert (RENEWAL_POINT - RENEWAL_JITTER) * 90 * DAY <= status.renew_at - begin <= RENEWAL_POINT * 90 * DAY
    postpone_advice(rig.manager, "a.example.com")
    clock.now = status.renew_at - 1
    assert rig.due() == []
    clock.now += 1
    assert rig.due() == ["a.example.com"]


async def test_the_advice_of_the_authority_counts_but_not_to_the_last_day(rig: RenewalRig, clock: ManualClock):
    rig.want("a.example.com")
    rig.fulfil("a.example.com")
    entry = rig.certificate("a.example.com")
    rig.manager._on_renewal_info(entry, clock.now + 10 * DAY)
    assert entry.renew_at == clock.now + 10 * DAY
    rig.manager._on_renewal_info(entry, clock.now + 1000 * DAY)
    assert entry.renew_at == pytest.approx(clock.now + 90 * DAY * (1 - FORCED_RENEWAL))
    rig.manager._on_renewal_info(entry, None)
    assert entry.renew_at == pytest.approx(clock.now + 90 * DAY * (1 - FORCED_RENEWAL))


async def test_waits_after_failures_grow_and_have_a_least_and_a_most(rig: RenewalRig, clock: ManualClock):
    rig.want("a.example.com")
    rig.fulfil("a.example.com")
    timings = rig.timings
    waits = []
    for _ in range(40):
        rig.fulfil("a.example.com", AcmeError("no"))
        waits.append(rig.certificate("a.example.com").retry_at - clock.now)
    assert all(timings.min_retry <= wait <= timings.max_retry for wait in waits)
    assert waits[0] <= timings.first_retry
    assert max(waits[-20:]) > 1000
    rig.fulfil("a.example.com", AcmeError("no", retry_after=3 * DAY))
    assert rig.certificate("a.example.com").retry_at == clock.now + 3 * DAY
    assert rig.certificates.covers("a.example.com", h2=True)


async def test_unwanted_certificate_is_dropped_at_expiry(rig: RenewalRig, clock: ManualClock):
    rig.want("a.example.com")
    rig.store.save(issue("a.example.com", now=clock.now))
    rig.fulfil("a.example.com")
    rig.wanted.clear()
    clock.now += 80 * DAY
    assert rig.due() == []
    assert rig.certificates.covers("a.example.com", h2=False)
    clock.now += 11 * DAY
    assert rig.due() == []
    assert rig.manager.statuses == []
    assert not rig.certificates.covers("a.example.com", h2=False)
    assert list(rig.store.load()) == []


async def test_orders_are_counted_by_outcome(rig: RenewalRig):
    rig.want("a.example.com")
    rig.fulfil("a.example.com", AcmeError("no"))
    rig.fulfil("a.example.com", AcmeError("no"))
    rig.fulfil("a.example.com")
    rig.fulfil("a.example.com", OrderStoppedError())
    assert rig.manager.outcomes == {"failed": 2, "obtained": 1}


async def test_unwanted_name_has_no_next_attempt(rig: RenewalRig):
    rig.want("a.example.com")
    rig.fulfil("a.example.com")
    status = rig.manager.status("a.example.com")
    assert status is not None
    assert status.is_needed
    rig.wanted.clear()
    status = rig.manager.status("a.example.com")
    assert status is not None
    assert (status.is_needed, status.next_try) == (False, None)


async def test_expired_certificate_of_a_wanted_name_stays(rig: RenewalRig, clock: ManualClock, caplog):
    rig.want("a.example.com")
    rig.fulfil("a.example.com")
    clock.now += 91 * DAY
    assert rig.due() == ["a.example.com"]
    rig.fulfil("a.example.com", AcmeError("no"))
    assert "The old one has expired" in caplog.text
    assert rig.certificates.covers("a.example.com", h2=False)


async def test_names_covered_by_the_edges_certificate_get_none(tmp_path: Path, clock: ManualClock):
    rig = RenewalRig(tmp_path, clock, own=(f"*.{DOMAIN}", DOMAIN))
    assert rig.want(f"shop.{DOMAIN}")
    assert rig.manager.status(f"shop.{DOMAIN}") is None
    assert rig.manager.request(f"shop.{DOMAIN}", "a", alone=True)
    assert rig.manager.status(f"shop.{DOMAIN}") is not None


async def test_weekly_limit_of_the_authority_is_kept(rig: RenewalRig, clock: ManualClock, caplog):
    """Names at random, one after the other: below one registered domain, whatever the names of the edge are."""
    took = {}
    for owner in ("a", "b"):
        count = 0
        while rig.want(f"{owner}{count}.tunnel.example.com", owner):
            count += 1
            assert rig.order_all() == 1
            rig.wanted.clear()
            clock.now += 60
        took[owner] = count
        rig.wanted.clear()
    assert took == {"a": 40, "b": 8}
    assert "its share of the 50 new names of example.com in a week is used up" in caplog.text
    assert rig.want("last-but-one.example.com", "c")
    assert rig.want("last.example.com", "d")
    assert not rig.want("none.example.com", "e")
    assert "the limit of 50 new names of example.com in a week is reached" in caplog.text
    assert rig.want("a0.tunnel.example.com"), "it was signed for in this week, and counts once"
    assert rig.want("shop.example.org"), "another registered domain"
    rig.wanted.clear()
    clock.now += WEEK
    assert rig.want("another.example.com")


async def test_names_released_before_their_order_do_not_count(rig: RenewalRig):
    for number in range(200):
        assert rig.want(f"r{number}.example.com")
        rig.wanted.clear()
        assert rig.due() == []


async def test_new_names_of_all_tokens_leave_orders_to_renewals(rig: RenewalRig, clock: ManualClock):
    for number in range(30):
        assert rig.want(f"old{number}.example{number}.com", f"r{number}")
    assert rig.order_all() == 30
    old = set(rig.wanted)
    clock.now += 80 * DAY
    took = {}
    for owner in ("a", "b", "c"):
        for number in range(MAX_PER_OWNER):
            for other in ("", "2"):
                rig.want(f"n{number}.{owner}{number}{other}.net", owner + other)
    renewed = rig.order_all()
    for order in rig.manager._quota._orders:
        took[order.owner] = took.get(order.owner, 0) + 1
    assert sum(count for owner, count in took.items() if owner[0] in "abc") == MAX_NEW_ORDERS
    assert renewed == MAX_NEW_ORDERS + 30
    assert all(took[f"r{number}"] == 1 for number in range(30))
    assert {name for name in old if rig.certificate(name).renew_at < clock.now} == set()
    clock.now += ORDER_PERIOD
    assert rig.order_all() > 100


async def test_orders_that_fail_count_and_the_next_waits_for_its_turn(rig: RenewalRig, clock: ManualClock):
    rig.want("a.example.com")
    for _ in range(MAX_NEW_ORDERS * TOKEN_MAX_PER_FREE // (TOKEN_MAX_PER_FREE + 1)):
        rig.manager._quota.begin("a.example.com", "a", is_new=True, now=clock.now)
    assert rig.due() == []
    assert rig.manager._start_due() <= POLL_INTERVAL
    assert rig.want("b.example.com", "b")
    assert rig.due() == ["b.example.com"]


async def test_requests_are_counted_after_a_restart(rig: RenewalRig, tmp_path: Path, clock: ManualClock, caplog):
    for number in range(40):
        assert rig.want(f"r{number}.example.com")
    rig.order_all()
    rig.quota_file.save()
    later = RenewalRig(tmp_path, clock)
    await later.manager.start()
    assert not later.want("one-more.example.com")
    assert later.want("r7.example.com")
    assert len(later.manager._quota._orders) == 40
    file = later.quota_file._path
    assert file.stat().st_mode & 0o777 == 0o600
    later.manager.stop_orders()
    # Written when the clock was ahead.
    clock.now -= 300 * DAY
    behind = RenewalRig(tmp_path, clock)
    await behind.manager.start()
    assert not behind.want("one-more.example.com")
    clock.now += WEEK + 1
    assert behind.want("one-more.example.com")
    behind.manager.stop_orders()
    file.write_bytes(b'{"names": [["x"]], "orders": []}')
    damaged = RenewalRig(tmp_path, clock)
    await damaged.manager.start()
    damaged.manager.stop_orders()
    assert "the count of orders starts at zero" in caplog.text
    assert damaged.want("one-more.example.com")


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("a.tunnel.example.com", "example.com"),
        ("*.example.com", "example.com"),
        ("example.com", "example.com"),
        ("shop.example.co.uk", "example.co.uk"),
        ("example.de", "example.de"),
        ("www.example.de", "example.de"),
    ],
)
def test_name_counts_for_its_registered_domain(name: str, domain: str):
    assert registered_domain(name) == domain


async def test_a_clock_that_is_a_season_ahead_orders_each_certificate_once(rig: RenewalRig, clock: ManualClock):
    rig.want("a.example.com")
    now = clock.now
    clock.now += 100 * DAY
    assert rig.due() == ["a.example.com"]
    rig.fulfil("a.example.com", issue("a.example.com", now=now))
    postpone_advice(rig.manager, "a.example.com")
    assert rig.due() == []
    clock.now += MIN_AGE * 90 * DAY
    assert rig.due() == ["a.example.com"]


async def test_unsteady_clock_orders_nothing_twice(tmp_path: Path):
    """The system's goes a season ahead and back all the time, or ahead for good."""
    clocks = SystemClocks()
    clocks.advance(2 * CONFIRMATION_TIME)
    clock = ManualClock()
    rig = RenewalRig(tmp_path, clock)
    rig.manager._now = clocks.clock.now
    begun: list[float] = []

    class ImmediateWorker(FakeWorker):
        def start_order(self, names: Sequence[str], on_done: Any, *, is_own: bool) -> None:
            begun.append(clocks.steady)
            on_done(issue("a.example.com", now=BEGIN + clocks.steady - 1000.0))
            postpone_advice(rig.manager, "a.example.com")

    ImmediateWorker().install(rig.manager)
    rig.want("a.example.com")
    for _ in range(200):
        rig.manager._start_due()
        clocks.wrong = 100 * DAY - clocks.wrong
        clocks.advance(60)
    assert len(begun) == 1
    clocks.clock.add_listener(rig.manager.adjust_clock)
    clocks.wrong = 100 * DAY
    for _ in range(200):
        rig.manager._start_due()
        clocks.advance(60)
    assert clocks.error == 100 * DAY
    assert len(begun) == 2
    clocks.wrong = 0.0
    for _ in range(200):
        rig.manager._start_due()
        clocks.advance(60)
    assert len(begun) == 2


async def test_waits_survive_a_clock_change(rig: RenewalRig, clock: ManualClock):
    rig.want("a.example.com")
    rig.fulfil("a.example.com", AcmeError("no", retry_after=3600))
    for move in (40 * DAY, -60 * DAY):
        clock.now += move
        rig.manager.adjust_clock(move)
        assert rig.due() == []
        assert rig.certificate("a.example.com").due == clock.now + 3600
    clock.now += 3600
    assert rig.due() == ["a.example.com"]


async def test_a_clock_that_is_not_settled_deletes_no_certificate(
    rig: RenewalRig, tmp_path: Path, clock: ManualClock
):
    rig.store.save(issue("a.example.com", now=clock.now))
    clock.now += 1000 * DAY
    rig.is_settled = False
    await rig.manager.load()
    assert rig.due() == []
    assert rig.certificates.covers("a.example.com", h2=False)
    clock.now -= 1000 * DAY
    later = RenewalRig(tmp_path, clock)
    await later.manager.load()
    assert later.manager.status("a.example.com") is not None
    clock.now += 1000 * DAY
    assert later.due() == []
    assert list(later.store.load()) == []


async def test_pending_orders_of_an_identity_are_limited(rig: RenewalRig):
    for number in range(MAX_PER_OWNER):
        assert rig.want(f"n{number}.example{number % 5}.com")
    assert not rig.want("one-more.example.com")
    rig.wanted.remove("n0.example0.com")
    assert rig.want("one-more.example.com")


async def test_certificate_counts_for_the_present_owner(rig: RenewalRig, clock: ManualClock):
    """Also one that was stored, of which nothing says whose it was."""
    rig.store.save(issue("before.example.com", now=clock.now))
    await rig.manager.load()
    assert rig.want("before.example.com", owner="b")
    for number in range(MAX_PER_OWNER - 1):
        assert rig.want(f"n{number}.example{number % 5}.com", owner="b")
    assert not rig.want("one-more.example.com", owner="b")


async def test_unwanted_certificates_make_room_at_the_limit(rig: RenewalRig):
    for number in range(MAX_CERTIFICATES):
        assert rig.want(f"n.example{number}.com", owner=f"o{number}")
    assert not rig.want("one-more.example.com", owner="another")
    rig.fulfil("n.example7.com")
    rig.wanted.remove("n.example7.com")
    assert rig.want("one-more.example.com", owner="another")
    assert rig.manager.status("n.example7.com") is None
    assert len(rig.manager.statuses) == MAX_CERTIFICATES


async def test_stored_certificates_are_reused_and_damage_is_reported(tmp_path: Path, clock: ManualClock, caplog):
    clock.now = 1_800_000_000.0
    rig = RenewalRig(tmp_path, clock, own=(f"*.{DOMAIN}", DOMAIN))
    rig.store.save(issue("good.example.com", now=clock.now))
    rig.store.save(issue(f"*.{DOMAIN}", DOMAIN, now=clock.now))
    rig.store.save(issue("old.example.com", now=clock.now - 100 * DAY))
    folder = rig.directory / "certificates"
    (folder / "cut.example.com.pem").write_bytes((folder / "good.example.com.pem").read_bytes()[:700])
    (folder / "mixed.example.com.pem").write_bytes(
        issue("x.example.com", now=clock.now).key + issue("mixed.example.com", now=clock.now).chain
    )
    (folder / "large.example.com.pem").write_bytes(b"x" * (MAX_FILE + 1))
    rig.wanted.add("good.example.com")
    await rig.manager.load()
    rig.due()
    assert [status.names for status in rig.manager.statuses] == [
        (f"*.{DOMAIN}", DOMAIN),
        ("good.example.com",),
    ]
    assert rig.certificates.covers(f"any.{DOMAIN}", h2=False)
    assert caplog.text.count("does not contain a certificate with its key") == 3
    assert not (folder / "old.example.com.pem").exists()


async def test_stored_certificate_of_another_domain_is_ignored(tmp_path: Path, clock: ManualClock):
    clock.now = 1_800_000_000.0
    rig = RenewalRig(tmp_path, clock, own=(f"*.{DOMAIN}", DOMAIN))
    rig.store.save(issue("*.before.example.com", "before.example.com", now=clock.now))
    rig.store.save(issue(f"*.{DOMAIN}", now=clock.now))  # without the domain itself
    await rig.manager.load()
    await rig.manager.start()
    assert rig.due() == [f"*.{DOMAIN}"]
    rig.manager.stop_orders()


def test_a_certificate_has_to_be_what_was_ordered():
    good = issue("a.example.com", now=1_800_000_000.0)
    for chain, key, names, words in (
        (b"", good.key, ("a.example.com",), "cannot be read"),
        (good.chain, good.key, ("b.example.com",), "does not cover b.example.com"),
        (good.chain, issue("a.example.com", now=0).key, ("a.example.com",), "is for another key"),
        (good.chain + b" " * MAX_FILE, good.key, ("a.example.com",), "is larger than"),
    ):
        with pytest.raises(AcmeError, match=words):
            IssuedCertificate.from_pem(chain, key, names)


def test_text_of_the_authority_is_one_bounded_line():
    assert printable("a\nb\x1b[31m\tc") == "a b?[31m c"
    assert len(printable("x" * 10_000)) == MAX_TEXT
