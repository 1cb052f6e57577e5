"""What keeps the device's plan current: its own profile, what the tiers above tell, and probes of a quiet link."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any

from device_agent.planner import Options
from device_agent.plans import FixedPlan, Plans
from device_agent.queues import Queues
from device_agent.replan import PREPARE_SECONDS, Replanner
from services import log
from services.bundle import Manifest
from services.domain import Deadline, Plan, Policy, Segment, Tier
from services.errors import DeadlineExceeded, OfframpError, SettingsError, Unavailable
from services.fixed import fixed_plan, held_plan
from services.front import sends_input
from services.preparing import Preparer
from services.probing import Prober, late
from services.settings import DeviceSettings
from services.tier import TierRuntime
from services.uplink import Uplink

FIRST_SECONDS = 2.0
"""How long the start may wait for the tiers above to tell of themselves; without them it plans for the device alone."""


def policy_of(settings: DeviceSettings) -> Policy:
    """The policy of a request that brings none."""
    return Policy(settings.policy, settings.min_accuracy, privacy=settings.privacy)


def options_of(settings: DeviceSettings) -> Options:
    """What the operator allows the planner."""
    return Options(
        max_accuracy_loss=settings.max_accuracy_loss,
        active_watts=settings.compute_watts,
        idle_watts=settings.idle_watts,
        joules_per_byte=settings.joules_per_byte,
    )


def fallback_plan(manifest: Manifest, settings: DeviceSettings) -> Plan:
    """The plan while nothing is known: the splits in the settings, else after the exits, within what is held.

    Raises SettingsError where it does not fit the network, or would send the raw input though that must stay.
    """
    if settings.split_points is None:
        plan = held_plan(manifest, settings.hop_codecs, holds=settings.holds, privacy=settings.privacy)
    else:
        plan = fixed_plan(manifest, settings.split_points, settings.hop_codecs)
    if settings.privacy and sends_input(plan, manifest):
        least = Segment(0, manifest.first_activation)
        raise SettingsError(
            f"privacy: the raw input would leave the device; have it run at least {least} (splits, holds)"
        )
    return plan


class Planning:
    """The plans of one device and what feeds them. `start` needs a running event loop; `stop` leaves nothing behind."""

    def __init__(self, runtime: TierRuntime, preparer: Preparer, uplink: Uplink | None, settings: DeviceSettings):
        self._runtime = runtime
        self._preparer = preparer
        self._uplink = uplink
        self._every_seconds = settings.refresh_seconds
        self._tasks: list[asyncio.Task[None]] = []
        self._heard = asyncio.Event()
        self.policy = policy_of(settings)
        self.fallback = fallback_plan(runtime.model.manifest, settings)
        self._replanner = None if settings.splits else self._of(options_of(settings))
        self.plans: Plans = self._replanner or FixedPlan(self.fallback)

    def plan(self) -> Plan:
        """The plan for one sample, as far as settings say."""
        return self.plans.plan(self.policy, 1)

    async def start(self) -> None:
        """Asks the tiers above, chooses the first plan, and goes on doing so in the background.

        Whoever probes the link calls `probed`, for which the first plan waits a moment.
        """
        if self._uplink is not None:
            self._go_on("prepare", self._make_fallback_ready())
        replanner = self._replanner
        if replanner is None:
            return
        replanner.believe([self._runtime.profiler.full_profile()], [])
        if self._uplink is not None:
            await asyncio.gather(self._ask(self._uplink, FIRST_SECONDS), self._first_estimate(self._uplink))
            self._go_on("refresh", self._refresh(self._uplink))
        replanner.plan(self.policy, 1)
        await replanner.settle()

    async def stop(self) -> None:
        """Ends what runs in the background."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._replanner is not None:
            await self._replanner.stop()

    def _go_on(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(log.ended)
        self._tasks.append(task)

    async def _make_fallback_ready(self) -> None:
        """On the tiers above, or the first requests by it would wait for that; again while those are away."""
        while True:
            try:
                return await self._preparer.prepare(self.fallback, Deadline.after(PREPARE_SECONDS))
            except (Unavailable, DeadlineExceeded):
                await asyncio.sleep(FIRST_SECONDS)
            except OfframpError as error:  # who goes by it is told the same
                return log.event("plan not prepared", plan=str(self.fallback), reason=error.reason, message=str(error))

    def needs_link(self) -> bool:
        """Whether plans may depend on how the link is."""
        return self._replanner is not None and self._replanner.needs_link()

    def probed(self) -> None:
        """A probe came back, or did not: with nothing sent, nobody else would tell the planner."""
        self._heard.set()
        if self._uplink is not None:
            self._think_again(self._uplink)

    async def _first_estimate(self, uplink: Uplink) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_SECONDS):
                while uplink.link().up_bytes_per_second is None:
                    await self._heard.wait()
                    self._heard.clear()

    async def _refresh(self, uplink: Uplink) -> None:
        """Often until the next tier has told of itself, which it cannot before it is up."""
        while self._replanner is not None:
            told = Tier.EDGE in self._replanner.beliefs().profiles
            await asyncio.sleep(self._every_seconds if told else min(FIRST_SECONDS, self._every_seconds))
            await self._ask(uplink, self._every_seconds)

    async def _ask(self, uplink: Uplink, seconds: float) -> None:
        """A tier that does not answer is no news: what was known of it stands; its link says whether it is there.

        What tells of another model, or of other tiers than those above, is not believed.
        """
        if self._replanner is None:
            return
        with contextlib.suppress(OfframpError):
            model_hash = self._runtime.model.manifest.model_hash
            told = await uplink.describe(seconds, model_hash)
            if told.fits(Tier.DEVICE, model_hash):
                self._replanner.believe(told.profiles, told.links)
        self._think_again(uplink)

    def _think_again(self, uplink: Uplink) -> None:
        """By what is believed of the link now. A mistake in planning is logged, and no reason to stop looking."""
        if self._replanner is None:
            return
        try:
            self._replanner.believe([], [uplink.link()])
            self._replanner.reconsider()
        except Exception:
            log.event("failed", logging.ERROR, exc_info=True, task="planning")

    def _of(self, options: Options) -> Replanner:
        replanner = Replanner(self._runtime.model.manifest, self.fallback, self._preparer, options)
        if self._uplink is not None:
            replanner.queues = partial(_queues, self._runtime, self._uplink)
            replanner.late = partial(late, self._uplink)
        return replanner


def _queues(runtime: TierRuntime, uplink: Uplink) -> Queues:
    return Queues(runtime.backlog.ahead_seconds(), uplink.ahead_seconds())


def probing(uplink: Uplink, plannings: Sequence[Planning]) -> asyncio.Task[None]:
    """Probes the link while it is quiet, and tells all who plan by it, until the task is cancelled."""

    def heard() -> None:
        for planning in plannings:
            planning.probed()

    def needed() -> bool:
        return any(planning.needs_link() for planning in plannings)

    probes = asyncio.create_task(Prober(uplink, needed, heard).run(asyncio.Event()), name="probes")
    probes.add_done_callback(log.ended)
    return probes


def segments_of(plan: Plan, last: int) -> tuple[Segment, ...]:
    """What to make ready at start: the whole network, for when nobody else answers, and the plan's parts."""
    return (Segment(0, last), *(stage.segment for stage in plan.stages))
