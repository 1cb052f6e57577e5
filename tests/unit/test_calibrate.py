from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.bundle import CalibrationSpec
from services.errors import InvalidInput
from training import evaluate
from training.calibrate import (
    NEVER,
    Contract,
    binomial_upper_bound,
    calibrate,
    curve,
    find_thresholds,
    fit_temperature,
    negative_log_likelihood,
)


def _confidences(*rows: list[float]) -> list[np.ndarray]:
    return [np.array(row, np.float32) for row in rows]


def _logits(rng: np.random.Generator, samples: int, sharpness: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Exits that know the label the better the larger their sharpness."""
    labels = rng.integers(0, 5, samples)
    truth = np.eye(5)[labels]
    rows = [sharp * truth + rng.normal(size=(samples, 5)) for sharp in sharpness]
    return np.stack(rows).astype(np.float32), labels


@pytest.mark.parametrize(
    ("successes", "trials", "delta", "expected"),
    [
        (0, 10, 0.025, 0.30849710),  # the two-sided 95 % interval of 0 of 10
        (0, 100, 0.05, 0.02951305),
        (1, 10, 0.05, 0.39416326),
        (5, 10, 0.025, 0.81291404),
        (4, 10_000, 0.05, 0.00091530),
        (10, 10, 0.05, 1.0),
    ],
)
def test_the_upper_bound_is_that_of_clopper_and_pearson(
    successes: int, trials: int, delta: float, expected: float
) -> None:
    assert binomial_upper_bound(successes, trials, delta) == pytest.approx(expected, abs=2e-7)


@given(st.integers(1, 3000), st.floats(0, 1), st.floats(1e-6, 0.5))
@settings(deadline=None, max_examples=50)
def test_the_upper_bound_is_the_quantile_of_a_beta_distribution(trials: int, share: float, delta: float) -> None:
    beta = pytest.importorskip("scipy.stats").beta
    successes = min(trials - 1, int(share * trials))
    expected = beta.ppf(1 - delta, successes + 1, trials - successes)
    assert binomial_upper_bound(successes, trials, delta) == pytest.approx(expected, rel=1e-6)


def test_a_contract_that_no_sample_can_prove_allows_not_even_zero_harmful_exits() -> None:
    assert Contract(0.001).harmful_allowed(100) == -1
    assert Contract(0.001).harmful_allowed(10_000) == 4


def test_the_temperature_is_recovered_from_logits_that_are_too_sharp() -> None:
    rng = np.random.default_rng(3)
    honest = rng.normal(size=(20_000, 10)) * 2
    shares = np.exp(honest) / np.exp(honest).sum(axis=1, keepdims=True)
    labels = (shares.cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    assert fit_temperature((3 * honest).astype(np.float32), labels) == pytest.approx(3, rel=0.03)


def test_no_temperature_nearby_has_a_smaller_likelihood_loss() -> None:
    (logits,), labels = _logits(np.random.default_rng(5), 300, (2.0,))
    found = fit_temperature(logits, labels)
    least = negative_log_likelihood(logits, labels, found)
    assert all(least <= negative_log_likelihood(logits, labels, found * by) for by in (0.5, 0.95, 1.05, 2))


def test_the_first_exit_stops_right_above_the_harmful_sample_that_is_one_too_many() -> None:
    sure = _confidences([0.9, 0.8, 0.7, 0.6, 0.5], [1.0] * 5, [1.0] * 5)
    right = np.array([[1, 1, 0, 1, 1], [1] * 5, [1] * 5], bool)
    assert find_thresholds(sure, right, Contract(0.3, 0.2)) == (pytest.approx(0.8), 1.0, 0.0)


def test_a_sample_that_the_full_network_gets_wrong_too_harms_nothing() -> None:
    sure = _confidences([0.9, 0.8, 0.7], [1.0] * 3)
    right = np.array([[1, 0, 1], [1, 0, 1]], bool)
    assert find_thresholds(sure, right, Contract(0.9, 0.5))[0] == pytest.approx(0.7)


def test_without_allowance_nobody_leaves_early() -> None:
    sure = _confidences([0.9, 0.8], [0.9, 0.9], [1.0, 1.0])
    right = np.ones((3, 2), bool)
    assert find_thresholds(sure, right, Contract(0.0001, 0.05)) == (NEVER, NEVER, 0.0)


def test_equal_confidences_leave_together_or_not_at_all() -> None:
    sure = _confidences([0.9] * 4, [1.0] * 4)
    right = np.array([[1, 1, 0, 1], [1] * 4], bool)
    allow_one, allow_none = Contract(0.9, 0.5), Contract(0.2, 0.5)
    assert find_thresholds(sure, right, allow_one)[0] == pytest.approx(0.9)
    assert allow_none.harmful_allowed(4) == 0
    assert find_thresholds(sure, right, allow_none)[0] == NEVER


@given(st.integers(0, 2**32 - 1), st.sampled_from([(0.05, 0.05), (0.02, 0.1), (0.2, 0.01)]))
@settings(deadline=None, max_examples=25)
def test_the_contract_holds_on_the_calibration_samples_and_the_next_lower_threshold_breaks_it(
    seed: int, promise: tuple[float, float]
) -> None:
    logits, labels = _logits(np.random.default_rng(seed), 300, (1.0, 2.0, 4.0))
    found = calibrate(logits, labels, Contract(*promise))
    assert found.summary.harmful_upper_bound <= promise[0]
    assert found.summary.accuracy >= found.summary.full_accuracy - promise[0]
    assert sum(found.shares) == pytest.approx(1)
    assert _harmful(logits, labels, found.temperatures, _one_lower(logits, found.temperatures, found.thresholds)) > (
        Contract(*promise).harmful_allowed(300)
    )


def _sureness(logits: np.ndarray, temperatures: tuple[float, ...]) -> list[np.ndarray]:
    from services.exits import confidence, softmax

    return [confidence(softmax(row, t)) for row, t in zip(logits, temperatures, strict=True)]


def _one_lower(logits: np.ndarray, temperatures: tuple[float, ...], thresholds: tuple[float, ...]) -> tuple[float, ...]:
    """The same thresholds, the first exit's lowered to the next sample below, which is one harmful too many."""
    sure = _sureness(logits, temperatures)[0]
    below = sure[sure < np.float32(thresholds[0])]
    return (float(below.max()) if len(below) else 0.0, *thresholds[1:])


def _harmful(
    logits: np.ndarray, labels: np.ndarray, temperatures: tuple[float, ...], thresholds: tuple[float, ...]
) -> int:
    left = evaluate.assign(_sureness(logits, temperatures), thresholds)
    right = logits.argmax(axis=2) == labels
    return int(np.sum(right[-1] & ~right[left, np.arange(len(left))]))


def test_a_curve_falls_from_everyone_to_hardly_anyone() -> None:
    rng = np.random.default_rng(1)
    sure = rng.random(500).astype(np.float32)
    points = curve(sure, rng.random(500) < sure, chosen=0.77)
    rates = [point.exit_rate for point in points]
    assert rates[0] == 1
    assert rates == sorted(rates, reverse=True)
    assert 0.77 in [point.threshold for point in points]


def test_an_exit_that_nobody_reaches_has_a_curve_without_accuracies() -> None:
    points = curve(np.empty(0, np.float32), np.empty(0, bool), chosen=0.5)
    assert {(point.exit_rate, point.accuracy) for point in points} == {(0.0, None)}


def test_the_same_arrays_calibrate_to_the_same_numbers() -> None:
    logits, labels = _logits(np.random.default_rng(9), 200, (1.0, 3.0))
    assert calibrate(logits, labels, Contract(0.05)) == calibrate(logits, labels, Contract(0.05))


def test_a_single_exit_answers_everything() -> None:
    logits, labels = _logits(np.random.default_rng(9), 50, (3.0,))
    found = calibrate(logits, labels, Contract(0.05))
    assert found.thresholds == (0.0,)
    assert found.shares == (1.0,)
    assert isinstance(found.summary, CalibrationSpec)


def test_logits_that_do_not_fit_the_labels_are_refused() -> None:
    with pytest.raises(InvalidInput, match="same samples"):
        calibrate(np.zeros((2, 3, 4), np.float32), np.zeros(5, np.int64), Contract(0.1))
    with pytest.raises(InvalidInput, match="same samples"):
        calibrate(np.zeros((2, 0, 4), np.float32), np.zeros(0, np.int64), Contract(0.1))


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_an_exit_whose_answers_are_not_finite_is_named(number: float) -> None:
    logits, labels = _logits(np.random.default_rng(9), 50, (1.0, 3.0))
    logits[1, [4, 7], 2], labels[[4, 7]] = number, 2
    with pytest.raises(InvalidInput, match="exit 1 answers 2 of 50 samples with numbers that are not finite"):
        calibrate(logits, labels, Contract(0.05))


def test_a_class_that_is_ruled_out_is_no_fault_where_it_is_not_the_true_one() -> None:
    logits, labels = _logits(np.random.default_rng(9), 50, (1.0, 3.0))
    logits[1, 4, (labels[4] + 1) % logits.shape[2]] = -np.inf
    assert all(np.isfinite(calibrate(logits, labels, Contract(0.05)).temperatures))
