"""How far beliefs may move before another plan can be the best: until then there is nothing to decide. Pure.

The seconds of a plan are a sum of parts, none of them negative: each fixed, or in proportion to how slow a tier is, to
the RTT of a link or to the inverse of its rate; and of waits for the tiers above. Where none of those has changed by
more than a factor f, and the waits by w seconds together, a plan of c seconds now takes at least c / f - w and at most
c * f + w. So the best of them, of b seconds, is still the best while b * f + w <= n / f - w, where the next one took n.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from device_agent.planner import Beliefs, PlanCost
from services.domain import LinkEstimate, Objective, Policy, Tier, TierProfile

_MOST = 1.1
"""What a plan promises is not older than this, whoever else could be better: patience goes by it."""


@dataclass(frozen=True, slots=True)
class Lead:
    """The best plan took `best` seconds by `beliefs`, and the next one `following`, infinite where there is none."""

    beliefs: Beliefs
    best: float
    following: float = math.inf

    @classmethod
    def of(cls, beliefs: Beliefs, policy: Policy, ranked: Sequence[PlanCost]) -> Lead | None:
        """The lead of the first of `ranked`; None for a policy that does not look at time alone."""
        if policy.objective is not Objective.LATENCY or policy.deadline_seconds is not None:
            return None
        return cls(beliefs, *(each.seconds for each in ranked[:2]))

    def holds(self, now: Beliefs) -> bool:
        """Whether the same plan is certainly the best by what is believed `now`, and takes much the same."""
        factor = max(_factors(self.beliefs, now))
        if factor > _MOST:
            return False
        waits = sum(_waits(self.beliefs, now))
        most = self.best * factor + waits
        return most <= min(_MOST * self.best, self.following / factor - waits)


def _factors(before: Beliefs, now: Beliefs) -> Iterator[float]:
    """How much each thing has changed, either way; infinite where it cannot be compared."""
    yield 1.0 if before.manifest is now.manifest and before.stay == now.stay else math.inf
    for tier in Tier:
        yield _slower(before.profiles.get(tier), now.profiles.get(tier))
        yield from _changed(before.links.get(tier), now.links.get(tier))


def _slower(before: TierProfile | None, now: TierProfile | None) -> float:
    if before is None or now is None:
        return 1.0 if before is now else math.inf
    same = before.segments is now.segments and before.codecs is now.codecs and before.holds == now.holds
    return _factor(before.slowdown, now.slowdown) if same else math.inf


def _changed(before: LinkEstimate | None, now: LinkEstimate | None) -> Iterator[float]:
    if before is None or now is None:
        yield 1.0 if before is now else math.inf
        return
    yield _factor(before.rtt_seconds, now.rtt_seconds)
    yield _factor(before.up_bytes_per_second, now.up_bytes_per_second)


def _factor(before: float | None, now: float | None) -> float:
    if before == now:
        return 1.0
    if not before or not now:
        return math.inf
    return max(before / now, now / before)


def _waits(before: Beliefs, now: Beliefs) -> Iterator[float]:
    """Of the same tiers: where others are known now, there is a factor that says so."""
    for tier, profile in now.profiles.items():
        if tier is not Tier.DEVICE:
            yield abs(profile.queue_seconds - before.profiles[tier].queue_seconds)
