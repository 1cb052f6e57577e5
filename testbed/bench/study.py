"""The whole comparison: workloads, ways of arriving, traces, policies; simulated, and on the running tiers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from device_agent.planner import Beliefs, rank
from device_agent.planning import FIRST_SECONDS
from device_agent.replan import PREPARE_SECONDS
from services.domain import LinkEstimate, Plan, Policy, Tier
from testbed.bench import cells, figures, policies
from testbed.bench.compare import Bench, Outcome, Trial, deadline_seconds, run
from testbed.bench.figures import Picture
from testbed.bench.policies import BEST_STATIC, ORACLE, OURS
from testbed.bench.results import Comparison
from testbed.bench.statistics import summarise
from testbed.bench.world import Loop
from testbed.traces import RateTrace, name_of, read_trace

Progress = Callable[[str], None]

_TIMELINES = 3
START_SECONDS = FIRST_SECONDS + PREPARE_SECONDS
"""Of a trace, before the first request: so long a device may look for its link when it starts, and prepare its first
plan. Nobody else needs it."""
_REGIME_BATCHES = (1, 2, 4, 8, 16, 32)
_REGIME_RATES = 60


@dataclass(slots=True)
class Compared:
    """A comparison with the runs it rests on, for the plots."""

    comparison: Comparison
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    trials: dict[str, Trial] = field(default_factory=dict)

    def add(self, each: Bench, trial: Trial, outcome: Outcome) -> None:
        """Takes in one trial."""
        found, with_truth = self.comparison, each.workload.labels is not None
        limit = found.deadline_ms / 1000
        found.traces[trial.name] = {
            name: summarise(runs, limit, with_truth, trial.seed) for name, runs in outcome.runs.items() if len(runs)
        }
        found.crossing[trial.name] = outcome.crosses
        if outcome.static is not None:
            found.static_plans[trial.name] = str(outcome.static)
        self.outcomes[trial.name], self.trials[trial.name] = outcome, trial


def trials(files: Sequence[Path], seconds: float | None, loop: Loop, seed: int) -> list[Trial]:
    """One trial for each trace file, as long as it is or of `seconds`, soon after its beginning. Raises TraceError."""
    found = []
    for file in files:
        rate = read_trace(file)
        length = rate.duration_seconds if seconds is None else min(seconds, rate.duration_seconds)
        found.append(Trial(name_of(file), rate, length, loop, seed, START_SECONDS))
    return found


def empty(each: Bench, loop: Loop, real: bool) -> Compared:
    """A comparison without trials yet."""
    return Compared(Comparison(each.workload.name, loop, real, 1000 * deadline_seconds(each)))


def simulated(
    each: Bench, of: Sequence[Trial], names: Sequence[str], on_step: Progress, build: cells.Build, processes: int
) -> Compared:
    """All policies on all trials, simulated. `on_step` hears of each policy that is through with a trial.

    What takes long is simulated in `processes` side by side, each of which `build`s what `each` is.
    """
    found = empty(each, of[0].loop, real=False)
    if processes > 1 and len(names) * sum(trial.seconds for trial in of) > cells.WORTH_SECONDS:
        outcomes = iter(cells.outcomes(build, of, names, on_step, processes))
    else:
        outcomes = (run(each, trial, names, on_step) for trial in of)
    for trial, outcome in zip(of, outcomes, strict=True):
        found.add(each, trial, outcome)
    return found


def pictures(found: Compared) -> list[Picture]:
    """Latency distributions of all traces, and timelines of the few on which our policy had most to do."""
    title = found.comparison.title
    shown = {name: outcome.runs for name, outcome in found.outcomes.items()}
    result = [figures.latencies(shown, title)]
    busiest = sorted(found.comparison.traces, key=lambda trace: -_switches(found.comparison, trace))
    for trace in busiest[:_TIMELINES]:
        trial, runs = found.trials[trace], found.outcomes[trace].runs
        some = {name: runs[name] for name in (ORACLE, BEST_STATIC, OURS) if name in runs}
        if isinstance(trial.rate, RateTrace) and some:
            result.append(figures.timeline(trial.rate, trial.start, trial.end, some, f"{title}: {trace}"))
    return result


def regime_map(each: Bench) -> Picture:
    """The plan that the planner takes at each rate of the uplink and batch size, as in Dynamic Split Computing."""
    manifest, world = each.workload.bundle.manifest, each.world
    profiles = {tier: policies.profile(each.costs, tier, world) for tier in Tier}
    known = {segment.batch_size for segment in each.costs.segments}
    batches = [size for size in _REGIME_BATCHES if size <= max(known)]
    rates = [12500 * 8000 ** (i / (_REGIME_RATES - 1)) for i in range(_REGIME_RATES)]  # 0.1 to 800 Mbit/s
    far = LinkEstimate(Tier.EDGE, world.far_fixed_seconds, world.far_rate)

    def best(batch: int, rate: float) -> Plan | None:
        links = {Tier.DEVICE: LinkEstimate(Tier.DEVICE, world.near_fixed_seconds, rate), Tier.EDGE: far}
        ranked = rank(Beliefs(manifest, profiles, links), Policy(), batch, 1, each.options)
        return ranked[0].plan if ranked else None

    table = [[best(batch, rate) for rate in rates] for batch in batches]
    return figures.regimes(rates, batches, table, f"{each.workload.name}: the best plan")


def simulated_over_real(virtual: Comparison, real: Comparison) -> dict[str, float]:
    """Mean latency simulated over real, by policy and trace, where both ran."""
    return {
        f"{policy} on {trace}": virtual.traces[trace][policy].mean_ms / summary.mean_ms
        for trace, found in real.traces.items()
        for policy, summary in found.items()
        if policy in virtual.traces.get(trace, {})
    }


def _switches(found: Comparison, trace: str) -> int:
    summary = found.traces[trace].get(OURS)
    return summary.switches if summary is not None else 0
