"""What this machine's segments cost, and how long work waits here. Fed by what requests really took."""

from __future__ import annotations

import math
import time
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from services.domain import Clock, CodecCost, Segment, SegmentTime, Tier, TierProfile

_WINDOW = 31
_RECENT = 7
_RECENT_SECONDS = 10.0
_MAX_KEYS = 256
_MAX_SIZES = 8
_LEAST_RECENT = 3
_SLOWEST = 100.0
_TELLING = 0.25  # of a head: a difference that is less is no measurement
_OVERHEAD_SECONDS = 0.0001
"""What waking up adds to a run whatever its length, at most: of a short one it would be most of the ratio."""

_PAYS = 0.8
"""What a batch may take of the time its samples take one by one, at most: measuring is not more exact than the rest."""

_PRIOR, _MOST_SENT = 4, 32
"""What was measured at start counts as so many payloads; the mean of those sent is of about the last so many."""
_NEWS = 0.02
"""By how much of itself a codec's ratio must have moved to be told: planners keep tables by what they were told."""

Key = tuple[Segment, int]
"""A segment and a batch size."""


@dataclass(slots=True)
class RollingMedian:
    """The median of the last `window` values, kept sorted: it is asked for on every request."""

    window: int = _WINDOW
    _by_age: deque[float] = field(default_factory=deque)
    _by_size: list[float] = field(default_factory=list)

    def add(self, value: float) -> None:
        if len(self._by_age) == self.window:
            del self._by_size[bisect_left(self._by_size, self._by_age.popleft())]
        self._by_age.append(value)
        insort(self._by_size, value)

    def value(self) -> float | None:
        """None before the first value."""
        middle, odd = divmod(len(self._by_size), 2)
        if not self._by_size:
            return None
        return self._by_size[middle] if odd else (self._by_size[middle - 1] + self._by_size[middle]) / 2

    def __len__(self) -> int:
        return len(self._by_age)

    def clear(self) -> None:
        self._by_age.clear()
        self._by_size.clear()


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of a machine while nothing else ran on it."""

    segments: tuple[SegmentTime, ...] = ()
    codecs: tuple[CodecCost, ...] = ()

    def slowed(self, factor: float) -> Measured:
        """The same for a machine whose runs take `factor` times as long; its codecs do not."""
        times = (SegmentTime(t.segment, t.batch_size, t.seconds * factor) for t in self.segments)
        return Measured(tuple(times), self.codecs)

    def updated(self, newer: Measured) -> Measured:
        """All of `newer`, and of this what is not in it."""
        segments = {(t.segment, t.batch_size): t for t in (*self.segments, *newer.segments)}
        codecs = {cost.codec: cost for cost in (*self.codecs, *newer.codecs)}
        return Measured(tuple(segments.values()), tuple(codecs.values()))


class Expectation:
    """What a run should take, from what was measured."""

    def __init__(self, segments: Iterable[SegmentTime] = ()):
        self._seconds = {(each.segment, each.batch_size): each.seconds for each in segments}
        self._sizes = sorted({size for _, size in self._seconds})

    def __contains__(self, key: Key) -> bool:
        """Whether exactly this was measured."""
        return key in self._seconds

    @property
    def sizes(self) -> Sequence[int]:
        """The batch sizes that were measured, rising."""
        return self._sizes

    def seconds(self, segment: Segment, batch_size: int) -> float | None:
        """Seconds of a run: as measured, else the difference of two heads; between two batch sizes, on a line.

        None where that much was not measured: what lies outside all measured batch sizes is not guessed.
        """
        at = bisect_left(self._sizes, batch_size)
        if at == len(self._sizes):
            return None
        if self._sizes[at] == batch_size:
            return self._of_size(segment, batch_size)
        if at == 0:
            return None
        below, above = self._sizes[at - 1 : at + 1]
        less, more = self._of_size(segment, below), self._of_size(segment, above)
        if less is None or more is None:
            return None
        return less + (more - less) * (batch_size - below) / (above - below)

    def sure(self, segment: Segment, batch_size: int) -> bool:
        """Whether what it says of a run says something: a small difference of two long runs is mostly their noise."""
        seconds, head = (self.seconds(each, batch_size) for each in (segment, Segment(0, segment.end)))
        return seconds is not None and ((segment, batch_size) in self or seconds >= _TELLING * (head or 0.0))

    def batch(self, segment: Segment, most: int) -> int:
        """The most samples of those measured, up to `most`, that are worth running as one batch; 1 where none are."""
        one = self.seconds(segment, 1)
        for size in sorted({most, *self._sizes}, reverse=True):
            seconds = self.seconds(segment, size) if 1 < size <= most else None
            if seconds is not None and one is not None and seconds <= _PAYS * size * one:
                return size
        return 1

    def _of_size(self, segment: Segment, size: int) -> float | None:
        exact = self._seconds.get((segment, size))
        if exact is not None:
            return exact
        longer = self._seconds.get((Segment(0, segment.end), size))
        shorter = self._seconds.get((Segment(0, segment.start), size))
        if longer is None or shorter is None or longer <= shorter:
            return None
        return longer - shorter


@dataclass(slots=True)
class _Runs:
    """The last runs of one segment and batch size, and what one should take.

    unloaded: of what was not measured, what each would have taken without the slowdown of its own time, which is
    forgotten sooner than runs are.
    """

    expected: float | None
    seconds: RollingMedian = field(default_factory=RollingMedian)
    unloaded: RollingMedian = field(default_factory=RollingMedian)


@dataclass(slots=True)
class _Sent:
    """What a codec makes of one byte, over the payloads that were sent. told: what planners were last told."""

    told: float
    ratio: float
    payloads: int = _PRIOR

    def add(self, ratio: float) -> bool:
        """Whether there is something new to tell."""
        self.payloads = min(self.payloads + 1, _MOST_SENT)
        self.ratio += (ratio - self.ratio) / self.payloads
        return abs(self.ratio - self.told) > _NEWS * self.told


@dataclass(slots=True)
class Profiler:
    """What was measured at start, held against what requests take; bounded in every direction.

    The slowdown is the median of observed over expected seconds of the last 7 runs: load shows after at most four,
    one odd run does not. It and the queue are forgotten after 10 quiet seconds: who avoids a loaded tier would
    otherwise never learn that the load has gone.
    """

    tier: Tier
    holds: Segment | None = None
    clock: Clock = time.monotonic
    _measured: Measured = field(default_factory=Measured)
    _expectation: Expectation = field(default_factory=Expectation)
    _batches: dict[Key, int] = field(default_factory=dict)
    _runs: dict[Key, _Runs] = field(default_factory=dict)
    _sent: dict[str, _Sent] = field(default_factory=dict)
    _codecs: tuple[CodecCost, ...] = ()
    _queue: RollingMedian = field(default_factory=lambda: RollingMedian(_RECENT))
    _slowdown: RollingMedian = field(default_factory=lambda: RollingMedian(_RECENT))
    _last: float = -math.inf
    _now: float = 0.0

    def learn(self, measured: Measured) -> None:
        """Takes what was measured, in place of what was known before. Not while requests run."""
        self._measured, self._expectation = measured, Expectation(measured.segments)
        self._batches.clear()
        self._runs.clear()
        self._slowdown.clear()
        self._sent = {cost.codec: _Sent(cost.ratio, cost.ratio) for cost in measured.codecs}
        self._codecs = ()

    def sent(self, codec: str, ratio: float) -> None:
        """Adds one payload of a codec, over the bytes of what it holds as float32: of images, it depends on them."""
        found = self._sent.get(codec)
        if found is not None and found.add(ratio):
            found.told = found.ratio
            moved = (cost for cost in self._measured.codecs if self._sent[cost.codec].told != cost.ratio)
            self._codecs = tuple(replace(cost, ratio=self._sent[cost.codec].told) for cost in moved)

    def record(self, segment: Segment, batch_size: int, seconds: float, queue_seconds: float) -> None:
        """Adds one run: its compute time, and how long it waited before."""
        self._forget_the_old()
        self._last = self._now
        key = (segment, batch_size)
        runs = self._runs.pop(key, None) or self._new(key)
        self._runs[key] = runs  # the last to run comes last
        runs.seconds.add(seconds)
        self._queue.add(queue_seconds)
        if runs.expected is not None:
            ratio = (seconds + _OVERHEAD_SECONDS) / (runs.expected + _OVERHEAD_SECONDS)
            self._slowdown.add(min(max(ratio, 1 / _SLOWEST), _SLOWEST))
        if key not in self._expectation:
            runs.unloaded.add(seconds / self._slower())

    def seconds(self, segment: Segment, batch_size: int) -> float | None:
        """Median seconds of a run, or None for what never ran here."""
        runs = self._runs.get((segment, batch_size))
        return runs.seconds.value() if runs is not None else None

    def unloaded(self, segment: Segment, batch_size: int) -> float | None:
        """Seconds that a run takes while nothing else runs, by what was measured; None where that is unknown."""
        return self._expectation.seconds(segment, batch_size)

    def expected(self, segment: Segment, batch_size: int) -> float | None:
        """Seconds that a run should take now, also of what never ran here; None where that is unknown."""
        measured = self._expectation.seconds(segment, batch_size)
        return self.seconds(segment, batch_size) if measured is None else measured * self._slower()

    def at_most(self, segment: Segment, batch_size: int) -> float | None:
        """Seconds that a run should stay below: as expected, else what its samples should take one after the other."""
        expected, one = self.expected(segment, batch_size), self.expected(segment, 1)
        return batch_size * one if expected is None and one is not None else expected

    def batch(self, segment: Segment, most: int) -> int:
        """How many samples, up to `most`, run best as one batch, by what was measured; 1 where a batch saves nothing.

        Not what runs took since: who never batches would never learn, and load changes both alike.
        """
        key = (segment, most)
        found = self._batches.get(key)
        if found is None:
            if len(self._batches) >= _MAX_KEYS:
                self._batches.clear()
            found = self._batches[key] = self._expectation.batch(segment, most)
        return found

    def queue_seconds(self) -> float:
        """How long runs waited lately; 0 after a quiet time."""
        self._forget_the_old()
        return self._queue.value() or 0.0

    def profile(self, runs: Iterable[Key]) -> TierProfile:
        """Queue and slowdown now, and what `runs` took lately: those seconds have the slowdown in them.

        What never ran here is absent, which means unknown. Of codecs, those whose payloads are not as measured.
        """
        self._forget_the_old()
        wait, runs_took = self._queue.value() or 0.0, self._times(runs)
        return TierProfile(self.tier, wait, runs_took, self._codecs, self._slower(), self.holds)

    def full_profile(self) -> TierProfile:
        """All that is known: what was measured, and what else ran here, with the slowdown taken out of it."""
        self._forget_the_old()
        segments, wait = self._measured.segments + self._others(), self._queue.value() or 0.0
        codecs = corrected(self._measured.codecs, self._codecs)
        return TierProfile(self.tier, wait, segments, codecs, self._slower(), self.holds)

    def _others(self) -> tuple[SegmentTime, ...]:
        """What else ran here: of batch sizes that were not measured, the last few, as planners pay for each of them."""
        lately = dict.fromkeys(size for _, size in reversed(self._runs) if size not in self._expectation.sizes)
        told = {*self._expectation.sizes, *islice(lately, _MAX_SIZES)}
        found = (
            SegmentTime(*key, runs.unloaded.value() or 0.0)
            for key, runs in self._runs.items()
            if key[1] in told and key not in self._expectation
        )
        return tuple(sorted(found, key=_place))  # whoever ran last: what did not change is told the same

    def _new(self, key: Key) -> _Runs:
        if len(self._runs) >= _MAX_KEYS:
            self._runs.pop(next(iter(self._runs)))
        return _Runs(self._expectation.seconds(*key) if self._expectation.sure(*key) else None)

    def _times(self, runs: Iterable[Key]) -> tuple[SegmentTime, ...]:
        return tuple(
            SegmentTime(segment, batch_size, seconds)
            for segment, batch_size in runs
            if (seconds := self.seconds(segment, batch_size)) is not None
        )

    def _slower(self) -> float:
        return self._slowdown.value() or 1.0 if len(self._slowdown) >= _LEAST_RECENT else 1.0

    def forget_load(self) -> None:
        """Forgets how long runs waited, and how much longer they took than measured."""
        self._queue.clear()
        self._slowdown.clear()

    def _forget_the_old(self) -> None:
        self._now = self.clock()
        if self._now - self._last > _RECENT_SECONDS:
            self.forget_load()


def corrected(known: tuple[CodecCost, ...], lately: tuple[CodecCost, ...]) -> tuple[CodecCost, ...]:
    """`known` with the ratios that `lately` has; the same tuple where none differs."""
    ratios = {cost.codec: cost.ratio for cost in lately}
    if all(ratios.get(cost.codec, cost.ratio) == cost.ratio for cost in known):
        return known
    return tuple(replace(cost, ratio=ratios.get(cost.codec, cost.ratio)) for cost in known)


def _place(time: SegmentTime) -> tuple[int, int, int]:
    return time.segment.start, time.segment.end, time.batch_size
