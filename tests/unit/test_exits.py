"""Confidence, and who leaves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from services import exits
from services.bundle import read_manifest
from services.domain import FloatArray
from services.exits import Measure
from tests.conftest import ROOT

MEASURES: list[Measure] = ["max_softmax", "entropy", "margin"]
logits = hnp.arrays(
    np.float32, st.tuples(st.integers(0, 5), st.integers(2, 6)), elements=st.floats(-1000, 1000, width=32)
)


@given(logits=logits, temperature=st.floats(0.01, 100))
def test_probabilities_of_a_sample_add_up_to_one(logits: FloatArray, temperature: float) -> None:
    scores = exits.softmax(logits, temperature)
    assert scores.dtype == np.float32
    assert np.allclose(scores.sum(axis=1), 1, atol=1e-5)
    assert ((scores >= 0) & (scores <= 1)).all()


@given(logits=logits)
def test_softmax_keeps_the_order_of_the_logits(logits: FloatArray) -> None:
    scores = exits.softmax(logits)
    best = logits.argmax(axis=1)
    assert (scores[np.arange(len(scores)), best] == scores.max(axis=1, initial=0)).all()


@given(logits=logits, temperature=st.floats(0.1, 10), hotter=st.floats(1.1, 10))
def test_a_higher_temperature_is_never_more_confident(logits: FloatArray, temperature: float, hotter: float) -> None:
    cool = exits.confidence(exits.softmax(logits, temperature))
    warm = exits.confidence(exits.softmax(logits, temperature * hotter))
    assert (warm <= cool + 1e-6).all()


@pytest.mark.parametrize("measure", MEASURES)
@given(logits=logits)
def test_confidence_is_between_none_and_certainty(measure: Measure, logits: FloatArray) -> None:
    confidences = exits.confidence(exits.softmax(logits), measure)
    assert confidences.dtype == np.float32
    assert confidences.shape == (len(logits),)
    assert ((confidences >= 0) & (confidences <= 1)).all()


@pytest.mark.parametrize(("measure", "none"), [("max_softmax", 0.25), ("entropy", 0.0), ("margin", 0.0)])
def test_each_measure_tells_certainty_from_none(measure: Measure, none: float) -> None:
    scores = np.array([[1, 0, 0, 0], [0.25] * 4], np.float32)
    assert exits.confidence(scores, measure).tolist() == pytest.approx([1.0, none], abs=1e-6)


def test_the_measures_are_those_of_the_literature() -> None:
    scores = np.array([[0.7, 0.2, 0.1]], np.float32)
    entropy = -sum(p * np.log(p) for p in (0.7, 0.2, 0.1))
    assert exits.confidence(scores, "max_softmax")[0] == pytest.approx(0.7)
    assert exits.confidence(scores, "margin")[0] == pytest.approx(0.5)
    assert exits.confidence(scores, "entropy")[0] == pytest.approx(1 - entropy / np.log(3), rel=1e-5)


@given(logits=logits)
def test_at_threshold_zero_all_leave_and_above_one_none(logits: FloatArray) -> None:
    confidences = exits.confidence(exits.softmax(logits))
    assert exits.leaves(confidences, 0.0).all()
    assert not exits.leaves(confidences, float(np.nextafter(np.float32(1), np.float32(2)))).any()


def test_a_sample_exactly_at_the_threshold_leaves() -> None:
    confidences = np.array([0.59, 0.6, 0.61], np.float32)
    assert exits.leaves(confidences, 0.6).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("count", "names"),
    [
        (1, ("final",)),
        (2, ("early", "final")),
        (3, ("early", "middle", "final")),
        (5, ("early", "middle-1", "middle-2", "middle-3", "final")),
    ],
)
def test_exits_are_named_by_their_order_and_not_after_tiers(count: int, names: tuple[str, ...]) -> None:
    assert exits.names(count) == names


@pytest.mark.parametrize("name", ["digits", "mnist", "fashion-mnist", "cifar10"])
def test_no_exit_of_a_shipped_bundle_is_called_like_a_tier(name: str) -> None:
    manifest = read_manifest(ROOT / "models" / name)
    assert tuple(spec.name for spec in manifest.exits) == exits.names(3)


@pytest.mark.parametrize(("threshold", "never"), [(0.0, False), (1.0, False), (1.01, True)])
def test_nobody_leaves_above_one(threshold: float, never: bool) -> None:
    assert exits.never(threshold) is never
