"""What the page shows, as JSON: seconds, bytes and shares as plain numbers, what is unknown as null. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from device_agent.console.candidates import Candidates
from device_agent.console.feed import PlanChange, Second, Seen, Window
from services import images
from services.bundle import ExitSpec, Manifest
from services.domain import LinkEstimate, Plan, Tier, TierProfile

Json = dict[str, Any]

_HEARD_SECONDS = 15.0
"""So long a tier counts as there that answers while the link to it is not known yet."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What is known at one point in time. Times are seconds since the epoch.

    heard_at: when each tier last worked on a request. lost_at: since when nothing comes over the link above each tier.
    """

    at: float
    manifest: Manifest
    plan: Plan
    profiles: Mapping[Tier, TierProfile]
    links: Mapping[Tier, LinkEstimate]
    heard_at: Mapping[Tier, float]
    window: Window
    in_flight: int
    lost_at: Mapping[Tier, float]


def model(manifest: Manifest) -> Json:
    """What does not change: the network, its split points and exits."""
    return {
        "name": manifest.name,
        "version": manifest.version,
        "hash": manifest.model_hash,
        "labels": list(manifest.labels),
        "image": images.image_shape(manifest.input),
        "samples": manifest.samples.count if manifest.samples else 0,
        "confidence": manifest.confidence,
        "accuracy": manifest.calibration.accuracy if manifest.calibration else None,
        "split_points": [
            {"index": p.index, "after": p.after, "shape": p.shape, "bytes": p.bytes_fp32, "compressive": p.compressive}
            for p in manifest.split_points
        ],
        "exits": [
            {"index": e.index, "name": e.name, "split_point": e.split_point, **condition(e, manifest)}
            for e in manifest.exits
        ],
    }


def condition(spec: ExitSpec, manifest: Manifest) -> Json:
    """When a sample leaves at an exit. calibrated: whether anybody has found out how sure is sure enough."""
    return {"threshold": spec.threshold, "calibrated": manifest.calibration is not None}


def plan(moment: Moment) -> Json:
    """The stages, and for each hop where it cuts, its codec and the bytes of one sample, if they were measured."""
    stages = moment.plan.stages
    measured = {(c.split_point, c.codec): c.bytes_per_sample for c in moment.manifest.codec_accuracy}
    return {
        "text": str(moment.plan),
        "expected_seconds": moment.plan.expected_seconds,
        "stages": [stage_json(stage) for stage in stages],
        "hops": [
            {
                "source": below.tier.label,
                "target": above.tier.label,
                "split_point": above.segment.start,
                "codec": above.codec,
                "bytes": measured.get((above.segment.start, above.codec)),
            }
            for below, above in pairwise(stages)
        ],
    }


def stage_json(stage: Any) -> Json:
    return {"tier": stage.tier.label, "start": stage.segment.start, "end": stage.segment.end, "codec": stage.codec}


def tiers(moment: Moment) -> list[Json]:
    """Each with whether it was heard of lately, what it runs, and what it did in the last minute."""
    return [_tier(moment, tier) for tier in Tier]


def _tier(moment: Moment, tier: Tier) -> Json:
    profile, work = moment.profiles.get(tier), moment.window.work.get(tier)
    stage = moment.plan.stage(tier)
    samples = sum(moment.window.tiers)
    return {
        "tier": tier.label,
        "state": _state(moment, tier),
        "silent_seconds": _silent_seconds(moment, tier),
        "blocks": None if stage is None else [stage.segment.start, stage.segment.end],
        "answered": moment.window.tiers[tier],
        "share": moment.window.tiers[tier] / samples if samples else None,
        "queue_seconds": profile.queue_seconds if profile else None,
        "slowdown": profile.slowdown if profile else None,
        "compute_seconds": work.compute_seconds / work.requests if work else None,
        "in_flight": moment.in_flight if tier is Tier.DEVICE else None,
    }


def _state(moment: Moment, tier: Tier) -> str:
    if tier is Tier.DEVICE:
        return "here"
    if _silent_seconds(moment, tier) is not None:
        return "silent"
    reached = all(_alive(moment.links.get(below)) for below in Tier if below < tier)
    heard = moment.at - moment.heard_at.get(tier, float("-inf")) < _HEARD_SECONDS
    if heard or (reached and tier in moment.profiles):
        return "reachable"
    return "quiet" if tier in moment.profiles else "unknown"


def _silent_seconds(moment: Moment, tier: Tier) -> float | None:
    """For how long nothing has come from a tier that was asked; None where that is not so."""
    lost = [at for below, at in moment.lost_at.items() if below < tier]
    return max(moment.at - min(lost), 0.0) if lost else None


def _alive(link: LinkEstimate | None) -> bool:
    return link is not None and link.rtt_seconds is not None


def links(moment: Moment, emulated: Sequence[Json | None]) -> list[Json]:
    """Both hops, nearest first; `emulated` is how each emulated link is set, as far as that can be seen."""
    padded = [*emulated, None, None]
    return [_link(moment, source, padded[source]) for source in (Tier.DEVICE, Tier.EDGE)]


def _link(moment: Moment, source: Tier, emulated: Json | None) -> Json:
    link, work = moment.links.get(source, LinkEstimate(source)), moment.window.work.get(source)
    return {
        "source": source.label,
        "target": Tier(source + 1).label,
        "rtt_seconds": link.rtt_seconds,
        "bytes_per_second": link.up_bytes_per_second,
        "spread": link.spread,
        "age_seconds": link.age_seconds,
        "bytes_up": work.bytes_up if work else 0,
        "bytes_down": work.bytes_down if work else 0,
        "emulated": emulated,
    }


def window(found: Window) -> Json:
    return {
        "requests": found.requests,
        "per_second": found.per_second,
        "p50_seconds": found.p50_seconds,
        "p95_seconds": found.p95_seconds,
        "exits": found.exits,
        "degraded": found.degraded,
        "refused": found.refused,
    }


def considered(found: Candidates) -> Json:
    return {
        "why": found.why,
        "candidates": [
            {
                "name": each.name,
                "chosen": each.chosen,
                "plan": str(each.cost.plan),
                "stages": [stage_json(stage) for stage in each.cost.plan.stages],
                "seconds": each.cost.seconds,
                "bytes": each.cost.bytes,
                "joules": each.cost.joules,
                "accuracy": each.cost.accuracy,
                "terms": each.cost.terms,
            }
            for each in found.candidates
        ],
    }


def request(seen: Seen, manifest: Manifest) -> Json:
    """One answered request with its waterfall."""
    return {
        "number": seen.number,
        "at": seen.at,
        "id": seen.request_id,
        "samples": seen.samples,
        "label": manifest.labels[seen.label],
        "confidence": seen.confidence,
        "exits": seen.exits,
        "tier": seen.tier.label,
        "degraded": seen.reason.label,
        "plan": str(seen.plan),
        "expected_seconds": seen.plan.expected_seconds,
        "seconds": seen.trace.seconds,
        "hops": [hop._asdict() | {"tier": hop.tier.label} for hop in seen.trace.hops],
    }


def history(seconds: Iterable[Second]) -> list[Json]:
    return [_second(each) for each in seconds]


def _second(each: Second) -> Json:
    p50, p95 = np.percentile(each.times, (50, 95)).tolist() if each.times else (None, None)
    return {
        "at": each.at,
        "requests": each.requests,
        "p50_seconds": p50,
        "p95_seconds": p95,
        "exits": each.exits,
        "degraded": each.degraded,
        "refused": each.refused,
    }


def changes(found: Iterable[PlanChange]) -> list[Json]:
    return [{"at": each.at, "plan": str(each.plan)} for each in found]
