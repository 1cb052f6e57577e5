"""Joint training of all exits.

The loss is the weighted sum of the cross-entropies of the exits (BranchyNet, section III-B). What is kept is
a moving average of the weights, from the epoch with the least loss on the validation split.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as functional
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Generator, Tensor

from services.errors import InvalidInput
from training.augment import augment
from training.datasets import Dataset, Split
from training.models import ThreeParts
from training.recipes import Recipe

_AVERAGE_DECAY = 0.998
_EVALUATION_BATCH = 500


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch ended with: mean training loss, validation loss, validation accuracy of each exit."""

    number: int
    training_loss: float
    validation_loss: float
    validation_accuracies: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """The best network, in evaluation mode, and how it came about. mean, std: per channel, of training pixels / 255."""

    network: ThreeParts
    mean: tuple[float, ...]
    std: tuple[float, ...]
    history: tuple[Epoch, ...]
    best: Epoch
    seconds: float


@dataclass(slots=True)
class _Progress:
    """Where a training stands, besides its tensors."""

    history: list[Epoch] = field(default_factory=list)
    best: int = 0
    seconds: float = 0.0

    def stale(self) -> int:
        """Epochs since the best one."""
        return len(self.history) - self.best


def fit(
    dataset: Dataset,
    recipe: Recipe,
    seed: int,
    checkpoint: Path,
    resume: bool = False,
    console: Console | None = None,
) -> TrainResult:
    """Trains until `recipe.epochs` or until validation stopped getting better.

    `checkpoint` is written after every epoch, so that an interrupted training loses less than one. With
    `resume` it goes on from there, to the same result as without the interruption. Raises InvalidInput
    where the checkpoint is of another data set, recipe or seed.
    """
    torch.use_deterministic_algorithms(True)
    training = _Training(dataset, recipe, seed, checkpoint)
    if resume:
        training.restore()
    else:
        training.save()
    with _bar(console) as bar:
        task = bar.add_task("starting", total=recipe.epochs * training.steps)
        while not training.finished:
            bar.update(task, completed=len(training.progress.history) * training.steps)
            training.run_epoch(lambda: bar.advance(task))
            bar.update(task, description=_headline(training.progress.history[-1], recipe.epochs))
    return training.result()


class _Training:
    """The tensors that change while training, and the steps that change them."""

    def __init__(self, dataset: Dataset, recipe: Recipe, seed: int, checkpoint: Path):
        torch.manual_seed(seed)
        self.recipe, self.seed, self.checkpoint = recipe, seed, checkpoint
        self.images, self.labels = _tensors(dataset.train)
        self.validation = _tensors(dataset.validation)
        channels = self.images.transpose(0, 1).flatten(1)
        self.mean, self.std = (tuple(round(v, 4) for v in of.tolist()) for of in (channels.mean(1), channels.std(1)))
        self.steps = max(1, len(self.labels) // recipe.batch_size)
        self.network = _channels_last(recipe.network.build())
        self.average = copy.deepcopy(self.network).eval()
        self.best = copy.deepcopy(self.average)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.progress = _Progress()
        self._identity = {"data_hash": dataset.data_hash, "seed": seed, "recipe": dataclasses.asdict(recipe)}

    @property
    def finished(self) -> bool:
        done = len(self.progress.history)
        return done >= self.recipe.epochs or self.progress.stale() >= self.recipe.patience

    def run_epoch(self, advance: Callable[[], None]) -> None:
        """One pass over the training split, then validation, then the checkpoint."""
        started, number = time.monotonic(), len(self.progress.history)
        generator = Generator().manual_seed(_stream(self.seed, number))
        torch.manual_seed(_stream(self.seed, number))  # dropout draws from the global generator
        order = torch.randperm(len(self.labels), generator=generator)
        batches = order[: self.steps * self.recipe.batch_size].view(self.steps, -1) if self.steps > 1 else [order]
        total = 0.0
        for offset, rows in enumerate(batches):
            total += self._step(rows, generator, number * self.steps + offset)
            advance()
        loss, accuracies = self._validate()
        self._note(Epoch(number + 1, total / self.steps, loss, accuracies), time.monotonic() - started)

    def result(self) -> TrainResult:
        progress = self.progress
        history, best = tuple(progress.history), progress.history[progress.best - 1]
        return TrainResult(self.best, self.mean, self.std, history, best, progress.seconds)

    def save(self) -> None:
        """Writes the checkpoint at once, so that an interruption leaves the old one or the new one."""
        tensors = {f"{name}.{key}": value for name, part in self._parts().items() for key, value in part.items()}
        metadata = {"identity": self._identity, "progress": dataclasses.asdict(self.progress)}
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        draft = self.checkpoint.with_suffix(".new")
        contiguous = {key: value.contiguous() for key, value in tensors.items()}
        safetensors.torch.save_file(contiguous, draft, {"training": json.dumps(metadata)})
        draft.replace(self.checkpoint)

    def restore(self) -> None:
        """Takes up the checkpoint. Raises InvalidInput where it is missing, unreadable or of another training."""
        metadata, tensors = _read_checkpoint(self.checkpoint)
        if metadata["identity"] != json.loads(json.dumps(self._identity)):
            raise InvalidInput(f"{self.checkpoint}: from another data set, recipe or seed; train without --resume")
        history = [
            Epoch(**{**e, "validation_accuracies": tuple(e["validation_accuracies"])})
            for e in metadata["progress"].pop("history")
        ]
        self.progress = _Progress(history, **metadata["progress"])
        for name, module in self._modules().items():
            module.load_state_dict(_below(name, tensors))
        self._restore_optimizer(_below("optimizer", tensors))

    def _step(self, rows: Tensor, generator: Generator, step: int) -> float:
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * one_cycle(step / (recipe.epochs * self.steps))
        views = augment(self.images[rows], recipe.augmentation, generator)
        self.network.train()
        outputs = self.network(self._normalised(views))
        loss = self._loss(outputs, self.labels[rows], recipe.label_smoothing)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self._follow(min(_AVERAGE_DECAY, (1 + step) / (10 + step)))
        return loss.item()

    @torch.no_grad()
    def _follow(self, decay: float) -> None:
        """Moves the averaged weights, and the statistics of normalisation, towards the trained ones."""
        pairs = zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True)
        for averaged, current in pairs:
            if averaged.is_floating_point():
                averaged.lerp_(current, 1 - decay)
            else:
                averaged.copy_(current)

    @torch.no_grad()
    def _validate(self) -> tuple[float, tuple[float, ...]]:
        images, labels = self.validation
        batches = [self.average(self._normalised(batch)) for batch in torch.split(images, _EVALUATION_BATCH)]
        outputs = [torch.cat(logits) for logits in zip(*batches, strict=True)]
        accuracies = tuple((logits.argmax(1) == labels).float().mean().item() for logits in outputs)
        return self._loss(outputs, labels).item(), accuracies

    def _loss(self, outputs: Sequence[Tensor], labels: Tensor, smoothing: float = 0.0) -> Tensor:
        losses = [functional.cross_entropy(logits, labels, label_smoothing=smoothing) for logits in outputs]
        return torch.stack([w * loss for w, loss in zip(self.recipe.exit_weights, losses, strict=True)]).sum()

    def _normalised(self, images: Tensor) -> Tensor:
        mean, std = (torch.tensor(of)[:, None, None] for of in (self.mean, self.std))
        return ((images - mean) / std).to(memory_format=torch.channels_last)

    def _note(self, epoch: Epoch, seconds: float) -> None:
        progress = self.progress
        best_loss = progress.history[progress.best - 1].validation_loss if progress.best else math.inf
        progress.history.append(epoch)
        progress.seconds += seconds
        if epoch.validation_loss < best_loss:
            progress.best = epoch.number
            self.best.load_state_dict(self.average.state_dict())
        self.save()

    def _modules(self) -> dict[str, ThreeParts]:
        return {"network": self.network, "average": self.average, "best": self.best}

    def _parts(self) -> dict[str, dict[str, Tensor]]:
        state = self.optimizer.state_dict()["state"]
        optimizer = {f"{index}.{key}": value for index, entry in state.items() for key, value in entry.items()}
        return {name: module.state_dict() for name, module in self._modules().items()} | {"optimizer": optimizer}

    def _restore_optimizer(self, tensors: dict[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})


def one_cycle(progress: float) -> float:
    """Share of the peak learning rate at `progress` in 0..1: up for a fifth, then down (Smith and Topin, 2019)."""
    if progress < 0.2:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * progress / 0.2)) / 2
    return 1e-4 + (1 - 1e-4) * (1 + math.cos(math.pi * (progress - 0.2) / 0.8)) / 2


def _channels_last(network: ThreeParts) -> ThreeParts:
    """The layout in which small convolutions are fastest on a CPU."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _stream(seed: int, epoch: int) -> int:
    """A seed for each epoch, so that a resumed training needs no state of a generator."""
    return seed * 10_007 + epoch


def _tensors(split: Split) -> tuple[Tensor, Tensor]:
    """Images as float32 [N, C, H, W] in 0..1, and labels."""
    images = torch.from_numpy(split.images.copy()).float() / 255
    planes = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    return planes, torch.from_numpy(split.labels.copy())


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def _read_checkpoint(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safetensors.safe_open(file, "pt") as archive:
            metadata = json.loads(archive.metadata()["training"])
            return metadata, {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"{file}: no checkpoint to resume from ({error}); train without --resume") from None


def _bar(console: Console | None) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=console is None)


def _headline(epoch: Epoch, epochs: int) -> str:
    shares = " ".join(f"{100 * accuracy:.2f}" for accuracy in epoch.validation_accuracies)
    return f"epoch {epoch.number}/{epochs}  validation {shares} %  loss {epoch.validation_loss:.4f}"
