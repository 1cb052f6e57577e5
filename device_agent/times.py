"""How long segments take on one machine, between any two split points and for any number of samples. Pure.

S is the number of split points, B of batch sizes that were measured. Unknown is infinity: no plan uses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from services.domain import Segment, SegmentTime, TierProfile

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Truths = npt.NDArray[np.bool_]
T = TypeVar("T")

_TABLES = 6
"""Two for each tier: what it tells now, and what it told before. One may take megabytes."""


@dataclass(frozen=True, slots=True, eq=False)
class Same(Generic[T]):
    """A cache key that compares by identity: a frozen value of a thousand parts is dear to hash."""

    value: T

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value


@dataclass(frozen=True, slots=True)
class Travellers:
    """Who of a batch still travels behind each split point, float64 [S] each.

    share: probability of one sample. some: probability that there is anybody, 1 - (1 - share)^batch.
    count: expected number. together: expected number where there is somebody, at least 1.
    """

    share: Array
    some: Array
    count: Array
    together: Array

    @classmethod
    def of(cls, stay: Iterable[float], batch_size: int) -> Travellers:
        share = np.asarray(tuple(stay), np.float64)
        some = 1 - (1 - share) ** batch_size
        count = batch_size * share
        return cls(share, some, count, np.divide(count, some, out=np.ones_like(share), where=some > 0))


def expected_compute(profile: TierProfile | None, travellers: Travellers, exits: Iterable[int]) -> Array:
    """Expected seconds [S, S] that this machine computes on [a, b): each piece between `exits` by who reaches it.

    E[a, b) = sum over pieces of P(somebody travels) x seconds for those who then do. Exact where the seconds of a
    piece are affine in the number of samples. inf: not known, or outside what the machine holds.
    """
    points = len(travellers.share)
    if profile is None:
        return np.full((points, points), np.inf)
    seconds = profile.slowdown * segment_seconds(profile.segments, travellers.together)
    seconds[_not_held(profile.holds, points)] = np.inf
    known = np.isfinite(seconds)
    expected = np.multiply(seconds, travellers.some[:, None], out=np.full_like(seconds, np.inf), where=known)
    for at in sorted(exits):
        expected[:at, at + 1 :] = expected[:at, at, None] + expected[None, at, at + 1 :]
    return expected


def segment_seconds(segments: tuple[SegmentTime, ...], samples: Array) -> Array:
    """Seconds [S, S] of one run of [a, b) with `samples[a]` samples (float64 [S], not below 1). Not to be written to.

    Between two batch sizes that were measured, by a straight line; beyond them, in proportion.
    """
    return _run_seconds(Same(segments), samples.tobytes())


@lru_cache(maxsize=64)
def _run_seconds(segments: Same[tuple[SegmentTime, ...]], samples_float64: bytes) -> Array:
    samples = np.frombuffer(samples_float64)
    sizes, table = measured(segments, len(samples))
    found = _between(sizes, table, samples) if len(sizes) else np.full(table.shape[1:], np.inf)
    np.fill_diagonal(found, 0)
    return found


def _between(sizes: Array, table: Array, samples: Array) -> Array:
    """Row a of `table` [B, S, S] at `samples[a]` instead of at `sizes` [B]."""
    low, high, share, beyond = _on_a_line(samples, sizes)
    rows = np.arange(len(samples))
    found = (1 - share) * table[low, rows] + share * table[high, rows]
    return np.where(np.isnan(found), np.inf, found * beyond)


@lru_cache(maxsize=_TABLES)
def measured(segments: Same[tuple[SegmentTime, ...]], points: int) -> tuple[Array, Array]:
    """Batch sizes, rising [B], and seconds [B, S, S] of [a, b): measured, or else of two heads the difference.

    What was measured in some batch sizes only is filled in for the others; what was measured in none is NaN.
    """
    rows = [(t.batch_size, t.segment.start, t.segment.end, t.seconds) for t in segments.value]
    batch, start, end, seconds = np.array(rows, np.float64).reshape(-1, 4).T
    within = (start >= 0) & (start < end) & (end < points)
    sizes = np.unique(batch[within])
    table = np.full((len(sizes), points, points), np.nan)
    where = np.searchsorted(sizes, batch[within]), start[within].astype(np.intp), end[within].astype(np.intp)
    table[where] = seconds[within]
    heads = table[:, 0].copy()
    heads[:, 0] = 0
    table = np.where(np.isnan(table), np.maximum(heads[:, None, :] - heads[:, :, None], 0), table)
    known = ~np.isnan(table)
    for have, alike in _ways(known):
        if have.any() and not have.all():
            low, high, share, beyond = _on_a_line(sizes, sizes[have])
            there = table[have][:, alike]
            table[:, alike] = ((1 - share) * there[low] + share * there[high]) * beyond
    return sizes, table


def _ways(known: Truths) -> Iterator[tuple[Truths, Truths]]:
    """The few ways to be known in some of B sizes, bool [B], each with the cells that are, bool [S, S].

    known: bool [B, S, S].
    """
    if not len(known):
        return
    cells = known.reshape(len(known), -1)
    packed = np.ascontiguousarray(np.packbits(cells, axis=0).T)
    kinds = packed.view(np.dtype((np.void, packed.shape[1]))).ravel()
    _, first, which = np.unique(kinds, return_index=True, return_inverse=True)
    for number, cell in enumerate(first):
        yield cells[:, cell], (which == number).reshape(known.shape[1:])


def _on_a_line(wanted: Array, sizes: Array) -> tuple[Indices, Indices, Array, Array]:
    """For `wanted` samples [W]: between which two of `sizes` they are, how far, and by how much beyond all, [W, 1]."""
    within = wanted.clip(sizes[0], sizes[-1])
    high = np.searchsorted(sizes, within)
    low = np.maximum(high - 1, 0)
    share = (within - sizes[low]) / np.where(high > low, sizes[high] - sizes[low], 1)
    return low, high, share[:, None], (wanted / within)[:, None]


@lru_cache(maxsize=48)
def _not_held(holds: Segment | None, points: int) -> npt.NDArray[np.bool_]:
    """Where [a, b) is none, or not all held [S, S]. Not to be written to."""
    start, end = np.indices((points, points), sparse=True)
    outside = (start < holds.start) | (end > holds.end) if holds else np.zeros((points, points), bool)
    return np.asarray((outside & (start != end)) | (start > end))
