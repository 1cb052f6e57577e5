"""Planning problems: manifests of chains, profiles and links, given or random."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from hypothesis import strategies as st

from device_agent.planner import Beliefs, Options
from services.bundle import (
    NOT_CARRIED,
    CalibrationSpec,
    CodecAccuracy,
    CurvePoint,
    ExitSpec,
    InputSpec,
    Manifest,
    Preprocessing,
    SplitPointSpec,
)
from services.domain import CodecCost, LinkEstimate, Objective, Policy, Segment, SegmentTime, Tier, TierProfile

T = TypeVar("T")

CODECS = ("fp32", "int8", "int8+zstd", "int4", "int4+zstd", "jpeg90", "jpeg75", "png")


def chain(
    shapes: Sequence[tuple[int, ...]],
    exit_rates: Mapping[int, float] | None = None,
    accuracy: float | None = None,
    codec_accuracy: Sequence[CodecAccuracy] = (),
    image: bool = True,
) -> Manifest:
    """A network of len(shapes) - 1 layers, the last output being [2], with exits that let `exit_rates` leave."""
    shapes = [*shapes[:-1], (2,)]
    last = len(shapes) - 1
    rates = {**(exit_rates or {}), last: 1.0}
    return Manifest(
        name="chain",
        graph_sha256="0" * 64,
        input=InputSpec(
            name="x",
            shape=shapes[0],
            preprocessing=Preprocessing(mean=(0.5,) * shapes[0][0], std=(0.5,) * shapes[0][0]) if image else None,
        ),
        labels=("a", "b"),
        split_points=tuple(_point(i, shape, math.prod(shapes[0])) for i, shape in enumerate(shapes)),
        exits=tuple(
            ExitSpec(
                index=i,
                name=f"exit{i}",
                output=f"exit{i}",
                split_point=at,
                threshold=0.0 if at == last else 0.5,
                curve=tuple(CurvePoint(threshold=t, exit_rate=r) for t, r in ((0.0, 1.0), (0.5, rate), (1.0, 0.0))),
            )
            for i, (at, rate) in enumerate(sorted(rates.items()))
        ),
        calibration=None if accuracy is None else calibration(accuracy),
        codec_accuracy=tuple(codec_accuracy),
    )


def calibration(accuracy: float) -> CalibrationSpec:
    return CalibrationSpec(
        samples=100, epsilon=0.01, delta=0.05, full_accuracy=accuracy, accuracy=accuracy, harmful_upper_bound=0.01
    )


def _point(index: int, shape: tuple[int, ...], whole: int) -> SplitPointSpec:
    elements = math.prod(shape)
    return SplitPointSpec(
        index=index,
        tensor=f"t{index}",
        after=f"node{index}",
        shape=shape,
        elements=elements,
        ratio=elements / whole,
        natural=elements < whole,
        compressive=False,
        bytes_fp32=4 * elements,
        bytes_int8=elements,
    )


def machine(tier: Tier, layers: Sequence[float], **fields: object) -> TierProfile:
    """A machine whose layers take these seconds for one sample: heads and tails of every split point."""
    last = len(layers)
    spans = [(0, k) for k in range(1, last + 1)] + [(k, last) for k in range(1, last)]
    times = tuple(SegmentTime(Segment(a, b), 1, math.fsum(layers[a:b])) for a, b in spans)
    return TierProfile(tier, segments=times, **fields)  # type: ignore[arg-type]


def link(source: Tier, bytes_per_second: float, rtt_seconds: float = 0.0) -> LinkEstimate:
    return LinkEstimate(source, rtt_seconds, bytes_per_second)


def three(
    manifest: Manifest,
    layers: Mapping[Tier, Sequence[float]],
    near: LinkEstimate | None = None,
    far: LinkEstimate | None = None,
    **fields: object,
) -> Beliefs:
    """Beliefs about machines with these layers, and fast links where none are given; `fields` go to each profile."""
    links = (near or link(Tier.DEVICE, 1e6, 0.01), far or link(Tier.EDGE, 1e7, 0.02))
    profiles = {tier: machine(tier, layers[tier], **fields) for tier in layers}
    return Beliefs(manifest, profiles, {each.source: each for each in links})


@dataclass(frozen=True, slots=True)
class Problem:
    """Everything that `rank` takes but how many plans."""

    beliefs: Beliefs
    policy: Policy
    batch_size: int
    options: Options


def random_problem(seed: int) -> Problem:
    """A small problem in which now and then anything is missing. From a seed: drawn one by one, few could be solved."""
    rng = Random(seed)
    shapes = [(1, rng.randint(1, 6), rng.randint(1, 6)) for _ in range(rng.randint(2, 6))]
    manifest = _manifest(rng, shapes)
    profiles = {tier: _profile(rng, tier, len(shapes)) for tier in Tier if rng.random() < 0.95}
    links = {tier: _link(rng, tier) for tier in (Tier.DEVICE, Tier.EDGE) if rng.random() < 0.95}
    stay = tuple(rng.choice((0.0, 1.0, rng.random())) for _ in shapes) if rng.random() < 0.3 else None
    policy = Policy(
        rng.choice(list(Objective)),
        rng.uniform(0.85, 0.91) if rng.random() < 0.3 else None,
        rng.uniform(0.01, 3) if rng.random() < 0.3 else None,
        privacy=rng.random() < 0.2,
        images=seed % 5 > 0,
    )
    options = Options(
        (_some(rng, CODECS[:5]), _some(rng, CODECS[:5])),
        _some(rng, CODECS[5:]) if rng.random() < 0.7 else (),
        frozenset(_some(rng, tuple(Tier))) if rng.random() < 0.2 else frozenset(Tier),
        rng.uniform(0, 0.05),
        idle_watts=rng.choice((0.0, 2.0)),
    )
    return Problem(Beliefs(manifest, profiles, links, stay), policy, rng.choice((1, 1, rng.randint(2, 9))), options)


def problems() -> st.SearchStrategy[Problem]:
    return st.integers(0, 2**32 - 1).map(random_problem)


def _some(rng: Random, values: tuple[T, ...]) -> tuple[T, ...]:
    return tuple(rng.sample(values, rng.randint(1, min(3, len(values)))))


def _link(rng: Random, source: Tier) -> LinkEstimate:
    rtt = rng.uniform(0, 0.5) if rng.random() < 0.95 else None
    return LinkEstimate(source, rtt, 10 ** rng.uniform(1, 4) if rng.random() < 0.95 else None)


def _manifest(rng: Random, shapes: list[tuple[int, ...]]) -> Manifest:
    rates = {
        at: rng.choice((1.0, rng.random(), rng.random())) for at in range(1, len(shapes) - 1) if rng.random() < 0.4
    }
    measured = [
        CodecAccuracy(
            split_point=at,
            codec=name,
            delta=_delta(rng) if rng.random() < 0.7 else None,
            bytes_per_sample=rng.uniform(1, 200) if rng.random() < 0.7 else None,
        )
        for at in range(len(shapes) - 1)
        for name in CODECS
        if rng.random() < 0.5
    ]
    return chain(shapes, rates, rng.choice((None, 0.9, 0.9)), measured, image=rng.random() < 0.7)


def _delta(rng: Random) -> float:
    """Now and then that of what cannot be carried."""
    found = rng.uniform(-0.04, 0.01)
    return NOT_CARRIED if found < -0.038 else found


def _profile(rng: Random, tier: Tier, points: int) -> TierProfile:
    """Heads and tails in up to three batch sizes, few of them missing, and some segments that are neither."""
    last = points - 1
    sizes = rng.sample((1, 2, 4, 8), rng.randint(1, 3))
    spans = [(0, k) for k in range(1, points)] + [(k, last) for k in range(1, last)]
    known = {(a, b, size) for a, b in spans for size in sizes if rng.random() < 0.97}
    known |= {(*sorted(rng.sample(range(points), 2)), rng.randint(1, 8)) for _ in range(rng.randint(0, 3))}
    codecs = [CodecCost(name, *(rng.uniform(0, 1e-3) for _ in range(2)), rng.random()) for name in _some(rng, CODECS)]
    return TierProfile(
        tier,
        rng.choice((0.0, rng.uniform(0, 0.2))),
        tuple(SegmentTime(Segment(a, b), size, rng.uniform(0, b) / (1 + tier) ** 2) for a, b, size in sorted(known)),
        tuple(codecs),
        rng.choice((1.0, 2.5)),
        Segment(*sorted(rng.sample(range(points), 2))) if rng.random() < 0.15 else None,
    )
