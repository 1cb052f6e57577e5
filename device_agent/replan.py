"""The plan that suits what is believed now: beliefs come in with every answer, a better plan goes out.

Each combination of policy and batch size has a plan of its own. A request takes the plan that is ready; a
better one is prepared on every tier first and then takes its place, so that no request waits for a switch.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

from device_agent import planner
from device_agent.planner import Beliefs, Options, PlanCost
from device_agent.switching import RULE, Switcher, SwitchRule
from services import log
from services.bundle import Manifest
from services.domain import Clock, Deadline, LinkEstimate, Objective, Plan, Policy, Response, Tier, TierProfile
from services.errors import OfframpError

REPLAN_SECONDS = 0.1
PREPARE_SECONDS = 2.0
_MAX_CHOICES = 32
_IN_USE_SECONDS, _UNUSED_SECONDS = 2.0, 1.0
_SPARE_SHARE = 0.85


class Prepares(Protocol):
    """Makes a plan ready on every tier that it names."""

    async def prepare(self, plan: Plan, deadline: Deadline) -> None: ...


@dataclass(slots=True)
class _Choice:
    """The plan of one policy and batch size; `switcher` decides when to leave it.

    spare: the best plan that runs nothing on the device, once it is ready, for requests that would wait for the device.
    """

    plan: Plan
    switcher: Switcher
    spare: Plan | None = None
    waited_at: float = -math.inf
    asked_at: float = -math.inf
    considered_at: float = -math.inf
    switching: asyncio.Task[None] | None = None
    sparing: asyncio.Task[None] | None = None


def _nothing() -> None:
    pass


def _no_wait() -> float:
    return 0.0


@dataclass(slots=True)
class Replanner:
    """Keeps a plan for each policy and batch size, and changes it as beliefs change. Needs a running event loop.

    `fallback` is the plan while too little is known to compare plans; `changes` counts those put in place of another.
    `asked` hears of each request that is given a plan. `wait` tells how long a run would wait for the device now.
    """

    manifest: Manifest
    fallback: Plan
    preparer: Prepares
    options: Options = field(default_factory=Options)
    rule: SwitchRule = RULE
    clock: Clock = time.monotonic
    asked: Callable[[], None] = _nothing
    wait: Callable[[], float] = _no_wait
    changes: int = 0
    _profiles: dict[Tier, TierProfile] = field(default_factory=dict)
    _links: dict[Tier, LinkEstimate] = field(default_factory=dict)
    _choices: OrderedDict[tuple[Policy, int], _Choice] = field(default_factory=OrderedDict)

    def plan(self, policy: Policy, batch_size: int) -> Plan:
        """The plan that is ready for a request of this policy and batch size."""
        choice = self._choice(policy, bucket(batch_size))
        choice.asked_at = self.clock()
        self.asked()
        return self._unless_it_waits(choice)

    def chosen(self, policy: Policy, batch_size: int) -> Plan:
        """The plan for requests that find the device idle."""
        return self._choice(policy, bucket(batch_size)).plan

    def learn(self, response: Response, policy: Policy, batch_size: int) -> None:
        """Takes in what came back with an answer, and reconsiders that request's plan, at most every 0.1 s.

        An answer says how loaded each tier is and how its links are, not all that a tier can run.
        """
        for profile in response.profiles:
            if profile.tier in self._profiles:
                self._profiles[profile.tier] = _loaded(self._profiles[profile.tier], profile)
        self._links |= {link.source: link for link in response.links}
        size = bucket(batch_size)
        choice = self._choice(policy, size)
        if self.clock() - choice.considered_at >= REPLAN_SECONDS:
            self._consider(choice, policy, size)

    def believe(self, profiles: Iterable[TierProfile], links: Iterable[LinkEstimate]) -> None:
        """Takes in what tiers told of themselves: whole profiles, in place of what was known of them."""
        for profile in profiles:
            known = self._profiles.get(profile.tier)
            if known is not None and known.segments == profile.segments:
                profile = replace(profile, segments=known.segments)  # by which tables are kept
            if known is not None and known.codecs == profile.codecs:
                profile = replace(profile, codecs=known.codecs)
            self._profiles[profile.tier] = profile
            sizes = {1} | {size for _, size in self._choices}
            planner.ready(self.manifest, profile, sizes, self.options)  # now, and not when a plan is due
        self._links |= {link.source: link for link in links}

    def beliefs(self) -> Beliefs:
        return Beliefs(self.manifest, dict(self._profiles), dict(self._links))

    def reconsider(self) -> None:
        """Reconsiders plans for beliefs that came without an answer: those in use, and at times the others."""
        now = self.clock()
        for (policy, size), choice in self._choices.items():
            if now - choice.asked_at < _IN_USE_SECONDS or now - choice.considered_at >= _UNUSED_SECONDS:
                self._consider(choice, policy, size)

    async def settle(self) -> None:
        """Waits until no plan is being prepared."""
        await asyncio.gather(*self._switches(), return_exceptions=True)

    async def stop(self) -> None:
        """Drops what is being prepared."""
        for switch in self._switches():
            switch.cancel()
        await self.settle()

    def _switches(self) -> list[asyncio.Task[None]]:
        tasks = (task for choice in self._choices.values() for task in (choice.switching, choice.sparing))
        return [task for task in tasks if task]

    def _unless_it_waits(self, choice: _Choice) -> Plan:
        """The spare plan, where waiting for the device makes that much quicker."""
        wait, plan = self.wait(), choice.plan
        if wait <= 0 or plan.stages[0].segment.empty:
            return plan
        choice.waited_at = self.clock()
        spare, expected = choice.spare, plan.expected_seconds
        if spare is None or spare.expected_seconds is None or expected is None:
            return plan
        return spare if spare.expected_seconds < _SPARE_SHARE * (wait + expected) else plan

    def _choice(self, policy: Policy, size: int) -> _Choice:
        key = (policy, size)
        if key not in self._choices:
            if len(self._choices) >= _MAX_CHOICES:
                self._choices.popitem(last=False)
            self._choices[key] = _Choice(self.fallback, Switcher(self.rule, self.clock))
            self._consider(self._choices[key], policy, size)
        self._choices.move_to_end(key)
        return self._choices[key]

    def _consider(self, choice: _Choice, policy: Policy, size: int) -> None:
        choice.considered_at = self.clock()
        if choice.switching is not None and not choice.switching.done():
            return
        beliefs = self.beliefs()
        self._look_for_spare(choice, beliefs, policy, size)
        ranked = planner.rank(beliefs, policy, size, count=1, options=self.options)
        if not ranked:
            return
        if ranked[0].plan.stages == choice.plan.stages:
            choice.plan = ranked[0].plan  # the same, with what is expected of it now
            choice.switcher.kept(_needed(ranked[0], policy))
            return
        current = planner.cost(beliefs, choice.plan, policy, size, options=self.options)
        if choice.switcher.due(_objective(current, policy), _needed(ranked[0], policy)):
            choice.switching = asyncio.ensure_future(self._switch(choice, ranked[0], current, policy, size))

    def _look_for_spare(self, choice: _Choice, beliefs: Beliefs, policy: Policy, size: int) -> None:
        """Where requests had to wait lately; who saves energy or bytes waits."""
        waits = self.clock() - choice.waited_at < _IN_USE_SECONDS and policy.objective is Objective.LATENCY
        options = replace(self.options, tiers=self.options.tiers - {Tier.DEVICE})
        found = planner.rank(beliefs, policy, size, count=1, options=options) if waits else []
        if not found:
            choice.spare = None
        elif choice.spare is not None and choice.spare.stages == found[0].plan.stages:
            choice.spare = found[0].plan
        elif choice.sparing is None or choice.sparing.done():
            choice.sparing = asyncio.ensure_future(self._spare(choice, found[0].plan))

    async def _spare(self, choice: _Choice, plan: Plan) -> None:
        """Where nobody can prepare it, there is none; the next try comes."""
        choice.spare = None
        with suppress(OfframpError):
            await self.preparer.prepare(plan, Deadline.after(PREPARE_SECONDS, self.clock))
            choice.spare = plan

    async def _switch(
        self, choice: _Choice, better: PlanCost, current: PlanCost | None, policy: Policy, size: int
    ) -> None:
        """Prepares `better` and puts it in place. A tier that cannot be prepared keeps the plan; the next try comes."""
        try:
            await self.preparer.prepare(better.plan, Deadline.after(PREPARE_SECONDS, self.clock))
        except OfframpError as error:
            log.event("plan not prepared", plan=str(better.plan), reason=error.reason, message=str(error))
            return
        choice.plan = better.plan
        self.changes += 1
        choice.switcher.switched(_needed(better, policy))
        log.event(
            "plan",
            plan=str(better.plan),
            expected_ms=_milliseconds(better),
            was_ms=_milliseconds(current),
            objective=policy.objective.value,
            batch_size=size,
        )


def bucket(batch_size: int) -> int:
    """Batches of similar size share a plan: the power of two at or above."""
    return 1 << (batch_size - 1).bit_length()


def _loaded(known: TierProfile, lately: TierProfile) -> TierProfile:
    """`known` with how loaded the tier is lately."""
    return TierProfile(
        known.tier, lately.queue_seconds, known.segments, known.codecs, lately.slowdown, lately.holds or known.holds
    )


def _needed(found: PlanCost, policy: Policy) -> float:
    return {Objective.ENERGY: found.joules, Objective.BYTES: found.bytes}.get(policy.objective, found.seconds)


def _objective(found: PlanCost | None, policy: Policy) -> float | None:
    return None if found is None else _needed(found, policy)


def _milliseconds(found: PlanCost | None) -> float | None:
    return None if found is None else round(1000 * found.seconds, 3)
