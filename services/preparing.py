"""Making a plan ready before requests take it: each tier builds what it will run, so that none waits for a build."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future
from contextlib import suppress
from typing import Protocol

from services import codec, log
from services.building import Urgency
from services.domain import Deadline, Plan
from services.errors import DeadlineExceeded, QueueFull, UpstreamUnavailable
from services.plan_rules import check_joins, stage_of
from services.tier import TierRuntime

_MAX_WAITING = 8


class PreparesAbove(Protocol):
    """What is needed here of the next tier."""

    async def prepare(self, model_hash: str, plan: Plan, seconds: float) -> None: ...


class Preparer:
    """Has the runtime's part of plans built, one at a time, apart from the workers that serve requests."""

    def __init__(self, runtime: TierRuntime, next_tier: PreparesAbove | None = None):
        self._runtime = runtime
        self._next_tier = next_tier
        self._waiting = 0

    def ready(self, plan: Plan) -> bool:
        """Whether nothing is left to prepare: this tier alone runs `plan`, and has what it needs for that."""
        stage, tier = plan.stage(self._runtime.tier), self._runtime.tier
        return stage is not None and plan.after(tier) is None and self._runtime.model.resident(stage.segment)

    async def prepare(self, plan: Plan, deadline: Deadline) -> None:
        """Returns when this tier and those above are ready to run `plan`.

        Raises InvalidInput for a plan that does not join up, passes this tier by, or has images inside the network,
        NotHeld for one beyond what is held, QueueFull where too many wait already, DeadlineExceeded, or what the
        next tier raised.
        """
        runtime = self._runtime
        check_joins(plan, runtime.model.last)
        segment = stage_of(plan, runtime.tier).segment
        runtime.check_held(segment)
        for stage in plan.stages[1:]:
            codec.at(stage.codec, stage.segment.start, runtime.model.manifest.input.preprocessing)
        if self._waiting >= _MAX_WAITING:
            raise QueueFull(f"{self._waiting} plans wait to be prepared")
        build = runtime.builder.prepare(Urgency.PLAN, segment)
        built = asyncio.wrap_future(build)
        self._waiting += 1
        try:
            async with asyncio.timeout(deadline.remaining()):
                await asyncio.gather(asyncio.shield(built), self._above(plan, deadline))
        except TimeoutError:
            raise DeadlineExceeded(f"the {runtime.tier.label} was not ready for the plan in time") from None
        finally:
            self._let_go(build, built)
        with suppress(RuntimeError):  # it was closed meanwhile
            if (rest := runtime.prepare_rest(segment.end)) is not None:
                rest.add_done_callback(_rest_ended)

    def _let_go(self, build: Future[None], built: asyncio.Future[None]) -> None:
        """Nobody waits for `build` any more: it is dropped if it has not begun, else it counts until it ends."""
        build.cancel()
        if build.done():
            self._ended(built)
        else:
            built.add_done_callback(self._ended)

    def _ended(self, _: asyncio.Future[None]) -> None:
        self._waiting -= 1

    async def _above(self, plan: Plan, deadline: Deadline) -> None:
        following = plan.after(self._runtime.tier)
        if following is None:
            return
        if self._next_tier is None:
            raise UpstreamUnavailable(f"the plan goes on to the {following.tier.label}, this tier has no next one")
        await self._next_tier.prepare(self._runtime.model.manifest.model_hash, plan, deadline.remaining())


def _rest_ended(rest: Future[None]) -> None:
    """Nobody waits for it, so that its error would pass unseen."""
    if not rest.cancelled() and (error := rest.exception()) is not None:
        log.event("rest not prepared", logging.WARNING, error)
