"""`offramp privacy`: what each split point and codec gives away of the input, and a picture of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from services import bundle, codec
from services.bundle import Manifest
from services.domain import FloatArray, Segment
from services.errors import InvalidInput
from services.model import Model
from testbed.samples import dataset_of
from training import datasets
from training.codec_accuracy import useful_split_points
from training.evaluate import batches, preprocess
from training.reconstruct import STEPS, Attack, attack

KNOWN = 1000
SEEN = 100
CODECS = ("fp32", "int8+zstd", "int2")
_SHOWN = 6
_AT_MOST = 6


@dataclass(frozen=True, slots=True)
class Row:
    """One split point and codec: elements per sample, and the attack on it."""

    split: int
    tensor: str
    elements: int
    codec: str
    found: Attack


@dataclass(frozen=True, slots=True)
class Study:
    """Rows by split point and codec, and the images under attack, float32 [N, H, W, C] in 0 to 1."""

    bundle: str
    seed: int
    known: int
    images: FloatArray
    rows: tuple[Row, ...]


def splits_of(manifest: Manifest, chosen: Sequence[int] | None) -> tuple[int, ...]:
    """The split points to attack: `chosen`, else a few of those where cutting can pay, the input left out.

    Raises InvalidInput for one the network does not have, and where cutting pays nowhere.
    """
    if chosen is None:
        useful = [k for k in useful_split_points(manifest) if k > 0]
        if not useful:
            raise InvalidInput(f"{manifest.name} has no bottleneck inside; choose split points with --splits")
        places = np.linspace(0, len(useful) - 1, min(_AT_MOST, len(useful))).round().astype(int)
        return tuple(useful[place] for place in places)
    wrong = [k for k in chosen if not 0 < k < manifest.last]
    if wrong:
        raise InvalidInput(f"split point {wrong[0]}: give 1 to {manifest.last - 1}; 0 is the input itself")
    return tuple(chosen)


def study(
    path: Path,
    data: Path | None,
    splits: Sequence[int] | None,
    codecs: Sequence[str],
    seed: int,
    on_start: Callable[[int], None],
    on_step: Callable[[], None],
) -> Study:
    """Attacks every split point and codec. The attacker knows training images; test images are seen only by him."""
    loaded = bundle.load(path)
    for name in codecs:
        codec.get(name)
    points = splits_of(loaded.manifest, splits)
    data_set = datasets.load(dataset_of(loaded), data)
    known = datasets.mixed(data_set.train, seed).images[:KNOWN]
    seen = datasets.mixed(data_set.test).images[:SEEN]
    on_start(len(points) * len(codecs) * STEPS)
    model, manifest = Model(loaded), loaded.manifest
    taken = [_activations(model, preprocess(images, manifest), points) for images in (known, seen)]
    found = [
        Row(
            point,
            manifest.split_points[point].tensor,
            int(taken[0][point][0].size),
            name,
            attack(taken[0][point], _unit(known), taken[1][point], _unit(seen), codec.get(name), seed, on_step),
        )
        for point in points
        for name in codecs
    ]
    return Study(str(path), seed, len(known), _unit(seen), tuple(found))


def _unit(images: Any) -> FloatArray:
    """uint8 [N, H, W] or [N, H, W, C] to float32 [N, H, W, C] in 0 to 1."""
    whole = images if images.ndim == 4 else images[..., None]
    return np.asarray(whole, np.float32) / np.float32(255)


def _activations(model: Model, inputs: FloatArray, points: Sequence[int]) -> dict[int, FloatArray]:
    found, at, here = {}, 0, inputs
    for point in sorted(points):
        for piece in model.pieces(Segment(at, point)):
            here = np.concatenate([model.run(piece, batch)[0] for batch in batches(model.manifest, here)])
        found[point], at = here, point
    return found


def as_json(found: Study) -> dict[str, Any]:
    """The numbers as JSON values."""
    rows = [
        {
            "split": row.split,
            "tensor": row.tensor,
            "elements": row.elements,
            "codec": row.codec,
            "ssim": round(row.found.ssim, 4),
            "blind_ssim": round(row.found.blind, 4),
        }
        for row in found.rows
    ]
    return {"bundle": found.bundle, "seed": found.seed, "known_images": found.known, "attacked": SEEN, "rows": rows}


def shown(found: Study) -> Table:
    """A row for each split point, a column for each codec."""
    codecs = list(dict.fromkeys(row.codec for row in found.rows))
    table = Table("split", "after", "elements", *(f"SSIM {name}" for name in codecs), title="What an activation shows")
    for point in dict.fromkeys(row.split for row in found.rows):
        mine = {row.codec: row for row in found.rows if row.split == point}
        first = next(iter(mine.values()))
        table.add_row(
            str(point), first.tensor, f"{first.elements:,}", *(f"{mine[name].found.ssim:.3f}" for name in codecs)
        )
    blind = found.rows[0].found.blind
    table.caption = f"1: the same image; {blind:.3f}: what the mean image gets, without any activation"
    return table


def picture(found: Study, path: Path) -> None:
    """The originals in the first row; below, what was drawn from each split point and codec."""
    figure = Figure(figsize=(1.1 * _SHOWN + 2.6, 1.15 * (len(found.rows) + 1)), layout="constrained")
    axes = figure.subplots(len(found.rows) + 1, _SHOWN, squeeze=False)
    names = ["input", *(f"split {row.split}, {row.codec}\nSSIM {row.found.ssim:.2f}" for row in found.rows)]
    for line, name, images in zip(axes, names, [found.images, *(row.found.drawn for row in found.rows)], strict=True):
        for cell, image in zip(line, images, strict=False):
            cell.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=1)
            cell.set_xticks([])
            cell.set_yticks([])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    figure.savefig(path, dpi=120)
