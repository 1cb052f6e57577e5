"""The plan that suits what is believed now: beliefs come in with every answer, a better plan goes out.

Each combination of policy and batch size has a plan of its own. A request takes the plan that is ready; a
better one is prepared on every tier first and then takes its place, so that no request waits for a switch.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Protocol

from device_agent import planner
from device_agent.pauses import Pauses
from device_agent.planner import Beliefs, Options, PlanCost
from device_agent.queues import Queueing, Queues, quickest
from device_agent.switching import RULE, Switcher, SwitchRule
from services import log
from services.bundle import Manifest
from services.domain import Clock, Deadline, LinkEstimate, Objective, Plan, Policy, Tier, TierProfile
from services.errors import DeadlineExceeded, OfframpError, Unavailable
from services.profile import corrected
from services.response import Response

REPLAN_SECONDS = 0.1
PREPARE_SECONDS = 2.0
_MAX_CHOICES = 32
_AT_ONCE = 4
_NEAR = 1.5
_IN_USE_SECONDS, _UNUSED_SECONDS = 2.0, 1.0
_WAITED_SECONDS = 30.0
_NEXT_BEST = 4
"""Plans that are looked at where the best cannot be prepared: who refuses one for good often refuses more like it."""


class Prepares(Protocol):
    """Makes a plan ready on every tier that it names."""

    async def prepare(self, plan: Plan, deadline: Deadline) -> None: ...

    def ready(self, plan: Plan) -> bool: ...


_HERE = frozenset({Tier.DEVICE})
_AWAY = frozenset(Tier) - _HERE


@dataclass(slots=True)
class _Spare:
    """The best plan for which only `tiers` compute, once it is ready, where requests had to wait for others lately."""

    tiers: frozenset[Tier]
    ready: Queueing | None = None
    wanted_at: float = -math.inf
    preparing: asyncio.Task[None] | None = None


@dataclass(slots=True)
class _Choice:
    """The plan of one policy and batch size; `switcher` decides when to leave it.

    known: what is expected of the plan, once that can be told. spares: the best plans that run nothing on the device,
    and nothing elsewhere, for requests that would wait for the device or for the link.
    """

    plan: Plan
    switcher: Switcher
    known: Queueing | None = None
    spares: tuple[_Spare, _Spare] = field(default_factory=lambda: (_Spare(_AWAY), _Spare(_HERE)))
    asked_at: float = -math.inf
    considered_at: float = -math.inf
    switching: asyncio.Task[None] | None = None

    def switches(self) -> list[asyncio.Task[None]]:
        """What prepares a plan for it."""
        return [task for task in (self.switching, *(spare.preparing for spare in self.spares)) if task]


def _nothing() -> None:
    pass


def _no_queues() -> Queues:
    return Queues()


@dataclass(slots=True)
class Replanner:
    """Keeps a plan for each policy and batch size, and changes it as beliefs change. Needs a running event loop.

    `fallback` is the plan while too little is known to compare plans; `changes` counts those put in place of another.
    `asked` hears of each request that is given a plan. `queues` tells what a request would wait for now.
    """

    manifest: Manifest
    fallback: Plan
    preparer: Prepares
    options: Options = field(default_factory=Options)
    rule: SwitchRule = RULE
    clock: Clock = time.monotonic
    asked: Callable[[], None] = _nothing
    queues: Callable[[], Queues] = _no_queues
    changes: int = 0
    _profiles: dict[Tier, TierProfile] = field(default_factory=dict)
    _links: dict[Tier, LinkEstimate] = field(default_factory=dict)
    _choices: OrderedDict[tuple[Policy, int], _Choice] = field(default_factory=OrderedDict)
    _pauses: Pauses = field(default_factory=Pauses)

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
        """Reconsiders plans for beliefs that came without an answer: those in use, and at times the others.

        A few in one go, for as long as requests wait; those first that were not for longest.
        """
        now = self.clock()
        by_age = sorted(self._choices.items(), key=lambda item: item[1].considered_at)
        due = (
            (choice, policy, size)
            for (policy, size), choice in by_age
            if now - choice.asked_at < _IN_USE_SECONDS or now - choice.considered_at >= _UNUSED_SECONDS
        )
        for choice, policy, size in islice(due, _AT_ONCE):
            self._consider(choice, policy, size)

    def asked_for(self) -> tuple[tuple[Policy, int], ...]:
        """The policies and batch sizes that have a plan."""
        return tuple(self._choices)

    async def settle(self) -> None:
        """Waits until no plan is being prepared."""
        await asyncio.gather(*self._switches(), return_exceptions=True)

    async def stop(self) -> None:
        """Drops what is being prepared."""
        for switch in self._switches():
            switch.cancel()
        await self.settle()

    def _switches(self) -> list[asyncio.Task[None]]:
        return [task for choice in self._choices.values() for task in choice.switches()]

    def _unless_it_waits(self, choice: _Choice) -> Plan:
        """A spare plan, where its queues make the chosen one that much slower."""
        queues, known = self.queues(), choice.known
        if known is None or known.expected(queues) <= known.seconds:
            return choice.plan
        for spare, seconds in zip(choice.spares, (queues.device, queues.link), strict=True):
            if seconds > 0:
                spare.wanted_at = self.clock()
        ready = [spare.ready for spare in choice.spares if spare.ready is not None]
        return quickest(known, ready, queues).plan

    def _choice(self, policy: Policy, size: int) -> _Choice:
        key = (policy, size)
        if key not in self._choices:
            if len(self._choices) >= _MAX_CHOICES:
                _, unused = self._choices.popitem(last=False)
                for switch in unused.switches():
                    switch.cancel()
            self._choices[key] = _Choice(self._until_planned(policy, size), Switcher(self.rule, self.clock))
            self._consider(self._choices[key], policy, size)
        self._choices.move_to_end(key)
        return self._choices[key]

    def _until_planned(self, policy: Policy, size: int) -> Plan:
        """What is ready: who leaves otherwise than calibrated goes like the rest until there is something better."""
        same = self._choices.get((replace(policy, leaving=None), size))
        return same.plan if same is not None else self.fallback

    def _consider(self, choice: _Choice, wanted: Policy, size: int) -> None:
        policy = self._within_reach(wanted)
        choice.considered_at = self.clock()
        if choice.switching is not None and not choice.switching.done():
            return
        beliefs = self.beliefs()
        for spare in choice.spares:
            self._look_for_spare(spare, beliefs, policy, size)
        best = self._best(beliefs, policy, size, self.options, choice.plan)
        if best is None:
            return
        if best.plan.stages == choice.plan.stages:
            choice.plan = best.plan  # the same, with what is expected of it now
            choice.known = self._queueing(best, policy, size)
            choice.switcher.kept(_needed(best, policy))
            return
        current = planner.cost(beliefs, choice.plan, policy, size, options=self.options)
        choice.known = self._queueing(current, policy, size)
        due = self._may_try(best.plan) and choice.switcher.due(_objective(current, policy), _needed(best, policy))
        if due and self.preparer.ready(best.plan):
            self._put_in_place(choice, best, current, policy, size)
        elif due:
            choice.switching = _going_on(self._switch(choice, best, current, policy, size))
        elif current is not None and current.seconds <= _NEAR * best.seconds:
            choice.plan = current.plan  # kept, with what is expected of it now: tiers lose patience by that

    def _best(
        self, beliefs: Beliefs, policy: Policy, size: int, options: Options, ready: Plan | None
    ) -> PlanCost | None:
        """The best plan that is ready or may be tried; the best of all where none of the next few may be."""
        ranked = planner.rank(beliefs, policy, size, count=1, options=options)
        if ranked and not self._may_try(ranked[0].plan):
            ranked = planner.rank(beliefs, policy, size, count=_NEXT_BEST, options=options)
        stages = ready.stages if ready is not None else None
        usable = (each for each in ranked if each.plan.stages == stages or self._may_try(each.plan))
        return next(usable, ranked[0] if ranked else None)

    def _may_try(self, plan: Plan) -> bool:
        return self._pauses.over(plan, self.clock())

    def _within_reach(self, policy: Policy) -> Policy:
        """No plan is more accurate than the whole network: who asks for more gets the most."""
        calibration = self.manifest.calibration
        if calibration is None or policy.min_accuracy is None or policy.min_accuracy <= calibration.accuracy:
            return policy
        return replace(policy, min_accuracy=calibration.accuracy)

    def _queueing(self, found: PlanCost | None, policy: Policy, size: int) -> Queueing | None:
        return None if found is None else Queueing.of(found, self.manifest, size, policy.leaving)

    def _look_for_spare(self, spare: _Spare, beliefs: Beliefs, policy: Policy, size: int) -> None:
        """Where requests had to wait lately; who saves energy or bytes waits."""
        wanted = self.clock() - spare.wanted_at < _WAITED_SECONDS and policy.objective is Objective.LATENCY
        options = replace(self.options, tiers=self.options.tiers & spare.tiers)
        ready = spare.ready.plan if spare.ready is not None else None
        found = self._best(beliefs, policy, size, options, ready) if wanted else None
        if found is None:
            spare.ready = None
        elif ready is not None and ready.stages == found.plan.stages:
            spare.ready = self._queueing(found, policy, size)
        elif self._may_try(found.plan) and (spare.preparing is None or spare.preparing.done()):
            better = Queueing.of(found, self.manifest, size, policy.leaving)
            spare.preparing = _going_on(self._prepare(spare, better))

    async def _prepare(self, spare: _Spare, found: Queueing) -> None:
        """Where nobody can prepare it, there is none; the next try comes after a pause."""
        spare.ready = None
        with suppress(OfframpError):
            await self._make_ready(found.plan)
            spare.ready = found

    async def _switch(
        self, choice: _Choice, better: PlanCost, current: PlanCost | None, policy: Policy, size: int
    ) -> None:
        """Prepares `better` and puts it in place. Where a tier cannot, the plan is kept; the next try has a pause."""
        try:
            await self._make_ready(better.plan)
        except OfframpError as error:
            log.event("plan not prepared", plan=str(better.plan), reason=error.reason, message=str(error))
            return
        self._put_in_place(choice, better, current, policy, size)

    def _put_in_place(self, choice: _Choice, better: PlanCost, was: PlanCost | None, policy: Policy, size: int) -> None:
        choice.plan, choice.known = better.plan, self._queueing(better, policy, size)
        self.changes += 1
        choice.switcher.switched(_needed(better, policy))
        log.event(
            "plan",
            plan=str(better.plan),
            expected_ms=_milliseconds(better),
            was_ms=_milliseconds(was),
            objective=policy.objective.value,
            batch_size=size,
        )

    async def _make_ready(self, plan: Plan) -> None:
        """Raises what the preparer raised, and then leaves `plan` alone for a while."""
        try:
            await self.preparer.prepare(plan, Deadline.after(PREPARE_SECONDS, self.clock))
        except Exception as error:
            self._pauses.failed(plan, self.clock(), isinstance(error, Unavailable | DeadlineExceeded))
            raise
        self._pauses.prepared(plan)


def _going_on(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Nobody waits for it: a mistake in it is logged."""
    task = asyncio.create_task(work, name="switch")
    task.add_done_callback(log.ended)
    return task


def bucket(batch_size: int) -> int:
    """Batches of similar size share a plan: the power of two at or above."""
    return 1 << (batch_size - 1).bit_length()


def _loaded(known: TierProfile, lately: TierProfile) -> TierProfile:
    """`known` with how loaded the tier is lately, and what its codecs make of what it sends."""
    codecs = corrected(known.codecs, lately.codecs) if lately.codecs else known.codecs
    return TierProfile(
        known.tier, lately.queue_seconds, known.segments, codecs, lately.slowdown, lately.holds or known.holds
    )


def _needed(found: PlanCost, policy: Policy) -> float:
    return {Objective.ENERGY: found.joules, Objective.BYTES: found.bytes}.get(policy.objective, found.seconds)


def _objective(found: PlanCost | None, policy: Policy) -> float | None:
    return None if found is None else _needed(found, policy)


def _milliseconds(found: PlanCost | None) -> float | None:
    return None if found is None else round(1000 * found.seconds, 3)
