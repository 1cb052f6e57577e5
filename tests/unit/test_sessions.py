"""Sessions of a large network that share its weights."""

from __future__ import annotations

import logging
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from benchmarks.efficientnet import efficientnet_b0, in_memory
from services import bundle, sessions
from services.bundle import Bundle
from services.domain import FloatArray, Segment
from services.model import Model
from services.weights import Array, Weight, WeightStore

SHAPE = (3, 64, 64)
CLASSES = 10


@pytest.fixture(scope="module")
def large() -> Bundle:
    """A bundle of EfficientNet-B0 for small pictures: all its layers, 16 MB of weights, runs of a few ms."""
    return in_memory(efficientnet_b0(shape=SHAPE, classes=CLASSES))


@pytest.fixture
def model(large: Bundle) -> Model:
    return Model(large)


@pytest.fixture(scope="module")
def tensor() -> FloatArray:
    return np.random.default_rng(1).standard_normal((2, *SHAPE), np.float32)


def _whole(bundle: Bundle, tensor: FloatArray) -> FloatArray:
    session = ort.InferenceSession(bundle.graph, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input": tensor})[0])


def _chained(model: Model, tensor: FloatArray, *split_points: int) -> FloatArray:
    edges = [0, *split_points, model.last]
    for start, end in pairwise(edges):
        tensor, _ = model.run(Segment(start, end), tensor)
    return tensor


def _shares(session: ort.InferenceSession) -> bool:
    return hasattr(session, "weights")


def test_segments_on_shared_weights_equal_the_whole(large: Bundle, model: Model, tensor: FloatArray) -> None:
    expected = _whole(large, tensor)
    for split_points in [(), (1,), (20,), (31, 44), (model.last - 1,)]:
        got = _chained(model, tensor, *split_points)
        assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max(), split_points


def test_a_batch_is_answered_exactly_as_its_samples_one_by_one(model: Model, tensor: FloatArray) -> None:
    alone = np.concatenate([_chained(model, row[None], 30) for row in tensor])
    assert _chained(model, tensor, 30).tobytes() == alone.tobytes()


def test_a_further_session_adds_next_to_no_weights(model: Model) -> None:
    halves = [Segment(0, 30), Segment(30, model.last)]
    shared = {id(weight) for half in halves for weight in model.session(half).weights}
    for at in (10, 20, 40, 50):
        for segment in (Segment(0, at), Segment(at, model.last)):
            new = [weight for weight in model.session(segment).weights if id(weight) not in shared]
            assert sum(weight.array.nbytes for weight in new) < 1e6, segment


def test_weights_go_with_the_last_session_that_uses_them(large: Bundle) -> None:
    model = Model(large, max_sessions=1)
    before = len(model._builder._store)
    model.prepare([Segment(0, 30)])
    assert len(model._builder._store) > before
    model.prepare([Segment(0, 1)])
    assert len(model._builder._store) <= before + 2


def test_an_evicted_session_still_answers_who_holds_it(large: Bundle, tensor: FloatArray) -> None:
    model = Model(large, max_sessions=1)
    session = model.session(Segment(0, model.last))
    model.prepare([Segment(0, 1), Segment(0, 2)])
    got = session.run(None, {"input": tensor})[0]
    np.testing.assert_allclose(got, _whole(large, tensor), rtol=1e-4, atol=1e-5)


class _Forgetful(WeightStore):
    """Hands out zeros of the right shape, as a runtime does that reads weights from where they are not."""

    def add(self, array: Array) -> Weight:
        return super().add(np.zeros_like(array))


def test_a_session_that_answers_wrongly_is_not_kept(
    large: Bundle, model: Model, tensor: FloatArray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(model._builder, "_store", _Forgetful())
    caplog.set_level(logging.WARNING, "offramp")
    got = _chained(model, tensor, 30)
    assert np.abs(got - _whole(large, tensor)).max() <= 1e-5
    assert not _shares(model.session(Segment(0, 30)))
    assert [record.message for record in caplog.records] == ["weights_not_shared"]  # said once, not for each


def test_without_a_place_for_files_sessions_are_ordinary(
    large: Bundle, model: Model, tensor: FloatArray, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    got = _chained(model, tensor)
    assert not _shares(model.session(Segment(0, model.last)))
    assert got.tobytes() == _whole(large, tensor).tobytes()


def test_building_leaves_no_files(model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert _shares(model.session(Segment(0, 30)))
    assert list(tmp_path.iterdir()) == []


def test_answers_that_differ_or_are_not_finite_are_not_alike(large: Bundle, tensor: FloatArray) -> None:
    other = in_memory(efficientnet_b0(seed=1, shape=SHAPE, classes=CLASSES))
    one, two = (ort.InferenceSession(b.graph, providers=["CPUExecutionProvider"]) for b in (large, other))
    assert sessions.alike(one, one, tensor)
    assert not sessions.alike(one, two, tensor)
    assert not sessions.alike(one, one, np.full_like(tensor, np.nan))


def test_a_small_network_runs_on_ordinary_sessions(tiny: Path) -> None:
    assert not _shares(Model(bundle.load(tiny)).session(Segment(0, 2)))


def test_requests_on_a_resident_plan_go_on_while_others_are_built(large: Bundle, tensor: FloatArray) -> None:
    model, resident, one = Model(large), Segment(0, 30), tensor[:1]
    model.prepare([resident])
    alone = [_seconds(model, resident, one) for _ in range(100)]
    meanwhile, builds = [], []
    with ThreadPoolExecutor(1) as builder:
        for at in range(1, model.last, 8):
            started = time.perf_counter()
            built = builder.submit(model.prepare, [Segment(0, at), Segment(at, model.last)])
            while not built.done():
                meanwhile.append(_seconds(model, resident, one))
            built.result()
            builds.append(time.perf_counter() - started)
    assert model.resident(resident)
    slow = min(np.percentile(part, 95) for part in np.array_split(meanwhile, 3))  # a busy machine is so for a while
    usual = np.percentile(alone, 95)
    assert slow <= max(6 * usual, np.median(builds) / 6), f"{slow:.4f} s while building, {usual:.4f} s alone"


def _seconds(model: Model, segment: Segment, tensor: FloatArray) -> float:
    started = time.perf_counter()
    model.run(segment, tensor)
    return time.perf_counter() - started
