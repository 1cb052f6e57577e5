"""Who plans, by turns on one device: the live planner, the device alone as a fixed plan, and the oracle."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from device_agent.agent import Agent
from device_agent.planning import Planning
from services.domain import Deadline, FloatArray, LinkEstimate
from services.preparing import Preparer
from services.probing import Prober
from services.tier import NextTier
from services.uplink import Uplink
from testbed.bench import live, policies
from testbed.bench.compare import Bench, Trial
from testbed.bench.policies import Static
from testbed.bench.speeds import Speeds
from testbed.bench.world import Loop
from testbed.local import TestbedError
from testbed.traces import name_of, read_trace

PLANNED, FIXED, ORACLE = "planned", "fixed", "oracle"
BLOCK_SECONDS = 0.4
_SETTLE_SECONDS = 4.0
_SEED = 0


@dataclass(slots=True)
class Resting:
    """The link as a prober sees it, which is in use and tells all there is to know while probes are to rest.

    Its clock stands still meanwhile, or all the probes of the time that others had would fall into the next turn.
    """

    uplink: Uplink
    rests: bool = False
    _since: float = 0.0  # of the last change between rest and use
    _rested: float = 0.0  # in all
    _untold: float = 0.0  # since the link told something

    def rest(self, rests: bool) -> None:
        """From now on, or no longer."""
        now = time.monotonic()
        if self.rests:
            self._rested += now - self._since
            self._untold += now - self._since
        self.rests, self._since = rests, now

    def clock(self) -> float:
        now = time.monotonic()
        return now - self._rested - (now - self._since if self.rests else 0.0)

    async def probe(self, nbytes: int, timeout_seconds: float) -> None:
        await self.uplink.probe(nbytes, timeout_seconds)

    def link(self) -> LinkEstimate:
        found = self.uplink.link()
        if found.age_seconds is None:
            return found
        if found.age_seconds < time.monotonic() - self._since:
            self._untold = 0.0
        return replace(found, age_seconds=max(found.age_seconds - self._untold, 0.0))

    @property
    def overdue(self) -> bool:
        return not self.rests and self.uplink.overdue

    @property
    def doubtful(self) -> bool:
        return not self.rests and self.uplink.doubtful

    def quiet_seconds(self) -> float:
        return 0.0 if self.rests else self.uplink.quiet_seconds()

    def untaught_seconds(self) -> float:
        return 0.0 if self.rests else self.uplink.untaught_seconds()


@dataclass(frozen=True, slots=True)
class Side:
    """Who has a turn: an agent, and the way up that the device goes for it."""

    agent: Agent
    next_tier: NextTier | None


@asynccontextmanager
async def planned(tiers: live.Tiers, uplink: Uplink) -> AsyncIterator[tuple[Planning, Resting]]:
    """The live loop with its first plan ready, and its probes."""
    planning, seen = Planning(tiers.device, Preparer(tiers.device, uplink), uplink, tiers.asked), Resting(uplink)
    stop = asyncio.Event()
    probes = asyncio.create_task(Prober(seen, planning.needs_link, planning.probed, seen.clock).run(stop))
    try:
        await planning.start()
        await asyncio.sleep(_SETTLE_SECONDS)
        yield planning, seen
    finally:
        stop.set()
        try:
            await probes
        finally:
            await planning.stop()


@asynccontextmanager
async def sides(
    each: Bench, tiers: live.Tiers, trial: Trial, trace: str
) -> AsyncIterator[tuple[dict[str, Side], Resting]]:
    """All of them, ready, on the link that follows the file `trace`; and the link whose probes can be told to rest."""
    device = tiers.device
    await live.reshape(tiers, live.FAST)
    async with AsyncExitStack() as stack:
        book, known = live.way_up(each, tiers, trial, policies.ORACLE)
        stack.push_async_callback(known.close)
        all_seen = policies.oracle(policies.ORACLE, each.choices, live.situation(device, book))
        oracle = Side(Agent(device, all_seen), device.next_tier)
        own, uplink = live.way_up(each, tiers, trial, policies.OURS)
        stack.push_async_callback(uplink.close)
        alone = Static(policies.static_plans(each.workload.bundle.manifest)["device"])
        preparer = Preparer(device, known)
        for plan in {plan.stages: plan for plan in each.choices.plans}.values():
            await preparer.prepare(plan, Deadline.after(live.PREPARE_SECONDS))
        await live.reshape(tiers, f"trace:{trace}")
        book.begin()
        own.begin()
        planning, seen = await stack.enter_async_context(planned(tiers, uplink))
        ours, fixed = (Side(Agent(device, plans), device.next_tier) for plans in (planning.plans, alone))
        yield {PLANNED: ours, FIXED: fixed, ORACLE: oracle}, seen


async def blocks(each: Bench, tiers: live.Tiers, file: Path, loop: Loop, count: int) -> dict[str, list[float]]:
    """Mean milliseconds of `count` blocks of each side, in turns under the same arrivals and samples.

    Raises TestbedError where a request has no answer.
    """
    shutil.copyfile(file, tiers.traces / file.name)
    trial = Trial(name_of(file), read_trace(file), BLOCK_SECONDS, loop, _SEED)
    inputs, rng = each.workload.inputs(), random.Random(_SEED)
    async with sides(each, tiers, trial, file.name) as (agents, seen):
        found: dict[str, list[float]] = {name: [] for name in agents}
        for again in trial.turns(count):
            for name in rng.sample(list(agents), len(agents)):
                seen.rest(name != PLANNED)
                tiers.device.next_tier = agents[name].next_tier
                found[name].append(await _block(each, agents[name].agent, again, inputs))
    return found


async def _block(each: Bench, agent: Agent, trial: Trial, inputs: FloatArray) -> float:
    speeds = Speeds(each.costs, each.world, each.workload.bundle.manifest)
    runs = await live.serve(each, agent, trial, inputs, False, speeds, time.monotonic())
    if any(runs.failed):
        raise TestbedError(f"{trial.name}: {sum(runs.failed)} of {len(runs)} requests had no answer")
    return 1e3 * float(np.mean(runs.seconds))
