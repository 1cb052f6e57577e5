"""Which fault comes when, drawn from a seed: pure, so that the same seed is the same run."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

FIRST_SECONDS = 2.0
RECOVERY_SECONDS = 5.0
QUIET_SECONDS = RECOVERY_SECONDS + 2.5
"""After a fault: what recovery may take, and then time enough to see that it did."""
LONGEST_SECONDS = 4.0
RESTART_SECONDS = 3.0
"""How long a tier takes to be there again, about; where it takes longer, what follows comes later."""
_TOGETHER = 0.25
_SHORTEST_SECONDS = 1.0


class Action(StrEnum):
    """What is done to a target. Each lasts for a while and is then undone.

    kill: ended at once, and started again after the while. restart: ended at once, and started again at once.
    drain: asked to end, and started again when it has. pause: stopped as if its machine hung, and continued.
    cut: carries nothing, and drops nothing. slow: a hundredth of its rate. flap: cut and restored in turns.
    """

    KILL = "kill"
    PAUSE = "pause"
    RESTART = "restart"
    DRAIN = "drain"
    CUT = "cut"
    SLOW = "slow"
    FLAP = "flap"


class Target(StrEnum):
    """What faults happen to. Never the device, without which nobody could answer."""

    EDGE = "edge"
    CLOUD = "cloud"
    DEVICE_EDGE = "device-edge"
    EDGE_CLOUD = "edge-cloud"


TIERS = (Target.EDGE, Target.CLOUD)
LINKS = (Target.DEVICE_EDGE, Target.EDGE_CLOUD)
_OF_TIERS = (Action.KILL, Action.PAUSE, Action.RESTART, Action.DRAIN)
_OF_LINKS = (Action.CUT, Action.SLOW, Action.FLAP)
Kind = tuple[Action, Target]
KINDS: tuple[Kind, ...] = tuple((a, t) for t in TIERS for a in _OF_TIERS) + tuple(
    (a, t) for t in LINKS for a in _OF_LINKS
)


@dataclass(frozen=True, slots=True)
class Fault:
    """`at`: seconds since the run began, or later where what came before took longer.

    `seconds`: until it is undone; 0 where it undoes itself.
    """

    at: float
    action: Action
    target: Target
    seconds: float

    @property
    def room(self) -> float:
        """Seconds that the schedule leaves for it."""
        return self.seconds + (RESTART_SECONDS if self.target in TIERS and self.action is not Action.PAUSE else 0.0)


def schedule(seed: int, seconds: float) -> tuple[Fault, ...]:
    """The faults of a run of `seconds`, in order of time, each over and recovered from before it ends.

    Every kind comes once before any comes again. Now and then two come together, on different targets; after each
    such episode follow `QUIET_SECONDS` without a fault.
    """
    rng = random.Random(seed)
    bag: list[Kind] = []
    found: list[Fault] = []
    at = FIRST_SECONDS
    while True:
        episode = _episode(rng, bag, at)
        ends = max(fault.at + fault.room for fault in episode)
        if ends + QUIET_SECONDS > seconds:
            return tuple(found)
        found += episode
        at = ends + QUIET_SECONDS


def _episode(rng: random.Random, bag: list[Kind], at: float) -> list[Fault]:
    first = _fault(rng, _drawn(rng, bag), at)
    other = next((kind for kind in bag if kind[1] is not first.target), None)
    if other is None or rng.random() >= _TOGETHER:
        return [first]
    bag.remove(other)
    return [first, _fault(rng, other, at + rng.uniform(0, _SHORTEST_SECONDS))]


def _drawn(rng: random.Random, bag: list[Kind]) -> Kind:
    if not bag:
        bag += rng.sample(KINDS, len(KINDS))
    return bag.pop()


def _fault(rng: random.Random, kind: Kind, at: float) -> Fault:
    action, target = kind
    undone = action not in (Action.RESTART, Action.DRAIN)
    seconds = rng.uniform(_SHORTEST_SECONDS, LONGEST_SECONDS) if undone else 0.0
    return Fault(round(at, 3), action, target, round(seconds, 3))
