"""What the device makes of what it is told, and of settings that contradict each other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from unittest.mock import Mock

import pytest

from device_agent import planning as module
from device_agent.planner import Options
from device_agent.planning import Planning, fallback_plan, options_of, policy_of
from device_agent.queues import Queues
from services import bundle
from services.bundle import Manifest
from services.describing import Description
from services.domain import Deadline, LinkEstimate, Objective, Plan, Policy, Segment, Tier, TierProfile
from services.errors import NotHeld, OfframpError, SettingsError, UpstreamUnavailable
from services.model import Model
from services.preparing import Preparer
from services.settings import DeviceSettings
from services.uplink import Uplink
from tests.fakes import FakeClock
from tests.journeys import runtime


@dataclass
class _Edge:
    """Describes itself as `told`; its link was just used, so that nobody probes it."""

    told: Description
    doubtful: bool = False
    overdue: bool = False

    async def describe(self, timeout_seconds: float, model_hash: str) -> Description:
        return self.told

    def link(self) -> LinkEstimate:
        return LinkEstimate(Tier.DEVICE, 0.01, 1e6, 0.0, 0.0)

    def quiet_seconds(self) -> float:
        return 0.0

    def ahead_seconds(self) -> float:
        return 0.0


@pytest.fixture
def manifest(tiny: Path) -> Manifest:
    return bundle.load(tiny).manifest


class _Prepares:
    """Notes the plans; raises the next of `errors` first."""

    def __init__(self, *errors: OfframpError) -> None:
        self.errors, self.prepared = list(errors), list[Plan]()

    def ready(self, plan: Plan) -> bool:
        return False

    async def prepare(self, plan: Plan, deadline: Deadline) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.prepared.append(plan)


@pytest.fixture
async def planning(model: Model, clock: FakeClock, tiny: Path) -> AsyncIterator[Planning]:
    edge = _Edge(Description((TierProfile(Tier.EDGE),), (), model.manifest.model_hash))
    device = runtime(model, clock)
    found = Planning(device, Preparer(device), cast(Uplink, edge), DeviceSettings(bundle=tiny))
    yield found
    await found.stop()


def _known(planning: Planning) -> set[Tier]:
    assert planning._replanner is not None
    return set(planning._replanner.beliefs().profiles)


async def test_what_the_next_tier_tells_is_believed(planning: Planning) -> None:
    await planning.start()
    assert _known(planning) == {Tier.DEVICE, Tier.EDGE}


@pytest.mark.parametrize(
    "told",
    [
        Description((TierProfile(Tier.EDGE),), (), "f" * 64),
        Description((TierProfile(Tier.EDGE), TierProfile(Tier.DEVICE)), (), ""),
    ],
    ids=["another model", "tiers out of order"],
)
async def test_another_models_times_and_tiers_out_of_order_are_not_believed(
    planning: Planning, model: Model, told: Description
) -> None:
    hash_ = told.model_hash or model.manifest.model_hash
    cast(_Edge, planning._uplink).told = Description(told.profiles, told.links, hash_)
    await planning.start()
    assert _known(planning) == {Tier.DEVICE}


async def test_a_mistake_in_the_background_is_logged_when_it_happens(
    planning: Planning, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> None:
        raise ValueError("a bug")

    with caplog.at_level(logging.ERROR, "offramp"):
        planning._go_on("probes", broken())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ValueError]


async def test_a_mistake_in_planning_is_logged_and_ends_neither_probes_nor_questions(
    planning: Planning, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await planning.start()
    monkeypatch.setattr(planning, "_replanner", Mock(reconsider=Mock(side_effect=KeyError("a bug"))))
    with caplog.at_level(logging.ERROR, "offramp"):
        planning.probed()
        await planning._ask(cast(Uplink, planning._uplink), 1.0)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [KeyError, KeyError]
    monkeypatch.undo()


@pytest.mark.parametrize("changes", [{"splits": "0,4"}, {"holds": Segment(0, 0)}])
def test_a_plan_that_would_send_the_raw_input_is_refused_where_it_must_stay(
    manifest: Manifest, tiny: Path, changes: dict[str, object]
) -> None:
    assert fallback_plan(manifest, DeviceSettings(bundle=tiny, **changes)).stages[0].segment.empty
    with pytest.raises(SettingsError, match="raw input"):
        fallback_plan(manifest, DeviceSettings(bundle=tiny, privacy=True, **changes))


def test_the_figures_that_nobody_measures_are_those_of_the_settings(tiny: Path) -> None:
    assert options_of(DeviceSettings(bundle=tiny)) == Options()
    figures = {"max_accuracy_loss": 0.01, "compute_watts": 4, "idle_watts": 2, "joules_per_byte": 1e-4}
    given = DeviceSettings(bundle=tiny, policy="energy", min_accuracy=0.9, privacy=True, **figures)
    assert options_of(given) == Options(max_accuracy_loss=0.01, active_watts=4, idle_watts=2, joules_per_byte=1e-4)
    assert policy_of(given) == Policy(Objective.ENERGY, 0.9, privacy=True)


async def test_requests_are_planned_for_by_the_queues_of_this_device_and_its_link(
    planning: Planning, monkeypatch: pytest.MonkeyPatch
) -> None:
    backlog = planning._runtime.backlog
    backlog.runs, backlog.seconds = 3, 0.2
    monkeypatch.setattr(planning._uplink, "ahead_seconds", lambda: 0.7)
    assert planning._replanner is not None
    assert planning._replanner.queues() == Queues(backlog.ahead_seconds(), 0.7)
    assert backlog.ahead_seconds() > 0


@pytest.mark.parametrize("splits", [None, "2,4"])
async def test_the_plan_of_the_first_requests_is_made_ready_above_once_those_are_there(
    model: Model, clock: FakeClock, tiny: Path, splits: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_SECONDS", 0.001)
    edge, prepares = _Edge(Description((), (), model.manifest.model_hash)), _Prepares(UpstreamUnavailable("not yet"))
    settings = DeviceSettings(bundle=tiny, splits=splits)
    found = Planning(runtime(model, clock), cast(Preparer, prepares), cast(Uplink, edge), settings)
    await found.start()
    async with asyncio.timeout(10):
        while found.fallback not in prepares.prepared:
            await asyncio.sleep(0)
    await found.stop()


async def test_a_plan_that_those_above_refuse_is_not_asked_for_again_and_again(
    model: Model, clock: FakeClock, tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edge, prepares = _Edge(Description((), (), model.manifest.model_hash)), _Prepares(NotHeld("not here"))
    settings = DeviceSettings(bundle=tiny, splits="2,4")
    found = Planning(runtime(model, clock), cast(Preparer, prepares), cast(Uplink, edge), settings)
    with caplog.at_level(logging.INFO, "offramp"):
        await found._make_fallback_ready()
    assert "plan not prepared" in [record.message for record in caplog.records]
    assert prepares.prepared == []
