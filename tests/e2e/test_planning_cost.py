"""The benchmark of what the live planner costs requests that stay on the device, on tiers over loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks import planning
from benchmarks import planning_turns as turns
from device_agent.agent import Agent
from device_agent.planning import Planning
from device_agent.replan import Replanner
from services.domain import LinkEstimate, Plan, Policy, Tier
from services.errors import UpstreamUnavailable
from services.uplink import Uplink
from testbed.bench import live
from testbed.bench.compare import Trial
from testbed.bench.policies import Oracle, Static
from testbed.bench.world import Loop
from testbed.local import TestbedError
from testbed.traces import read_trace
from tests.benches import bench_tiers, tiny_bench
from tests.fakes import FakeClock


def flat(folder: Path) -> Path:
    """A recorded link that stays as it is."""
    file = folder / "flat.csv"
    file.write_text("t_s,mbps\n0,10\n1,10\n")
    return file


@pytest.mark.parametrize("loop", Loop)
async def test_all_sides_take_turns_and_probes_rest_while_others_than_the_planner_have_theirs(
    loop: Loop, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    links, rested = list[turns.Resting](), {kind: list[bool]() for kind in (Static, Replanner, Oracle)}
    live_loop = turns.planned

    @asynccontextmanager
    async def planned(*given: Any) -> AsyncIterator[tuple[Planning, turns.Resting]]:
        async with live_loop(*given) as (planning, seen):
            links.append(seen)
            yield planning, seen

    def noting(kind: type[Static | Replanner | Oracle]) -> None:
        plan = kind.plan

        def noted(self: Any, policy: Policy, batch_size: int) -> Plan:
            rested[kind].extend(seen.rests for seen in links)
            return plan(self, policy, batch_size)

        monkeypatch.setattr(kind, "plan", noted)

    monkeypatch.setattr(turns, "planned", planned)
    monkeypatch.setattr(turns, "_SETTLE_SECONDS", 0.0)
    for kind in rested:
        noting(kind)
    each = replace(tiny_bench(tiny), asked_per_second=100.0)
    (tmp_path / "traces").mkdir()
    async with bench_tiers(each, tmp_path / "traces", monkeypatch) as tiers:
        found = await turns.blocks(each, tiers, flat(tmp_path), loop, 3)
    assert {name: len(of) for name, of in found.items()} == {"planned": 3, "fixed": 3, "oracle": 3}
    assert all(milliseconds > 0 for of in found.values() for milliseconds in of)
    assert {kind: set(seen) for kind, seen in rested.items()} == {Static: {True}, Replanner: {False}, Oracle: {True}}


async def test_the_oracle_goes_up_a_way_of_its_own(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_SETTLE_SECONDS", 0.0)
    each = tiny_bench(tiny)
    trial = Trial("flat", read_trace(flat(tmp_path)), 0.1, Loop.CLOSED, 0)
    async with (
        bench_tiers(each, tmp_path, monkeypatch) as tiers,
        turns.sides(each, tiers, trial, "flat.csv") as (agents, _),
    ):
        assert agents["planned"].next_tier is agents["fixed"].next_tier
        assert agents["oracle"].next_tier not in (None, agents["planned"].next_tier)


async def test_a_request_without_an_answer_ends_the_benchmark(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise UpstreamUnavailable("nobody there")

    monkeypatch.setattr(turns, "_SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(turns, "BLOCK_SECONDS", 0.01)
    monkeypatch.setattr(Agent, "infer", refuse)
    (tmp_path / "traces").mkdir()
    each = tiny_bench(tiny)
    async with bench_tiers(each, tmp_path / "traces", monkeypatch) as tiers:
        with pytest.raises(TestbedError, match="had no answer"):
            await turns.blocks(each, tiers, flat(tmp_path), Loop.CLOSED, 2)


async def test_a_link_at_rest_gives_no_reason_to_probe_it() -> None:
    uplink = Uplink(Tier.DEVICE, "127.0.0.1:1")
    seen = turns.Resting(uplink)
    assert seen.quiet_seconds() > 0
    seen.rest(True)
    assert (seen.quiet_seconds(), seen.untaught_seconds(), seen.doubtful, seen.overdue) == (0.0, 0.0, False, False)
    await uplink.close()


def test_time_at_rest_makes_no_probe_due(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, taught_at = FakeClock(100.0), 100.0

    def link() -> LinkEstimate:
        return LinkEstimate(Tier.DEVICE, 0.01, 1e6, age_seconds=clock.now - taught_at)

    monkeypatch.setattr(turns, "time", SimpleNamespace(monotonic=clock))
    seen = turns.Resting(cast(Uplink, SimpleNamespace(link=link)))
    began = seen.clock()
    for _ in range(3):
        seen.rest(False)
        clock.now += 0.25
        seen.rest(True)
        clock.now += 0.5
    seen.rest(False)
    assert seen.clock() - began == pytest.approx(0.75)
    assert seen.link().age_seconds == pytest.approx(0.75)
    clock.now += 0.25
    taught_at = clock.now - 0.125
    assert seen.link().age_seconds == pytest.approx(0.125)


def test_the_ratio_is_that_of_the_means_with_the_spread_of_its_pairs() -> None:
    found = planning.compared([2.0, 4.0, 3.0], [1.0, 2.0, 3.0])
    assert found["ratio"] == 1.5
    assert found["low"] < 1.5 < found["high"]
    even = planning.compared([2.0] * 9, [1.0] * 9)
    assert (even["low"], even["ratio"], even["high"]) == (2.0, 2.0, 2.0)


def test_a_link_is_judged_by_the_fixed_plan_and_by_the_oracle_each_by_its_own_bar() -> None:
    near = planning.row({"planned": [1.04, 1.04], "fixed": [1.0, 1.0], "oracle": [1.0, 1.0]})
    assert near["means"] == {"planned_ms": 1.04, "fixed_ms": 1.0, "oracle_ms": 1.0}
    verdicts = {other: planning.verdict({"a": near, "b": near}, other) for other in planning.TARGETS}
    assert verdicts["fixed"] == (False, "[red]FAIL[/] 0 of 2 links at most 1.02 of fixed; worst 1.040, mean 1.040")
    assert verdicts["oracle"] == (True, "[green]PASS[/] 2 of 2 links at most 1.05 of oracle; worst 1.040, mean 1.040")


@pytest.mark.parametrize(
    ("trace", "more", "wrong"),
    [
        ("missing.csv", (), "--trace needs a recorded link"),
        (".", (), "--trace needs a recorded link"),  # a folder without any
        ("flat.csv", ("--blocks", "1"), "--blocks at least 2"),
        ("flat.csv", ("--loop", "sideways"), "sideways"),
        ("words.csv", (), "words.csv"),  # no trace
        ("flat.csv", (), "cifar10"),  # no such data there
    ],
)
def test_a_wrong_call_ends_in_one_line_before_anything_is_started(
    trace: str,
    more: tuple[str, ...],
    wrong: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "flat.csv" if trace == "flat.csv" else tmp_path / "flat.csv").write_text("t_s,mbps\n0,10\n")
    if trace == "words.csv":
        (tmp_path / "none" / trace).write_text("once upon a time\n")
    given = tmp_path / "none" / trace
    monkeypatch.setattr(live, "running", lambda *_: pytest.fail("tiers were started"))
    monkeypatch.setattr("sys.argv", ["planning", "--trace", str(given), "--data", str(tmp_path), *more])
    with pytest.raises(SystemExit) as ended:
        planning.main()
    assert ended.value.code == 2
    assert wrong in capsys.readouterr().err
