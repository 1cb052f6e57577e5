"""What came of a run, in numbers: latency, misses, bytes, accuracy, switches, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from services.domain import NO_EXIT, Plan

_RESAMPLES = 400
_BLOCKS = 30
_LEVEL = 0.95

Floats = npt.NDArray[np.float64]


@dataclass(slots=True)
class Runs:
    """Requests in the order of their end: when each began, how long it took, its plan, what it sent, and the answer.

    extra_bytes: sent besides, for no request or for one that did without. starts: where, among them, another turn
    begins; times begin anew with it.
    """

    at: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    right: list[bool | None] = field(default_factory=list)
    exits: list[int] = field(default_factory=list)
    failed: list[bool] = field(default_factory=list)
    extra_bytes: int = 0
    starts: list[int] = field(default_factory=list)

    def add(
        self,
        at: float,
        seconds: float,
        plan: Plan,
        nbytes: int = 0,
        right: bool | None = None,
        exit_index: int = NO_EXIT,
        failed: bool = False,
    ) -> None:
        self.at.append(at)
        self.seconds.append(seconds)
        self.plans.append(plan)
        self.bytes.append(nbytes)
        self.right.append(right)
        self.exits.append(exit_index)
        self.failed.append(failed)

    def take(self, other: Runs) -> None:
        """Adds all of `other`, as turns of their own."""
        self.starts += [len(self) + start for start in (0, *other.starts)]
        for name in ("at", "seconds", "plans", "bytes", "right", "exits", "failed"):
            getattr(self, name).extend(getattr(other, name))
        self.extra_bytes += other.extra_bytes

    def __len__(self) -> int:
        return len(self.at)

    @property
    def turns(self) -> list[list[int]]:
        """The requests of each turn, in the order in which they began."""
        turns = np.split(np.arange(len(self)), self.starts)
        return [sorted(turn.tolist(), key=self.at.__getitem__) for turn in turns if len(turn)]

    @property
    def switched(self) -> list[bool]:
        """Of each request, whether it had another plan than the one before it in its turn."""
        found = [False] * len(self)
        for a, b in (pair for turn in self.turns for pair in pairwise(turn)):
            found[b] = self.plans[a].stages != self.plans[b].stages
        return found

    @property
    def switches(self) -> int:
        """How often a request had another plan than the one before it in its turn."""
        return sum(self.switched)


@dataclass(frozen=True, slots=True)
class Summary:
    """One policy on one trace. Latencies in milliseconds; `ci`: 95 % bootstrap intervals.

    missed: share later than the deadline or without an answer. bytes: mean per request that the device sent, probes
    and calls in vain included. accuracy: None where truth is not known. switches: changes of plan, of all turns
    together.
    """

    requests: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    missed: float
    failed: int
    bytes: float
    accuracy: float | None
    switches: int
    ci: dict[str, tuple[float, float]]


def summarise(runs: Runs, deadline_seconds: float, with_truth: bool, seed: int) -> Summary:
    """The figures of one run. Who failed is wrong and missed, and waited as long as its caller did."""
    seconds, failed = np.array(runs.seconds), np.array(runs.failed)
    milliseconds, right = 1000 * seconds, np.array([each is True for each in runs.right])
    means = {
        "missed": np.array(failed | (seconds > deadline_seconds), float),
        "bytes": np.array(runs.bytes, float) + runs.extra_bytes / len(runs),
    } | ({"accuracy": right.astype(float)} if with_truth else {})
    p50, p95, p99 = (float(p) for p in np.percentile(milliseconds, (50, 95, 99)))
    return Summary(
        requests=len(runs),
        mean_ms=float(milliseconds.mean()),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        missed=float(means["missed"].mean()),
        failed=int(failed.sum()),
        bytes=float(means["bytes"].mean()),
        accuracy=float(right.mean()) if with_truth else None,
        switches=runs.switches,
        ci=intervals(milliseconds, means, np.array(runs.switched, float), seed),
    )


def intervals(
    milliseconds: Floats, means: Mapping[str, Floats], switched: Floats, seed: int
) -> dict[str, tuple[float, float]]:
    """95 % intervals by the moving of whole blocks (Kunsch, 1989): neighbours in time share the link's state.

    `means`: what the mean is reported of; `switched`: what the sum is.
    """
    rng = np.random.default_rng(seed)
    blocks = np.array_split(np.arange(len(milliseconds)), min(_BLOCKS, len(milliseconds)))
    found: dict[str, list[float]] = {name: [] for name in ("mean_ms", "p50_ms", "p95_ms", "p99_ms", *means, "switches")}
    for _ in range(_RESAMPLES):
        rows = np.concatenate([blocks[i] for i in rng.integers(0, len(blocks), len(blocks))])
        drawn = milliseconds[rows]
        latencies = (drawn.mean(), *np.percentile(drawn, (50, 95, 99)))
        shares = (each[rows].mean() for each in means.values())
        values = (*latencies, *shares, switched[rows].mean() * len(switched))
        for name, value in zip(found, values, strict=True):
            found[name].append(float(value))
    tail = 100 * (1 - _LEVEL) / 2
    return {name: _interval(values, tail) for name, values in found.items()}


def _interval(values: list[float], tail: float) -> tuple[float, float]:
    low, high = np.percentile(values, (tail, 100 - tail))
    return float(low), float(high)
