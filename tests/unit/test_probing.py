"""When a quiet link is probed, with how much, and that probing ends when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any

import pytest

from services.domain import LinkEstimate, Tier
from services.errors import DeadlineExceeded, OfframpError
from services.link import LinkEstimator
from services.probing import (
    MAX_BYTES,
    MIN_BYTES,
    STALE_SECONDS,
    WATCHED_SECONDS,
    Prober,
    ProbeSchedule,
    timeout_seconds,
)
from tests.fakes import FakeClock

MBIT = 125_000.0
UNKNOWN = LinkEstimate(Tier.DEVICE)
QUIET = 10.0


def known(mbit: float, age: float = 2.0) -> LinkEstimate:
    return LinkEstimate(Tier.DEVICE, 0.02, mbit * MBIT, 0.1, age)


@dataclass(slots=True)
class Road:
    """A link that is probed: its truth, and what probes cost it. Cut, it answers nothing."""

    rate: float
    rtt: float = 0.02
    cut: bool = False
    quiet: float = QUIET
    needed: bool = False
    late: bool = False
    stalls: dict[int, float] = field(default_factory=dict)  # seconds by number of the probe
    clock: FakeClock = field(default_factory=lambda: FakeClock(100))
    estimator: LinkEstimator = field(init=False)
    sent: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.estimator = LinkEstimator(Tier.DEVICE, self.clock)

    async def probe(self, nbytes: int, timeout_seconds: float) -> None:
        seconds = self.rtt + nbytes / self.rate + self.stalls.get(len(self.sent), 0.0)
        self.sent.append(nbytes)
        self.clock.now += min(seconds, timeout_seconds)
        if self.cut or seconds > timeout_seconds:
            self.estimator.failed()
            raise DeadlineExceeded("no answer")
        self.estimator.record(nbytes, seconds)

    def link(self) -> LinkEstimate:
        return self.estimator.estimate()

    @property
    def doubtful(self) -> bool:
        return self.estimator.doubtful

    @property
    def overdue(self) -> bool:
        return self.late

    def quiet_seconds(self) -> float:
        return self.quiet

    def untaught_seconds(self) -> float:
        return self.estimator.untaught_seconds()

    async def run(self, prober: Prober, seconds: float) -> None:
        ends = self.clock.now + seconds
        while self.clock.now < ends:
            if not await prober.step():
                self.clock.now += 0.05


def started(mbit: float, **more: Any) -> tuple[Road, Prober]:
    road = Road(mbit * MBIT, **more)
    return road, Prober(road, lambda: road.needed, clock=road.clock)


@pytest.mark.parametrize("rtt", [0.001, 0.05, 0.2])
@pytest.mark.parametrize("mbit", [0.5, 5, 50, 200])
async def test_the_first_probes_grow_until_they_show_the_rate(mbit: float, rtt: float) -> None:
    road, prober = started(mbit, rtt=rtt)
    await road.run(prober, 1.0 + 9 * rtt)
    assert road.sent[:4] == [0, 0, 0, 1024]
    assert len(road.sent) <= 10
    found = road.link()
    assert found.up_bytes_per_second == pytest.approx(mbit * MBIT, rel=0.3)
    assert found.rtt_seconds == pytest.approx(rtt, rel=0.1, abs=0.003)


@pytest.mark.parametrize("mbit", [0.1, 0.5, 5, 50, 200])
async def test_probes_of_a_quiet_link_take_under_one_percent_of_it_or_of_half_a_megabit(mbit: float) -> None:
    road, prober = started(mbit)
    await road.run(prober, 5)
    begun, before = road.clock.now, len(road.sent)
    await road.run(prober, 60)
    spent = sum(nbytes + 150 for nbytes in road.sent[before:])
    assert len(road.sent) > before
    assert spent < 0.01 * max(road.rate, 62_500) * (road.clock.now - begun)


@pytest.mark.parametrize(("before", "after", "seconds"), [(100, 1, 6), (20, 2, 6), (1, 100, 20), (5, 20, 6)])
async def test_probes_find_out_that_a_quiet_link_changed(before: float, after: float, seconds: float) -> None:
    road, prober = started(before)
    await road.run(prober, 5)
    road.rate = after * MBIT
    await road.run(prober, seconds)
    assert road.link().up_bytes_per_second == pytest.approx(road.rate, rel=0.35)


async def test_a_dead_link_becomes_unknown_and_comes_back_by_itself() -> None:
    road, prober = started(10)
    await road.run(prober, 5)
    road.cut = True
    await road.run(prober, 5)
    assert road.link() == UNKNOWN
    begun = len(road.sent)
    await road.run(prober, 20)
    assert set(road.sent[begun:]) == {0}
    road.cut = False
    await road.run(prober, 3)
    assert road.link().up_bytes_per_second == pytest.approx(road.rate, rel=0.3)


def test_a_link_in_use_is_left_alone() -> None:
    schedule = ProbeSchedule(FakeClock(100))
    assert schedule.due(UNKNOWN, quiet_seconds=0) is None
    assert schedule.due(known(10), quiet_seconds=0, doubtful=True) is None
    assert schedule.due(UNKNOWN, quiet_seconds=0.1) == 0


def grown(clock: FakeClock) -> ProbeSchedule:
    """Past its first probes, with credit."""
    schedule = ProbeSchedule(clock)
    for nbytes in (0, 0, 0, 1024, 4096, 16384, 65536):
        schedule.answered(nbytes)
    schedule.due(known(10), QUIET)
    clock.now += 5
    return schedule


def test_a_fresh_estimate_is_not_probed_unless_it_is_in_doubt() -> None:
    schedule = grown(FakeClock(100))
    for age, seldom in ((STALE_SECONDS / 2, QUIET), (WATCHED_SECONDS / 2, 0.5)):
        fresh = known(10, age=age)
        assert schedule.due(fresh, seldom) is None
        assert (schedule.due(fresh, seldom, doubtful=True) or 0) >= MIN_BYTES


def test_what_is_sent_is_bounded_whatever_the_rate() -> None:
    clock = FakeClock(100)
    schedule = grown(clock)
    clock.now += 1000
    sizes = {schedule.due(known(mbit), QUIET) for mbit in (100, 1, 0.01, 1e5)}
    assert all(size is not None and MIN_BYTES <= size <= MAX_BYTES for size in sizes)


async def test_a_link_that_no_plan_depends_on_is_probed_once_a_second() -> None:
    road, prober = started(10)
    await road.run(prober, 5)
    begun = len(road.sent)
    await road.run(prober, 60)
    assert 50 <= len(road.sent) - begun <= 60


async def test_whoever_waits_for_news_hears_of_each_probe() -> None:
    road, news = Road(10 * MBIT), []
    prober = Prober(road, heard=lambda: news.append(road.clock.now), clock=road.clock)
    await prober.step()
    road.cut = True
    await prober.step()
    assert len(news) == 2


def test_the_wait_for_an_answer_is_bounded_both_ways() -> None:
    assert timeout_seconds(UNKNOWN, 0) == 1.0
    assert timeout_seconds(known(10), 1024) == 1.0
    assert 1.0 < timeout_seconds(known(0.5), 65536) <= 5.0
    assert timeout_seconds(known(0.001), MAX_BYTES) == 5.0


class Stuck(Road):
    """Answers never."""

    async def probe(self, nbytes: int, timeout_seconds: float) -> None:
        self.sent.append(nbytes)
        await asyncio.Event().wait()


async def in_flight(road: Road) -> None:
    while not road.sent:
        await asyncio.sleep(0)


async def test_stopping_drops_the_probe_in_flight_and_leaves_no_task() -> None:
    road, stop = Stuck(MBIT), asyncio.Event()
    task = asyncio.create_task(Prober(road).run(stop))
    await in_flight(road)
    stop.set()
    await asyncio.wait_for(task, 1)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_cancelling_drops_the_probe_in_flight_and_leaves_no_task() -> None:
    road = Stuck(MBIT)
    task = asyncio.create_task(Prober(road).run(asyncio.Event()))
    await in_flight(road)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_mistake_in_probing_is_not_swallowed() -> None:
    class Broken(Road):
        async def probe(self, nbytes: int, timeout_seconds: float) -> None:
            raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        await asyncio.wait_for(Prober(Broken(MBIT)).run(asyncio.Event()), 1)


async def test_an_answer_of_any_domain_error_only_makes_it_wait() -> None:
    class Refusing(Road):
        async def probe(self, nbytes: int, timeout_seconds: float) -> None:
            raise OfframpError("no")

    road = Refusing(MBIT)
    prober = Prober(road, clock=road.clock)
    assert await prober.step()
    assert not await prober.step()


async def test_a_link_that_is_planned_over_is_watched_closely_with_little() -> None:
    road, prober = started(10)
    await road.run(prober, 5)
    road.needed, begun = True, len(road.sent)
    await road.run(prober, 60)
    sent = road.sent[begun:]
    assert len(sent) > 60 / (3 * WATCHED_SECONDS)
    assert sum(nbytes > 4096 for nbytes in sent) <= 60  # one a second, which shows the rate
    assert sum(nbytes + 150 for nbytes in sent) < 0.01 * road.rate * 60


async def test_small_probes_leave_enough_for_one_a_second_or_two_that_shows_the_rate() -> None:
    road, prober = started(20)
    await road.run(prober, 5)
    road.needed, begun = True, len(road.sent)
    await road.run(prober, 20)
    assert sum(0.003 * road.rate < nbytes for nbytes in road.sent[begun:]) >= 10


@pytest.mark.parametrize("mbit", [0.5, 2, 5])
async def test_no_probe_is_sent_that_has_bytes_but_too_few_to_tell(mbit: float) -> None:
    road, prober = started(mbit)
    await road.run(prober, 5)
    road.needed, begun = True, len(road.sent)
    await road.run(prober, 20)
    sent = [nbytes for nbytes in road.sent[begun:] if nbytes]
    assert sent
    assert min(sent) >= min(0.002 * road.rate, 1024)


@pytest.mark.parametrize("needed", [True, False])
async def test_a_first_probe_that_stalled_is_not_believed_for_long(needed: bool) -> None:
    road, prober = started(20, rtt=0.012, needed=needed)
    road.stalls = {4: 0.014}
    await road.run(prober, 2.5)
    assert road.sent[3:6] == [1024, 4096, 4096]
    assert road.link().up_bytes_per_second == pytest.approx(road.rate, rel=0.35)


async def test_who_wakes_up_late_takes_no_call_for_overdue_before_the_next_look() -> None:
    heard: list[int] = []
    clock = FakeClock(100, step=1.0)  # every look finds that a second has passed
    prober = Prober(Stuck(MBIT, late=True), heard=lambda: heard.append(1), clock=clock)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(prober._watch_forever(), 0.2)
    assert not heard
    clock.step = 0.0
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(prober._watch_forever(), 0.2)
    assert heard


async def test_a_link_lost_by_calls_is_felt_out_from_the_beginning() -> None:
    road, prober = started(100)
    await road.run(prober, 5)
    begun = len(road.sent)
    for _ in range(2):
        road.estimator.failed()
    await road.run(prober, 0.2)
    assert road.sent[begun : begun + 4] == [0, 0, 0, 1024]


async def test_whoever_waits_for_news_hears_of_a_call_that_is_overdue() -> None:
    heard, stop = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(Prober(Stuck(MBIT, late=True), heard=heard.set).run(stop))
    await asyncio.wait_for(heard.wait(), 5)
    stop.set()
    await asyncio.wait_for(task, 1)


async def test_whoever_waits_for_news_hears_once_more_when_no_call_is_overdue_any_longer() -> None:
    road, heard = Stuck(MBIT, late=True), list[bool]()

    def hear() -> None:
        heard.append(road.late)
        road.late = False  # it is given up, and the link is dead

    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(Prober(road, heard=hear)._watch_forever(), 0.5)
    assert heard == [True, False]
