"""Seconds of whole heads [0, k) and tails [k, L) on this machine, as the runtime runs them.

A head or tail is timed as one run and never as a sum of its layers: alone, a layer neither finds the caches that the
one before it leaves, nor is fused with it. Runs of different segments take turns, so that a machine that slows down
meanwhile does not favour some; what is reported are medians. Where one of them cannot be, such as a head that took
much longer than a longer one, something else ran meanwhile, and it is measured again (services/plausible.py).
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import numpy as np

from services import codec, codec_costs, examples
from services.bundle import Bundle, Manifest, SplitPointSpec
from services.domain import Clock, CodecCost, FloatArray, Segment, SegmentTime
from services.errors import InvalidInput
from services.plausible import implausible
from services.profile import Expectation, Measured

BATCH_SIZES = (1, 8)
"""What tiers measure: one sample, and enough of them to see what a batch saves."""
LEAST_RUNS = 3
_CODEC_REPEATS = 3
_PASSES = 3
_GROUP = 4  # split points whose sessions are resident at a time: two each, and more where exits cut them up
_SHORT_SECONDS = 0.01
_AGAIN_SHARE = 0.25
_GOLDEN = (5**0.5 - 1) / 2

Runs = dict[tuple[Segment, int], list[float]]
Progress = Callable[[float], None]


class Runnable(Protocol):
    """What is needed here of a model."""

    @property
    def manifest(self) -> Manifest: ...

    def pieces(self, segment: Segment) -> Sequence[Segment]: ...

    def run(self, piece: Segment, tensor: FloatArray) -> tuple[FloatArray, FloatArray | None]: ...


@dataclass(frozen=True, slots=True)
class Timing:
    """`runs` runs of `segment` with `batch_size` samples: their median seconds, and how they spread.

    spread: median absolute deviation over the median.
    """

    segment: Segment
    batch_size: int
    seconds: float
    spread: float
    runs: int


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found out about a machine: how its runs took, and what codecs cost."""

    timings: list[Timing]
    codecs: tuple[CodecCost, ...]

    @property
    def measured(self) -> Measured:
        times = (SegmentTime(each.segment, each.batch_size, each.seconds) for each in self.timings)
        return Measured(tuple(times), self.codecs)


def fitting(manifest: Manifest, batch_sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Those of `batch_sizes` that the network takes. Raises InvalidInput where it takes none of them."""
    limit = manifest.input.max_batch
    sizes = tuple(size for size in batch_sizes if limit is None or size <= limit)
    if not sizes:
        raise InvalidInput(f"model {manifest.name!r} takes {limit} sample{'' if limit == 1 else 's'} at a time")
    return sizes


def measure(
    model: Runnable, budget_seconds: float, clock: Clock = time.perf_counter, batch_sizes: tuple[int, ...] = (1,)
) -> tuple[SegmentTime, ...]:
    """What fits into the budget of: heads and tails of every split point, and the pieces that exits cut them into."""
    return Findings(timings(model, budget_seconds, clock, batch_sizes), ()).measured.segments


def timings(
    model: Runnable,
    budget_seconds: float,
    clock: Clock = time.perf_counter,
    batch_sizes: tuple[int, ...] = (1,),
    example: FloatArray | None = None,
    progress: Progress = lambda share: None,
    split_points: Collection[int] | None = None,
) -> list[Timing]:
    """As `measure`, with how the runs spread, or only around `split_points`.

    `example`: inputs [N, …] to run on; none: drawn ones. What ran fewer than 3 times before the budget was spent is
    left out; a quarter of the budget more is there for measuring again what cannot be. `progress` is told a share of 1.
    """
    started = clock()
    runs: Runs = defaultdict(list)
    sizes = fitting(model.manifest, batch_sizes)
    example = examples.inputs(model.manifest, 1) if example is None else example
    turns = list(_turns(groups(model.manifest, split_points), sizes))
    for done, turn in enumerate(turns):
        spent = (clock() - started) / budget_seconds
        if spent >= 1:
            break
        progress(max(spent, done / len(turns)))
        ran = _visit(model, turn.split_point, example[np.arange(turn.batch_size) % len(example)], clock)
        if turn.counts:
            _book(runs, ran, turn.batch_size)
    until = started + (1 + _AGAIN_SHARE) * budget_seconds
    for _ in range(_PASSES):
        for split_point, size in implausible(_medians(runs), model.manifest.last):
            if clock() >= until:
                break
            progress(1.0)  # whoever is told may give up
            _measure_again(model, runs, split_point, example[np.arange(size) % len(example)], clock)
    progress(1.0)
    return _timings(runs)


def _measure_again(model: Runnable, runs: Runs, split_point: int, batch: FloatArray, clock: Clock) -> None:
    """What else runs on a machine makes runs longer, and never shorter: the lesser median counts."""
    fresh: Runs = defaultdict(list)
    _visit(model, split_point, batch, clock)  # it may have to build sessions
    for _ in range(LEAST_RUNS):
        _book(fresh, _visit(model, split_point, batch, clock), len(batch))
    for key, seconds in fresh.items():
        if key not in runs or statistics.median(seconds) < statistics.median(runs[key]):
            runs[key] = seconds


def take(
    loaded: Bundle,
    model: Runnable,
    budget_seconds: float,
    batch_sizes: tuple[int, ...] = BATCH_SIZES,
    progress: Progress = lambda share: None,
    known: Measured | None = None,
) -> Findings:
    """All that a profile tells of this machine: what runs take, within the budget, and then what codecs cost.

    Leaves out what is `known`, at least for one sample. Runs on the samples of the bundle where it has some: what a
    lossless stage makes of noise says little.
    """
    known = known or Measured()
    missing = unknown(loaded.manifest, known)
    example = examples.samples(loaded, max(batch_sizes))
    found = timings(model, budget_seconds, time.perf_counter, batch_sizes, example, progress, missing)
    return Findings(
        found, () if _codecs_known(loaded.manifest, known) else _codecs(loaded.manifest, model, example[:1])
    )


def take_sizes(
    loaded: Bundle,
    model: Runnable,
    budget_seconds: float,
    sizes: tuple[int, ...],
    progress: Progress = lambda share: None,
) -> Measured:
    """What batches of `sizes` take of the whole network, and of the pieces that exits cut it into."""
    if not sizes:
        return Measured()
    example, whole = examples.samples(loaded, max(sizes)), {loaded.manifest.last}
    found = timings(model, budget_seconds, time.perf_counter, sizes, example, progress, whole)
    return Findings(found, ()).measured


def sizes_unknown(manifest: Manifest, measured: Measured, most: int) -> tuple[int, ...]:
    """Batches worth measuring yet, of up to `most`: as all networks are, or of `most` where fewer pay already."""
    limit, fewer = manifest.input.max_batch, max(BATCH_SIZES)
    sizes = {time.batch_size for time in measured.segments if time.segment == Segment(0, manifest.last)}
    if fewer not in sizes and fewer <= most and (limit is None or fewer <= limit):
        return (fewer,)
    if most <= fewer or most in sizes or (limit is not None and most > limit):
        return ()
    expectation = Expectation(measured.segments)
    pays = (expectation.batch(time.segment, fewer) > 1 for time in measured.segments if time.batch_size == fewer)
    return (most,) if any(pays) else ()


def _codecs_known(manifest: Manifest, measured: Measured) -> bool:
    return {cost.codec for cost in measured.codecs} >= set(codec.usable(manifest, 0))


def _codecs(manifest: Manifest, model: Runnable, example: FloatArray) -> tuple[CodecCost, ...]:
    """Interior codecs on what crosses a bottleneck, those for images on the image itself."""
    tensor = activation(model, bottleneck(manifest), example)
    costs = codec_costs.measure(tensor, codec.INTERIOR, time.perf_counter, _CODEC_REPEATS)
    images_only = tuple(name for name in codec.usable(manifest, 0) if name not in codec.INTERIOR)
    shown = manifest.input.preprocessing
    return costs + codec_costs.measure(example, images_only, time.perf_counter, _CODEC_REPEATS, shown)


def bottleneck(manifest: Manifest) -> int:
    """The natural bottleneck with the most elements, where costs count most; the smallest tensor where none is."""
    inner = manifest.split_points[1:-1]
    natural = [point for point in inner if point.natural]
    if natural:
        return max(natural, key=lambda point: point.elements).index
    return min(inner, key=lambda point: point.elements).index if inner else 0


def complete(manifest: Manifest, measured: Measured) -> bool:
    """Whether nothing is left to measure: every split point for one sample, and every codec."""
    return not unknown(manifest, measured) and _codecs_known(manifest, measured)


def unknown(manifest: Manifest, measured: Measured) -> set[int]:
    """The split points, the output among them, whose head or tail was not measured for one sample."""
    known = {time.segment for time in measured.segments if time.batch_size == 1}
    ends = ((at, Segment(0, at), Segment(at, manifest.last)) for at in range(1, manifest.last + 1))
    return {at for at, head, tail in ends if head not in known or not (tail.empty or tail in known)}


def groups(manifest: Manifest, split_points: Collection[int] | None = None) -> list[list[int]]:
    """All or these split points, a few at a time, those first that plans are likeliest to use.

    First the output, which is the whole network, then exits, compressive and natural bottlenecks, the rest; within
    each, spread over the network, so that a budget that ends early leaves no half of it unknown.
    """
    exits = {spec.split_point for spec in manifest.exits}

    def rank(point: SplitPointSpec) -> tuple[int, float]:
        kind = (point.index in exits, point.compressive, point.natural, True).index(True)
        return kind, point.index * _GOLDEN % 1

    wanted = range(1, manifest.last + 1) if split_points is None else split_points
    inner = [point.index for point in sorted(manifest.split_points[1:-1], key=rank) if point.index in wanted]
    whole = [[manifest.last]] if manifest.last in wanted else []
    return [*whole, *(inner[at : at + _GROUP] for at in range(0, len(inner), _GROUP))]


def activation(model: Runnable, split_point: int, example: FloatArray) -> FloatArray:
    """What crosses `split_point`, [N, …], where `example` enters."""
    return _run(model, Segment(0, split_point), example, lambda: 0.0)[0]


@dataclass(frozen=True, slots=True)
class _Turn:
    batch_size: int
    split_point: int
    counts: bool


def _turns(split_points: list[list[int]], batch_sizes: tuple[int, ...]) -> Iterator[_Turn]:
    """Everything in one batch size, then in the next, and all of it again as long as there is time.

    Of each group a run that may have to build sessions, then three that count, its members in turns.
    """
    for _, size, group, number in product(range(_PASSES), batch_sizes, split_points, range(1 + LEAST_RUNS)):
        for split_point in group:
            yield _Turn(size, split_point, counts=number > 0)


_Ran = list[tuple[Segment, list[tuple[Segment, float]]]]
"""Segments that ran, each with its pieces and their seconds."""


def _visit(model: Runnable, split_point: int, batch: FloatArray, clock: Clock) -> _Ran:
    """Runs the head up to `split_point`, and the tail on what came out of it."""
    ran: _Ran = []
    tensor = batch
    for segment in (Segment(0, split_point), Segment(split_point, model.manifest.last)):
        if not segment.empty:
            output, seconds = _run(model, segment, tensor, clock)
            if sum(took for _, took in seconds) < _SHORT_SECONDS:  # with the caches it has just warmed
                output, seconds = _run(model, segment, tensor, clock)
            ran.append((segment, seconds))
            tensor = output
    return ran


def _run(
    model: Runnable, segment: Segment, tensor: FloatArray, clock: Clock
) -> tuple[FloatArray, list[tuple[Segment, float]]]:
    """Runs the pieces of `segment` one after the other; nobody leaves at an exit."""
    seconds = []
    for piece in model.pieces(segment):
        started = clock()
        tensor, _ = model.run(piece, tensor)
        seconds.append((piece, clock() - started))
    return tensor, seconds


def _book(runs: Runs, ran: _Ran, batch_size: int) -> None:
    for segment, pieces in ran:
        runs[segment, batch_size].append(sum(took for _, took in pieces))
        if len(pieces) > 1:
            for piece, took in pieces:
                runs[piece, batch_size].append(took)


def _medians(runs: Runs) -> dict[tuple[Segment, int], float]:
    return {key: statistics.median(seconds) for key, seconds in runs.items() if len(seconds) >= LEAST_RUNS}


def _timings(runs: Runs) -> list[Timing]:
    return [
        _timing(segment, batch_size, seconds)
        for (segment, batch_size), seconds in sorted(runs.items(), key=lambda item: (item[0][1], *_span(item[0][0])))
        if len(seconds) >= LEAST_RUNS
    ]


def _timing(segment: Segment, batch_size: int, seconds: list[float]) -> Timing:
    middle = statistics.median(seconds)
    spread = statistics.median(abs(each - middle) for each in seconds) / middle if middle else 0.0
    return Timing(segment, batch_size, middle, spread, len(seconds))


def _span(segment: Segment) -> tuple[int, int]:
    return segment.start, segment.end
