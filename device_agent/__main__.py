"""The device agent: settings → bundle → runtime → next tier → server → wait → drain."""

from __future__ import annotations

import asyncio

from device_agent.agent import Agent
from device_agent.open_inference import OpenInference
from device_agent.planner import fixed_plan
from services import bundle, process
from services.domain import Segment, Tier
from services.limiter import Limiter
from services.server import TierServer, stop_signal
from services.settings import DeviceSettings


async def serve(settings: DeviceSettings) -> None:
    """Runs the device agent until a signal, then drains it."""
    stop = stop_signal()
    loaded = bundle.load(settings.bundle)
    plan = fixed_plan(loaded.manifest, settings.split_points, settings.hop_codecs)
    runtime, next_tier = process.runtime(Tier.DEVICE, loaded, settings)
    process.check_holds(runtime, plan)
    limiter = Limiter(settings.max_in_flight)
    door = OpenInference(Agent(runtime, plan), limiter, settings.max_batch, settings.deadline_seconds)
    server = TierServer([door.service()], limiter, settings.max_message_bytes)
    port = await server.start(settings.listen)
    await asyncio.to_thread(runtime.warm, Segment(0, loaded.manifest.last), *(s.segment for s in plan.stages))
    await server.ready()
    process.announce(Tier.DEVICE, settings, port, loaded.manifest, plan=str(plan))
    await stop.wait()
    await server.drain(settings.drain_delay_seconds, settings.drain_grace_seconds)
    await process.close(runtime, next_tier)


if __name__ == "__main__":
    process.main(Tier.DEVICE, DeviceSettings, serve)
