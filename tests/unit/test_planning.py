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

from device_agent.planner import Options
from device_agent.planning import Planning, fallback_plan, options_of
from services import bundle
from services.bundle import Manifest
from services.describing import Description
from services.domain import LinkEstimate, Segment, Tier, TierProfile
from services.errors import SettingsError
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
