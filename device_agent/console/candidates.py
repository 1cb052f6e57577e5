"""The plan in force beside others that were in the running, and a sentence that says why it was chosen. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations

from device_agent.planner import Beliefs, Options, PlanCost, cost, rank
from device_agent.switching import RULE
from services import codec
from services.bundle import Manifest
from services.domain import Objective, Plan, Policy, Segment, Stage, Tier

_ALIKE = 1.01
_AT = {Tier.DEVICE: "on the device", Tier.EDGE: "at the edge", Tier.CLOUD: "in the cloud"}
_TAKE = {Objective.LATENCY: "take", Objective.ENERGY: "use", Objective.BYTES: "send"}
_WORDS = {Objective.LATENCY: "time", Objective.ENERGY: "energy", Objective.BYTES: "bytes"}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plan with its expected cost; `name` says which machines compute; `chosen`: it is in force."""

    name: str
    cost: PlanCost
    chosen: bool


@dataclass(frozen=True, slots=True)
class Candidates:
    """Cheapest first; `why` says why the chosen one is in force."""

    candidates: tuple[Candidate, ...]
    why: str


def candidates(beliefs: Beliefs, plan: Plan, policy: Policy, options: Options) -> Candidates:
    """The plan in force, the best plan for every other choice of machines, and plain offloading, for one sample."""
    current = cost(beliefs, plan, policy, 1, options)
    best = rank(beliefs, policy, 1, 2, options)
    if current is None or not best:
        return Candidates((), _unknown(beliefs, plan))
    found: dict[tuple[object, ...], Candidate] = {_cuts(plan): Candidate(name(plan), current, True)}
    for each in (*best, *_of_each_choice(beliefs, policy, options)):
        better = _needed(each, policy) < _needed(current, policy) / _ALIKE
        key = (*_cuts(each.plan), "better codecs") if better and _cuts(each.plan) == _cuts(plan) else _cuts(each.plan)
        found.setdefault(key, Candidate(name(each.plan), each, False))
    anything = replace(policy, min_accuracy=0.0 if beliefs.manifest.calibration else None, privacy=False)
    offloading = _offloading(beliefs.manifest)
    offloaded = cost(beliefs, offloading, anything, 1, options)
    if offloaded is not None:
        found.setdefault(("offloading",), Candidate("plain offloading", offloaded, False))
    ordered = sorted(found.values(), key=lambda each: _needed(each.cost, policy))
    return Candidates(tuple(ordered), _why(current, best[0], ordered, policy))


def name(plan: Plan) -> str:
    """Which machines compute, in words."""
    busy = [stage.tier for stage in plan.stages if not stage.segment.empty]
    if len(busy) == len(Tier):
        return "device, edge and cloud"
    if len(busy) == 1:
        return f"all {_AT[busy[0]]}"
    return " and ".join(tier.label for tier in busy)


def _of_each_choice(beliefs: Beliefs, policy: Policy, options: Options) -> Iterator[PlanCost]:
    """The best plan for each set of machines that may compute, where it is one that uses all of them."""
    for count in range(1, len(Tier) + 1):
        for tiers in combinations(sorted(options.tiers), count):
            for each in rank(beliefs, policy, 1, 1, replace(options, tiers=frozenset(tiers))):
                if len([stage for stage in each.plan.stages if not stage.segment.empty]) == count:
                    yield each


def fixed(plan: Plan) -> Candidates:
    """Where settings fix the plan, nothing is compared."""
    return Candidates((), f"The setting splits fixes the plan {plan}; nothing is compared with it.")


def _offloading(manifest: Manifest) -> Plan:
    """The input itself to the cloud, as a JPEG where it is an image: what one would do without a planner."""
    form, nothing = "jpeg90" if "jpeg90" in codec.usable(manifest, 0) else "fp32", Segment(0, 0)
    up = (Stage(Tier.EDGE, nothing, form), Stage(Tier.CLOUD, Segment(0, manifest.last), form))
    return Plan((Stage(Tier.DEVICE, nothing), *up))


def _cuts(plan: Plan) -> tuple[object, ...]:
    return tuple((stage.tier, stage.segment) for stage in plan.stages)


def _needed(found: PlanCost, policy: Policy) -> float:
    return {Objective.ENERGY: found.joules, Objective.BYTES: found.bytes}.get(policy.objective, found.seconds)


def _unknown(beliefs: Beliefs, plan: Plan) -> str:
    unknown = [tier.label for tier in Tier if tier not in beliefs.profiles]
    if unknown:
        return f"Nothing is known yet of what the {' and the '.join(unknown)} can do, so the plan stays as it is."
    if len(plan.stages) > 1:
        return "The link above is unknown just now, so what this plan costs is, too; the next probe will tell."
    return "No plan keeps what is asked of it with what is known now, so the plan stays as it is."


def _why(current: PlanCost, best: PlanCost, ordered: list[Candidate], policy: Policy) -> str:
    ours, least = _needed(current, policy), _needed(best, policy)
    if least < ours / _ALIKE:
        return (
            f"{_capital(_amount(ours, policy))} expected; another plan now promises {_amount(least, policy)}. "
            f"A switch waits until the gain is above {RULE.margin:.0%} and stays."
        )
    rival = _rival(current, ordered)
    start = f"Least {_WORDS[policy.objective]}: {_amount(ours, policy)} expected"
    if rival is None:
        return f"{start}; nothing else can run now."
    return f"{start}. {_against(current, rival, policy)}"


def _rival(current: PlanCost, ordered: list[Candidate]) -> Candidate | None:
    """Whom to compare with: the device alone, else the best that computes elsewhere."""
    others = [each for each in ordered if each.name != name(current.plan)]
    local = (each for each in others if each.name == f"all {_AT[Tier.DEVICE]}")
    return next(local, others[0] if others else None)


def _against(current: PlanCost, rival: Candidate, policy: Policy) -> str:
    ours, theirs = _needed(current, policy), _needed(rival.cost, policy)
    sentence = f"{_capital(rival.name)} would {_TAKE[policy.objective]} {_amount(theirs, policy)}"
    if policy.objective is not Objective.LATENCY or theirs <= ours:
        return f"{sentence}."
    more = {name: rival.cost.terms[name] - current.terms[name] for name in current.terms}
    dearest = max(more, key=lambda name: more[name])
    return f"{sentence}, mostly for {_spoken(dearest)}."


def _spoken(term: str) -> str:
    """'network 1' as 'the network to the edge'."""
    what, _, where = term.rpartition(" ")
    if where == "compute":
        return f"computing on the {what}"
    target = {"1": "edge", "2": "cloud"}[where]
    return {
        "network": f"the network to the {target}",
        "encode": f"encoding for the {target}",
        "queue": f"waiting at the {target}",
        "decode": f"decoding at the {target}",
    }[what]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _amount(value: float, policy: Policy) -> str:
    if policy.objective is Objective.LATENCY:
        return f"{1000 * value:.3g} ms" if value < 1 else f"{value:.3g} s"
    return f"{value:,.0f} bytes" if policy.objective is Objective.BYTES else f"{value:.3g} J"
