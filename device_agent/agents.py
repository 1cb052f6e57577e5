"""The device's agents, one for each model: each plans for itself, and all share the link above and its probes."""

from __future__ import annotations

import asyncio

from device_agent.agent import Agent
from device_agent.plan_metrics import of_plans
from device_agent.planning import Planning, probing, segments_of
from services import process
from services.metrics.live import Live
from services.serving import Models
from services.settings import DeviceSettings
from services.uplink import Uplink


class Agents:
    """Puts an agent in front of every model. `start` needs a running event loop; `stop` leaves nothing behind.

    `plannings`: in the order of the models. live: told of their plans. Raises SettingsError where the settings do not
    fit a network.
    """

    def __init__(self, models: Models, uplink: Uplink | None, settings: DeviceSettings, live: Live | None = None):
        self._uplink = uplink
        self._probes: asyncio.Task[None] | None = None
        self.plannings: list[Planning] = []
        for served in models:
            planning = Planning(served.runtime, served.preparer, uplink, settings)
            process.check_holds(served.runtime, planning.fallback)
            served.front = Agent(served.runtime, planning.plans, planning.policy, settings.hop_codecs)
            served.segments = segments_of(planning.fallback, served.manifest.last)
            self.plannings.append(planning)
            if live is not None:
                live.add(of_plans(served.manifest.name, planning.plans, planning.policy))

    @property
    def first(self) -> Planning:
        return self.plannings[0]

    async def start(self) -> None:
        """Measures the link, asks the tiers above, chooses first plans, and goes on doing so in the background."""
        if self._uplink is not None and any(planning.plans_ahead for planning in self.plannings):
            self._probes = probing(self._uplink, self.plannings)
        await asyncio.gather(*(planning.start() for planning in self.plannings))

    async def stop(self) -> None:
        """Ends what runs in the background."""
        if self._probes is not None:
            self._probes.cancel()
            await asyncio.gather(self._probes, return_exceptions=True)  # an error was logged when it came
        await asyncio.gather(*(planning.stop() for planning in self.plannings))
