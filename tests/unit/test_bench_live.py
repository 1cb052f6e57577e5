"""What the bench does on running tiers, without any: turns, and what is written down of a request."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.domain import Plan
from testbed.bench import live
from testbed.bench.compare import Bench, Outcome, Trial
from testbed.bench.routes import plan_of
from testbed.bench.speeds import Speeds
from testbed.bench.statistics import Runs
from testbed.bench.world import Loop
from testbed.traces import ConstantRate
from tests.benches import tiny_bench

TRIAL = Trial("flat", ConstantRate(1e6), 0.05, Loop.CLOSED, seed=0)


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
    speeds = {"device": Speeds(each.costs, each.world)}
    found = await live.compare(each, tiers, TRIAL, tmp_path / "flat.csv", virtual, 2, speeds, lambda step: None)
    assert found.runs["device"].turns == [[0], [1, 2]]
    assert found.runs["device"].switches == 1
