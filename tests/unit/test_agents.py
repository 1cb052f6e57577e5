"""Models that join a device later: agents in front of all of them, or nothing left of any."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from device_agent.agents import Agents
from device_agent.planning import Planning
from services import bundle, process
from services.domain import Tier
from services.errors import BundleError
from services.settings import DeviceSettings
from services.uplink import Uplink


async def test_a_device_with_fixed_splits_probes_its_link_too(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def start(self: Planning) -> None: ...

    monkeypatch.setattr(Planning, "start", start)
    given = DeviceSettings(bundle=tiny, splits="2,4", profile_seconds=0.0)
    uplink = Uplink(Tier.DEVICE, "127.0.0.1:1")
    models = process.models(Tier.DEVICE, given, uplink)
    agents = Agents(models, uplink, given)
    await agents.start()
    assert "probes" in {task.get_name() for task in asyncio.all_tasks()}
    assert not agents.first.needs_link()  # else it would be probed ten times a second
    await agents.stop()
    await uplink.close()
    await process.close(models, None)


async def test_where_one_cannot_join_the_others_are_not_left_on_their_way(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = DeviceSettings(bundle=tiny, profile_seconds=0.0)
    models = process.models(Tier.DEVICE, given, None)
    agents = Agents(models, None, given)
    new = [process.further(models, bundle.load(tiny), given, None) for _ in range(2)]
    started: list[asyncio.Event] = []

    async def start(self: Planning) -> None:
        started.append(asyncio.Event())
        if len(started) == 1:
            raise BundleError("not this one")
        for _ in range(20):
            await asyncio.sleep(0)
        started[-1].set()

    async def warm() -> None:
        pass

    monkeypatch.setattr(Planning, "start", start)
    with pytest.raises(BundleError, match="not this one"):
        await agents.join(new, warm)
    assert started[1].is_set()
    assert len(agents.plannings) == 1
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await agents.stop()
    for each in new:
        each.runtime.builder.close()
    await process.close(models, None)
