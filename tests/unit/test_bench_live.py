"""What the bench does on running tiers, without any: turns, and what is written down of a request."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from device_agent.agent import Agent
from services.domain import Plan, Policy, Tier
from services.errors import InvalidInput, OfframpError, UpstreamUnavailable
from services.model import Model
from services.tier import TierRuntime
from testbed.bench import live
from testbed.bench.booked import Book
from testbed.bench.compare import Bench, Outcome, Trial
from testbed.bench.policies import ORACLE, OURS, Static
from testbed.bench.routes import plan_of
from testbed.bench.speeds import Speeds
from testbed.bench.statistics import Runs
from testbed.bench.virtual import poisson
from testbed.bench.world import Line, Loop
from testbed.traces import ConstantRate
from tests.benches import tiny_bench
from tests.fakes import FakeClock, FakeNext, InlineWorkers

TRIAL = Trial("flat", ConstantRate(1e6), 0.3, Loop.CLOSED, seed=0)


@pytest.fixture
def each(tiny: Path) -> Bench:
    return tiny_bench(tiny)


def _runs(*plans: Plan) -> Runs:
    runs = Runs()
    for at, plan in enumerate(plans):
        runs.add(float(at), 0.1, plan)
    return runs


async def test_each_round_is_a_turn_of_its_own(each: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = each.workload.bundle.manifest.last
    turns = iter([_runs(plan_of(last, last)), _runs(plan_of(last, 0, last, "int8"), plan_of(last, last))])

    async def replay(*_: object) -> Runs:
        return next(turns)

    monkeypatch.setattr(live, "_replay", replay)
    (tmp_path / "flat.csv").touch()
    (tmp_path / "traces").mkdir()
    tiers = live.Tiers(None, None, None, tmp_path / "traces")  # type: ignore[arg-type]
    virtual = Outcome({"device": Runs()}, crosses=False, static=None)
    speeds = {"device": Speeds(each.costs, each.world, each.workload.bundle.manifest)}
    found = await live.compare(each, tiers, TRIAL, tmp_path / "flat.csv", virtual, 2, speeds, lambda step: None)
    assert found.runs["device"].turns == [[0], [1, 2]]
    assert found.runs["device"].switches == 1


async def test_every_policy_begins_once_on_some_trial_or_turn(
    each: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def replay(*of: object) -> Runs:
        ran.append(str(of[4]))
        return _runs()

    monkeypatch.setattr(live, "_replay", replay)
    (tmp_path / "flat.csv").touch()
    (tmp_path / "traces").mkdir()
    tiers = live.Tiers(None, None, None, tmp_path / "traces")  # type: ignore[arg-type]
    virtual = Outcome({name: Runs() for name in "abc"}, crosses=False, static=None)
    speeds = {name: Speeds(each.costs, each.world, each.workload.bundle.manifest) for name in "abc"}
    orders = []
    for first, rounds in ((0, 1), (1, 1), (5, 1), (0, 3)):
        ran: list[str] = []
        await live.compare(each, tiers, TRIAL, tmp_path / "flat.csv", virtual, rounds, speeds, lambda _: None, first)
        orders.append("".join(ran))
    assert orders == ["abc", "bca", "cab", "abcbcacab"]


async def _served(each: Bench, error: OfframpError, trial: Trial = TRIAL) -> Runs:
    """What is written down where the tier above answers every request by `error`."""
    last = each.workload.bundle.manifest.last
    runtime = TierRuntime(Tier.DEVICE, Model(each.workload.bundle), InlineWorkers(), FakeNext(error))
    agent = Agent(runtime, Static(plan_of(last, 2, last, "int8")))
    speeds = Speeds(each.costs, each.world, each.workload.bundle.manifest)
    return await live.serve(each, agent, trial, each.workload.inputs(), False, speeds, time.monotonic() - trial.start)


async def test_who_is_answered_without_the_tiers_above_has_not_failed(each: Bench) -> None:
    runs = await _served(each, UpstreamUnavailable("nobody there"))
    assert len(runs) > 0
    assert not any(runs.failed)
    assert set(runs.exits) == {len(each.workload.bundle.manifest.exits) - 1}


async def test_who_gets_no_answer_has_failed(each: Bench) -> None:
    assert all((await _served(each, InvalidInput("not like this"))).failed)


async def test_an_open_loop_asks_at_its_times_whatever_became_of_those_before(each: Bench) -> None:
    each, trial = replace(each, asked_per_second=200.0), replace(TRIAL, loop=Loop.OPEN)
    runs = await _served(each, InvalidInput("not like this"), trial)
    assert sorted(runs.at) == poisson(each.per_second, trial.seconds, trial.seed)
    assert len(runs) > 1
    assert all(seconds > 0 for seconds in runs.seconds)


async def test_a_cancelled_open_loop_asks_no_more() -> None:
    asked, first = list[float](), asyncio.Event()
    running = asyncio.create_task(live._at([0.0, 60.0], time.monotonic(), lambda at: (asked.append(at), first.set())))
    await first.wait()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    await asyncio.wait_for(asyncio.get_running_loop().shutdown_default_executor(), 10)
    assert asked == [0.0]


async def test_the_oracles_see_the_queues_for_the_device_and_for_the_link(each: Bench, clock: FakeClock) -> None:
    device = TierRuntime(Tier.DEVICE, Model(each.workload.bundle), InlineWorkers())
    book = Book(Line(ConstantRate(1000.0), 0.005), 50, clock)
    situation = live.situation(device, book)
    assert (situation.clock(), situation.device_free(), situation.line.free) == (0.0, 0.0, 0.0)
    clock.now, device.backlog.runs, device.backlog.seconds = 2.0, 2, 0.1
    book.line.send(book.now(), 3000)
    with book.traffic.crossing(3000):
        assert situation.device_free() == pytest.approx(2.15)
        assert situation.line.free == 5.0
        assert situation.ahead(1000.0) == 3.0


async def test_an_oracle_makes_way_for_what_is_on_the_link(each: Bench, clock: FakeClock) -> None:
    device = TierRuntime(Tier.DEVICE, Model(each.workload.bundle), InlineWorkers())
    book = Book(Line(ConstantRate(1e6), 0.005), 50, clock)
    oracle = live._plans(each, device, book, ORACLE, Outcome({}, crosses=False, static=None))
    assert oracle.plan(Policy(), 1).after(Tier.DEVICE) is not None
    book.line.send(book.now(), 10_000_000)
    assert oracle.plan(Policy(), 1).after(Tier.DEVICE) is None


async def test_requests_begin_where_the_trial_does_and_are_told_in_seconds_of_the_trace(each: Bench) -> None:
    for loop in Loop:
        runs = await _served(
            replace(each, asked_per_second=200.0), UpstreamUnavailable("away"), replace(TRIAL, start=2.0, loop=loop)
        )
        assert len(runs) > 0
        assert all(2.0 <= at < 2.3 for at in runs.at)


def test_all_that_an_oracle_may_choose_is_made_ready_of_others_what_they_chose_and_nothing_of_ours(
    each: Bench,
) -> None:
    runs = _runs(*each.choices.plans[:1] * 3)
    virtual = Outcome({ORACLE: runs, "dsc": runs, OURS: runs}, crosses=False, static=None)
    assert live._likely(each, OURS, virtual) == []
    assert len(each.choices.plans) > 1
    assert live._likely(each, ORACLE, virtual) == list(each.choices.plans)
    assert live._likely(each, "dsc", virtual) == list(each.choices.plans[:1])
