"""The device's agents, one for each model: each plans for itself, and all share the link above and its probes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from device_agent.agent import Agent
from device_agent.plan_metrics import of_plans
from device_agent.planning import Planning, probing, segments_of
from device_agent.replan import Replanner
from services import process
from services.metrics.live import Live
from services.serving import Models, Served
from services.settings import DeviceSettings
from services.uplink import Uplink


class Agents:
    """Puts an agent in front of every model. `start` needs a running event loop; `stop` leaves nothing behind.

    `plannings`: in the order of the models. live: told of their plans. Raises SettingsError where the settings do not
    fit a network.
    """

    def __init__(self, models: Models, uplink: Uplink | None, settings: DeviceSettings, live: Live | None = None):
        self._uplink, self._settings, self._live = uplink, settings, live
        self._probes: asyncio.Task[None] | None = None
        self.plannings: list[Planning] = []
        for served in models:
            self._take(served, self._in_front_of(served))

    @property
    def first(self) -> Planning:
        return self.plannings[0]

    async def start(self) -> None:
        """Measures the link, asks the tiers above, chooses first plans, and goes on doing so in the background."""
        if self._uplink is not None:  # with fixed plans, too: whoever watches the device asks how the link is
            self._probes = probing(self._uplink, self.plannings)
        await asyncio.gather(*(planning.start() for planning in self.plannings))

    async def join(self, new: Sequence[Served], warm: Callable[[], Awaitable[None]]) -> None:
        """As at the start, for models that come later: an agent in front of each, `warm`, first plans.

        Raises SettingsError as above, BundleError for what the tier above lacks, and what `warm` raises; then nothing
        is left of it.
        """
        plannings = [self._in_front_of(served) for served in new]
        for served, planning in zip(new, plannings, strict=True):
            await process.check_above(served, planning.fallback)
        await warm()
        try:
            for ended in await asyncio.gather(*(self._start(each) for each in plannings), return_exceptions=True):
                if isinstance(ended, BaseException):
                    raise ended
        except BaseException:
            await asyncio.gather(*(planning.stop() for planning in plannings))
            raise
        for served, planning in zip(new, plannings, strict=True):
            self._take(served, planning)

    async def _start(self, planning: Planning) -> None:
        """With plans for what is asked for of other models: the next such request may be for this one."""
        await planning.start()
        if isinstance(planning.plans, Replanner):
            others = [each.plans for each in self.plannings if isinstance(each.plans, Replanner)]
            for policy, batch_size in {asked for plans in others for asked in plans.asked_for()}:
                if policy.leaving is None:  # else it is about the exits of that model
                    planning.plans.plan(policy, batch_size)
            await planning.plans.settle()

    def _in_front_of(self, served: Served) -> Planning:
        planning = Planning(served.runtime, served.preparer, self._uplink, self._settings)
        process.check_holds(served.runtime, planning.fallback)
        served.front = Agent(served.runtime, planning.plans, planning.policy, self._settings.hop_codecs)
        served.segments = segments_of(planning.fallback, served.manifest.last)
        return planning

    def _take(self, served: Served, planning: Planning) -> None:
        self.plannings.append(planning)
        if self._live is not None:
            self._live.add(of_plans(served.manifest.name, planning.plans, planning.policy))

    async def stop(self) -> None:
        """Ends what runs in the background."""
        if self._probes is not None:
            self._probes.cancel()
            await asyncio.gather(self._probes, return_exceptions=True)  # an error was logged when it came
        await asyncio.gather(*(planning.stop() for planning in self.plannings))
