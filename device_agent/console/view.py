"""One model as the console sees it: what is known of it now, and requests of the console's own."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable, Sequence

from device_agent.agent import Agent
from device_agent.console import state
from device_agent.console.candidates import Candidates, candidates, fixed
from device_agent.console.feed import WINDOW_SECONDS, Feed, window
from device_agent.console.reach import Reach
from device_agent.console.state import Json, Moment
from device_agent.replan import Replanner
from services.bundle import Bundle, Manifest
from services.domain import Clock, Deadline, FloatArray, LinkEstimate, Plan, Tier
from services.errors import OfframpError
from services.front import Answer
from services.limiter import Limiter
from services.model import Model
from services.observing import Finished, Observers, Refused
from services.serving import Served

ASK_SECONDS = 10.0
COMPARE_SECONDS = 1.4


class View:
    """Looks at one agent; asks it, as the public door does, for pictures and samples. `clock`: since the epoch."""

    def __init__(self, bundle: Bundle, agent: Agent, limiter: Limiter, observers: Observers, clock: Clock = time.time):
        self.bundle = bundle
        self.feed = Feed(bundle.manifest, clock)
        self._reach = Reach()
        self._agent, self._limiter, self._observers, self._clock = agent, limiter, observers, clock
        self._compared, self._compared_plan, self._compared_at = (
            Candidates((), "Plans are being compared."),
            "",
            -math.inf,
        )
        observers.add(self.feed)

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    @property
    def model(self) -> Model:
        return self._agent.runtime.model

    def described(self) -> Json:
        """The network: what does not change."""
        return state.model(self.manifest)

    def plan(self) -> Plan:
        """The plan that one sample without wishes gets where nothing else is under way. To look is not to use it."""
        plans, policy = self._agent.plans, self._agent.policy
        return plans.chosen(policy, 1) if isinstance(plans, Replanner) else plans.plan(policy, 1)

    async def ask(self, samples: FloatArray, request_id: str) -> Answer:
        """Answers float32 [N, …] as any request; raises what refuses one."""
        try:
            with self._limiter.admit():
                answer = await self._agent.infer(samples, Deadline.after(ASK_SECONDS), request_id)
        except OfframpError as error:
            named = self.manifest.name, self.manifest.version
            self._observers.refused(Refused(request_id, error.reason, str(error), *named))
            raise
        tier = self._agent.runtime.tier
        ended = Finished(answer.request_id, tier, self.manifest, answer.plan, answer.response, time.time_ns())
        self._observers.answered(ended)
        return answer

    def look(self) -> None:
        """Notes whether the plan has changed, or a link was lost: both may, without any request."""
        self.feed.planned(self.plan())
        self._reach.look(self._links().values(), self._clock())

    async def candidates(self) -> Candidates:
        """The planner's own comparison, off the event loop; no older than 1.4 s, nor than the plan."""
        plans, plan, now = self._agent.plans, self.plan(), self._clock()
        if not isinstance(plans, Replanner):
            return fixed(plan)
        if str(plan) != self._compared_plan or not 0 <= now - self._compared_at < COMPARE_SECONDS:
            self._compared_plan, self._compared_at = str(plan), now
            beliefs, policy = plans.beliefs(), self._agent.policy
            self._compared = await asyncio.to_thread(candidates, beliefs, plan, policy, plans.options)
        return self._compared

    async def now(self, emulated: Sequence[Json | None] = ()) -> Json:
        """What changes from moment to moment, but for requests and history."""
        considered = await self.candidates()
        moment = self._moment()
        return {
            "at": moment.at,
            "tiers": state.tiers(moment),
            "links": state.links(moment, emulated),
            "plan": state.plan(moment) | {"fixed": not isinstance(self._agent.plans, Replanner)},
            "objective": self._agent.policy.objective.value,
            "window": state.window(moment.window),
            "totals": {"requests": self.feed.total, "refused": self.feed.total_refused},
            "changes": state.changes(self.feed.changes),
            **state.considered(considered),
        }

    def requests(self, after: int = 0) -> list[Json]:
        """The last requests behind number `after`, oldest first."""
        return [state.request(seen, self.manifest) for seen in self.feed.after(after)]

    def history(self, seconds: int) -> list[Json]:
        return state.history(self.feed.history(seconds))

    def _moment(self) -> Moment:
        plans, now, links = self._agent.plans, self._clock(), self._links()
        profiles = dict(self.feed.profiles)
        if isinstance(plans, Replanner):
            profiles |= plans.beliefs().profiles
        self._reach.look(links.values(), now)
        return Moment(
            now,
            self.manifest,
            self.plan(),
            profiles,
            {tier: links.get(tier, LinkEstimate(tier)) for tier in (Tier.DEVICE, Tier.EDGE)},
            self.feed.heard_at,
            window(self.feed.history(WINDOW_SECONDS), len(self.manifest.exits), now),
            self._limiter.in_flight,
            self._reach.lost_at(),
        )

    def _links(self) -> dict[Tier, LinkEstimate]:
        """What is believed of each link: by answers, by the tiers themselves, and of our own by ourselves."""
        plans, links = self._agent.plans, dict(self.feed.links)
        if isinstance(plans, Replanner):
            links |= plans.beliefs().links
        return links | {link.source: link for link in self._agent.runtime.links()}


Views = dict[str, View]
"""By name and version of the model, the first one first."""


def views(models: Iterable[Served], observers: Observers) -> Views:
    """A view of each model that has an agent in front."""
    return {
        f"{each.manifest.name}:{each.manifest.version}": View(each.bundle, each.front, each.limiter, observers)
        for each in models
        if isinstance(each.front, Agent)
    }
