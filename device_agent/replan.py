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
from device_agent.choice import Choice, Spare, bucket
from device_agent.known import Known
from device_agent.lead import Lead
from device_agent.pauses import Pauses
from device_agent.planner import Beliefs, Options, PlanCost
from device_agent.problem import Problem
from device_agent.queues import NO_QUEUES, Queueing, Queues, quickest
from device_agent.switching import RULE, Switcher, SwitchRule
from services import log
from services.bundle import Manifest
from services.domain import Clock, Deadline, LinkEstimate, Objective, Plan, Policy, Tier, TierProfile
from services.errors import DeadlineExceeded, OfframpError, Unavailable
from services.probing import WATCHED_FOR_SECONDS
from services.response import Response

REPLAN_SECONDS = 0.1
_HEED_SECONDS = 0.01
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


@dataclass(slots=True)
class Replanner:
    """Keeps a plan for each policy and batch size, and changes it as beliefs change. Needs a running event loop.

    `fallback` is the plan while too little is known to compare plans; `changes` counts those put in place of another.
    `queues` tells what a request would wait for now, `late` what is believed of the link while it keeps calls waiting
    for longer than is plausible.
    """

    manifest: Manifest
    fallback: Plan
    preparer: Prepares
    options: Options = field(default_factory=Options)
    rule: SwitchRule = RULE
    clock: Clock = time.monotonic
    queues: Callable[[], Queues] = lambda: NO_QUEUES
    late: Callable[[], LinkEstimate | None] = lambda: None
    changes: int = 0
    _known: Known = field(init=False)
    _looked_at: float = -math.inf
    _overdue: bool = False
    _choices: OrderedDict[tuple[Policy, int], Choice] = field(default_factory=OrderedDict)
    _pauses: Pauses = field(default_factory=Pauses)

    def __post_init__(self) -> None:
        self._known = Known(self.manifest)
        self.fallback = self.fallback.ending_at(self.manifest.last)  # as the planner writes it

    def plan(self, policy: Policy, batch_size: int) -> Plan:
        """The plan that is ready for a request of this policy and batch size."""
        size = bucket(batch_size)
        choice = self._choice(policy, size)
        choice.asked_at = self.clock()
        self._heed(choice, policy, size)
        return self._unless_it_waits(choice)

    def _heed(self, choice: Choice, policy: Policy, size: int) -> None:
        """Looks at a link that keeps calls waiting before yet another one goes there; few times, however many come."""
        now = self.clock()
        if now - self._looked_at >= _HEED_SECONDS:
            self._looked_at, late = now, self.late()
            self._overdue = late is not None
            if late is not None:
                self.believe([], [late])
        if self._overdue and now - choice.considered_at >= _HEED_SECONDS:
            self._consider(choice, policy, size)

    def chosen(self, policy: Policy, batch_size: int) -> Plan:
        """The plan for requests that find the device idle."""
        return self._choice(policy, bucket(batch_size)).plan

    def learn(self, response: Response, policy: Policy, batch_size: int) -> None:
        """Takes in what came back with an answer, and reconsiders that request's plan, at most every 0.1 s."""
        self._known.answered(response)
        size = bucket(batch_size)
        choice = self._choice(policy, size)
        if self.clock() - choice.considered_at >= REPLAN_SECONDS:
            self._consider(choice, policy, size)

    def believe(self, profiles: Iterable[TierProfile], links: Iterable[LinkEstimate]) -> None:
        """Takes in what tiers told of themselves: whole profiles, in place of what was known of them."""
        for profile in self._known.told(profiles, links):
            sizes = {1} | {size for _, size in self._choices}
            planner.ready(self.manifest, profile, sizes, self.options)  # now, and not when a plan is due

    def beliefs(self) -> Beliefs:
        return self._known.beliefs()

    def needs_link(self) -> bool:
        """Whether requests of these last seconds took a spare plan, or would have another one over a better link."""
        since = self.clock() - WATCHED_FOR_SECONDS
        every = self._choices.values()
        return any(each.spared_at > since or (each.needs_link and each.asked_at > since) for each in every)

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

    def _unless_it_waits(self, choice: Choice) -> Plan:
        """A spare plan, where its queues make the chosen one that much slower."""
        queues, known = self.queues(), choice.known
        if queues == NO_QUEUES or known is None or known.expected(queues) <= known.seconds:
            return choice.plan
        for spare, seconds in zip(choice.spares, (queues.device, queues.link), strict=True):
            if seconds > 0:
                spare.wanted_at = self.clock()
        ready = [spare.ready for spare in choice.spares if spare.ready is not None]
        found = quickest(known, ready, queues)
        if found is not known:
            choice.spared_at = self.clock()
        return choice.plan if found is known else found.plan

    def _choice(self, policy: Policy, size: int) -> Choice:
        key = (policy, size)
        choice = self._choices.get(key)
        if choice is None:
            if len(self._choices) >= _MAX_CHOICES:
                _, unused = self._choices.popitem(last=False)
                for switch in unused.switches():
                    switch.cancel()
            choice = self._choices[key] = Choice(self._until_planned(policy, size), Switcher(self.rule, self.clock))
            self._consider(choice, policy, size)
        self._choices.move_to_end(key)
        return choice

    def _until_planned(self, policy: Policy, size: int) -> Plan:
        """What is ready: who leaves otherwise than calibrated goes like the rest until there is something better."""
        same = self._choices.get((replace(policy, leaving=None), size))
        return same.plan if same is not None else self._best_in_place(policy, size)

    def _best_in_place(self, policy: Policy, size: int) -> Plan:
        """Of the plans of all others, and the fallback: where more policies take turns than are kept, none of them is
        ever planned for in time.
        """
        problem = Problem(self.beliefs(), self._within_reach(policy), size, self.options)
        in_place = {plan.stages: plan for plan in (self.fallback, *(each.plan for each in self._choices.values()))}
        found = [cost for plan in in_place.values() if (cost := problem.cost(plan)) is not None]
        return min(found, key=problem.preference).plan if found else self.fallback

    def _consider(self, choice: Choice, policy: Policy, size: int) -> None:
        choice.considered_at = self.clock()
        problem = Problem(self.beliefs(), self._within_reach(policy), size, self.options)
        for spare in choice.spares:
            self._look_for_spare(spare, problem)
        believed = problem.beliefs if choice.needs_link else self._known.at_best()
        if choice.lead is not None and choice.lead.holds(believed):
            return
        choice.lead, choice.needs_link = None, True
        ranked = problem.best(2)
        best = self._usable(ranked, problem, choice.plan)
        if best is None:
            return
        if best.plan.stages != choice.plan.stages:
            self._leave(choice, best, problem)
        elif not choice.under_way:
            choice.plan, choice.known = best.plan, problem.queueing(best)  # with what is expected of it now
            choice.switcher.kept(problem.needed(best))
            if best is ranked[0]:
                self._look_ahead(choice, ranked, problem)

    def _look_ahead(self, choice: Choice, ranked: list[PlanCost], problem: Problem) -> None:
        """How far beliefs may move before there is something to decide.

        A plan of this device alone that is the best over the best of links is so over all, however they change.
        """
        if ranked[0].plan.after(Tier.DEVICE) is None:
            over_best = problem.believing(self._known.at_best())
            found = over_best.best(2)
            if found and found[0].plan.stages == ranked[0].plan.stages:
                choice.lead, choice.needs_link = Lead.of(over_best.beliefs, problem.policy, found), False
                return
        choice.lead = Lead.of(problem.beliefs, problem.policy, ranked)

    def _leave(self, choice: Choice, best: PlanCost, problem: Problem) -> None:
        """Goes over to a better plan, where the rule says that it is time to.

        While another is being prepared, only to one that is ready: a link that dies meanwhile is fled from at once.
        """
        ready = self.preparer.ready(best.plan)
        if choice.under_way and not ready:
            return
        current = problem.cost(choice.plan)
        choice.known = problem.queueing(current) if current is not None else None
        costs = problem.compared(current, best) if current is not None else (None, problem.needed(best))
        due = self._may_try(best.plan) and choice.switcher.due(*costs)
        if due and ready:
            if choice.switching is not None:
                choice.switching.cancel()
            self._put_in_place(choice, best, current, problem)
        elif due:
            choice.switching = _going_on(self._switch(choice, best, current, problem))
        elif current is not None and current.seconds <= _NEAR * best.seconds:
            choice.plan = current.plan  # kept, with what is expected of it now: tiers lose patience by that

    def _usable(self, ranked: list[PlanCost], problem: Problem, ready: Plan | None) -> PlanCost | None:
        """The best that is `ready` or may be tried, of `ranked` or the next few; where none may be, the best of all."""
        if ranked and not self._may_try(ranked[0].plan):
            ranked = problem.best(_NEXT_BEST)
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

    def _look_for_spare(self, spare: Spare, problem: Problem) -> None:
        """Where requests had to wait lately; who saves energy or bytes waits."""
        wanted = self.clock() - spare.wanted_at < _WAITED_SECONDS and problem.policy.objective is Objective.LATENCY
        if wanted and spare.ready is not None and spare.lead is not None and spare.lead.holds(problem.beliefs):
            return
        within, ready = problem.within(spare.tiers), spare.ready.plan if spare.ready is not None else None
        ranked = within.best(1) if wanted else []
        found, spare.lead = self._usable(ranked, within, ready), None
        if found is None:
            spare.ready = None
            return
        lead = Lead(problem.beliefs, found.seconds) if found is ranked[0] else None
        if ready is not None and ready.stages == found.plan.stages:
            spare.ready, spare.lead = within.queueing(found), lead
            return
        kept = within.cost(ready) if ready is not None else None
        spare.ready = within.queueing(kept) if kept is not None else None
        if self._may_try(found.plan) and (spare.preparing is None or spare.preparing.done()):
            spare.preparing = _going_on(self._prepare(spare, within.queueing(found), lead))

    async def _prepare(self, spare: Spare, found: Queueing, lead: Lead | None) -> None:
        """Until it is ready the one before stays; where nobody can prepare it, the next try comes after a pause."""
        with suppress(OfframpError):
            await self._make_ready(found.plan)
            spare.ready, spare.lead = found, lead

    async def _switch(self, choice: Choice, better: PlanCost, current: PlanCost | None, problem: Problem) -> None:
        """Prepares `better` and puts it in place, if it still is. Where a tier cannot, the next try has a pause."""
        try:
            await self._make_ready(better.plan)
        except OfframpError as error:
            log.event("plan not prepared", plan=str(better.plan), reason=error.reason, message=str(error))
            return
        now = problem.believing(self.beliefs())
        found, kept = now.cost(better.plan), now.cost(choice.plan)
        if found is not None and (kept is None or _less(found, kept, now)):
            self._put_in_place(choice, found, current, now)

    def _put_in_place(self, choice: Choice, better: PlanCost, was: PlanCost | None, problem: Problem) -> None:
        choice.plan, choice.known = better.plan, problem.queueing(better)
        self.changes += 1
        choice.switcher.switched(problem.needed(better))
        log.event(
            "plan",
            plan=str(better.plan),
            expected_ms=_milliseconds(better),
            was_ms=_milliseconds(was),
            objective=problem.policy.objective.value,
            batch_size=problem.size,
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


def _less(found: PlanCost, than: PlanCost, problem: Problem) -> bool:
    before, after, _ = problem.compared(than, found)
    return after < before


def _milliseconds(found: PlanCost | None) -> float | None:
    return None if found is None else round(1000 * found.seconds, 3)
