"""Calibration of exits: temperatures, curves, and thresholds that keep an accuracy contract. Numpy only.

Everything but `calibrate_bundle` is a pure function. `logits` are float32 [E, N, C]: E exits, the final one last, over
the same N samples, whose int64 labels are [N].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from services import exits as exit_rules
from services.bundle import CalibrationSpec, CurvePoint, Manifest, load, write
from services.domain import FloatArray
from services.errors import InvalidInput
from services.model import Model
from training import evaluate
from training.codec_accuracy import codec_accuracies, with_bytes
from training.datasets import Split

Labels = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

NEVER = 1.01
_CURVE_GRID = (0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999)
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, slots=True)
class Contract:
    """Accuracy at most `epsilon` below the full network, with confidence 1 - `delta`."""

    epsilon: float
    delta: float = 0.05

    def harmful_allowed(self, samples: int) -> int:
        """The most harmful exits among `samples` that still prove the contract; -1 if not even none would."""
        allowed, beyond = -1, samples + 1
        while beyond - allowed > 1:  # the bound grows with their number
            middle = (allowed + beyond) // 2
            proven = binomial_upper_bound(middle, samples, self.delta) <= self.epsilon
            allowed, beyond = (middle, beyond) if proven else (allowed, middle)
        return allowed


CONTRACTS = {
    "digits": Contract(epsilon=0.01),  # 400 samples cannot prove much more
    "mnist": Contract(epsilon=0.001),
    "fashion-mnist": Contract(epsilon=0.003),
    "cifar10": Contract(epsilon=0.005),
}
"""What the thresholds of the shipped bundles promise."""
USUAL = Contract(epsilon=0.005)
"""What those of any other bundle promise, unless asked for otherwise."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What calibration found: one temperature, threshold, curve and share of all samples per exit."""

    temperatures: tuple[float, ...]
    thresholds: tuple[float, ...]
    shares: tuple[float, ...]
    curves: tuple[tuple[CurvePoint, ...], ...]
    summary: CalibrationSpec


def calibrate(
    logits: FloatArray, labels: Labels, contract: Contract, measure: exit_rules.Measure = "max_softmax"
) -> Calibration:
    """Fits temperatures, then the lowest thresholds that keep `contract`.

    Raises InvalidInput without samples, or for logits that no threshold can be compared with.
    """
    if logits.ndim != 3 or logits.shape[1] != len(labels) or len(labels) == 0:
        raise InvalidInput(f"logits {logits.shape} do not fit {len(labels)} labels; give both for the same samples")
    unusable = ~np.isfinite(logits.max(axis=2)) | ~np.isfinite(logits[:, np.arange(len(labels)), labels])
    for exit_index, lost in enumerate(unusable.sum(axis=1)):  # a class may be ruled out, if it is not the true one
        if lost:
            count = f"{lost} of {len(labels)} samples"
            raise InvalidInput(f"exit {exit_index} answers {count} with numbers that are not finite")
    temperatures = tuple(fit_temperature(exit_logits, labels) for exit_logits in logits)
    confidences = [
        exit_rules.confidence(exit_rules.softmax(exit_logits, temperature), measure)
        for exit_logits, temperature in zip(logits, temperatures, strict=True)
    ]
    right = logits.argmax(axis=2) == labels
    thresholds = find_thresholds(confidences, right, contract)
    left = evaluate.assign(confidences, thresholds)
    curves = [curve(confidences[e][left >= e], right[e][left >= e], thresholds[e]) for e in range(len(thresholds))]
    shares = tuple(float(np.mean(left == e)) for e in range(len(thresholds)))
    return Calibration(temperatures, thresholds, shares, tuple(curves), _summary(left, right, contract))


def calibrate_bundle(path: Path, split: Split, contract: Contract) -> Manifest:
    """Calibrates the bundle at `path` on `split`, writes temperatures, thresholds, curves and codecs into its manifest.

    Raises BundleError where the bundle cannot be loaded, InvalidInput where the images do not fit it.
    """
    bundle = load(path)
    model = Model(bundle)
    inputs = evaluate.preprocess(split.images, bundle.manifest)
    logits = evaluate.exit_logits(model, inputs)
    found = calibrate(logits, split.labels, contract, bundle.manifest.confidence)
    codecs = codec_accuracies(model, inputs, split.labels)
    manifest = apply(bundle.manifest, found).model_copy(update={"codec_accuracy": with_bytes(codecs, bundle.manifest)})
    write(path, manifest)
    return manifest


def calibrate_codecs(path: Path, split: Split) -> Manifest:
    """Measures codecs alone and writes what they cost into the manifest; the exits stay as they are.

    Raises as `calibrate_bundle` does.
    """
    bundle = load(path)
    inputs = evaluate.preprocess(split.images, bundle.manifest)
    codecs = codec_accuracies(Model(bundle), inputs, split.labels)
    manifest = bundle.manifest.model_copy(update={"codec_accuracy": with_bytes(codecs, bundle.manifest)})
    write(path, manifest)
    return manifest


def apply(manifest: Manifest, found: Calibration) -> Manifest:
    """`manifest` with what calibration found for each of its exits."""
    exits = tuple(
        spec.model_copy(update={"temperature": temperature, "threshold": threshold, "curve": points})
        for spec, temperature, threshold, points in zip(
            manifest.exits, found.temperatures, found.thresholds, found.curves, strict=True
        )
    )
    return manifest.model_copy(update={"exits": exits, "calibration": found.summary})


def fit_temperature(logits: FloatArray, labels: Labels) -> float:
    """The temperature in 1/20..20 with the least negative log-likelihood (Guo et al., ICML 2017, section 4.2).

    Golden-section search over its logarithm; the likelihood has one peak in 1 / temperature.
    """
    low, high = -math.log(20), math.log(20)
    wide = logits.astype(np.float64)
    while high - low > 1e-4:
        a, b = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if negative_log_likelihood(wide, labels, math.exp(a)) <= negative_log_likelihood(wide, labels, math.exp(b)):
            high = b
        else:
            low = a
    return round(math.exp((low + high) / 2), 4)


def negative_log_likelihood(logits: npt.NDArray[np.floating], labels: Labels, temperature: float = 1.0) -> float:
    """Mean over samples, in nats, of logits [N, C] scaled by 1 / temperature."""
    scaled = logits / temperature
    scaled = scaled - scaled.max(axis=1, keepdims=True)
    chosen = scaled[np.arange(len(labels)), labels]
    return float(np.mean(np.log(np.exp(scaled).sum(axis=1)) - chosen))


def find_thresholds(confidences: Sequence[FloatArray], right: Mask, contract: Contract) -> tuple[float, ...]:
    """The lowest thresholds, first exit first, that keep `contract`; the final exit's is 0.

    A *harmful* exit leaves wrong where the full network is right. Their rate bounds the loss of accuracy from
    above. The first exit takes as many samples as the allowance of harmful ones lets it, the next exit what is
    then left of it, so that the share of the first is the largest possible, and given that, of the second.

    The first threshold is a fixed-sequence test (Angelopoulos et al., Learn then Test, 2021), so
    its confidence needs no correction for having looked at many; the later ones inherit it only approximately.
    """
    count = right.shape[1]
    allowance = contract.harmful_allowed(count)
    waiting, thresholds = np.ones(count, bool), []
    for scores, own in zip(confidences[:-1], right[:-1], strict=True):
        harmful = waiting & right[-1] & ~own
        threshold = _lowest(scores, waiting, harmful, allowance)
        leaving = waiting & exit_rules.leaves(scores, threshold)
        allowance -= int(np.sum(harmful & leaving))
        waiting &= ~leaving
        thresholds.append(threshold)
    return (*thresholds, 0.0)


def curve(confidences: FloatArray, right: Mask, chosen: float) -> tuple[CurvePoint, ...]:
    """Threshold to exit rate and accuracy, for the samples that reach an exit; `chosen` is among the thresholds."""
    points = []
    for threshold in sorted({*map(float, _CURVE_GRID), chosen}):
        leaving = exit_rules.leaves(confidences, threshold)
        accuracy = float(np.mean(right[leaving])) if leaving.any() else None
        rate = float(np.mean(leaving)) if len(leaving) else 0.0
        points.append(
            CurvePoint(
                threshold=threshold,
                exit_rate=_short(rate),
                accuracy=None if accuracy is None else _short(accuracy),
            )
        )
    return tuple(points)


def binomial_upper_bound(successes: int, trials: int, delta: float) -> float:
    """The Clopper-Pearson upper bound: the largest rate under which `successes` or fewer have probability delta."""
    if successes >= trials:
        return 1.0
    low, high = successes / trials, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _binomial_cdf(successes, trials, middle) > delta else (low, middle)
    return high


def _binomial_cdf(successes: int, trials: int, rate: float) -> float:
    counts = np.arange(successes + 1)
    choose = np.array([math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1) for k in counts])
    if rate <= 0 or rate >= 1:
        return float(rate <= 0)
    return float(np.exp(choose + counts * math.log(rate) + (trials - counts) * math.log1p(-rate)).sum())


def _lowest(scores: FloatArray, waiting: Mask, harmful: Mask, allowance: int) -> float:
    """The lowest confidence seen at which at most `allowance` harmful samples leave; NEVER if there is none."""
    if allowance < 0:
        return NEVER
    blocking = np.sort(scores[harmful])[::-1][allowance : allowance + 1]
    usable = scores[waiting & (scores > blocking[0])] if len(blocking) else scores[waiting]
    return float(usable.min()) if len(usable) else NEVER


def _summary(left: npt.NDArray[np.int64], right: Mask, contract: Contract) -> CalibrationSpec:
    answered = np.take_along_axis(right, left[None, :], axis=0)[0]
    count = len(left)
    harmful = int(np.sum(right[-1] & ~answered))
    return CalibrationSpec(
        samples=count,
        epsilon=contract.epsilon,
        delta=contract.delta,
        full_accuracy=float(np.mean(right[-1])),
        accuracy=float(np.mean(answered)),
        harmful_upper_bound=binomial_upper_bound(harmful, count, contract.delta),
    )


def _short(value: float) -> float:
    return round(value, 6)
