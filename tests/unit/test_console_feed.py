"""What the console remembers of requests."""

from __future__ import annotations

from dataclasses import replace

import pytest

from device_agent.console.feed import MAX_REQUESTS, MAX_SECONDS, Feed, window
from services.domain import DegradedReason, Plan, Tier
from services.model import Model
from services.observing import Refused
from tests.consoles import finished
from tests.fakes import FakeClock
from tests.journeys import answers, plan


@pytest.fixture
def feed(model: Model, clock: FakeClock) -> Feed:
    return Feed(model.manifest, clock)


def test_a_request_is_counted_by_the_exits_and_tiers_that_answered_its_samples(feed: Feed, model: Model) -> None:
    given = answers(4, exit_index=1)
    given.exits[0], given.tiers[0] = 0, Tier.DEVICE
    feed.answered(finished(model.manifest, plan(), given))
    second = feed.history()[0]
    assert (second.exits, second.tiers, second.requests) == ([1, 3, 0], [1, 3, 0], 1)
    assert (feed.requests[0].samples, feed.requests[0].tier) == (4, Tier.EDGE)


def test_only_so_many_requests_and_seconds_are_kept(feed: Feed, model: Model, clock: FakeClock) -> None:
    for second in range(MAX_SECONDS + 50):
        clock.now = float(second)
        feed.answered(finished(model.manifest, plan()))
    assert (len(feed.requests), feed.total) == (MAX_REQUESTS, MAX_SECONDS + 50)
    assert len(feed.history()) == MAX_SECONDS


def test_a_busy_second_keeps_a_bounded_number_of_times(feed: Feed, model: Model) -> None:
    for _ in range(500):
        feed.answered(finished(model.manifest, plan()))
    second = feed.history()[0]
    assert (second.requests, len(second.times)) == (500, 64)


def test_another_models_requests_are_not_this_ones(feed: Feed, model: Model) -> None:
    other = model.manifest.model_copy(update={"graph_sha256": "0" * 64})
    feed.answered(finished(other, plan()))
    feed.refused(Refused("r", "INVALID_INPUT", "no", "another"))
    assert (feed.total, feed.total_refused, feed.history()) == (0, 0, [])


def test_what_was_refused_or_degraded_is_counted(feed: Feed, model: Model) -> None:
    given = answers(1)
    given.reasons[0] = DegradedReason.UPSTREAM_UNAVAILABLE
    feed.answered(finished(model.manifest, plan(), given))
    feed.refused(Refused("r", "QUEUE_FULL", "full", model.manifest.name, model.manifest.version))
    feed.refused(Refused("r", "QUEUE_FULL", "full", model.manifest.name, "99"))
    second = feed.history()[0]
    assert (second.degraded, second.refused) == (1, 1)
    assert feed.requests[0].reason is DegradedReason.UPSTREAM_UNAVAILABLE


def test_a_plan_is_noted_when_it_cuts_elsewhere_and_not_for_another_codec(feed: Feed) -> None:
    other_codec = Plan((plan(2, 4).stages[0], replace(plan(2, 4).stages[1], codec="fp32"), plan(2, 4).stages[2]))
    for each in (plan(2, 4), other_codec, plan(4, 4), plan(2, 4)):
        feed.planned(each)
    assert [str(change.plan) for change in feed.changes] == [str(plan(2, 4)), str(plan(4, 4)), str(plan(2, 4))]


def test_a_page_is_told_of_what_is_new_only(feed: Feed, model: Model) -> None:
    for name in "abc":
        feed.answered(finished(model.manifest, plan(), name=name))
    assert [seen.request_id for seen in feed.after(1)] == ["b", "c"]


def test_a_window_sums_up_its_seconds(feed: Feed, model: Model, clock: FakeClock) -> None:
    for second, took in ((10, 0.01), (11, 0.03), (12, 0.02)):
        clock.now = float(second)
        feed.answered(finished(model.manifest, plan(), seconds=took))
    found = window(feed.history(), 3, now=13.0)
    assert (found.requests, found.exits) == (3, (0, 0, 3))
    assert found.p50_seconds == pytest.approx(0.02)
    assert found.per_second == pytest.approx(3 / 5)
    assert found.work[Tier.DEVICE].bytes_up == 300


def test_a_window_without_requests_has_no_latency_and_no_rate() -> None:
    found = window([], 3, now=100.0)
    assert (found.p50_seconds, found.per_second, found.exits) == (None, 0.0, (0, 0, 0))
