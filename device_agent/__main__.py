"""The device agent: settings → bundle → runtime → next tier → server → wait → drain."""

from __future__ import annotations

import asyncio

from device_agent.agent import Agent
from device_agent.planning import Planning, segments_of
from services import bundle, process
from services.domain import Tier
from services.limiter import Limiter
from services.open_inference.door import OpenInference
from services.server import TierServer, stop_signal
from services.settings import DeviceSettings


async def serve(settings: DeviceSettings) -> None:
    """Runs the device agent until a signal, then drains it."""
    stop = stop_signal()
    loaded = bundle.load(settings.bundle)
    runtime, next_tier = process.runtime(Tier.DEVICE, loaded, settings)
    planning = Planning(runtime, next_tier, settings)
    process.check_holds(runtime, planning.fallback)
    limiter = Limiter(settings.max_in_flight)
    agent = Agent(runtime, planning.plans, planning.policy)
    door = OpenInference(agent, limiter, settings.max_batch, settings.deadline_seconds)
    server = TierServer([door.service()], limiter, settings.max_message_bytes)
    port = await server.start(settings.listen)
    segments = segments_of(planning.fallback, loaded.manifest.last)
    await asyncio.to_thread(process.get_ready, runtime, loaded, settings, *segments)
    await planning.start()
    await server.ready()
    plan = planning.plans.plan(planning.policy, 1)
    process.announce(Tier.DEVICE, settings, port, loaded.manifest, plan=str(plan))
    await stop.wait()
    await server.drain(settings.drain_delay_seconds, settings.drain_grace_seconds)
    await planning.stop()
    await process.close(runtime, next_tier)


if __name__ == "__main__":
    process.main(Tier.DEVICE, DeviceSettings, serve)
