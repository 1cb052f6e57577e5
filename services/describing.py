"""What a tier and those above it believe of themselves, for who plans.

A tier asks the next one, which asks the one above it. What came of it, an answer or none, stands for a few seconds:
any number of callers makes one question, so that a chain of tiers multiplies nothing.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from services import log
from services.domain import Clock, LinkEstimate, Tier, TierProfile
from services.errors import OfframpError
from services.tier import TierRuntime

ASK_SECONDS = 2.0
_KEPT_SECONDS = 2.0
_SHARE = 0.8  # of the time there is: the rest is for answering without the tiers above


@dataclass(frozen=True, slots=True)
class Description:
    """Profiles of a tier and those above it, nearest first, and of the links above it; their model's hash."""

    profiles: tuple[TierProfile, ...] = ()
    links: tuple[LinkEstimate, ...] = ()
    model_hash: str = ""

    def fits(self, tier: Tier, model_hash: str) -> bool:
        """Whether it tells `tier` of the model of that hash, and of tiers above it, in order."""
        tiers = [tier, *(profile.tier for profile in self.profiles)]
        return self.model_hash == model_hash and tiers == sorted(set(tiers))


@runtime_checkable
class DescribesAbove(Protocol):
    """A next tier that can be asked."""

    async def describe(self, timeout_seconds: float, model_hash: str) -> Description: ...


@runtime_checkable
class AgreesAbove(Protocol):
    """A next tier that can be asked whether all of it serves a model."""

    async def agree(self, timeout_seconds: float, model_hash: str) -> None: ...


class Describer:
    """Describes one tier and, as far as they answer in time, those above."""

    def __init__(self, runtime: TierRuntime, clock: Clock = time.monotonic):
        self._runtime = runtime
        self._clock = clock
        self._question: asyncio.Task[Description] | None = None
        self._answered_at = -math.inf

    async def describe(self, remaining_seconds: float | None = None) -> Description:
        """Always answers: tiers above that say nothing within most of `remaining_seconds` are absent."""
        runtime = self._runtime
        above = await self._above(ASK_SECONDS if remaining_seconds is None else _SHARE * remaining_seconds)
        profiles = (runtime.profiler.full_profile(), *above.profiles)
        return Description(profiles, (*runtime.links(), *above.links), runtime.model.manifest.model_hash)

    async def _above(self, timeout_seconds: float) -> Description:
        """The question outlives a caller in a hurry: the next one, and others who wait, want its answer too."""
        next_tier = self._runtime.next_tier
        if not isinstance(next_tier, DescribesAbove):
            return Description()
        if self._question is None or (self._question.done() and self._clock() - self._answered_at > _KEPT_SECONDS):
            self._question = asyncio.create_task(self._ask(next_tier))
        done, _ = await asyncio.wait([self._question], timeout=timeout_seconds)
        return self._question.result() if done else Description()

    async def _ask(self, next_tier: DescribesAbove) -> Description:
        try:
            found = await next_tier.describe(ASK_SECONDS, self._runtime.model.manifest.model_hash)
        except OfframpError as error:
            log.event("not_described", reason=error.reason, message=str(error)[:200])
            found = Description()
        self._answered_at = self._clock()
        fits = found.fits(self._runtime.tier, self._runtime.model.manifest.model_hash)
        return found if fits else Description()
