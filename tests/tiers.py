"""Real tiers on real sockets, in this process, for end-to-end tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from device_agent.agent import Agent
from device_agent.fixed import fixed_plan
from device_agent.plans import FixedPlan
from services import bundle, process
from services.domain import Segment, Tier
from services.limiter import Limiter
from services.open_inference.door import OpenInference
from services.preparing import Preparer
from services.server import TierServer
from services.settings import DeviceSettings, TierSettings
from services.tier import TierRuntime
from services.tier_service import TierService


@dataclass(slots=True)
class Running:
    """A tier that serves at `address`."""

    address: str
    runtime: TierRuntime
    server: TierServer
    limiter: Limiter


@asynccontextmanager
async def upper(tier: Tier, path: Path, next_address: str | None = None, **settings: object) -> AsyncIterator[Running]:
    """An edge or cloud node."""
    given = TierSettings(**{"bundle": path, "next": next_address, "listen": "127.0.0.1:0"} | settings)
    loaded = bundle.load(path)
    runtime, next_tier = process.runtime(tier, loaded, given)
    limiter = Limiter(given.max_in_flight)
    preparer = Preparer(runtime, next_tier)
    service = TierService(runtime, limiter, given.max_batch, given.deadline_seconds, preparer)
    server = TierServer([service.service()], limiter, given.max_message_bytes)
    port = await server.start(given.listen)
    await server.ready()
    try:
        yield Running(f"127.0.0.1:{port}", runtime, server, limiter)
    finally:
        await server.drain(0, 0)
        preparer.close()
        await process.close(runtime, next_tier)


@asynccontextmanager
async def device(path: Path, next_address: str | None = None, **settings: object) -> AsyncIterator[Running]:
    """A device agent with its public door."""
    given = DeviceSettings(bundle=path, next=next_address, **settings)
    loaded = bundle.load(path)
    plan = fixed_plan(loaded.manifest, given.split_points, given.hop_codecs)
    runtime, next_tier = process.runtime(Tier.DEVICE, loaded, given)
    limiter = Limiter(given.max_in_flight)
    door = OpenInference(Agent(runtime, FixedPlan(plan)), limiter, given.max_batch, given.deadline_seconds)
    server = TierServer([door.service()], limiter, given.max_message_bytes)
    port = await server.start("127.0.0.1:0")
    runtime.warm(Segment(0, loaded.manifest.last))
    await server.ready()
    try:
        yield Running(f"127.0.0.1:{port}", runtime, server, limiter)
    finally:
        await server.drain(0, 0)
        await process.close(runtime, next_tier)


@dataclass(slots=True)
class ThreeTiers:
    """Device, edge and cloud, joined."""

    device: Running
    edge: Running
    cloud: Running


@asynccontextmanager
async def three_tiers(path: Path, **settings: object) -> AsyncIterator[ThreeTiers]:
    async with AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(upper(Tier.CLOUD, path))
        edge = await stack.enter_async_context(upper(Tier.EDGE, path, cloud.address))
        front = await stack.enter_async_context(device(path, edge.address, **settings))
        yield ThreeTiers(front, edge, cloud)
