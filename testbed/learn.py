"""`offramp train`, `calibrate` and `eval`: the commands in front of the training package."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from services import bundle, codec
from services import exits as exit_rules
from services.bundle import NOT_CARRIED, Bundle
from services.errors import InvalidInput
from services.model import Model
from testbed import extras
from testbed.samples import dataset_of, held_out, is_samples
from training import datasets
from training import evaluate as evaluation
from training.datasets import Dataset, Split


def train(
    name: str, out: Path, data: Path | None, epochs: int | None, seed: int, resume: bool, console: Console
) -> None:
    """Trains, calibrates and writes a bundle. Raises SettingsError where torch is not installed."""
    try:
        from training.train import TrainConfig
        from training.train import train as run
    except ImportError as error:
        raise extras.missing("training", error) from None
    run(TrainConfig(name, out, data, epochs, seed, resume), console)
    console.print(shown(evaluate(out, data, "int8+zstd")))
    console.print(f"wrote {out}; its card is {out / 'README.md'}", markup=False, soft_wrap=True)


def calibrate(path: Path, data: Path | None, epsilon: float | None, delta: float | None, console: Console) -> None:
    """Calibrates the bundle at `path` anew, on the samples in `data` or its data set's calibration split."""
    from training import calibrate as calibration

    name, split, dataset = _calibration_samples(path, data)
    asked = {key: value for key, value in (("epsilon", epsilon), ("delta", delta)) if value is not None}
    contract = dataclasses.replace(calibration.CONTRACTS.get(name, calibration.USUAL), **asked)
    manifest = calibration.calibrate_bundle(path, split, contract)
    table = Table("exit", "temperature", "threshold", title=f"{name}: new thresholds", title_justify="left")
    for spec in manifest.exits:
        table.add_row(spec.name, f"{spec.temperature:.4g}", f"{spec.threshold:.6g}")
    console.print(table)
    if contract.harmful_allowed(len(split)) < 0:
        console.print(
            f"{len(split):,} samples cannot prove that at most {contract.epsilon:g} of accuracy is lost, so nobody "
            "leaves early: give more of them, or a larger --epsilon",
            markup=False,
        )
    _rewrite_card(path, dataset, console)


def calibrate_codecs(path: Path, data: Path | None, console: Console) -> None:
    """Measures anew what codecs cost the bundle at `path`, on the same samples."""
    from training import calibrate as calibration

    name, split, dataset = _calibration_samples(path, data)
    manifest = calibration.calibrate_codecs(path, split)
    measured = [entry for entry in manifest.codec_accuracy if entry.delta not in (None, NOT_CARRIED)]
    points = {entry.split_point for entry in measured}
    console.print(f"{name}: measured {len(measured)} codecs at {len(points)} split points", markup=False)
    _rewrite_card(path, dataset, console)


def _calibration_samples(path: Path, data: Path | None) -> tuple[str, Split, Dataset | None]:
    """The bundle's name, what to calibrate it on, and the data set that is from, where it is a known one."""
    from training import card

    loaded = bundle.load(path)
    card.read_record(path)  # one that is broken is told of before anything is measured
    if is_samples(data):
        return loaded.manifest.name, held_out(loaded, data), None
    name, dataset = _own_data(path, loaded, data)
    return name, dataset.calibration, dataset


def _rewrite_card(path: Path, dataset: Dataset | None, console: Console) -> None:
    """A card compares a bundle with its data set, so that one calibrated on other samples keeps the one it has."""
    from training import card

    if card.read_record(path) is not None and card.own_record(bundle.load(path)) is None:
        other = f"{path / card.RECORD} is of another graph: it is left alone, and so is {path / card.CARD}"
        console.print(other, markup=False, soft_wrap=True)
    elif dataset is not None:
        card.write_card(path, dataset)
    elif (path / card.CARD).is_file():
        still = f"{path / card.CARD} still tells of the calibration before"
        console.print(still, markup=False, soft_wrap=True)


def _own_data(path: Path, loaded: Bundle, data: Path | None) -> tuple[str, Dataset]:
    """The data set that the bundle at `path` was trained on. Raises InvalidInput for any other."""
    from training import card

    name = dataset_of(loaded)
    dataset = datasets.load(name, data)
    record = card.own_record(loaded)
    if record is not None and record.data_hash != dataset.data_hash:
        raise InvalidInput(f"{data}: not the data {path} was trained on; its card has their SHA-256")
    return name, dataset


def evaluate(path: Path, data: Path | None, codec_name: str) -> dict[str, Any]:
    """What the bundle makes of the test split, as JSON values. `answered_at` counts samples by exit."""
    codec.get(codec_name)
    loaded = bundle.load(path)
    split = held_out(loaded, data)
    found = evaluation.evaluate(Model(loaded), split, codec_name)
    exits = loaded.manifest.exits
    hops = [f"{a.name}_{b.name}" for a, b in itertools.pairwise(exits)]
    return {
        "bundle": str(path),
        "samples": found.samples,
        "full_accuracy": found.full_accuracy,
        "accuracy": found.accuracy,
        "exit_accuracies": {spec.name: value for spec, value in zip(exits, found.exit_accuracies, strict=True)},
        "answered_at": {spec.name: count for spec, count in zip(exits, found.answered, strict=True)},
        "thresholds": {spec.name: spec.threshold for spec in exits},
        "codec": codec_name,
        "bytes_per_hop": dict(zip(hops, found.bytes_per_hop, strict=True)),
        "raw_input_bytes": int(split.images.nbytes),
    }


def shown(found: dict[str, Any]) -> Table:
    """The evaluation as a table: one row per exit."""
    title = (
        f"{found['bundle']}: {found['samples']:,} samples, {found['accuracy']:.2%} with exits, "
        f"{found['full_accuracy']:.2%} whole network"
    )
    table = Table(title=title, title_justify="left")
    for column in ("exit", "threshold", "answered here", "share", "accuracy if all left here"):
        table.add_column(column, justify="left" if column == "exit" else "right")
    for name, count in found["answered_at"].items():
        table.add_row(
            name,
            "never leaves" if exit_rules.never(found["thresholds"][name]) else f"{found['thresholds'][name]:.6g}",
            f"{count:,}",
            f"{count / found['samples']:.2%}",
            f"{found['exit_accuracies'][name]:.2%}",
        )
    sizes = zip(found["answered_at"], found["bytes_per_hop"].values(), strict=False)
    sent = "".join(f"after the {name} exit {size:,}, " for name, size in sizes)
    table.caption = f"bytes sent on, {found['codec']}: {sent}raw inputs {found['raw_input_bytes']:,}"
    return table
