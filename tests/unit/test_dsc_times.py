"""Timing heads and tails: rounds that fit the time, medians, and maps of what was measured."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from services import bundle
from services.domain import Segment
from services.model import Model
from testbed import dsc_times
from testbed.dsc import BATCHES
from testbed.dsc_report import report
from testbed.dsc_times import MEASURED_BATCHES, REPEATS, Stopwatch

PARTS = [Segment(0, 8), Segment(0, 3), Segment(3, 8)]


@pytest.fixture
def inputs() -> np.ndarray:
    return np.random.default_rng(0).random((max(MEASURED_BATCHES), 1, 8, 8), np.float32)


def test_every_segment_and_batch_is_timed_in_at_least_three_rounds(tiny: Path, inputs: np.ndarray) -> None:
    steps = itertools.count()
    watch = Stopwatch(Model(bundle.load(tiny)), inputs, seconds=1e-9, clock=lambda: float(next(steps)))
    shares: list[float] = []
    watch.measure(PARTS, shares.append)
    assert set(watch.taken) == {(part, batch) for part in PARTS for batch in MEASURED_BATCHES}
    assert {len(taken) // REPEATS[batch] for (_, batch), taken in watch.taken.items()} == {3}
    assert all(0 <= share <= 1 for share in shares)


def test_more_time_makes_more_rounds_up_to_a_bound(tiny: Path, inputs: np.ndarray) -> None:
    steps = itertools.count()
    watch = Stopwatch(Model(bundle.load(tiny)), inputs, seconds=1e9, clock=lambda: float(next(steps)))
    watch.measure(PARTS, lambda done: None)
    assert {len(taken) // REPEATS[batch] for (_, batch), taken in watch.taken.items()} == {25}


def test_between_measured_batches_times_are_interpolated(tiny: Path, inputs: np.ndarray) -> None:
    watch = Stopwatch(Model(bundle.load(tiny)), inputs, seconds=1)
    watch.taken = {(PARTS[0], 1): [1.0, 3.0, 2.0], (PARTS[0], 4): [5.0], (PARTS[0], 15): [16.0]}
    assert watch.median(PARTS[0]).tolist() == [2, 3, 4, *range(5, 17)]
    assert len(BATCHES) == 15
    assert watch.spread(PARTS[0]) == 0.25


def test_a_network_is_measured_drawn_and_summed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(dsc_times, "compressive", lambda ratios: [4, 8])
    found = report("resnet20", tmp_path, slowdown=4, seconds=0.01, tick=lambda done: None)
    assert found.measured.options == ("device", "offload", "block 4", "block 8")
    assert found.measured.heads[0].mean() < found.measured.heads[1].mean()
    assert [picture.read_bytes()[:4] for picture in found.pictures] == [b"\x89PNG"] * 2
    assert len(found.as_json()["grids"]) == 4
