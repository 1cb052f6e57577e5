"""The benchmark of what the live planner costs requests that stay on the device, on tiers over loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import planning
from device_agent.planning import Planning
from device_agent.replan import Replanner
from services.domain import Plan, Policy, Tier
from services.uplink import Uplink
from testbed.bench import live
from testbed.bench.policies import Static
from tests.benches import bench_tiers, tiny_bench


async def test_both_ways_take_turns_and_probes_rest_while_the_fixed_plan_has_its(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    links, rested = list[planning.Resting](), {Static: list[bool](), Replanner: list[bool]()}
    live_loop = planning.planned

    @asynccontextmanager
    async def planned(*given: Any) -> AsyncIterator[tuple[Planning, planning.Resting]]:
        async with live_loop(*given) as (loop, seen):
            links.append(seen)
            yield loop, seen

    def noting(kind: type[Static | Replanner]) -> None:
        plan = kind.plan

        def noted(self: Any, policy: Policy, batch_size: int) -> Plan:
            rested[kind].extend(seen.rests for seen in links)
            return plan(self, policy, batch_size)

        monkeypatch.setattr(kind, "plan", noted)

    monkeypatch.setattr(planning, "planned", planned)
    monkeypatch.setattr(planning, "_SETTLE_SECONDS", 0.0)
    noting(Static)
    noting(Replanner)
    each, file = tiny_bench(tiny), tmp_path / "flat.csv"
    file.write_text("t_s,mbps\n0,10\n1,10\n")
    (tmp_path / "traces").mkdir()
    async with bench_tiers(each, tmp_path / "traces", monkeypatch) as tiers:
        found = await planning.blocks(each, tiers, file, 3)
    assert {name: len(of) for name, of in found.items()} == {"planned": 3, "fixed": 3}
    assert all(seconds > 0 for of in found.values() for seconds in of)
    assert rested[Static] == [True] * (3 * planning.BLOCK)
    assert rested[Replanner] == [False] * (3 * planning.BLOCK)


async def test_a_link_at_rest_gives_no_reason_to_probe_it() -> None:
    uplink = Uplink(Tier.DEVICE, "127.0.0.1:1")
    seen = planning.Resting(uplink)
    assert seen.quiet_seconds() > 0
    seen.rests = True
    assert (seen.quiet_seconds(), seen.untaught_seconds(), seen.doubtful, seen.overdue) == (0.0, 0.0, False, False)
    await uplink.close()


def test_the_ratio_is_that_of_the_means_with_the_spread_of_its_pairs() -> None:
    found = planning.compared([2.0, 4.0, 3.0], [1.0, 2.0, 3.0])
    assert (found["planned_ms"], found["fixed_ms"], found["ratio"]) == (3.0, 2.0, 1.5)
    assert found["low"] < 1.5 < found["high"]
    even = planning.compared([2.0] * 9, [1.0] * 9)
    assert (even["low"], even["ratio"], even["high"]) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("trace", "more", "wrong"),
    [
        ("missing.csv", (), "--trace needs a recorded link"),
        (".", (), "--trace needs a recorded link"),  # a folder without any
        ("flat.csv", ("--blocks", "1"), "--blocks at least 2"),
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
    given = tmp_path / "none" / trace
    monkeypatch.setattr(live, "running", lambda *_: pytest.fail("tiers were started"))
    monkeypatch.setattr("sys.argv", ["planning", "--trace", str(given), "--data", str(tmp_path), *more])
    with pytest.raises(SystemExit) as ended:
        planning.main()
    assert ended.value.code == 2
    assert wrong in capsys.readouterr().err
