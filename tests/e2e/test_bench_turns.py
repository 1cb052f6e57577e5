"""One turn of a policy of the bench on running tiers, over loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.domain import Segment
from testbed.bench import live
from testbed.bench.compare import Bench, Trial, run
from testbed.bench.policies import ORACLES, OURS
from testbed.bench.speeds import Speeds
from testbed.bench.statistics import Runs
from testbed.bench.world import Loop
from testbed.traces import ConstantRate
from tests.benches import bench_tiers, tiny_bench

TRIAL = Trial("flat", ConstantRate(12.5e6), 1.0, Loop.CLOSED, seed=0)


@pytest.fixture
def each(tiny: Path) -> Bench:
    return tiny_bench(tiny)


@pytest.fixture
async def tiers(each: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[live.Tiers]:
    async with bench_tiers(each, tmp_path, monkeypatch) as found:
        yield found


async def replayed(each: Bench, tiers: live.Tiers, name: str) -> Runs:
    virtual = await asyncio.to_thread(run, each, TRIAL, [name])
    return await live._replay(
        each, tiers, TRIAL, "flat.csv", name, virtual, Speeds(each.costs, each.world, each.workload.bundle.manifest)
    )


async def test_the_probes_of_our_policy_are_among_its_bytes(each: Bench, tiers: live.Tiers) -> None:
    runs = await replayed(each, tiers, OURS)
    assert not any(runs.failed)
    assert runs.extra_bytes > 0


@pytest.mark.parametrize("name", ["cloud-raw", "dsc", *ORACLES])
async def test_who_does_not_probe_sends_only_what_its_requests_take(each: Bench, tiers: live.Tiers, name: str) -> None:
    runs = await replayed(each, tiers, name)
    assert not any(runs.failed)
    assert sum(runs.bytes) > 0
    assert runs.extra_bytes == 0


async def test_a_turn_does_not_remember_how_long_others_had_to_wait(each: Bench, tiers: live.Tiers) -> None:
    await replayed(each, tiers, "cloud-raw")
    of_the_first = tiers.device.patience
    for _ in range(7):
        tiers.device.profiler.record(Segment(0, 8), 1, 0.1, 0.1)
    await replayed(each, tiers, "cloud-raw")
    assert tiers.device.patience is not of_the_first
    assert tiers.device.profiler.queue_seconds() == 0.0
