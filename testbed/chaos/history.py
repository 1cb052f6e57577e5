"""What a run leaves behind: every request and how it ended, every fault, and what the parts held before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from testbed.chaos.schedule import Action, Target
from testbed.chaos.stalls import Stall


class Ending(StrEnum):
    """How a request ended for its client."""

    ANSWERED = "answered"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Given:
    """An answer: for which inputs, by which plan, and of each sample the exit, the tier, and the scores.

    scores: float32 [N, classes], as bytes, so that equal answers are one value.
    """

    inputs: int
    plan: str
    exits: tuple[int, ...]
    tiers: tuple[int, ...]
    scores: bytes


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. inputs: which of the pool. `reaches_up`: only the cloud can answer it without being degraded.

    leaves_after: seconds after which its client hangs up; None: it waits. wishes: what it asked for beside an answer.
    """

    id: str
    inputs: int
    samples: int
    deadline_seconds: float
    stream: bool = False
    reaches_up: bool = False
    leaves_after: float | None = None
    wishes: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """A request from its first byte to its end; times are seconds since the run began.

    answers: in the order they came, of a stream the early ones first. finals: how many of them said to be the last.
    named: the ids that they came under. reason: why the last one is degraded; empty: it is not. degraded_below: how
    many of its samples are, that the device itself answered.
    """

    asked: Asked
    at: float
    ended: float
    ending: Ending
    answers: tuple[Given, ...] = ()
    finals: int = 0
    named: frozenset[str] = frozenset()
    reason: str = ""
    degraded_below: int = 0
    error: str = ""

    @property
    def seconds(self) -> float:
        return self.ended - self.at


@dataclass(frozen=True, slots=True)
class Event:
    """A fault that was done: when it began, and when it was undone, in seconds since the run began."""

    action: Action
    target: Target
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process held. in_flight, queued, tasks: as its metrics say; None where it has none."""

    process: int
    rss_bytes: int
    descriptors: int
    threads: int
    in_flight: float | None = None
    queued: float | None = None
    tasks: float | None = None


@dataclass(frozen=True, slots=True)
class Counters:
    """What the device counted during the run.

    handled: calls for an inference, by status. requests, samples: answered ones. degraded: samples it answered itself,
    by reason.
    """

    started: float = 0
    handled: Mapping[str, float] = field(default_factory=dict)
    requests: float = 0
    samples: float = 0
    degraded: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class History:
    """A whole run. before, after: by part, while idle. died: parts that went away and were not made to.

    faults: what tiers logged as a fault of their own. stalls: when the machine stood still, tiers and clients alike.
    transports: how requests travelled from the device, and from the edge.
    """

    seed: int
    minutes: float
    transports: tuple[str, str]
    records: tuple[Record, ...]
    events: tuple[Event, ...]
    counters: Counters
    before: Mapping[str, Usage]
    after: Mapping[str, Usage]
    died: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    stalls: tuple[Stall, ...] = ()
