"""How long the planner takes to choose the best six plans: 60 layers, three tiers, every codec that there is.

Run: ``python -m benchmarks.planner [--json FILE]``. Cases take turns. Every call sees new link estimates; one after a
change also sees a profile that a tier has just told, and the first of a start a network and profiles that were never
planned for. Both are taken in as the device does it, when they are told and before a request needs a plan; what that
takes for a whole start is `ready`. Exit code 1 where a median of a call is over 2 ms.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from device_agent.planner import Beliefs, Options, rank, ready
from services import codec
from services.bundle import CodecAccuracy
from services.domain import CodecCost, LinkEstimate, Objective, Policy, Segment, SegmentTime, Tier, TierProfile
from tests.problems import chain

BAR_MS = 2.0
LAYERS = 60
INTERIOR, IMAGE = codec.INTERIOR, codec.IMAGE
OPTIONS = Options((INTERIOR, INTERIOR), IMAGE)
"""As a device has them that is not told otherwise."""
BATCHES = (1, 4, 16)
CALLS = 200
SLOWDOWNS = {Tier.DEVICE: 8.0, Tier.EDGE: 2.0, Tier.CLOUD: 1.0}

CASES = {
    "latency": (Policy(), 1),
    "latency, batch of 6": (Policy(), 6),
    "accuracy floor": (Policy(min_accuracy=0.8999), 1),
    "energy": (Policy(Objective.ENERGY), 1),
    "energy, deadline": (Policy(Objective.ENERGY, deadline_seconds=0.1), 1),
    "bytes": (Policy(Objective.BYTES), 1),
    "bytes, deadline nobody meets": (Policy(Objective.BYTES, deadline_seconds=1e-6), 1),
    "privacy": (Policy(privacy=True), 1),
}
"""Policy and batch size by name."""


@dataclass(frozen=True, slots=True)
class Result:
    """Milliseconds of one case. `combinations` is how many plans there are to choose from."""

    case: str
    combinations: int
    warm_median_ms: float
    warm_p95_ms: float
    changed_median_ms: float
    changed_p95_ms: float
    first_median_ms: float
    first_p95_ms: float
    ready_median_ms: float
    ready_p95_ms: float


def beliefs(seed: int) -> Beliefs:
    """A network that narrows, with two exits, accuracy deltas and sizes measured everywhere; full profiles."""
    rng = np.random.default_rng(seed)
    sides = np.linspace(56, 7, LAYERS).astype(int)
    shapes = [(3, 224, 224), *((int(rng.integers(8, 64)), int(side), int(side)) for side in sides)]
    names = [(at, name) for at in range(LAYERS) for name in (INTERIOR if at else (*INTERIOR, *IMAGE))]
    entries = [
        CodecAccuracy(
            split_point=at, codec=name, delta=float(-rng.exponential(2e-4)), bytes_per_sample=rng.uniform(1e3, 1e5)
        )
        for at, name in names
    ]
    layers = rng.exponential(5e-4, LAYERS)
    profiles = {tier: _profile(tier, layers * SLOWDOWNS[tier]) for tier in Tier}
    return Beliefs(chain(shapes, {20: 0.3, 40: 0.4}, 0.9, entries), profiles, {})


def _profile(tier: Tier, layers: np.ndarray) -> TierProfile:
    spans = [(0, k) for k in range(1, LAYERS + 1)] + [(k, LAYERS) for k in range(1, LAYERS)]
    times = [
        SegmentTime(Segment(a, b), batch, float(layers[a:b].sum()) * (0.3 + 0.7 * batch))
        for a, b in spans
        for batch in BATCHES
    ]
    codecs = [CodecCost(name, 1e-9, 1e-9, 0.2) for name in (*INTERIOR, *IMAGE)]
    return TierProfile(tier, 1e-3, tuple(times), tuple(codecs))


def with_links(known: Beliefs, rng: np.random.Generator) -> Beliefs:
    """New estimates, from 0.5 to 200 Mbit/s and 1 to 200 ms."""
    rates, rtts = 62_500 * 400 ** rng.random(2), 0.001 * 200 ** rng.random(2)
    sources = (Tier.DEVICE, Tier.EDGE)
    return replace(
        known, links={s: LinkEstimate(s, float(t), float(r)) for s, t, r in zip(sources, rtts, rates, strict=True)}
    )


def timed_ms(known: Beliefs, policy: Policy, batch_size: int) -> float:
    began = time.perf_counter()
    found = rank(known, policy, batch_size, options=OPTIONS)
    took = time.perf_counter() - began
    assert found
    return took * 1e3


def run(calls: int) -> list[Result]:
    rng = np.random.default_rng(0)
    known = beliefs(0)
    rank(with_links(known, rng), Policy(), options=OPTIONS)
    warm: dict[str, list[float]] = {name: [] for name in CASES}
    changed: dict[str, list[float]] = {name: [] for name in CASES}
    first: dict[str, list[float]] = {name: [] for name in CASES}
    ahead: dict[str, list[float]] = {name: [] for name in CASES}
    for number in range(calls):
        for name, (policy, batch_size) in CASES.items():
            warm[name].append(timed_ms(with_links(known, rng), policy, batch_size))
            if number % 10 == 0:
                fresh = beliefs(1 + number)
                told = fresh.profiles[Tier(number // 10 % 3)]
                ready(known.manifest, told, (batch_size,), OPTIONS)
                news = replace(known, profiles={**known.profiles, told.tier: told})
                changed[name].append(timed_ms(with_links(news, rng), policy, batch_size))
                started = beliefs(1 + number)
                ahead[name].append(ready_ms(started, batch_size))
                first[name].append(timed_ms(with_links(started, rng), policy, batch_size))
    kinds = (warm, changed, first, ahead)
    return [
        Result(name, combinations(), *(f(times[name]) for times in kinds for f in (statistics.median, p95)))
        for name in CASES
    ]


def ready_ms(known: Beliefs, batch_size: int) -> float:
    """Of taking in a network and three profiles."""
    began = time.perf_counter()
    for profile in known.profiles.values():
        ready(known.manifest, profile, (batch_size,), OPTIONS)
    return (time.perf_counter() - began) * 1e3


def combinations() -> int:
    """Pairs of split points with their codecs: all local, ending at the edge, ending in the cloud."""
    interior, image = len(INTERIOR), len(INTERIOR) + len(IMAGE)
    by_first = [image, *[interior] * (LAYERS - 1)]
    return 1 + sum(by_first) + sum(by_first[a] * by_first[b] for a in range(LAYERS) for b in range(a, LAYERS))


def p95(values: list[float]) -> float:
    return float(np.percentile(values, 95))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    parser.add_argument("--calls", type=int, default=CALLS, help="warm calls of each case")
    args = parser.parse_args()
    results = run(args.calls)
    heads = ("warm", "changed", "first", "ready")
    print(f"{'case':<30}{'plans':>9}" + "".join(f"{head + ' ms':>12}{'p95':>7}" for head in heads))
    for r in results:
        times = [(getattr(r, f"{head}_median_ms"), getattr(r, f"{head}_p95_ms")) for head in heads]
        print(f"{r.case:<30}{r.combinations:>9}" + "".join(f"{median:>12.2f}{high:>7.2f}" for median, high in times))
    holds = all(max(r.warm_median_ms, r.changed_median_ms, r.first_median_ms) <= BAR_MS for r in results)
    if args.json:
        report = {"bar_ms": BAR_MS, "holds": holds, "cases": [asdict(r) for r in results]}
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
