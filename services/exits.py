"""Confidence, and who leaves. Calibration, which finds temperatures and thresholds, is in `training`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import numpy.typing as npt

from services.domain import FloatArray

Measure = Literal["max_softmax", "entropy", "margin"]


def names(count: int) -> tuple[str, ...]:
    """What so many exits are called where nobody named them: early, middle, final; with more, several in the middle."""
    inner = ["middle"] if count == 3 else [f"middle-{number}" for number in range(1, count - 1)]
    return ("early", *inner, "final") if count > 1 else ("final",)[:count]


def softmax(logits: FloatArray, temperature: float = 1.0) -> FloatArray:
    """Probabilities, float32 [N, classes], of logits [N, classes] scaled by 1 / temperature (Guo et al., 2017)."""
    with np.errstate(all="ignore"):  # logits that overflowed give NaN, which the caller looks for
        powers = np.divide(logits, np.float32(temperature), dtype=np.float32)
        powers -= np.maximum.reduce(powers, axis=1, keepdims=True)
        np.exp(powers, out=powers)
        powers /= np.add.reduce(powers, axis=1, keepdims=True)
        return powers


def confidence(scores: FloatArray, measure: Measure = "max_softmax") -> FloatArray:
    """How sure, float32 [N] in 0..1, from probabilities [N, classes].

    max_softmax: the largest probability. entropy: 1 - H / log(classes), so that 1 is sure
    (BranchyNet, section III, normalised as in DDNN, section III-D). margin: largest minus second largest.
    """
    if measure == "entropy":
        logs = np.log(np.maximum(scores, np.finfo(np.float32).tiny))
        sureness = 1 + (scores * logs).sum(axis=1) / np.log(scores.shape[1])
        return np.asarray(np.clip(sureness, 0, 1), np.float32)
    if measure == "margin":
        top = np.partition(scores, -2, axis=1)[:, -2:]
        return np.asarray(top[:, 1] - top[:, 0], np.float32)
    return np.asarray(np.maximum.reduce(scores, axis=1), np.float32)


def never(threshold: float) -> bool:
    """Whether nobody is ever sure enough: so it is with an exit before it is calibrated."""
    return threshold > 1


def leaves(confidences: FloatArray, threshold: float) -> npt.NDArray[np.bool_]:
    """Which samples are sure enough, bool [N]. Threshold 0: all. Above 1: none."""
    return np.asarray(confidences >= np.float64(threshold))  # in float32, what is just above 1 would be 1


def expected_rate(threshold: float, curve: Iterable[tuple[float, float]]) -> float:
    """The share that leaves of those that reach an exit; `curve`: (threshold, share) as calibrated.

    Between two points of the curve, by a straight line; without any, nobody leaves.
    """
    points = sorted(curve)
    if threshold == 0 or never(threshold) or not points:
        return float(threshold == 0)
    return float(np.interp(threshold, [at for at, _ in points], [share for _, share in points]))
