"""The model card of a bundle, written from its manifest, its training record and one run over the test split."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from services.bundle import NOT_CARRIED, Bundle, ExitSpec, Manifest, Sha256, load
from services.errors import InvalidInput
from services.model import Model
from training.calibrate import NEVER
from training.codec_accuracy import ACCURACY_SAMPLES, BYTES_SAMPLES
from training.datasets import Dataset
from training.evaluate import Evaluation, evaluate

RECORD = "training.json"
CARD = "README.md"

_SOURCES = {
    "digits": (
        "The Optical Recognition of Handwritten Digits test set (Alpaydin and Kaynak, UCI Machine Learning "
        "Repository, CC BY 4.0), as scikit-learn ships it: 1,797 images of 8x8 pixels, here enlarged to 28x28. "
        "The held-out images travel in this bundle as `samples.npz`."
    ),
    "mnist": (
        "MNIST (LeCun, Cortes and Burges). Its files declare no licence, so none of its images are in this "
        "bundle: bring your own copy."
    ),
    "fashion-mnist": (
        "Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017; MIT licence). None of its images are in this bundle: "
        "bring your own copy."
    ),
    "cifar10": (
        "CIFAR-10 (Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009). Its files declare no "
        "licence, so none of its images are in this bundle: bring your own copy. The weights come from a copy whose "
        "images had been stored as JPEG, which loses a little; the accuracies above are on test images stored likewise."
    ),
}

_NOTES = {
    "digits": (
        "The parts are narrow on purpose, so that a demonstration uses all three tiers: with a few channels more the "
        "device alone answers 98 to 100 % of these small digits. The widths were chosen by looking at the shares on "
        "the calibration images."
    ),
    "cifar10": (
        "Residual blocks in stages that are narrow where the parts join. While training, the joins were disturbed by "
        "uniform noise of one step of 15 over the range of a sample, as quantisation to 4 bits would, so that few bits "
        "are enough when an activation is sent."
    ),
}


class _Written(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Part(_Written):
    """One part of the network with its exit; counts are per sample."""

    name: str
    parameters: int
    multiply_accumulates: int
    elements_out: int


class Record(_Written):
    """How the weights came about. graph_sha256: of the graph they are in; none: a record of an earlier release."""

    command: str
    dataset: str
    data_hash: str
    graph_sha256: Sha256 | None = None
    seed: int
    epochs: int
    best_epoch: int
    minutes: float
    threads: int
    torch_version: str
    validation_accuracies: tuple[float, ...]
    recipe: dict[str, Any]
    parts: tuple[Part, ...]


def write_record(path: Path, record: Record) -> None:
    """Keeps `record` in the bundle at `path`, so that the card can be written again after a new calibration."""
    (path / RECORD).write_text(json.dumps(record.model_dump(mode="json"), indent=1) + "\n")


def read_record(path: Path) -> Record | None:
    """The record in the bundle at `path`; None for a bundle that was not trained here.

    Raises InvalidInput for a file that is no record.
    """
    file = path / RECORD
    if not file.is_file():
        return None
    try:
        return Record.model_validate_json(file.read_bytes())
    except ValidationError:
        raise InvalidInput(f"{file}: not a training record; remove it or train again") from None


def own_record(bundle: Bundle) -> Record | None:
    """The record of `bundle`; None where there is none, or one of another graph, which lay there before.

    Raises as `read_record` does.
    """
    record = read_record(bundle.path)
    return None if record is None or record.graph_sha256 not in (None, bundle.manifest.graph_sha256) else record


def write_card(path: Path, dataset: Dataset) -> Evaluation | None:
    """Writes the card of the bundle at `path`, measuring it on the test split of `dataset`; None without its record."""
    bundle = load(path)
    record = own_record(bundle)
    if record is None:
        return None
    result = evaluate(Model(bundle), dataset.test)
    (path / CARD).write_text(compose(bundle, record, dataset, result))
    return result


def compose(bundle: Bundle, record: Record, dataset: Dataset, result: Evaluation) -> str:
    """The text of the card."""
    manifest = bundle.manifest
    sections = [
        _title(manifest),
        _result(manifest, result),
        _network(bundle, record),
        _contract(manifest),
        *(_curve(spec) for spec in manifest.exits[:-1]),
        _codecs(manifest),
        _training(record, dataset),
        f"## Data\n\n{_SOURCES.get(record.dataset, 'Data of the user.')}",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _title(manifest: Manifest) -> str:
    shape = " x ".join(map(str, manifest.input.shape))
    return (
        f"# {manifest.name}\n\n"
        f"A three-part convolutional network with three exits, for {len(manifest.labels)} classes of {shape} images. "
        f"Version {manifest.version}, graph SHA-256 `{manifest.graph_sha256}`."
    )


def _result(manifest: Manifest, result: Evaluation) -> str:
    rows = [
        (
            spec.name,
            _percent(accuracy),
            _percent(count / result.samples),
            f"{spec.threshold:.6g}",
            f"{spec.temperature:.3f}",
        )
        for spec, accuracy, count in zip(manifest.exits, result.exit_accuracies, result.answered, strict=True)
    ]
    header = ("exit", "accuracy if all left here", "share answered here", "threshold", "temperature")
    loss = 100 * (result.full_accuracy - result.accuracy)
    return (
        f"## On the {result.samples:,} test images, which chose nothing\n\n"
        f"Full network **{_percent(result.full_accuracy)}**; with the shipped thresholds "
        f"**{_percent(result.accuracy)}** ({loss:.2f} points below).\n\n{_table(header, rows)}"
    )


def _network(bundle: Bundle, record: Record) -> str:
    rows = [
        (part.name, f"{part.parameters:,}", f"{part.multiply_accumulates:,}", f"{part.elements_out:,}")
        for part in record.parts
    ]
    header = ("part, with its exit", "parameters", "multiply-accumulates", "elements that leave")
    size = f"{len(bundle.graph):,} bytes of float32 graph, {bundle.manifest.last + 1} split points."
    note = _NOTES.get(record.dataset)
    return f"## Network\n\n{_table(header, rows)}\n\n{size}" + (f"\n\n{note}" if note else "")


def _contract(manifest: Manifest) -> str:
    spec = manifest.calibration
    if spec is None:
        return "## Thresholds\n\nNot calibrated: every sample goes to the final exit."
    return (
        f"## Thresholds\n\nChosen on {spec.samples:,} calibration images that trained nothing: the lowest at which, "
        f"with {_percent(1 - spec.delta, 0)} confidence, at most {_percent(spec.epsilon)} of the samples leave early "
        "and wrong where the full network is right. The loss of accuracy cannot be larger than that rate; its "
        f"Clopper-Pearson upper bound is {_percent(spec.harmful_upper_bound, 3)}. On the calibration images: full "
        f"network {_percent(spec.full_accuracy)}, with thresholds {_percent(spec.accuracy)}.{_caveat(spec.samples)}"
    )


def _caveat(samples: int) -> str:
    if samples >= 1000:
        return ""
    return (
        f"\n\nWith only {samples} calibration images a tighter promise cannot be proven, and one sample more or less "
        "moves a threshold; take these numbers as a demonstration."
    )


def _curve(spec: ExitSpec) -> str:
    rows = [
        (
            f"{p.threshold:.6g}{' (shipped)' if p.threshold == spec.threshold else ''}",
            _percent(p.exit_rate),
            "" if p.accuracy is None else _percent(p.accuracy),
        )
        for p in spec.curve
        if p.threshold < NEVER
    ]
    header = ("threshold", "leave, of those that come", "accuracy of those that leave")
    return f"## Curve of the {spec.name} exit, on the calibration images\n\n{_table(header, rows)}"


def _codecs(manifest: Manifest) -> str:
    if not manifest.codec_accuracy:
        return ""
    names = {spec.split_point: spec.name for spec in manifest.exits}
    rows = [
        (
            names.get(c.split_point, "input" if c.split_point == 0 else ""),
            str(c.split_point),
            c.codec,
            _points(c.delta),
            "" if c.bytes_per_sample is None else f"{c.bytes_per_sample:,.0f}",
        )
        for c in manifest.codec_accuracy
        if c.split_point == 0 or c.split_point in names
    ]
    header = ("after exit", "split point", "codec", "points of full accuracy", "bytes of one sample")
    return (
        f"## Codecs, on calibration images\n\nAccuracy is that of the whole network on at most {ACCURACY_SAMPLES:,} "
        f"images, bytes are the mean of at most {BYTES_SAMPLES}. The other natural bottlenecks are in `manifest.json`."
        f"\n\n{_table(header, rows)}"
    )


def _points(delta: float | None) -> str:
    if delta is None:
        return ""
    return "not carried" if delta == NOT_CARRIED else f"{100 * delta:+.3f}"


def _training(record: Record, dataset: Dataset) -> str:
    splits = ("train", "validation", "calibration", "test")
    counts = ", ".join(f"{len(getattr(dataset, name)):,} {name}" for name in splits)
    exits = " / ".join(_percent(a) for a in record.validation_accuracies)
    return (
        f"## Training\n\n```\nOMP_NUM_THREADS={record.threads} {record.command}\n```\n\n"
        f"- Images: {counts}. SHA-256 of all pixels and labels: `{record.data_hash}`.\n"
        f"- Seed {record.seed}, `OMP_NUM_THREADS={record.threads}`, torch {record.torch_version}: the same again gives "
        "the same weights on the same machine.\n"
        f"- {record.epochs} epochs in {record.minutes} minutes; the averaged weights of epoch {record.best_epoch} were "
        f"kept, which had the least loss on the validation images ({exits}).\n"
        f"- The whole recipe is in `{RECORD}`."
    )


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f} %"
