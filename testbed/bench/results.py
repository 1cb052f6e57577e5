"""What the policies' runs say together: ratios to the oracle and to hindsight, and the targets, met or missed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from testbed.bench.policies import BEST_STATIC, LATE_ORACLE, NOW_ORACLE, ORACLE, OURS
from testbed.bench.statistics import Summary
from testbed.bench.world import Loop

ORACLE_MARGIN = 1.05
STATIC_MARGIN = 1.02
CROSSING_GAIN = 0.20
REAL_MARGIN = 0.15


@dataclass(frozen=True, slots=True)
class Comparison:
    """All policies on all traces, for one workload and way of arriving. `real`: on running tiers, else simulated.

    crossing: traces that cross a break-even. static_plans: the best static plan of each trace.
    """

    workload: str
    loop: Loop
    real: bool
    deadline_ms: float
    traces: dict[str, dict[str, Summary]] = field(default_factory=dict)
    crossing: dict[str, bool] = field(default_factory=dict)
    static_plans: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"{self.workload}, {self.loop.value} loop, {'running tiers' if self.real else 'simulated'}"

    @property
    def over_oracle(self) -> dict[str, dict[str, float]]:
        """Mean latency over the oracle's, by trace and policy, where the oracle ran."""
        return {
            name: {policy: summary.mean_ms / found[ORACLE].mean_ms for policy, summary in found.items()}
            for name, found in self.traces.items()
            if ORACLE in found
        }

    def ratios(self, other: str) -> dict[str, float]:
        """Our mean latency over that of the policy called `other`, per trace where both ran."""
        return {
            name: found[OURS].mean_ms / found[other].mean_ms
            for name, found in self.traces.items()
            if OURS in found and other in found
        }

    def crossing_gain(self, policy: str = OURS) -> float | None:
        """How much less `policy` takes than the best static plan, averaged over the traces that cross, if any do."""
        gains = [
            1 - found[policy].mean_ms / found[BEST_STATIC].mean_ms
            for name, found in self.traces.items()
            if self.crossing.get(name) and policy in found and BEST_STATIC in found
        ]
        return statistics.fmean(gains) if gains else None

    def as_json(self) -> dict[str, Any]:
        return {
            "workload": self.workload,
            "loop": self.loop.value,
            "real": self.real,
            "deadline_ms": self.deadline_ms,
            "traces": {
                name: {policy: asdict(summary) for policy, summary in found.items()}
                for name, found in self.traces.items()
            },
            "oracle_ratio": self.ratios(ORACLE),
            "now_oracle_ratio": self.ratios(NOW_ORACLE),
            "late_oracle_ratio": self.ratios(LATE_ORACLE),
            "best_static_ratio": self.ratios(BEST_STATIC),
            "crosses_break_even": self.crossing,
            "best_static_plan": self.static_plans,
        }


@dataclass(frozen=True, slots=True)
class Target:
    """Something to reach, the value found, and whether it was reached. None: nothing to judge by."""

    name: str
    where: str
    found: str
    met: bool | None


def targets(comparisons: Sequence[Comparison], virtual_ratios: Mapping[str, Mapping[str, float]]) -> list[Target]:
    """All targets. virtual_ratios: simulated over real mean latency, by comparison, then policy and trace."""
    found = [target for each in comparisons for target in _of(each)]
    for where, ratios in virtual_ratios.items():
        worst = max(ratios.items(), key=lambda item: abs(item[1] - 1), default=None)
        if worst is not None:
            good = sum(abs(ratio - 1) <= REAL_MARGIN for ratio in ratios.values())
            text = f"{good} of {len(ratios)}; worst {worst[1]:.2f} ({worst[0]})"
            found.append(Target("simulated within 15 % of real", where, text, good == len(ratios)))
    return found


def _of(each: Comparison) -> list[Target]:
    oracle, static = each.ratios(ORACLE), each.ratios(BEST_STATIC)
    gain, bound = each.crossing_gain(), each.crossing_gain(ORACLE)
    crossing = sum(each.crossing.values())
    return [
        _every("mean within 5 % of the oracle on each trace", each.title, oracle, ORACLE_MARGIN),
        _every("never more than 2 % worse than the best static plan", each.title, static, STATIC_MARGIN),
        Target(
            "at least 20 % better than the best static plan over the traces that cross a break-even",
            each.title,
            _gained(gain, bound, crossing, len(each.traces)),
            None if gain is None else gain >= CROSSING_GAIN,
        ),
    ]


def _gained(gain: float | None, bound: float | None, crossing: int, traces: int) -> str:
    if gain is None:
        return "not run" if crossing else "no trace crosses one"
    oracles = "" if bound is None else f" (the oracle: {bound:.1%})"
    return f"{gain:.1%} over {crossing} of {traces} traces{oracles}"


def _every(name: str, where: str, ratios: Mapping[str, float], most: float) -> Target:
    if not ratios:
        return Target(name, where, "not run", None)
    good = sum(ratio <= most for ratio in ratios.values())
    worst = max(ratios, key=lambda trace: ratios[trace])
    text = f"{good} of {len(ratios)} traces; worst {ratios[worst]:.3f} on {worst}"
    return Target(name, where, text, good == len(ratios))
