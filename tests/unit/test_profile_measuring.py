"""How runs are measured: on a model whose runs take known times, with a clock that those runs move."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from services import bundle, codec, examples, measuring
from services.bundle import Manifest
from services.domain import FloatArray, Segment, SegmentTime
from services.model import Model
from services.profile import Measured
from tests.fakes import FakeClock

BUILD_SECONDS = 0.5


@dataclass
class TimedModel:
    """Each split point that a run passes takes its own time and the batch multiplies it; first runs build."""

    manifest: Manifest
    clock: FakeClock
    cuts: tuple[int, ...] = ()
    seconds_each: float = 0.02
    ran: list[tuple[Segment, int]] = field(default_factory=list)
    hiccups: dict[int, float] = field(default_factory=dict)

    def pieces(self, segment: Segment) -> list[Segment]:
        edges = [segment.start, *(at for at in self.cuts if segment.start < at < segment.end), segment.end]
        return [Segment(a, b) for a, b in pairwise(edges)]

    def run(self, piece: Segment, tensor: FloatArray) -> tuple[FloatArray, None]:
        known = {segment for segment, _ in self.ran}
        self.clock.now += (piece not in known) * BUILD_SECONDS + self.hiccups.get(len(self.ran), 0.0)
        self.clock.now += self.takes(piece, len(tensor))
        self.ran.append((piece, len(tensor)))
        return np.zeros((len(tensor), *self.manifest.split_points[piece.end].shape), np.float32), None

    def takes(self, piece: Segment, batch_size: int = 1) -> float:
        return self.seconds_each * sum(range(piece.start + 1, piece.end + 1)) * batch_size


@pytest.fixture
def manifest(tiny: Path) -> Manifest:
    return bundle.load(tiny).manifest


@pytest.fixture
def timed(manifest: Manifest, clock: FakeClock) -> TimedModel:
    return TimedModel(manifest, clock)


def measured(timed: TimedModel, budget: float = 1e6, sizes: tuple[int, ...] = (1,)) -> dict[tuple[Segment, int], float]:
    return {(t.segment, t.batch_size): t.seconds for t in measuring.measure(timed, budget, timed.clock, sizes)}


def test_every_head_and_every_tail_is_measured_without_what_building_them_took(timed: TimedModel) -> None:
    last = timed.manifest.last
    heads_and_tails = {Segment(0, k) for k in range(1, last + 1)} | {Segment(k, last) for k in range(1, last)}
    found = measured(timed)
    assert {segment for segment, _ in found} == heads_and_tails
    assert all(took == pytest.approx(timed.takes(segment)) for (segment, _), took in found.items())


def test_a_network_with_exits_is_run_piece_by_piece_and_its_pieces_are_known_too(timed: TimedModel) -> None:
    timed.cuts = (3, 5)
    found = measured(timed)
    assert found[Segment(0, 7), 1] == pytest.approx(timed.takes(Segment(0, 7)))
    assert found[Segment(3, 5), 1] == pytest.approx(timed.takes(Segment(3, 5)))
    assert found[Segment(2, 3), 1] == pytest.approx(timed.takes(Segment(2, 3)))
    assert not {Segment(0, 5), Segment(2, 5)} & {segment for segment, _ in timed.ran}


def test_a_hiccup_does_not_show_in_a_median(timed: TimedModel) -> None:
    timed.hiccups = {12: 100.0, 25: 100.0}
    assert all(took == pytest.approx(timed.takes(segment)) for (segment, _), took in measured(timed).items())


def test_runs_of_different_segments_take_turns(timed: TimedModel) -> None:
    measured(timed)
    assert not any(a == b for (a, _), (b, _) in pairwise(timed.ran) if not whole(timed, a))


def whole(timed: TimedModel, segment: Segment) -> bool:
    return segment == Segment(0, timed.manifest.last)


def test_a_short_run_is_timed_with_the_caches_it_has_warmed(timed: TimedModel) -> None:
    timed.seconds_each = 1e-6
    assert all(took == pytest.approx(timed.takes(segment)) for (segment, _), took in measured(timed).items())
    last_pass = [segment for segment, _ in timed.ran][-40:]
    assert last_pass[::2] == last_pass[1::2]


def test_the_budget_is_kept_and_what_ran_less_than_three_times_is_left_out(timed: TimedModel) -> None:
    one_run = timed.takes(Segment(0, timed.manifest.last))
    budget = 12 * one_run + 4 * BUILD_SECONDS
    found = measured(timed, budget)
    assert Segment(0, timed.manifest.last) in {segment for segment, _ in found}
    assert 0 < len(found) < 2 * timed.manifest.last - 1
    assert timed.clock.now < budget + 2 * one_run + 2 * BUILD_SECONDS
    counted = [timing.runs for timing in measuring.timings(TimedModel(timed.manifest, FakeClock()), 1e6)]
    assert min(counted) >= measuring.LEAST_RUNS


def test_no_time_measures_nothing(timed: TimedModel) -> None:
    assert measured(timed, 1e-9) == {}


def test_batch_sizes_come_after_each_other_and_not_beyond_what_the_graph_takes(timed: TimedModel) -> None:
    found = measured(timed, sizes=(1, 4))
    assert found[Segment(0, 2), 4] == pytest.approx(4 * found[Segment(0, 2), 1])
    assert [size for _, size in timed.ran].index(4) > len({segment for segment, _ in timed.ran})
    spec = timed.manifest.input.model_copy(update={"max_batch": 1})
    fixed = TimedModel(timed.manifest.model_copy(update={"input": spec}), FakeClock())
    assert {size for _, size in measured(fixed, sizes=(1, 4))} == {1}


def test_exits_then_compressive_then_natural_bottlenecks_come_first(manifest: Manifest) -> None:
    first, *rest = measuring.groups(manifest)
    order = [index for group in rest for index in group]
    points, exits = manifest.split_points, {spec.split_point for spec in manifest.exits}
    assert first == [manifest.last]
    assert sorted(order) == list(range(1, manifest.last))
    ranks = [0 if at in exits else 1 if points[at].compressive else 2 if points[at].natural else 3 for at in order]
    assert ranks == sorted(ranks)


def test_what_is_unknown_can_be_measured_alone(timed: TimedModel) -> None:
    last = timed.manifest.last
    assert measuring.unknown(timed.manifest, Measured()) == set(range(1, last + 1))
    found = measuring.timings(timed, 1e6, timed.clock, split_points={2, 5})
    assert {timing.segment for timing in found} == {Segment(0, 2), Segment(2, last), Segment(0, 5), Segment(5, last)}
    partly = Measured(tuple(SegmentTime(each.segment, 1, each.seconds) for each in found))
    assert measuring.unknown(timed.manifest, partly) == {at for at in range(1, last + 1) if at not in (2, 5)}
    assert measuring.unknown(timed.manifest, Measured(measuring.measure(timed, 1e6, timed.clock))) == set()


def test_progress_rises_to_one(timed: TimedModel) -> None:
    told: list[float] = []
    measuring.timings(timed, 1e6, timed.clock, progress=told.append)
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0.0, 1.0)


def test_the_spread_is_that_of_the_runs(timed: TimedModel) -> None:
    steady = measuring.timings(timed, 1e6, timed.clock)
    assert max(timing.spread for timing in steady) < 1e-9
    timed.hiccups = {at: (at % 7) * 0.01 for at in range(1000)}
    assert max(timing.spread for timing in measuring.timings(timed, 1e6, timed.clock)) > 0.01


def test_a_real_model_is_measured_and_its_codecs_are(tiny: Path) -> None:
    loaded = bundle.load(tiny)
    findings = measuring.take(loaded, Model(loaded), 5.0, (1, 2))
    found = {(time.segment, time.batch_size): time.seconds for time in findings.measured.segments}
    assert {(Segment(0, 8), 1), (Segment(0, 8), 2), (Segment(4, 8), 1)} <= set(found)
    assert all(0 < seconds < 1 for seconds in found.values())
    assert {cost.codec for cost in findings.codecs} == set(codec.usable(loaded.manifest, 0))
    assert isinstance(findings.measured.segments[0], SegmentTime)


def test_what_is_known_is_not_measured_again(tiny: Path) -> None:
    loaded = bundle.load(tiny)
    model = Model(loaded)
    first = measuring.take(loaded, model, 5.0, (1,)).measured
    assert measuring.complete(loaded.manifest, first)
    again = measuring.take(loaded, model, 5.0, (1,), known=first).measured
    assert again == Measured()
    without = replace(first, codecs=first.codecs[1:])
    assert not measuring.complete(loaded.manifest, without)
    new = measuring.take(loaded, model, 5.0, (1,), known=without).measured
    assert (new.segments, len(new.codecs)) == ((), len(first.codecs))


def test_samples_are_the_bundles_own_or_else_drawn(tiny: Path, tmp_path: Path) -> None:
    loaded = bundle.load(tiny)
    pixels = bundle.load_samples(loaded)[0]
    assert np.allclose(examples.samples(loaded, 4)[:, 0], (pixels[:4] / 255 - 0.5) / 0.25, atol=1e-6)
    elsewhere = bundle.Bundle(tmp_path, loaded.manifest, loaded.graph)
    assert examples.samples(elsewhere, 4).shape == (4, *loaded.manifest.input.shape)
    assert np.array_equal(examples.samples(elsewhere, 4), examples.inputs(loaded.manifest, 4))


def test_a_batch_is_measured_where_it_was_not_and_a_larger_one_only_where_that_pays(tiny: Path) -> None:
    manifest, whole = bundle.load(tiny).manifest, Segment(0, 8)
    pays = Measured((SegmentTime(whole, 1, 1.0), SegmentTime(whole, 8, 2.0)))
    assert measuring.sizes_unknown(manifest, pays, 32) == (32,)
    assert measuring.sizes_unknown(manifest, pays, 8) == ()
    known = pays.updated(Measured((SegmentTime(whole, 32, 4.0),)))
    assert measuring.sizes_unknown(manifest, known, 32) == ()
    alone = Measured((SegmentTime(whole, 1, 1.0),))
    assert [measuring.sizes_unknown(manifest, alone, most) for most in (32, 8, 4, 1)] == [(8,), (8,), (), ()]
    one = manifest.model_copy(update={"input": manifest.input.model_copy(update={"max_batch": 1})})
    assert measuring.sizes_unknown(one, alone, 32) == ()
    saves_nothing = Measured((SegmentTime(whole, 1, 1.0), SegmentTime(whole, 8, 8.0)))
    assert measuring.sizes_unknown(manifest, saves_nothing, 32) == ()


def test_the_pieces_of_a_larger_batch_are_measured(tiny: Path) -> None:
    loaded = bundle.load(tiny)
    model = Model(loaded)
    found = measuring.take_sizes(loaded, model, 5.0, (16,))
    assert {time.segment for time in found.segments} >= set(model.pieces(Segment(0, model.last)))
    assert {time.batch_size for time in found.segments} == {16}
    assert measuring.take_sizes(loaded, model, 5.0, ()) == Measured()


@pytest.mark.parametrize(("busy_runs", "factor"), [(12, 1.0), (10_000, 3.0)])
def test_what_cannot_be_is_measured_again_and_believed_if_it_stays_so(
    timed: TimedModel, monkeypatch: pytest.MonkeyPatch, busy_runs: int, factor: float
) -> None:
    head, takes = Segment(0, 4), TimedModel.takes

    def while_busy(self: TimedModel, piece: Segment, batch_size: int = 1) -> float:
        busy = piece == head and self.ran.count((head, batch_size)) < busy_runs
        return (3.0 if busy else 1.0) * takes(self, piece, batch_size)

    monkeypatch.setattr(TimedModel, "takes", while_busy)
    found = measured(timed)
    assert found[head, 1] == pytest.approx(factor * takes(timed, head))
    assert found[Segment(0, 5), 1] == pytest.approx(takes(timed, Segment(0, 5)))


def test_measuring_again_keeps_to_a_quarter_of_the_budget_more(
    timed: TimedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "implausible", lambda seconds, last: [(2, 1)] * 10_000)
    longest = sum(timed.takes(Segment(0, timed.manifest.last)) for _ in range(10))
    measured(timed, budget=40.0)
    assert timed.clock.now <= 1.25 * 40.0 + longest


def test_who_gives_up_while_it_is_measured_again_does_not_wait_for_the_end(
    timed: TimedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "implausible", lambda seconds, last: [(2, 1)] * 3)
    told: list[float] = []

    def progress(share: float) -> None:
        told.append(share)
        if told.count(1.0) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        measuring.timings(timed, 1e6, timed.clock, progress=progress)
    assert told == sorted(told)
