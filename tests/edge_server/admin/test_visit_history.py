"""The visitors that left: bounded, an hour long, and no token's alone."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from edge_server.admin.lists import ListQuery
from edge_server.admin.visit_history import KEPT_SECONDS, MAX_VISITS, VisitHistory
from edge_server.tunnels.visitor_log import EndReason, VisitorConnection, VisitorLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.harness.manual_clock import ManualClock

EVERYTHING = ListQuery(limit=5 * MAX_VISITS)


def history_of(clock: ManualClock) -> tuple[VisitHistory, Callable[..., None]]:
    """Return a history and a function that lets a visitor of an owner come and go."""
    visitor_log = VisitorLog()
    history = VisitHistory(visitor_log, lambda key: f"Note of {key}", clock)

    def leave(owner: str, ending: EndReason = EndReason.COMPLETED, tunnel: str = "shop") -> None:
        visit = VisitorConnection("192.0.2.1", 50_000, "tcp", tunnel_name=tunnel, owner=owner)
        visitor_log.begin(visit)
        history.add(visit, 1.5, ending)

    return history, leave


def test_a_busy_token_does_not_push_others_out(clock: ManualClock):
    history, leave = history_of(clock)
    for _ in range(20):
        leave("quiet")
    for _ in range(3 * MAX_VISITS):
        leave("busy")
    for _ in range(30):
        leave("late")
    assert len(history) == MAX_VISITS
    page = history.page(EVERYTHING)
    assert Counter(visit.owner for visit in page.items) == {"quiet": 20, "late": 30, "busy": MAX_VISITS - 50}
    assert [visit.owner for visit in page.items[:31]] == ["late"] * 30 + ["busy"], "the newest are first"


def test_with_many_tokens_each_has_its_share(clock: ManualClock):
    history, leave = history_of(clock)
    for number in range(4 * MAX_VISITS):
        leave(f"token{number}")
        leave("busy")
    assert len(history) == MAX_VISITS
    counts = Counter(visit.owner for visit in history.page(EVERYTHING).items)
    assert counts["busy"] <= MAX_VISITS // 2


def test_visits_are_forgotten_after_an_hour(clock: ManualClock):
    history, leave = history_of(clock)
    leave("early")
    clock.now += KEPT_SECONDS - 1
    leave("late")
    assert history.page(EVERYTHING).total == 2
    clock.now += 2
    assert [visit.owner for visit in history.page(EVERYTHING).items] == ["late"]
    assert len(history) == 1


def test_visits_are_searched_and_failures_found(clock: ManualClock):
    history, leave = history_of(clock)
    leave("a")
    leave("b", EndReason.ORIGIN_UNREACHABLE)
    leave("b", EndReason.VISITOR_ABORTED, "blog")
    page = history.page(ListQuery(search="note of B"))
    assert [(visit.owner_name, visit.is_failure) for visit in page.items] == [
        ("Note of b", False),
        ("Note of b", True),
    ]
    (failed,) = history.page(EVERYTHING, is_failure=True).items
    assert (failed.ending, failed.reason) == ("refused", "the origin could not be reached")
    assert [visit.tunnel for visit in history.page(EVERYTHING, tunnel="blog").items] == ["blog"]
    assert [visit.tunnel for visit in history.page(ListQuery(sort="tunnel")).items] == ["blog", "shop", "shop"]
