"""What the console remembers: the last requests, and of each of the last minutes' seconds what happened in it.

An observer: it is told after the answer has left, keeps a few numbers of each request and no tensors, and is bounded
in every direction.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from services.bundle import Manifest
from services.domain import Clock, DegradedReason, LinkEstimate, Plan, Segment, Tier, TierProfile
from services.observing import Finished, Refused
from services.response import HopTrace, Trace

MAX_REQUESTS = 100
MAX_SECONDS = 300
WINDOW_SECONDS = 60
_TIMES_PER_SECOND = 64
_MAX_CHANGES = 20
_RATE_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Seen:
    """One answered request; what is said of an answer is said of its first sample.

    at: seconds since the epoch. exits: samples by exit that answered them. tier: the furthest that answered one.
    """

    number: int
    at: float
    request_id: str
    plan: Plan
    trace: Trace
    label: int
    confidence: float
    exits: tuple[int, ...]
    tier: Tier
    reason: DegradedReason

    @property
    def samples(self) -> int:
        return sum(self.exits)


@dataclass(frozen=True, slots=True)
class PlanChange:
    """At `at`, seconds since the epoch, the plan became `plan`."""

    at: float
    plan: Plan


@dataclass(slots=True)
class Work:
    """What a tier did for the requests of a second: sums, over `requests`, and bytes that it sent and got back."""

    requests: int = 0
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0

    def count(self, hop: HopTrace) -> None:
        self.requests += 1
        self.queue_seconds += hop.queue_seconds
        self.compute_seconds += hop.compute_seconds
        self.bytes_up += hop.bytes_up
        self.bytes_down += hop.bytes_down

    def add(self, other: Work) -> None:
        self.requests += other.requests
        self.queue_seconds += other.queue_seconds
        self.compute_seconds += other.compute_seconds
        self.bytes_up += other.bytes_up
        self.bytes_down += other.bytes_down


@dataclass(slots=True)
class Second:
    """What happened in one second, `at` since the epoch. times: seconds of its last requests, 64 at most."""

    at: int
    exits: list[int]
    tiers: list[int] = field(default_factory=lambda: [0] * len(Tier))
    requests: int = 0
    degraded: int = 0
    refused: int = 0
    times: list[float] = field(default_factory=list)
    work: dict[Tier, Work] = field(default_factory=dict)

    def took(self, seconds: float) -> None:
        if len(self.times) < _TIMES_PER_SECOND:
            self.times.append(seconds)
        else:
            self.times[self.requests % _TIMES_PER_SECOND] = seconds
        self.requests += 1


class Feed:
    """What one model's requests came to. `clock` gives seconds since the epoch."""

    def __init__(self, manifest: Manifest, clock: Clock = time.time):
        self._manifest = manifest
        self._clock = clock
        self._history: deque[Second] = deque(maxlen=MAX_SECONDS)
        self.requests: deque[Seen] = deque(maxlen=MAX_REQUESTS)
        self.changes: deque[PlanChange] = deque(maxlen=_MAX_CHANGES)
        self.profiles: dict[Tier, TierProfile] = {}
        self.links: dict[Tier, LinkEstimate] = {}
        self.heard_at: dict[Tier, float] = {}
        self.total = self.total_refused = 0

    def answered(self, finished: Finished) -> None:
        """Takes in what is worth showing of a request of this model."""
        if finished.manifest.model_hash != self._manifest.model_hash or not len(finished.response.predictions):
            return
        now, response = self._clock(), finished.response
        self.profiles.update((profile.tier, profile) for profile in response.profiles)
        self.links.update((link.source, link) for link in response.links)
        self.heard_at.update((hop.tier, now) for hop in response.trace.hops)
        seen = self._seen(finished, now)
        self.requests.append(seen)
        self._count(self._second(now), seen, response.predictions.tiers.tolist())

    def refused(self, refused: Refused) -> None:
        """Counts a request that ended with an error, unless it was for another model."""
        manifest = self._manifest
        ours = refused.model in ("", manifest.name, manifest.model_hash)
        if not ours or refused.version not in ("", manifest.version):
            return
        self.total_refused += 1
        self._second(self._clock()).refused += 1

    def planned(self, plan: Plan) -> None:
        """Notes the plan in force, if it cuts elsewhere than the last one noted; codecs come and go more often."""
        if not self.changes or _cuts(self.changes[-1].plan) != _cuts(plan):
            self.changes.append(PlanChange(self._clock(), plan))

    def after(self, number: int) -> list[Seen]:
        """The requests since the one of this number, oldest first."""
        return [seen for seen in self.requests if seen.number > number]

    def history(self, seconds: int = MAX_SECONDS) -> list[Second]:
        """The last seconds in which something happened, oldest first, the present one included."""
        earliest = int(self._clock()) - seconds
        return [each for each in self._history if each.at > earliest]

    def _seen(self, finished: Finished, now: float) -> Seen:
        answers = finished.response.predictions
        exits, tiers, reasons = answers.exits.tolist(), answers.tiers.tolist(), answers.reasons.tolist()
        self.total += 1
        return Seen(
            self.total,
            now,
            finished.request_id,
            finished.plan,
            finished.response.trace,
            int(answers.scores[0].argmax()),
            float(answers.confidences[0]),
            tuple(exits.count(spec.index) for spec in self._manifest.exits),
            Tier(max(tiers)),
            DegradedReason(max(reasons)),
        )

    def _count(self, second: Second, seen: Seen, tiers: Iterable[int]) -> None:
        second.took(seen.trace.seconds)
        second.degraded += seen.reason is not DegradedReason.NONE
        for index, count in enumerate(seen.exits):
            second.exits[index] += count
        for tier in tiers:
            second.tiers[tier] += 1
        for hop in seen.trace.hops:
            if (work := second.work.get(hop.tier)) is None:
                work = second.work[hop.tier] = Work()
            work.count(hop)

    def _second(self, now: float) -> Second:
        if not self._history or self._history[-1].at != int(now):
            self._history.append(Second(int(now), [0] * len(self._manifest.exits)))
        return self._history[-1]


def _cuts(plan: Plan) -> list[tuple[Tier, Segment]]:
    return [(stage.tier, stage.segment) for stage in plan.stages]


@dataclass(frozen=True, slots=True)
class Window:
    """The last minute: shares are of its samples, times of its requests, None where there were none."""

    requests: int
    per_second: float
    p50_seconds: float | None
    p95_seconds: float | None
    exits: tuple[int, ...]
    tiers: tuple[int, ...]
    degraded: int
    refused: int
    work: dict[Tier, Work]


def window(history: list[Second], exits: int, now: float) -> Window:
    """Sums up seconds of a feed. per_second: requests, over the last five seconds that are complete."""
    times = [seconds for each in history for seconds in each.times]
    work: dict[Tier, Work] = {}
    for tier, done in _work(history):
        work.setdefault(tier, Work()).add(done)
    p50, p95 = np.percentile(times, (50, 95)).tolist() if times else (None, None)
    return Window(
        sum(each.requests for each in history),
        _per_second(history, int(now)),
        p50,
        p95,
        tuple(sum(each.exits[i] for each in history) for i in range(exits)),
        tuple(sum(each.tiers[tier] for each in history) for tier in Tier),
        sum(each.degraded for each in history),
        sum(each.refused for each in history),
        work,
    )


def _work(history: list[Second]) -> Iterator[tuple[Tier, Work]]:
    return ((tier, done) for each in history for tier, done in each.work.items())


def _per_second(history: list[Second], now: int) -> float:
    return sum(each.requests for each in history if now - _RATE_SECONDS <= each.at < now) / _RATE_SECONDS
