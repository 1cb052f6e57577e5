"""What the running tiers take beside what was measured of segments and codecs: for the simulation."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace

from device_agent.agent import Agent
from services.client import GrpcNextTier
from services.domain import Deadline, Plan, Tier
from services.front import Wishes
from services.preparing import Preparer
from services.response import HopTrace
from services.uplink import Uplink
from testbed.bench.compare import Bench
from testbed.bench.live import FAST, NEVER, PREPARE_SECONDS, Tiers, reshape
from testbed.bench.policies import JPEG, Static, relay
from testbed.bench.routes import plan_of
from testbed.bench.world import World

_CALIBRATIONS = 30


@dataclass(frozen=True, slots=True)
class Calibration:
    """Seconds of one call besides the link, and of one request on the device besides its segments."""

    call_seconds: float
    agent_seconds: float

    def of(self, world: World) -> World:
        return replace(world, call_seconds=self.call_seconds, agent_seconds=self.agent_seconds)


async def calibrate(each: Bench, tiers: Tiers) -> Calibration:
    """Times requests on a fast link: alone on the device, and passed through to the cloud.

    What is passed through is small, as what plans send on slow links: a large one has more of the proxy in it, which is
    no such link.
    """
    last = each.workload.bundle.manifest.last
    manifest = each.workload.bundle.manifest
    await reshape(tiers, FAST)
    uplink = Uplink(Tier.DEVICE, tiers.near.address)
    next_tier = GrpcNextTier(uplink, len(manifest.labels), manifest.input.preprocessing)
    tiers.device.next_tier = next_tier
    try:
        local, far = plan_of(last, last), relay(last, 0, JPEG)
        await Preparer(tiers.device, uplink).prepare(far, Deadline.after(PREPARE_SECONDS))
        alone = [await _timed(each, tiers, local) for _ in range(_CALIBRATIONS)]
        passed = [await _timed(each, tiers, far) for _ in range(_CALIBRATIONS)]
    finally:
        await uplink.close()
    network = statistics.median(hops[0].network_seconds - hops[0].bytes_up * 8 / 1e9 for _, hops in passed)
    return Calibration(
        call_seconds=max(0.0, network - each.world.near_rtt_seconds),
        agent_seconds=max(0.0, statistics.median(whole - hops[0].compute_seconds for whole, hops in alone)),
    )


async def _timed(each: Bench, tiers: Tiers, plan: Plan) -> tuple[float, tuple[HopTrace, ...]]:
    """One request without exits: its seconds, and what became of them tier by tier."""
    exits, sample = len(each.workload.bundle.manifest.exits), each.workload.inputs()[:1]
    started = time.monotonic()
    answer = await Agent(tiers.device, Static(plan)).infer(
        sample, Deadline.after(each.world.limit_seconds), wishes=Wishes((*[NEVER] * (exits - 1), 0.0))
    )
    return time.monotonic() - started, answer.response.trace.hops
