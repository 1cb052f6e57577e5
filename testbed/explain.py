"""`offramp explain`: the plan that would be chosen for given links, what else was close, and what each term costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from device_agent.planner import TERMS, Beliefs, PlanCost, cost, rank
from services import codec, measuring
from services.bundle import Manifest
from services.domain import CodecCost, LinkEstimate, Plan, Policy, Segment, Stage, Tier, TierProfile
from services.errors import InvalidInput
from services.profile import Measured
from testbed.local import LinkAsked
from testbed.traces import parse_duration, parse_rate

RUNNERS_UP = 5
_JPEG = "jpeg90"
_WIDE, _SHORT = 120, 24
_BETWEEN, _BELOW = " > ", "\n  > "


@dataclass(frozen=True, slots=True)
class Explanation:
    """The best plans, best first, and plans that people would try without a planner; None where not feasible."""

    beliefs: Beliefs
    policy: Policy
    batch_size: int
    ranked: list[PlanCost]
    baselines: dict[str, PlanCost | None]
    notes: list[str]


def believed(
    manifest: Manifest, measured: Measured, links: Sequence[LinkAsked], slowdowns: Mapping[Tier, float]
) -> Beliefs:
    """Three machines like this one, slowed down, behind `links` (device to edge, edge to cloud)."""
    if len(links) != 2:
        raise InvalidInput(f"links given: {len(links)}; give --links twice: device-edge, then edge-cloud")
    profiles = {}
    for tier in Tier:
        mine = measured.slowed(slowdowns.get(tier, 1.0))
        profiles[tier] = TierProfile(tier, segments=mine.segments, codecs=mine.codecs)
    estimates = {
        source: LinkEstimate(source, parse_duration(asked.rtt), parse_rate(asked.rate))
        for source, asked in zip((Tier.DEVICE, Tier.EDGE), links, strict=True)
    }
    return Beliefs(manifest, profiles, estimates)


def explain(beliefs: Beliefs, policy: Policy, batch_size: int = 1) -> Explanation:
    """Raises InvalidInput where no plan is feasible."""
    ranked = rank(beliefs, policy, batch_size, 1 + RUNNERS_UP)
    if not ranked:
        raise InvalidInput("no plan keeps this policy; lower --min-accuracy, or give the profile more time to measure")
    anything = replace(policy, min_accuracy=0.0 if beliefs.manifest.calibration else None, privacy=False)
    baselines = {name: cost(beliefs, plan, anything, batch_size) for name, plan in _baselines(beliefs.manifest).items()}
    notes = [*_missed(ranked[0], policy), *_unmeasured(beliefs), *_notes(beliefs, ranked[0].plan)]
    return Explanation(beliefs, policy, batch_size, ranked, baselines, notes)


def as_json(found: Explanation) -> dict[str, Any]:
    """Seconds, bytes and joules as numbers; plans as text."""
    policy = found.policy
    return {
        "model": found.beliefs.manifest.name,
        "policy": {
            "objective": policy.objective.value,
            "min_accuracy": policy.min_accuracy,
            "deadline_seconds": policy.deadline_seconds,
            "privacy": policy.privacy,
        },
        "batch_size": found.batch_size,
        "chosen": _values(found.ranked[0]),
        "next": [_values(each) for each in found.ranked[1:]],
        "baselines": {name: None if each is None else _values(each) for name, each in found.baselines.items()},
        "notes": found.notes,
    }


def shown(found: Explanation) -> Group:
    """The chosen plan's terms one by one, then all plans with their terms by group."""
    chosen = found.ranked[0]
    names = ["chosen", *(f"+{number}" for number in range(1, len(found.ranked)))]
    plans = PlansTable("Plans, milliseconds: where the time goes", dict(zip(names, found.ranked, strict=True)))
    baselines = PlansTable("Without a planner (whatever the policy says)", found.baselines)
    head = Text.assemble(("plan ", "bold"), (str(chosen.plan), "bold green"), f"\n{_summary(found)}\n")
    notes = [Text(f"note: {note}", style="dim") for note in found.notes]
    return Group(head, _terms_table(chosen), plans, baselines, *notes)


def _values(each: PlanCost) -> dict[str, Any]:
    return {
        "plan": str(each.plan),
        "seconds": each.seconds,
        "bytes": each.bytes,
        "joules_estimate": each.joules,
        "accuracy": each.accuracy,
        "terms": each.terms,
    }


def _baselines(manifest: Manifest) -> dict[str, Plan]:
    def to_cloud(name: str) -> Plan:
        stages = (Stage(Tier.DEVICE, Segment(0, 0)), Stage(Tier.EDGE, Segment(0, 0), name))
        return Plan((*stages, Stage(Tier.CLOUD, Segment(0, manifest.last), name)))

    plans = {"all local": Plan((Stage(Tier.DEVICE, Segment(0, manifest.last)),)), "raw to cloud": to_cloud("fp32")}
    return plans | {
        f"{name} to cloud": to_cloud(name) for name in ("pixels", _JPEG) if name in codec.usable(manifest, 0)
    }


def _missed(chosen: PlanCost, policy: Policy) -> list[str]:
    deadline = policy.deadline_seconds
    if deadline is None or chosen.seconds <= deadline:
        return []
    return [f"no plan is expected to take {1000 * deadline:g} ms or less; this one is the fastest"]


def _unmeasured(beliefs: Beliefs) -> list[str]:
    """The plans that were left out, since what they take is not known."""
    manifest, profile = beliefs.manifest, beliefs.profiles[Tier.DEVICE]
    missing = measuring.unknown(manifest, Measured(profile.segments, profile.codecs))
    if not missing:
        return []
    return [
        f"{len(missing)} of {manifest.last} split points were not measured in time, and no plan cuts there; "
        "give it more with --seconds"
    ]


def _notes(beliefs: Beliefs, plan: Plan) -> list[str]:
    """What the figures rest on that nobody measured."""
    notes = ["joules are an estimate from configured powers, of the device alone"]
    notes.append("a tier that is slowed down computes slower; codecs take what they take on this machine")
    if beliefs.manifest.calibration is None:
        notes.append("this bundle is not calibrated: accuracy is unknown, so only codecs that keep it are considered")
    known = {(entry.split_point, entry.codec) for entry in beliefs.manifest.codec_accuracy if entry.bytes_per_sample}
    for stage in plan.stages[1:]:
        if (stage.segment.start, stage.codec) not in known:
            notes.append(f"bytes of {stage.codec} at split point {stage.segment.start} are estimated, not measured")
        costs = {each.codec for each in _codecs_of(beliefs, stage.tier)}
        if stage.codec not in costs:
            notes.append(f"the time {stage.codec} takes on the {stage.tier.label} was not measured and counts as none")
    return list(dict.fromkeys(notes))


def _codecs_of(beliefs: Beliefs, tier: Tier) -> tuple[CodecCost, ...]:
    profile = beliefs.profiles.get(tier)
    return profile.codecs if profile else ()


def _summary(found: Explanation) -> str:
    chosen = found.ranked[0]
    accuracy = "" if chosen.accuracy is None else f", accuracy {chosen.accuracy:.2%}"
    return (
        f"least {found.policy.objective.value} for a batch of {found.batch_size}\n"
        f"expect {1000 * chosen.seconds:.2f} ms, {chosen.bytes:,.0f} bytes, {chosen.joules:.3g} J{accuracy}"
    )


def _terms_table(chosen: PlanCost) -> Table:
    table = Table(title="The chosen plan, term by term", title_justify="left", box=box.SIMPLE_HEAD)
    for column, right in (("where", False), ("what", False), ("ms", True), ("share", True)):
        table.add_column(column, justify="right" if right else "left")
    for group, names in TERMS.items():
        for number, name in enumerate(names):
            seconds = chosen.terms[name]
            if seconds > 0:
                share = seconds / chosen.seconds
                table.add_row("" if number else group, name, f"{1000 * seconds:.3f}", f"{share:.0%}")
    return table


@dataclass(frozen=True, slots=True)
class PlansTable:
    """Plans by what they are called, None for one that is not possible; where it is narrow, plans stand below names."""

    title: str
    plans: Mapping[str, PlanCost | None]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.max_width >= _WIDE
        table = Table(title=self.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in ("", "plan") if wide else ("plan",):
            table.add_column(column, no_wrap=wide)
        for column in (*TERMS, "total", "bytes", "J"):
            table.add_column(column, justify="right", no_wrap=True)
        table.padding = (0, 1, 0, 0)
        for name, each in self.plans.items():
            plan = "not possible here" if each is None else _short(each.plan)
            begin = (
                [name, plan]
                if wide
                else [f"{name}\n  {plan if len(plan) <= _SHORT else plan.replace(_BETWEEN, _BELOW)}"]
            )
            table.add_row(*begin, *_costs(each), style="bold green" if name == "chosen" else None)
        yield table


def _costs(each: PlanCost | None) -> list[str]:
    """Milliseconds by group and in all, bytes and joules."""
    if each is None:
        return []
    groups = [sum(each.terms[term] for term in names) for names in TERMS.values()]
    cells = ["" if seconds == 0 else _number(1000 * seconds) for seconds in (*groups, each.seconds)]
    return [*cells, f"{each.bytes:,.0f}", f"{each.joules:.2g}"]


def _number(milliseconds: float) -> str:
    return f"{milliseconds:.2f}" if milliseconds < 100 else f"{milliseconds:.0f}"


def _short(plan: Plan) -> str:
    """'0:4 > int8 4:9 > int8+zstd 9:12': segments in the order of travel, each behind the codec it arrives by."""
    own = (f"{'' if stage.tier is Tier.DEVICE else stage.codec + ' '}{stage.segment}" for stage in plan.stages)
    return _BETWEEN.join(own)
