"""The plans of a run: which was in force when, what it promised and what came, and what an oracle would have done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from device_agent.planner import Beliefs, rank
from services.bundle import Manifest
from services.domain import LinkEstimate, Policy, Tier, TierProfile
from testbed.load import Outcome
from testbed.local import LinkAsked
from testbed.scales import plain_numbers
from testbed.traces import parse_duration, parse_rate

_STAGES = ("queue", "decode", "compute", "encode", "network")
_COLOURS = ("#2a9d8f", "#e76f51", "#457b9d", "#e9c46a", "#6d597a", "#8d99a6")


@dataclass(frozen=True, slots=True)
class Leg:
    """A stretch of a run in which the links stood still: from `at` seconds on."""

    at: float
    device_edge: LinkAsked
    edge_cloud: LinkAsked

    def links(self) -> dict[Tier, LinkEstimate]:
        """The links as they truly are."""
        return {Tier.DEVICE: _truth(Tier.DEVICE, self.device_edge), Tier.EDGE: _truth(Tier.EDGE, self.edge_cloud)}


def history(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Each plan as long as it was in force: when it began, its requests, expected and realised milliseconds.

    Both are from the device's door on: what the caller's own call to it takes is nobody's plan.
    """
    answered = [o for o in sorted(outcomes, key=lambda o: o.at) if o.prediction]
    runs = [(plan, list(group)) for plan, group in groupby(answered, key=_plan_of)]
    return [
        {
            "at_seconds": round(group[0].at, 3),
            "plan": plan,
            "requests": len(group),
            "expected_ms": _milliseconds([_expected(o) for o in group]),
            "realised_ms": _milliseconds([_served(o) for o in group]),
        }
        for plan, group in runs
    ]


def oracle_ratio(
    outcomes: Sequence[Outcome], legs: Sequence[Leg], manifest: Manifest, profiles: dict[Tier, TierProfile]
) -> float | None:
    """Mean latency from the device's door on, over the mean that the best plans for the true links promise.

    None where nothing was answered or the machines are not profiled.
    """
    best = [_best_seconds(manifest, profiles, leg) for leg in legs]
    answered = [o for o in outcomes if o.prediction]
    if not answered or None in best:
        return None
    expected = [best[max(i for i, leg in enumerate(legs) if leg.at <= o.at)] for o in answered]
    return round(sum(map(_served, answered)) / sum(e for e in expected if e is not None), 4)


def plans_figure(outcomes: Sequence[Outcome], legs: Sequence[Leg], title: str, path: Path) -> None:
    """Over time: the rate of the link between device and edge, and the latency of each request by its plan."""
    answered = sorted((o for o in outcomes if o.prediction), key=lambda o: o.at)
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(1, 3))
    end = max((o.at + o.seconds for o in answered), default=0.0)
    times = [leg.at for leg in legs] + [end]
    rates = [8 * parse_rate(leg.device_edge.rate) / 1e6 for leg in legs]
    top.step(times, [*rates, rates[-1]], where="post", color="#264653", linewidth=2)
    top.set(ylabel="device-edge\nMbit/s", yscale="log", title=title)
    plain_numbers(top.yaxis)
    for index, plan in enumerate(dict.fromkeys(map(_plan_of, answered))):
        mine = [o for o in answered if _plan_of(o) == plan]
        colour = _COLOURS[index % len(_COLOURS)]
        bottom.plot([o.at for o in mine], [1000 * o.seconds for o in mine], ".", color=colour, label=plan)
    bottom.set(ylabel="latency, ms", xlabel="seconds", ylim=(0, None))
    bottom.legend(loc="upper left", fontsize=9, framealpha=0.9)
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.01)
    figure.savefig(path, dpi=150)


def _best_seconds(manifest: Manifest, profiles: dict[Tier, TierProfile], leg: Leg) -> float | None:
    ranked = rank(Beliefs(manifest, profiles, leg.links()), Policy(), count=1)
    return ranked[0].seconds if ranked else None


def _truth(source: Tier, asked: LinkAsked) -> LinkEstimate:
    return LinkEstimate(source, parse_duration(asked.rtt), parse_rate(asked.rate))


def _plan_of(outcome: Outcome) -> str:
    return outcome.prediction.plan if outcome.prediction else ""


def _expected(outcome: Outcome) -> float | None:
    trace = outcome.prediction.trace if outcome.prediction else None
    return trace.get("expected_seconds") if trace else None


def _served(outcome: Outcome) -> float:
    """Seconds from the device's door on, where the trace tells."""
    trace = outcome.prediction.trace if outcome.prediction else None
    if trace is None:
        return outcome.seconds
    hops = [hop for hop in trace["hops"] if hop["tier"] != "client"]
    return float(sum(hop[f"{stage}_seconds"] for hop in hops for stage in _STAGES))


def _milliseconds(seconds: Sequence[float | None]) -> float | None:
    known = [s for s in seconds if s is not None]
    return round(1000 * float(np.mean(known)), 3) if known else None
