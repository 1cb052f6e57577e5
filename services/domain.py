"""The words of Offramp, as frozen values. Nothing here does I/O or knows a library besides numpy."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Clock = Callable[[], float]
FloatArray = npt.NDArray[np.float32]

NO_EXIT = -1


class Tier(enum.IntEnum):
    """Where a machine stands. The order is the order of travel."""

    DEVICE = 0
    EDGE = 1
    CLOUD = 2

    @property
    def label(self) -> str:
        return self.name.lower()


class DegradedReason(enum.IntEnum):
    """Why an answer is not the one the plan would have given. NONE means it is."""

    NONE = 0
    DEADLINE = 1
    UPSTREAM_UNAVAILABLE = 2
    UPSTREAM_OVERLOADED = 3
    UPSTREAM_DRAINING = 4
    UPSTREAM_MISMATCH = 5
    UPSTREAM_ERROR = 6

    @property
    def label(self) -> str:
        return "" if self is DegradedReason.NONE else self.name.lower()


class Segment(NamedTuple):
    """The part of the network between two split points, half-open: [start, end). A tuple: tables are kept by it."""

    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.start}:{self.end}"

    @property
    def empty(self) -> bool:
        return self.start == self.end


@dataclass(frozen=True, slots=True)
class Stage:
    """One tier's share of a plan: its segment, and the codec of the activation that reaches it."""

    tier: Tier
    segment: Segment
    codec: str = "fp32"

    def __str__(self) -> str:
        codec = "" if self.tier is Tier.DEVICE else f" {self.codec}"
        return f"{self.tier.label} {self.segment}{codec}"


@dataclass(frozen=True, slots=True)
class Plan:
    """Which tier runs which segment, and the codec of each hop. Travels with the request."""

    stages: tuple[Stage, ...]
    expected_seconds: float | None = None
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.stages, self.expected_seconds)))

    def __hash__(self) -> int:
        """Computed once: every request looks its plan up in several places."""
        return self._hash

    def __str__(self) -> str:
        return " > ".join(str(stage) for stage in self.stages)

    @classmethod
    def parse(cls, text: str) -> Plan:
        """The plan that `str` made `text` of. Raises ValueError for anything else."""
        stages = []
        for part in text.split(" > "):
            tier, segment, *codec = part.split(" ")
            start, end = segment.split(":")
            stages.append(Stage(Tier[tier.upper()], Segment(int(start), int(end)), *codec))
        return cls(tuple(stages))

    def ending_at(self, last: int) -> Plan:
        """The same without tiers that would get nothing but the end, at split point `last`."""
        return Plan(tuple(stage for stage in self.stages if stage.segment.start < last), self.expected_seconds)

    def stage(self, tier: Tier) -> Stage | None:
        for stage in self.stages:
            if stage.tier is tier:
                return stage
        return None

    def after(self, tier: Tier) -> Stage | None:
        """The next stage above `tier`, or None where the plan ends."""
        for stage in self.stages:
            if stage.tier > tier:
                return stage
        return None


TIMERS_DIFFER_SECONDS = 0.005
"""Timers of callers, gRPC and this process need not agree by more."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in monotonic time. Never compared between machines: what crosses the wire is what remains."""

    at: float
    clock: Clock = time.monotonic

    @classmethod
    def after(cls, seconds: float, clock: Clock = time.monotonic) -> Deadline:
        return cls(clock() + seconds, clock)

    def remaining(self) -> float:
        return self.at - self.clock()


@dataclass(frozen=True, slots=True)
class Payload:
    """An encoded activation: what crosses a link.

    `shape` counts samples first; `parameters` is what the codec needs besides the data (quantisation
    ranges); `crc32c` covers parameters, then data.
    """

    shape: tuple[int, ...]
    codec: str
    data: bytes | memoryview
    parameters: bytes = b""
    crc32c: int = 0

    @property
    def nbytes(self) -> int:
        return len(self.data) + len(self.parameters)


@dataclass(frozen=True, slots=True)
class Passing:
    """An activation that a tier passes on as it came, with what decodes it where that turns out to be needed."""

    payload: Payload
    decode: Callable[[Payload], FloatArray]


@dataclass(frozen=True, slots=True)
class Request:
    """One inference on its way through the tiers.

    `activation` is float32 [N, *shape of split point `at`]; `thresholds` overrides the bundle's own,
    one per exit, in order. `traceparent`: where it belongs in its caller's trace; empty where in none.
    `passing`: set where this tier runs nothing of it; `activation` then has the right shape, and no more.
    `priority`: of more than 1, it is refused first where a tier's queue fills; 0 is none given.
    """

    request_id: str
    model_hash: str
    plan: Plan
    at: int
    activation: FloatArray
    deadline: Deadline
    thresholds: tuple[float, ...] | None = None
    traceparent: str = ""
    passing: Passing | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True)
class LinkEstimate:
    """Belief about one hop. None is *unknown*, which is neither fast nor slow."""

    source: Tier
    rtt_seconds: float | None = None
    up_bytes_per_second: float | None = None
    spread: float | None = None
    age_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class SegmentTime:
    """Median seconds one run of `segment` takes for a batch of `batch_size`."""

    segment: Segment
    batch_size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class CodecCost:
    """What a codec costs on one machine, per byte of the float32 activation, and what it makes of one byte."""

    codec: str
    encode_seconds_per_byte: float
    decode_seconds_per_byte: float
    ratio: float


@dataclass(frozen=True, slots=True)
class TierProfile:
    """Belief about one machine: what its segments and codecs cost and how long work waits there.

    slowdown: what runs take lately over what `segments` says, 1 on an idle machine. holds: the part of the
    network it may run; None is all of it.
    """

    tier: Tier
    queue_seconds: float = 0.0
    segments: tuple[SegmentTime, ...] = ()
    codecs: tuple[CodecCost, ...] = ()
    slowdown: float = 1.0
    holds: Segment | None = None


class Objective(enum.StrEnum):
    """What a plan is chosen to have least of, in expectation."""

    LATENCY = "latency"
    ENERGY = "energy"
    BYTES = "bytes"


@dataclass(frozen=True, slots=True)
class Policy:
    """What the caller wants. privacy: the raw input may not leave the device.

    min_accuracy: the expected accuracy (0..1) that a plan must keep; None: what the calibration promises, less
    the loss that the settings allow. deadline_seconds: a plan expected to take longer is not chosen if another does.
    leaving: the share (0..1) expected to leave at each exit, of those that reach it; None: as calibrated.
    images: whether the input can be shown as an image, and so sent as one.
    """

    objective: Objective = Objective.LATENCY
    min_accuracy: float | None = None
    deadline_seconds: float | None = None
    privacy: bool = False
    leaving: tuple[float, ...] | None = None
    images: bool = True
