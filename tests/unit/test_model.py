"""Running segments, and the sessions they need."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from services import bundle
from services.domain import Segment
from services.errors import BundleError, InvalidInput, TooLarge
from services.model import Model
from tests.fakes import FakeClock
from tests.networks import CLASSES, SHAPE


@pytest.fixture
def model(tiny: Path) -> Model:
    return Model(bundle.load(tiny))


def test_a_segment_is_cut_after_each_exit_inside_it(model: Model) -> None:
    assert model.pieces(Segment(0, 8)) == (Segment(0, 2), Segment(2, 4), Segment(4, 8))
    assert model.pieces(Segment(0, 2)) == (Segment(0, 2),)
    assert model.pieces(Segment(1, 3)) == (Segment(1, 2), Segment(2, 3))
    assert model.pieces(Segment(3, 3)) == ()


def test_pieces_give_the_activations_and_logits_of_the_whole(model: Model, tiny: Path) -> None:
    whole = ort.InferenceSession(bundle.load(tiny).graph, providers=["CPUExecutionProvider"])
    tensor = x = np.random.default_rng(1).normal(size=(3, *SHAPE)).astype(np.float32)
    logits = []
    for piece in model.pieces(Segment(0, model.last)):
        tensor, at_exit = model.run(piece, tensor)
        logits.append(at_exit)
    for got, expected in zip(logits, whole.run(["exit_0", "exit_1", "exit_2"], {"input": x}), strict=True):
        assert got is not None
        assert np.abs(got - expected).max() <= 1e-5


def test_a_piece_that_ends_between_exits_has_no_logits(model: Model) -> None:
    activation, logits = model.run(Segment(0, 1), model.zeros(0, 2))
    assert activation.shape == (2, 4, 8, 8)
    assert logits is None


def test_what_does_not_cross_a_split_point_is_refused(model: Model) -> None:
    model.check(2, (7, 4, 8, 8))
    for at, shape in [(2, (7, 4, 8, 9)), (2, (7, 4, 8)), (2, (4, 8, 8)), (2, ()), (-1, (1, 8, 8)), (9, (1, 4))]:
        with pytest.raises(InvalidInput):
            model.check(at, shape)


def test_a_graph_with_a_fixed_batch_takes_no_more(tiny: Path, tmp_path: Path) -> None:
    model = Model(lie(tiny, tmp_path, lambda m: m["input"].update(max_batch=2)))
    model.check(2, (2, 4, 8, 8))
    with pytest.raises(TooLarge, match="takes 2"):
        model.check(2, (3, 4, 8, 8))
    for shape in [(2,), ()]:
        with pytest.raises(InvalidInput):
            model.check(2, shape)


def test_sessions_are_bounded_and_the_one_unused_for_longest_goes_first(tiny: Path) -> None:
    model = Model(bundle.load(tiny), max_sessions=3)
    for end in (1, 2, 3, 1, 4, 1, 5):
        model.run(Segment(0, end), model.zeros(0, 1))
    assert [end for end in range(1, 6) if model.resident(Segment(0, end))] == [1, 4, 5]
    assert model.run(Segment(0, 2), model.zeros(0, 1))[0].shape == (1, 4, 8, 8)


def test_what_is_prepared_again_stays_though_it_was_not_used_for_longest(tiny: Path) -> None:
    model = Model(bundle.load(tiny), max_sessions=4)
    model.warm(Segment(0, end) for end in (1, 2))
    model.warm([Segment(4, 5), Segment(5, 6)])
    model.prepare([Segment(0, 2), Segment(0, 1)])
    model.warm([Segment(6, 7), Segment(6, 8)])
    assert model.resident(Segment(0, 1))
    assert model.resident(Segment(0, 2))


def test_a_segment_is_resident_when_all_its_pieces_are(model: Model) -> None:
    model.prepare([Segment(0, 2)])
    assert not model.resident(Segment(0, 4))
    model.prepare([Segment(0, 4)])
    assert model.resident(Segment(0, 4))
    assert model.resident(Segment(3, 3))


def test_preparing_what_is_resident_runs_nothing(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    model.prepare([Segment(0, 4)])
    monkeypatch.setattr(model, "session", None)
    model.prepare([Segment(0, 4), Segment(2, 4)])


ALL_OF_IT = FakeClock(step=1e6)
"""For who has the processor alone: all of any wall clock's time."""


def test_a_slowed_model_takes_that_many_times_as_long(tiny: Path) -> None:
    slept: list[float] = []
    model = Model(bundle.load(tiny), slowdown=8.0, clock=FakeClock(step=0.25), sleep=slept.append, busy=ALL_OF_IT)
    model.warm([Segment(0, 2)])
    assert slept == []
    model.run(Segment(0, 2), model.zeros(0, 1))
    assert slept == [7 * 0.25]


def test_a_slowed_model_knows_its_pace_once_it_is_warm(tiny: Path) -> None:
    slept: list[float] = []
    readings = iter([0, 9, 10, 19, 20, 21, 30, 39, 40, 49, 50, 55])  # five warm runs, one of 1 second, then one of 5
    model = Model(bundle.load(tiny), slowdown=8.0, clock=lambda: next(readings), sleep=slept.append, busy=ALL_OF_IT)
    model.warm([Segment(0, 2)])
    model.run(Segment(0, 2), model.zeros(0, 1))
    assert slept == [3]


def test_a_slowed_model_multiplies_its_fastest_run_and_never_sleeps_less_than_not_at_all(tiny: Path) -> None:
    slept: list[float] = []
    readings = iter([0, 1, 10, 14, 20, 50])  # runs of 1, 4 and 30 seconds
    model = Model(bundle.load(tiny), slowdown=8.0, clock=lambda: next(readings), sleep=slept.append, busy=ALL_OF_IT)
    for _ in range(3):
        model.run(Segment(0, 2), model.zeros(0, 1))
    assert slept == [7, 4, 0]


def test_a_slowed_model_does_not_multiply_what_others_had_the_processor_for(tiny: Path) -> None:
    slept: list[float] = []
    wall, busy = FakeClock(step=2.0), FakeClock(step=0.01)
    model = Model(bundle.load(tiny), slowdown=400.0, clock=wall, sleep=slept.append, busy=busy)
    model.run(Segment(0, 2), model.zeros(0, 1))
    assert slept == [pytest.approx(400 * 0.01 - 2)]


def test_a_run_of_a_resident_segment_waits_for_no_build(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    model.prepare([Segment(0, 2)])
    building, finish = threading.Event(), threading.Event()
    real = ort.InferenceSession

    def slow(*args: Any) -> ort.InferenceSession:
        building.set()
        assert finish.wait(10)
        return real(*args)

    monkeypatch.setattr(ort, "InferenceSession", slow)
    with ThreadPoolExecutor(2) as pool:
        built = pool.submit(model.prepare, [Segment(4, 8)])
        assert building.wait(10)
        pool.submit(model.run, Segment(0, 2), model.zeros(0, 1)).result(timeout=5)
        assert not model.resident(Segment(4, 8))
        finish.set()
        built.result(timeout=10)
    assert model.resident(Segment(4, 8))


def test_warming_makes_the_pieces_resident(model: Model) -> None:
    assert not model.resident(Segment(2, 4))
    model.warm([Segment(0, 4)])
    assert model.resident(Segment(0, 2))
    assert model.resident(Segment(2, 4))
    assert not model.resident(Segment(4, 8))


def test_two_threads_that_want_the_same_piece_build_it_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    built, both, inside = [], threading.Barrier(2, timeout=10), threading.Barrier(2)
    real = ort.InferenceSession

    def counted(*args: Any) -> ort.InferenceSession:
        built.append(args)
        with suppress(threading.BrokenBarrierError):
            inside.wait(0.3)  # long enough for the other thread to come, if nothing holds it back
        return real(*args)

    def run(_: int) -> ort.InferenceSession:
        both.wait()
        return model.session(Segment(0, 8))

    monkeypatch.setattr(ort, "InferenceSession", counted)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(run, range(2))
    assert first is second
    assert len(built) == 1


def lie(tiny: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> bundle.Bundle:
    """A bundle whose manifest is well-formed, and not true."""
    path = shutil.copytree(tiny, tmp_path / "lie")
    manifest = json.loads((path / bundle.MANIFEST).read_text())
    change(manifest)
    (path / bundle.MANIFEST).write_text(json.dumps(manifest))
    return bundle.load(path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda m: m["split_points"][3].update(shape=[96]), "split points"),
        (lambda m: m["split_points"][3].update(tensor="a2"), "split points"),
        (lambda m: m["split_points"][1].update(natural=True), "split points"),
        (lambda m: m["split_points"][7].update(elements=5), "split points"),
        (lambda m: m["exits"][0].update(split_point=1), "exits"),
        (lambda m: m["exits"][0].update(output="exit_1"), "exits"),
        (lambda m: m["exits"].pop(1) and m["exits"][1].update(index=1), "exits"),
        (lambda m: m.update(labels=["a"] * (CLASSES - 1)), "labels"),
        (lambda m: m.update(labels=["a"] * (CLASSES + 1)), "labels"),
    ],
)
def test_a_manifest_that_lies_about_its_graph_is_refused(
    tiny: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], complaint: str
) -> None:
    with pytest.raises(BundleError, match=rf"manifest.json: .*{complaint}"):
        Model(lie(tiny, tmp_path, change))


def test_bytes_that_are_no_graph_are_refused(tiny: Path, tmp_path: Path) -> None:
    path = shutil.copytree(tiny, tmp_path / "lie")
    (path / "model.onnx").write_bytes(b"not a graph")
    lying = lie(path, tmp_path / "again", lambda m: m.update(graph_sha256=bundle.sha256(b"not a graph")))
    with pytest.raises(BundleError, match="not a graph Offramp can split"):
        Model(lying)


def test_a_slower_machine_keeps_the_pace_that_was_measured(tiny: Path) -> None:
    """However long the run took; what was not measured goes by the fastest run."""
    slept: list[float] = []
    model = Model(bundle.load(tiny), slowdown=8.0, clock=FakeClock(step=0.25), sleep=slept.append, busy=ALL_OF_IT)
    model.pace(lambda piece, batch_size: 0.5 if piece == Segment(0, 2) else None)
    model.run(Segment(0, 2), model.zeros(0, 1))
    model.run(Segment(2, 4), model.zeros(2, 1))
    assert slept == [8 * 0.5 - 0.25, 8 * 0.25 - 0.25]
