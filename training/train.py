"""The whole way from a data set to a bundle: train, export, calibrate, describe."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from services import bundle
from training import calibrate, card, datasets, export
from training.calibrate import Contract
from training.datasets import Dataset
from training.fit import TrainResult, fit
from training.models import part_sizes
from training.recipes import RECIPES, Recipe

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """One run of the whole way. None: what the recipe of the data set says; threads None: what torch takes."""

    dataset: str
    out: Path
    data_dir: Path | None = None
    epochs: int | None = None
    seed: int = 1
    resume: bool = False
    threads: int | None = None
    contract: Contract | None = None

    @property
    def command(self) -> str:
        """The command line that repeats this run."""
        data = "" if self.dataset == "digits" else " --data DIR"
        epochs = "" if self.epochs is None else f" --epochs {self.epochs}"
        return f"offramp train --dataset {self.dataset}{data} --out models/{self.out.name}{epochs} --seed {self.seed}"


def train(config: TrainConfig, console: Console | None = None) -> card.Record:
    """Trains, exports, calibrates and describes a bundle in `config.out`.

    Raises InvalidInput for a data set or checkpoint that is missing or does not fit. Ctrl-C leaves the
    checkpoint of the last whole epoch in `config.out`; `resume` goes on from it.
    """
    dataset = datasets.load(config.dataset, config.data_dir)
    recipe = RECIPES[config.dataset]
    recipe = dataclasses.replace(recipe, epochs=config.epochs or recipe.epochs)
    if config.threads:
        torch.set_num_threads(config.threads)
    checkpoint = config.out / CHECKPOINT
    try:
        result = fit(dataset, recipe, config.seed, checkpoint, config.resume, console)
    except KeyboardInterrupt:
        if console:
            stopped = f"stopped; {checkpoint} holds the last whole epoch, go on with --resume"
            console.print(stopped, markup=False, soft_wrap=True)
        raise
    export.write_bundle(result.network, dataset, result.mean, result.std, config.out)
    contract = config.contract or calibrate.CONTRACTS[config.dataset]
    calibrate.calibrate_bundle(config.out, dataset.calibration, contract)
    record = _record(config, dataset, recipe, result)
    card.write_record(config.out, record)
    card.write_card(config.out, dataset)
    checkpoint.unlink()
    return record


def _record(config: TrainConfig, dataset: Dataset, recipe: Recipe, result: TrainResult) -> card.Record:
    return card.Record(
        command=config.command,
        dataset=dataset.name,
        data_hash=dataset.data_hash,
        graph_sha256=bundle.read_manifest(config.out).graph_sha256,
        seed=config.seed,
        epochs=len(result.history),
        best_epoch=result.best.number,
        minutes=round(result.seconds / 60, 1),
        threads=torch.get_num_threads(),
        torch_version=torch.__version__,
        validation_accuracies=tuple(round(a, 6) for a in result.best.validation_accuracies),
        recipe=json.loads(json.dumps(dataclasses.asdict(recipe))),  # as it reads back: lists for tuples
        parts=tuple(card.Part(**dataclasses.asdict(size)) for size in part_sizes(result.network)),
    )
