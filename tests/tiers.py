"""Real tiers on real sockets, in this process, for end-to-end tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from device_agent.agent import Agent
from device_agent.plan_metrics import of_plans
from device_agent.plans import FixedPlan
from services import process, security
from services.domain import Tier
from services.fixed import fixed_plan
from services.guard import Service
from services.limiter import Limiter
from services.open_inference.door import OpenInference
from services.server import TierServer
from services.serving import Models
from services.settings import DeviceSettings, TierSettings
from services.telemetry import Telemetry
from services.tier import TierRuntime
from services.tier_service import TierService
from services.uplink import Uplink

Paths = Path | Iterable[Path]


@dataclass(slots=True)
class Running:
    """A tier that serves at `address`; `runtime` is that of its first model."""

    address: str
    runtime: TierRuntime
    server: TierServer
    limiter: Limiter
    models: Models
    telemetry: Telemetry
    metrics: str | None


@asynccontextmanager
async def upper(tier: Tier, path: Paths, next_address: str | None = None, **settings: object) -> AsyncIterator[Running]:
    """An edge or cloud node."""
    given = TierSettings(**{"bundle": path, "next": next_address, "listen": "127.0.0.1:0"} | settings)
    telemetry = Telemetry(tier, given)
    uplink = process.uplink(tier, given, telemetry.counted, security.of(given).above)
    models = process.models(tier, given, uplink)
    service = TierService(models, given.max_batch, given.deadline_seconds, telemetry.observers)
    door = OpenInference(models, given.max_batch, given.deadline_seconds, telemetry.observers)
    async with _serving([service.service(), door.service()], models, uplink, given, telemetry) as running:
        yield running


@asynccontextmanager
async def device(path: Paths, next_address: str | None = None, **settings: object) -> AsyncIterator[Running]:
    """A device agent with its public door and fixed plans."""
    given = DeviceSettings(**{"bundle": path, "next": next_address, "listen": "127.0.0.1:0"} | settings)
    telemetry = Telemetry(Tier.DEVICE, given)
    uplink = process.uplink(Tier.DEVICE, given, telemetry.counted, security.of(given).above)
    models = process.models(Tier.DEVICE, given, uplink)
    for served in models:
        plan = fixed_plan(served.manifest, given.split_points, given.hop_codecs)
        served.front = Agent(served.runtime, FixedPlan(plan), codecs=given.hop_codecs)
        telemetry.metrics.live.add(of_plans(served.manifest.name, served.front.plans, served.front.policy))
    door = OpenInference(models, given.max_batch, given.deadline_seconds, telemetry.observers)
    async with _serving([door.service()], models, uplink, given, telemetry) as running:
        yield running


@asynccontextmanager
async def _serving(
    services: list[Service], models: Models, uplink: Uplink | None, given: TierSettings, telemetry: Telemetry
) -> AsyncIterator[Running]:
    calls = telemetry.around(services)
    secured, observers = security.of(given), telemetry.observers
    server = TierServer(
        services, models.limiter, given.max_message_bytes, secured, observers, given.memory_bytes, first=calls
    )
    metrics = telemetry.start(models, uplink)
    port = await server.start(given.listen)
    await asyncio.to_thread(process.warm, models, given.model_copy(update={"profile_seconds": 0.0}))
    await server.ready()
    try:
        yield Running(f"127.0.0.1:{port}", models.first.runtime, server, models.limiter, models, telemetry, metrics)
    finally:
        await server.drain(0, 0)
        await process.close(models, uplink)
        await telemetry.close()


@dataclass(slots=True)
class ThreeTiers:
    """Device, edge and cloud, joined."""

    device: Running
    edge: Running
    cloud: Running


@asynccontextmanager
async def three_tiers(path: Paths, **settings: object) -> AsyncIterator[ThreeTiers]:
    async with AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(upper(Tier.CLOUD, path))
        edge = await stack.enter_async_context(upper(Tier.EDGE, path, cloud.address))
        front = await stack.enter_async_context(device(path, edge.address, **settings))
        yield ThreeTiers(front, edge, cloud)
